// A guide is Markdown that can be followed by a machine. Its code blocks are
//   ```ts NAME.ts     a file to save under that name
//   ```sh             commands to run in the guide's folder
//   ```text           what the last command prints, exactly
// and no others, so nothing in a guide goes untried.
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/**
 * @typedef {{ kind: "file", name: string, text: string }} FileStep
 * @typedef {{ kind: "run", commands: string[] }} RunStep
 * @typedef {{ kind: "output", text: string }} OutputStep
 * @typedef {FileStep | RunStep | OutputStep} Step
 */

/** The folder of the guides. */
const guidesFolder = fileURLToPath(new URL("../../guides/", import.meta.url));

/**
 * The names of all guides, without `.md`.
 * @returns {string[]}
 */
export function guideNames() {
  return readdirSync(guidesFolder)
    .filter((file) => file.endsWith(".md"))
    .map((file) => file.slice(0, -".md".length))
    .sort();
}

/**
 * What a guide says to do, in order.
 * @param {string} name
 * @returns {Step[]}
 */
export function readGuide(name) {
  const text = readFileSync(`${guidesFolder}${name}.md`, "utf8");
  return [...text.matchAll(/^```(.*)\n([^]*?)^```$/gm)].map(([, info = "", body = ""]) => stepOf(name, info, body));
}

/**
 * @param {string} guide
 * @param {string} info
 * @param {string} body
 * @returns {Step}
 */
function stepOf(guide, info, body) {
  const [language, file, ...rest] = info.trim().split(/\s+/);
  if (language === "ts" && file !== undefined && rest.length === 0) return { kind: "file", name: file, text: body };
  if (language === "sh" && file === undefined) {
    return { kind: "run", commands: body.trim().split("\n") };
  }
  if (language === "text" && file === undefined) return { kind: "output", text: body };
  throw new Error(`${guide}.md: a block "${info}" that nobody would run: name its file, or make it sh or text`);
}
