/**
 * The page of `web/`.
 *
 *   node dist/page/main.js build DIRECTORY    a static build
 *   node dist/page/main.js serve [PORT]       builds, and serves it on this machine
 *   node dist/page/main.js check DIRECTORY    builds, boots it in Chromium, judges what it shows; screenshots go to DIRECTORY
 */

import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { BuildProblem } from "../../dist/guest/build-problem.js";
import { guestFiles } from "../../dist/guest/guest-files.js";
import { buildPage } from "./build-page.js";
import { checkPage } from "./check-page.js";
import { serve } from "./static-server.js";

async function main([command, argument]: readonly string[]): Promise<void> {
  if (command !== "build" && command !== "serve" && command !== "check")
    throw new BuildProblem(
      "bad-option",
      "Say what to do with the page: build DIRECTORY, serve [PORT] or check DIRECTORY.",
    );
  if (command !== "serve" && argument === undefined)
    throw new BuildProblem("bad-option", `${command} takes a directory.`);
  const files = await guestFiles({ progress: (line) => console.error(line) });
  if (command === "build") {
    await buildPage(resolve(argument ?? ""), files);
    return;
  }
  const directory = await mkdtemp(join(tmpdir(), "iommu-kit-page-"));
  await buildPage(directory, files);
  const server = await serve(directory, command === "serve" ? Number(argument ?? 8086) : 0);
  if (command === "serve") {
    console.log(`${server.url} (stop with Ctrl-C)`);
    return;
  }
  try {
    const screenshots = resolve(argument ?? "");
    await mkdir(screenshots, { recursive: true });
    const checks = await checkPage(server.url, screenshots);
    for (const { ok, what, expected, found } of checks)
      console.log(ok ? `  ok   ${what}: ${found}` : `  FAIL ${what}: wanted ${expected}, found ${found}`);
    const failed = checks.filter((check) => !check.ok).length;
    console.log(`${checks.length - failed} passed, ${failed} failed`);
    process.exitCode = failed === 0 ? 0 : 1;
  } finally {
    await server.close();
    await rm(directory, { recursive: true, force: true });
  }
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  // What a person can mend is one sentence; anything else is our own mistake and keeps its trace.
  if (!(error instanceof BuildProblem)) throw error;
  console.error(error.message);
  process.exitCode = 2;
}
