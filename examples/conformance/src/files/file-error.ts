/** What is wrong with a file that was given: said to the user, in one sentence, without a stack. */
export class FileError extends Error {
  override readonly name = "FileError";

  constructor(path: string, problem: string, options?: { readonly cause?: unknown }) {
    super(`${path}: ${problem}`, options);
  }
}
