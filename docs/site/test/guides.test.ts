import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { inspect } from "node:util";
import { afterAll, describe, expect, it, vi } from "vitest";
import { guideNames, readGuide } from "../src/guide.mjs";

/** Inside of the workspace, so that the packages are found; a guide's files import each other. */
const folder = fileURLToPath(new URL("../.guides/", import.meta.url));

/** Runs a program of a guide, and answers what it prints. */
async function printed(file: string): Promise<string> {
  const lines: string[] = [];
  const log = vi.spyOn(console, "log").mockImplementation((...values: unknown[]) => {
    lines.push(values.map((value) => (typeof value === "string" ? value : inspect(value))).join(" "));
  });
  try {
    await import(pathToFileURL(file).href);
    // What programs leave to the event loop.
    await new Promise((resolve) => setTimeout(resolve, 20));
  } finally {
    log.mockRestore();
  }
  return lines.map((line) => `${line}\n`).join("");
}

describe.each(guideNames())("the guide %s", (name) => {
  afterAll(() => rmSync(join(folder, name), { recursive: true, force: true }));

  it("can be followed: its files run, and print what it says", async () => {
    const home = join(folder, name);
    rmSync(home, { recursive: true, force: true });
    const saved = new Set<string>();
    const run = new Set<string>();
    let output: string | undefined;
    for (const step of readGuide(name)) {
      if (step.kind === "file") {
        const file = join(home, step.name);
        mkdirSync(dirname(file), { recursive: true });
        writeFileSync(file, step.text);
        saved.add(step.name);
      } else if (step.kind === "output") {
        expect(output).toBe(step.text);
        output = undefined;
      } else {
        for (const command of step.commands) {
          const [, test, file] = /^npx tsx (--test )?(\S+)$/.exec(command) ?? [];
          // Installing, and suites of node:test, are tried from the packed packages.
          if (file === undefined) expect(command).toMatch(/^(mkdir|cd|npm (init|pkg|install)) /);
          else expect(saved, command).toContain(file);
          if (file === undefined) continue;
          run.add(file);
          output = test === undefined ? await printed(join(home, file)) : undefined;
        }
      }
    }
    const imported = new Set(
      readGuide(name).flatMap((step) =>
        step.kind === "file" ? [...step.text.matchAll(/from "\.\/(.*)\.js"/g)].map(([, file]) => `${file}.ts`) : [],
      ),
    );
    // A file that is neither run nor imported would be shown untried.
    expect([...saved].filter((file) => !run.has(file) && !imported.has(file))).toEqual([]);
  });
});
