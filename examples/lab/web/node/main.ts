/**
 * The page of `web/`.
 *
 *   node dist/page/main.js build DIRECTORY    a static build
 *   node dist/page/main.js serve [PORT]       builds, and serves it on this machine
 *   node dist/page/main.js check DIRECTORY    builds, tries it in Chromium; screenshots go to DIRECTORY
 */

import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { preview, type PreviewServer } from "vite";
import { buildPage } from "./build-page.js";
import { checkPage } from "./check-page.js";

const USAGE = "Say what to do with the page: build DIRECTORY, serve [PORT] or check DIRECTORY.";

async function main([command, argument]: readonly string[]): Promise<number> {
  const isKnown = command === "serve" || ((command === "build" || command === "check") && argument !== undefined);
  if (!isKnown) {
    console.error(USAGE);
    return 2;
  }
  if (command === "build") {
    await buildPage(resolve(argument ?? ""));
    return 0;
  }
  const directory = await mkdtemp(join(tmpdir(), "iommu-kit-lab-"));
  await buildPage(directory);
  const server = await serve(directory, command === "serve" ? Number(argument ?? 8087) : 0);
  const [url = ""] = server.resolvedUrls?.local ?? [];
  if (command === "serve") {
    console.log(`${url} (stop with Ctrl-C)`);
    return 0;
  }
  try {
    const screenshots = resolve(argument ?? "");
    await mkdir(screenshots, { recursive: true });
    return report(await checkPage(url, screenshots));
  } finally {
    await server.close();
    await rm(directory, { recursive: true, force: true });
  }
}

function serve(directory: string, port: number): Promise<PreviewServer> {
  return preview({
    configFile: false,
    logLevel: "warn",
    build: { outDir: directory },
    preview: { host: "127.0.0.1", port, strictPort: port !== 0 },
  });
}

function report(checks: Awaited<ReturnType<typeof checkPage>>): number {
  for (const { what, problem } of checks) console.log(problem === "" ? `  ok   ${what}` : `  FAIL ${what}: ${problem}`);
  const failed = checks.filter(({ problem }) => problem !== "").length;
  console.log(`${checks.length - failed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
