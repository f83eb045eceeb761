import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { inspect } from "node:util";
import { describe, expect, it, vi } from "vitest";

const ROOT = new URL("../../../", import.meta.url);
const readme = readFileSync(new URL("README.md", ROOT), "utf8");

/** The first block of this language. */
function block(language: string): string {
  const found = new RegExp(`^\`\`\`${language}\\n([^]*?)^\`\`\`$`, "m").exec(readme);
  if (found?.[1] === undefined) throw new Error(`README.md has no ${language} block`);
  return found[1];
}

describe("the README", () => {
  it("shows the program that is compiled and run here, and no other", () => {
    expect(block("ts")).toBe(readFileSync(new URL("../src/readme-usage.ts", import.meta.url), "utf8"));
  });

  it("says what its program prints", async () => {
    const expected = [...block("ts").matchAll(/^console\.log\(.*\); \/\/ (.*)$/gm)].map((match) => match[1]);
    const printed: string[] = [];
    const log = vi.spyOn(console, "log").mockImplementation((value: unknown) => {
      printed.push(typeof value === "string" ? value : inspect(value, { breakLength: Infinity }));
    });
    await import("../src/readme-usage.js");
    log.mockRestore();
    expect(expected).toHaveLength(3);
    expect(printed).toEqual(expected);
  });

  it("links to nothing that is not there", () => {
    const links = [...readme.matchAll(/\]\((?!https?:|#)([^)#]+)[^)]*\)/g)].map((match) => match[1] ?? "");
    expect(links.length).toBeGreaterThan(8);
    for (const link of links) expect(existsSync(fileURLToPath(new URL(link, ROOT))), link).toBe(true);
  });

  it("names commands that the root package has", () => {
    const { scripts } = JSON.parse(readFileSync(new URL("package.json", ROOT), "utf8")) as {
      readonly scripts: Record<string, string>;
    };
    const commands = [...readme.matchAll(/pnpm(?:@[\d.]+)?(?: run)? ([a-z][a-z-]*)/g)].map((match) => match[1] ?? "");
    expect(commands).toEqual(expect.arrayContaining(["demo", "test"]));
    for (const command of commands) expect(Object.keys(scripts), command).toContain(command);
  });
});
