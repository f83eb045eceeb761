/** The page: the scenarios of `src/scenario.ts` with the device in a worker of the browser. */

import type { Thread } from "../../src/machine.js";
import { runScenarios } from "../../src/scenario.js";
import { report } from "../../src/verdict.js";

function startThread(): Thread {
  const worker = new Worker(new URL("./worker/main.ts", import.meta.url), { type: "module" });
  return {
    port: worker,
    listen: (listener) => worker.addEventListener("message", (event: MessageEvent<unknown>) => listener(event.data)),
    end: () => worker.terminate(),
  };
}

function show(id: string, text: string): void {
  const element = document.getElementById(id);
  if (element !== null) element.textContent = text;
}

async function main(): Promise<void> {
  if (!crossOriginIsolated) {
    show(
      "status",
      "This page needs SharedArrayBuffer: serve it with the headers Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp.",
    );
    return;
  }
  const { lines } = report(await runScenarios(startThread));
  show("checks", lines.slice(0, -1).join("\n"));
  show("status", lines.at(-1) ?? "");
}

main().catch((error: unknown) => {
  show("status", `It ended early: ${error instanceof Error ? error.message : String(error)}`);
  throw error;
});
