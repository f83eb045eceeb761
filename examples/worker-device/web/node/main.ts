/**
 * Builds the page, serves it with the headers that SharedArrayBuffer needs, and runs it in Debian's Chromium (or the one in CHROMIUM). The last line is the count.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Browser, chromium } from "playwright-core";
import { build, preview } from "vite";

const EXECUTABLE = process.env["CHROMIUM"] ?? "/usr/bin/chromium";
const PATIENCE_MILLISECONDS = 180_000;
const WEB = fileURLToPath(new URL("../../web/", import.meta.url));
const ISOLATION = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

/** Serves a built page until `use` is done with it. */
async function served<T>(
  directory: string,
  headers: Record<string, string>,
  use: (url: string) => Promise<T>,
): Promise<T> {
  const server = await preview({
    root: directory,
    configFile: false,
    logLevel: "error",
    build: { outDir: directory },
    preview: { host: "127.0.0.1", port: 0, headers },
  });
  try {
    return await use(server.resolvedUrls?.local[0] ?? "");
  } finally {
    await server.close();
  }
}

/** What the page says in the end, and what went wrong in it. */
async function run(
  browser: Browser,
  url: string,
): Promise<{ readonly lines: readonly string[]; readonly status: string }> {
  const page = await browser.newPage();
  const errors: string[] = [];
  page.on("pageerror", (error) => errors.push(error.message));
  await page.goto(url);
  await page.waitForFunction(() => document.getElementById("status")?.textContent !== "Running …", undefined, {
    timeout: PATIENCE_MILLISECONDS,
  });
  const checks = (await page.textContent("#checks")) ?? "";
  const status = (await page.textContent("#status")) ?? "";
  await page.close();
  return { lines: [...checks.split("\n"), ...errors.map((error) => `  FAIL error in the page: ${error}`)], status };
}

async function main(): Promise<void> {
  const browser = await chromium
    .launch({ executablePath: EXECUTABLE, args: ["--no-sandbox"] })
    .catch((error: unknown) => {
      throw new Error(
        `Chromium could not be started from ${EXECUTABLE}: run \`sudo apt-get install --no-install-recommends chromium\`, or set CHROMIUM to its path.`,
        { cause: error },
      );
    });
  const directory = await mkdtemp(join(tmpdir(), "iommu-kit-worker-"));
  try {
    await build({
      root: WEB,
      base: "./",
      configFile: false,
      logLevel: "error",
      worker: { format: "es" },
      build: { outDir: directory, emptyOutDir: true, target: "es2022" },
    });
    const { lines, status } = await served(directory, ISOLATION, (url) => run(browser, url));
    const bare = await served(directory, {}, (url) => run(browser, url));
    const explained = bare.status.includes("Cross-Origin-Opener-Policy");
    lines.forEach((line) => console.log(line));
    console.log(
      explained ? "  ok   without the headers: says which are needed" : `  FAIL without the headers: ${bare.status}`,
    );
    const [, passed = "0", failed = "1"] = /^(\d+) passed, (\d+) failed$/.exec(status) ?? [];
    const failures = Number(failed) + (explained ? 0 : 1) + lines.filter((line) => line.includes("FAIL error")).length;
    console.log(`in ${browser.version()}`);
    console.log(`${Number(passed) + (explained ? 1 : 0)} passed, ${failures} failed`);
    process.exitCode = failures === 0 && Number(passed) > 0 ? 0 : 1;
  } finally {
    await browser.close();
    await rm(directory, { recursive: true, force: true });
  }
}

await main();
