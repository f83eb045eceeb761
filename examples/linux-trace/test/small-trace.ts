/** Builders for trace files of a few lines, packed as the real ones are. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { onTestFinished } from "vitest";

/** A header that everything can be made from. */
export const HEADER = {
  format: "vtd-linux-trace",
  version: 1,
  guest: "a guest",
  kernel_args: "intel_iommu=on",
  iommu: { aw_bits: 48, caching_mode: true, intremap: true, scalable: false },
  work: "nothing",
  devices: [["18", "disk"]],
  ram: [["0", "10000000"]],
  reset_registers: [
    ["0", "10"],
    ["8", "222f0686"],
    ["c", "d2008c"],
    ["10", "f00f4a"],
  ],
};

/** A file of its own for this test, removed afterwards. */
export function traceFile(bytes: Uint8Array | string, name = "small.jsonl.gz"): string {
  const folder = mkdtempSync(join(tmpdir(), "linux-trace-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

/** Header and lines, packed. */
export function packed(header: unknown, ...lines: readonly string[]): Buffer {
  return gzipSync([JSON.stringify(header), ...lines, ""].join("\n"));
}
