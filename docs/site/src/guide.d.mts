/** A file to save, commands to run, or what the last of them prints. */
export type Step =
  | { readonly kind: "file"; readonly name: string; readonly text: string }
  | { readonly kind: "run"; readonly commands: readonly string[] }
  | { readonly kind: "output"; readonly text: string };

/** The names of all guides, without `.md`. */
export function guideNames(): string[];
/** What a guide says to do, in order. */
export function readGuide(name: string): Step[];
