/** What was asked for on the command line. */

/** The choices; `files` empty means the traces that come with the demo. */
export interface Choices {
  readonly files: readonly string[];
  /** Where the report goes; `undefined`: next to the program. */
  readonly report: string | undefined;
  readonly help: boolean;
}

/** Shown for `--help` and for what cannot be understood. */
export const USAGE = `Usage: pnpm demo [FILE.jsonl.gz ...] [--report FILE.html]

Plays recorded traces of Linux's VT-d driver through the whole machine, under the old strategy and ours.
Without files: the two traces that come with the demo.`;

/** Reads the arguments; a text is what is wrong with them. */
export function readArguments(words: readonly string[]): Choices | string {
  const files: string[] = [];
  let report: string | undefined;
  let help = false;
  for (let index = 0; index < words.length; index++) {
    const word = words[index] ?? "";
    if (word === "--help" || word === "-h") help = true;
    else if (word === "--report") {
      index += 1;
      report = words[index];
      if (report === undefined) return "--report needs the name of a file";
    } else if (word === "--") continue;
    else if (word.startsWith("-")) return `there is no option ${word}`;
    else files.push(word);
  }
  return { files, report, help };
}
