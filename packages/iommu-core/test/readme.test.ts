import { readFileSync } from "node:fs";
import { inspect } from "node:util";
import { describe, expect, it, vi } from "vitest";

const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
const blocks = [...readme.matchAll(/^```ts\n([^]*?)^```$/gm)].map((match) => match[1] ?? "");

function file(path: string): string {
  return readFileSync(new URL(path, import.meta.url), "utf8");
}

/** What a program prints. */
async function printed(run: () => Promise<unknown>): Promise<string[]> {
  const lines: string[] = [];
  const log = vi.spyOn(console, "log").mockImplementation((value: unknown) => {
    lines.push(typeof value === "string" ? value : inspect(value));
  });
  await run();
  log.mockRestore();
  return lines;
}

describe("the README of iommu-core", () => {
  it("shows programs that are compiled and run, and no others", () => {
    expect(blocks).toEqual([
      file("readme/usage.ts"),
      file("../../../examples/hello-notifier/test/flat-shadow.test.ts"),
      file("readme/injection.ts"),
    ]);
  });

  it("says what they print", async () => {
    expect(await printed(() => import("./readme/usage.js"))).toEqual([
      "map 16+4 -> 512",
      "true",
      "00:03.0: no right",
      "false",
      "unmap 17+1",
    ]);
    expect(await printed(() => import("./readme/injection.js"))).toEqual(["true"]);
  });

  it("counts the lines of the smallest notifier and backend rightly", () => {
    const linesOf = (path: string): number => {
      const code = file(path).slice(file(path).indexOf("export class"));
      return code.split("\n").filter((line) => line.trim() !== "").length;
    };
    expect(linesOf("../../../examples/hello-notifier/src/flat-shadow.ts")).toBeLessThanOrEqual(15);
    expect(linesOf("../../../examples/hello-backend/src/aperture.ts")).toBeLessThanOrEqual(40);
  });
});
