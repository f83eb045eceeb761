import { readFileSync } from "node:fs";
import { expect, it, vi } from "vitest";

/** What the program of each README prints. Core's has several, and a test of its own. */
const printed = {
  // CAP as the defaults make it, and no fault: translation is off.
  "iommu-vtd": [[expect.stringMatching(/^CAP [0-9a-f]+$/)]],
  "notifier-cache": [[false, expect.objectContaining({ hits: 1, misses: 2 })]],
  "notifier-vfio": [[[{ iovaPfn: 0x10, pageCount: 2, gpaPfn: 0x8000, access: 3 }]], [0]],
};

it.each(Object.entries(printed))("the README of %s shows a program that is compiled and run", async (name, lines) => {
  const folder = new URL(`../../../packages/${name}/`, import.meta.url);
  const program = new URL("test/readme-usage.ts", folder);
  const shown = /```ts\n(import [\s\S]*?)```/.exec(readFileSync(new URL("README.md", folder), "utf8"))?.[1];
  expect(shown).toBe(readFileSync(program, "utf8"));

  const log = vi.spyOn(console, "log").mockImplementation(() => undefined);
  await import(program.href);
  const calls = log.mock.calls;
  log.mockRestore();
  expect(calls).toEqual(lines);
});
