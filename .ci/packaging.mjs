// Packs every package as it would be published and lets publint and are-the-types-wrong judge the tarballs.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packAll, run } from "./workspace.mjs";

const folder = mkdtempSync(join(tmpdir(), "iommu-kit-pack-"));
let failures = 0;
try {
  for (const [name, tarball] of await packAll(folder)) {
    const outcomes = await Promise.all([
      run(["publint", "--strict", tarball]),
      run(["attw", tarball, "--profile", "esm-only", "--no-color"]),
    ]);
    for (const { code, output } of outcomes) {
      if (code === 0) continue;
      failures += 1;
      console.error(`${name}\n${output}`);
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exitCode = failures === 0 ? 0 : 1;
