import { describe, expect, it } from "vitest";
import { GuestConsole } from "../src/guest-console.js";

function consoleAfter(text: string): { readonly console: GuestConsole; readonly lines: string[] } {
  const lines: string[] = [];
  const console = new GuestConsole((line) => lines.push(line));
  for (const byte of new TextEncoder().encode(text)) console.take(byte);
  return { console, lines };
}

describe("GuestConsole", () => {
  it("collects what each task reports", () => {
    const { console } = consoleAfter(
      "@@ up 3.5\r\n@@ begin disk\r\n@@ fact disk copy abc\r\n@@ fact disk copy def\r\n@@ fact disk bytes 12\r\n@@ end disk ok\r\n@@ begin p9\r\n@@ end p9 failed\r\n",
    );
    expect(console.upAfter).toBe(3.5);
    expect(console.tasks.get("disk")?.result).toBe("ok");
    expect(console.tasks.get("p9")?.result).toBe("failed");
    expect(console.tasks.get("disk")?.facts.get("copy")).toEqual(["abc", "def"]);
    expect(console.fact("disk", "copy")).toBe("def");
    expect(console.number("disk", "bytes")).toBe(12);
    expect(console.number("disk", "absent")).toBeNaN();
  });

  it("finds a report behind something that the kernel printed into the line", () => {
    const { console } = consoleAfter("[    1.0] random: done@@ begin disk\n@@ fact disk bytes 1\n");
    expect(console.number("disk", "bytes")).toBe(1);
  });

  it("keeps the dump apart from the lines", () => {
    const { console, lines } = consoleAfter("before\n@@ table-begin\n0x1 | 0x2\n@@ table-end\nafter\n");
    expect(console.table).toEqual(["0x1 | 0x2"]);
    expect(lines).toEqual(["before", "after"]);
  });

  it("runs an action within the line that it waits for, once", () => {
    const { console } = consoleAfter("");
    let seen = 0;
    console.when(/^ready/, () => (seen += 1));
    for (const byte of new TextEncoder().encode("ready\nready\n")) console.take(byte);
    expect(seen).toBe(1);
  });
});
