/** Runs the tools as processes, as a shell does: bundled once from the sources, since Node 20 runs no TypeScript. */

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "vite";

const MAIN = fileURLToPath(new URL("../src/main.ts", import.meta.url));

/** How a process ended. */
export interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** The tools in a folder of their own. */
export class Tools {
  readonly folder = mkdtempSync(join(tmpdir(), "iommu-kit-tools-"));

  /** Bundles the program. */
  async make(): Promise<void> {
    await build({
      configFile: false,
      logLevel: "error",
      ssr: { noExternal: true, resolve: { conditions: ["@iommu-kit/source"] } },
      resolve: { conditions: ["@iommu-kit/source"] },
      build: { ssr: MAIN, outDir: this.folder, rolldownOptions: { output: { entryFileNames: "main.mjs" } } },
    });
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** A file in the folder; answers its path. */
  file(name: string, content: string | Uint8Array): string {
    const path = join(this.folder, name);
    writeFileSync(path, content);
    return path;
  }

  /** A trace of these lines. */
  trace(name: string, header: unknown, lines: readonly string[]): string {
    return this.file(name, gzipSync([JSON.stringify(header), ...lines, ""].join("\n")));
  }

  run(words: readonly string[], input: string | Uint8Array = ""): Ended {
    const { status, stdout, stderr } = spawnSync(process.execPath, [join(this.folder, "main.mjs"), ...words], {
      input,
    });
    return { code: status, out: stdout.toString(), err: stderr.toString() };
  }
}
