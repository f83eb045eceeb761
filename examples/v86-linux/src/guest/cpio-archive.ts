/**
 * Writes a cpio archive in the "newc" form that Linux unpacks as its first root file system.
 *
 * Every entry has a fixed date and inode order: the same files give the same bytes.
 */

/** One entry. Paths have no leading slash; directories come before what is in them. */
export type CpioEntry =
  | { readonly kind: "directory"; readonly path: string }
  | { readonly kind: "file"; readonly path: string; readonly bytes: Uint8Array; readonly executable: boolean }
  | { readonly kind: "link"; readonly path: string; readonly target: string }
  | { readonly kind: "console"; readonly path: string };

const encoder = new TextEncoder();
const NOTHING = new Uint8Array(0);

/** The archive, trailer included, padded to whole 512-byte blocks. */
export function cpioArchive(entries: readonly CpioEntry[]): Uint8Array {
  const parts: Uint8Array[] = [];
  entries.forEach((entry, index) =>
    parts.push(...member(entry.path, index + 1, modeOf(entry), contentOf(entry), entry.kind === "console")),
  );
  parts.push(...member("TRAILER!!!", 0, 0, NOTHING, false));
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const archive = new Uint8Array(Math.ceil(length / 512) * 512);
  let offset = 0;
  for (const part of parts) {
    archive.set(part, offset);
    offset += part.length;
  }
  return archive;
}

function modeOf(entry: CpioEntry): number {
  if (entry.kind === "file") return entry.executable ? 0o100755 : 0o100644;
  return { directory: 0o040755, link: 0o120777, console: 0o020600 }[entry.kind];
}

function contentOf(entry: CpioEntry): Uint8Array {
  if (entry.kind === "file") return entry.bytes;
  return entry.kind === "link" ? encoder.encode(entry.target) : NOTHING;
}

/** Header, name and content, each padded to four bytes. `isConsole`: the character device 5, 1. */
function member(path: string, inode: number, mode: number, content: Uint8Array, isConsole: boolean): Uint8Array[] {
  const name = encoder.encode(`${path}\0`);
  const fields = [inode, mode, 0, 0, 1, 0, content.length, 0, 0, isConsole ? 5 : 0, isConsole ? 1 : 0, name.length, 0];
  const header = encoder.encode(`070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}`);
  const namePadding = new Uint8Array((4 - ((header.length + name.length) % 4)) % 4);
  const contentPadding = new Uint8Array((4 - (content.length % 4)) % 4);
  return [header, name, namePadding, content, contentPadding];
}
