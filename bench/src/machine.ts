/** What the numbers were measured on. Nothing that names the machine. */

import { availableParallelism, cpus, totalmem } from "node:os";

/** Processor, cores, memory, Node. */
export function describeMachine(): string {
  const model = cpus()[0]?.model.trim() ?? "unknown processor";
  const memory = Math.round(totalmem() / 2 ** 30);
  return `${model}, ${availableParallelism()} cores, ${memory} GiB of memory, Node ${process.version}`;
}
