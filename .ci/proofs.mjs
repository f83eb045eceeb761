// What proofs have in common: each runs a program or looks at something, prints a line, and counts. Used by pack-proof and release-proof.
import { writeFileSync } from "node:fs";
import { run } from "./workspace.mjs";

/** @typedef {{ package: string, proof: string, ok: boolean, output: string }} Proof */

/** Gathers proofs. */
export class Proofs {
  /** @readonly @type {Proof[]} */
  #done = [];

  /**
   * Runs a program; it must end with 0. Answers what it printed.
   * @param {string} subject
   * @param {string} proof
   * @param {string[]} command
   * @param {{ cwd?: string, env?: NodeJS.ProcessEnv }} options
   * @returns {Promise<string>}
   */
  async prove(subject, proof, command, options) {
    const { code, output } = await run(command, options);
    this.record(subject, proof, code === 0, output);
    return output;
  }

  /**
   * Notes something that was looked at; `output` explains a failure.
   * @param {string} subject
   * @param {string} proof
   * @param {boolean} ok
   * @param {string} output
   */
  record(subject, proof, ok, output) {
    this.#done.push({ package: subject, proof, ok, output: ok ? "" : output });
    console.log(`${ok ? "ok    " : "FAILED"} ${subject.replace("@iommu-kit/", "")}: ${proof}`);
    if (!ok) console.log(output.trimEnd().replaceAll(/^/gm, "  | "));
  }

  /**
   * Notes a comparison.
   * @param {string} subject
   * @param {string} proof
   * @param {unknown} found
   * @param {unknown} wanted
   */
  equal(subject, proof, found, wanted) {
    const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)];
    this.record(subject, proof, a === b, `wanted ${b}\nfound  ${a}`);
  }

  /** Prints the sum, sets the exit code, and writes { passed, failed, proofs } to the file behind `--json`. */
  finish() {
    const failed = this.#done.filter(({ ok }) => !ok).length;
    const passed = this.#done.length - failed;
    const flag = process.argv.indexOf("--json");
    const file = process.argv[flag + 1];
    if (flag > 0 && file !== undefined)
      writeFileSync(file, JSON.stringify({ passed, failed, proofs: this.#done }, null, 2));
    console.log(`\n${passed} passed, ${failed} failed`);
    process.exitCode = failed === 0 ? 0 : 1;
  }
}

/**
 * Installs packages as a stranger would.
 * @param {readonly string[]} specs
 * @returns {string[]}
 */
export function npmInstall(specs) {
  return ["npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error", ...specs];
}
