import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { cpioArchive, type CpioEntry } from "../src/guest/cpio-archive.js";

interface Member {
  readonly path: string;
  readonly mode: number;
  readonly bytes: Uint8Array;
}

/** A reader that knows the format from its description only: a header of 110 characters, names and contents padded to four bytes. */
function readArchive(archive: Uint8Array): Member[] {
  const text = (begin: number, end: number): string => new TextDecoder().decode(archive.subarray(begin, end));
  const members: Member[] = [];
  for (let at = 0; ;) {
    expect(text(at, at + 6)).toBe("070701");
    const field = (index: number): number => Number.parseInt(text(at + 6 + index * 8, at + 14 + index * 8), 16);
    const nameEnd = at + 110 + field(11) - 1;
    const path = text(at + 110, nameEnd);
    const begin = Math.ceil((nameEnd + 1) / 4) * 4;
    if (path === "TRAILER!!!") return members;
    members.push({ path, mode: field(1), bytes: archive.slice(begin, begin + field(6)) });
    at = Math.ceil((begin + field(6)) / 4) * 4;
  }
}

describe("cpioArchive", () => {
  it("gives back every file with its bytes and mode, whatever their lengths", () => {
    const file = fc.record({
      kind: fc.constant("file" as const),
      path: fc.stringMatching(/^[a-z]{1,12}(\/[a-z]{1,12})?$/),
      bytes: fc.uint8Array({ maxLength: 40 }),
      executable: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(file, { maxLength: 8 }), (files) => {
        const members = readArchive(cpioArchive(files));
        expect(members).toEqual(
          files.map(({ path, bytes, executable }) => ({ path, mode: executable ? 0o100755 : 0o100644, bytes })),
        );
      }),
    );
  });

  it("writes directories, links with their target, and the console", () => {
    const entries: CpioEntry[] = [
      { kind: "directory", path: "dev" },
      { kind: "console", path: "dev/console" },
      { kind: "link", path: "sh", target: "busybox" },
    ];
    const members = readArchive(cpioArchive(entries));
    expect(members.map(({ path, mode }) => [path, mode])).toEqual([
      ["dev", 0o040755],
      ["dev/console", 0o020600],
      ["sh", 0o120777],
    ]);
    expect(new TextDecoder().decode(members[2]?.bytes)).toBe("busybox");
  });

  it("gives the same bytes for the same files", () => {
    const entries: CpioEntry[] = [{ kind: "file", path: "init", bytes: Uint8Array.of(1, 2, 3), executable: true }];
    expect(cpioArchive(entries)).toEqual(cpioArchive(entries));
  });
});
