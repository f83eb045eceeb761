/**
 * DPDK's testpmd as a process: a vhost-user back-end that forwards every packet back to where it came from.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { connectUnix } from "./native.js";
import { sleep } from "./proof.js";

/** A running testpmd. */
export class Testpmd {
  readonly #process: ChildProcess;
  readonly #folder: string;
  #log = "";
  #exited = false;

  constructor() {
    this.#folder = mkdtempSync(join(tmpdir(), "partners-"));
    const cores = availableParallelism() > 1 ? ["-l", "0-1"] : ["--lcores", "0@0,1@0"];
    const environment = ["--no-huge", "-m", "256", "--no-pci", "--no-shconf", `--file-prefix=partners${process.pid}`];
    const drivers = ["librte_bus_vdev.so.23", "librte_mempool_ring.so.23", "librte_net_vhost.so.23"].flatMap((it) => [
      "-d",
      it,
    ]);
    const port = ["--vdev", `net_vhost0,iface=${this.socketPath},iommu-support=1,queues=1`];
    const forwarding = ["--nb-cores=1", "--forward-mode=io", "--auto-start", "--total-num-mbufs=4096"];
    // It ends when its standard input does, so it cannot outlive us.
    this.#process = spawn("dpdk-testpmd", [...cores, ...environment, ...drivers, ...port, "--", ...forwarding], {
      stdio: ["pipe", "pipe", "pipe"],
    });
    for (const stream of [this.#process.stdout, this.#process.stderr])
      stream?.on("data", (text: Buffer) => (this.#log += text.toString()));
    this.#process.on("error", (error) => (this.#log += String(error)));
    this.#process.on("exit", () => (this.#exited = true));
  }

  get socketPath(): string {
    return join(this.#folder, "vhost.sock");
  }

  /** What it printed. */
  get log(): string {
    return this.#log;
  }

  /** Connects to it as soon as it listens. */
  async connect(): Promise<number> {
    for (const end = Date.now() + 20_000; Date.now() < end && !this.#exited; await sleep(50)) {
      const fd = connectUnix(this.socketPath);
      if (fd !== undefined) return fd;
    }
    throw new Error(`testpmd did not open its socket:\n${this.#log}`);
  }

  /** Ends it. */
  async stop(): Promise<void> {
    this.#process.stdin?.end();
    for (let i = 0; i < 40 && !this.#exited; i++) await sleep(50);
    if (!this.#exited) this.#process.kill("SIGKILL");
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
