import { readFileSync } from "node:fs";
import { expect, it, vi } from "vitest";

it("runs the usage example of the README as printed", async () => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const printed = /```ts\n(import [\s\S]*?)```/.exec(readme)?.[1];
  expect(printed).toBe(readFileSync(new URL("readme-usage.ts", import.meta.url), "utf8"));

  const log = vi.spyOn(console, "log").mockImplementation(() => undefined);
  await import("./readme-usage.js");
  const lines = log.mock.calls;
  log.mockRestore();

  // CAP as the defaults make it, and no fault: translation is off.
  expect(lines).toEqual([[expect.stringMatching(/^CAP [0-9a-f]+$/)]]);
});
