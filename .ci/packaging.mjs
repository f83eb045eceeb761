// Packs every package as it would be published and lets publint and are-the-types-wrong judge the tarballs.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packAll, run } from "./workspace.mjs";

const folder = mkdtempSync(join(tmpdir(), "iommu-kit-pack-"));
let failureCount = 0;
try {
  for (const [name, tarball] of await packAll(folder)) {
    const verdicts = await Promise.all([
      run(["publint", "--strict", tarball]),
      run(["attw", tarball, "--profile", "esm-only", "--no-color"]),
    ]);
    const failures = verdicts.filter(({ code }) => code !== 0);
    for (const { output } of failures) console.error(`${name}\n${output}`);
    failureCount += failures.length;
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exitCode = failureCount === 0 ? 0 : 1;
