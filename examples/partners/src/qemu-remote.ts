/**
 * QEMU as a process with one PCI device in it (machine x-remote), and us as its host: configuration and BAR accesses are messages, and so is its memory.
 *
 * The remote's view of memory is one list of at most seven ranges, each a part of a file, which a message replaces as a whole.
 */
import { type ChildProcess, spawn } from "node:child_process";
import net from "node:net";
import { closeFd, sendWithFds, socketPair } from "./native.js";
import { sleep, until } from "./proof.js";

/** Ranges that the remote takes: one fewer than its message has room for (QEMU 7.2 ends on a message with eight descriptors). */
export const MOST_RANGES = 7;
/** Ranges that the message has room for. */
const LIST_RANGES = 8;

const Command = { SYNC_SYSMEM: 0, PCI_CFGWRITE: 2, PCI_CFGREAD: 3, BAR_WRITE: 4, BAR_READ: 5 } as const;
const HEADER_BYTES = 16;

/** A range of the remote's memory, in bytes. */
export interface RemoteRange {
  readonly iova: number;
  readonly byteLength: number;
  readonly fd: number;
  readonly offsetBytes: number;
}

/** A running QEMU with its device. */
export class QemuRemote {
  readonly #process: ChildProcess;
  readonly #socket: net.Socket;
  readonly #socketFd: number;
  readonly #waiting: { readonly resolve: (value: bigint) => void; readonly reject: (error: Error) => void }[] = [];
  #received = Buffer.alloc(0);
  #log = "";
  #exited = false;

  /** @param device As for `-device`, without an id. */
  constructor(device: string) {
    const [ours, theirs] = socketPair();
    const machine = ["-machine", "x-remote", "-nodefaults", "-display", "none", "-qmp", "stdio"];
    const remote = ["-device", `${device},id=device`, "-object", "x-remote-object,id=remote,devid=device,fd=3"];
    this.#process = spawn("qemu-system-x86_64", [...machine, ...remote], { stdio: ["pipe", "pipe", "pipe", theirs] });
    closeFd(theirs);
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream?.on("data", (text: Buffer) => (this.#log += text.toString()));
    }
    this.#process.on("error", (error) => (this.#log += String(error)));
    this.#process.on("exit", () => this.#ended());
    this.#socketFd = ours;
    this.#socket = new net.Socket({ fd: ours, readable: true, writable: true });
    this.#socket.on("data", (bytes) => this.#receive(bytes));
    this.#socket.on("error", (error) => (this.#log += String(error)));
    this.#socket.on("close", () => this.#ended());
  }

  /** Waits until it runs: it answers messages earlier, and resets its device in between. */
  async ready(): Promise<void> {
    this.#process.stdin?.write('{"execute":"qmp_capabilities"}\n');
    if (!(await until(() => this.#log.includes('"return"') || this.#exited, 20_000)) || this.#exited)
      throw this.#gone();
  }

  /** Reads the device's configuration space. */
  readConfig(offset: number, byteLength: number): Promise<bigint> {
    return this.#ask(Command.PCI_CFGREAD, configAccess(offset, 0, byteLength));
  }

  /** Writes it. */
  async writeConfig(offset: number, value: number, byteLength: number): Promise<void> {
    await this.#ask(Command.PCI_CFGWRITE, configAccess(offset, value, byteLength));
  }

  /** Reads a register at an address that a BAR was given. */
  readRegister(address: number, byteLength: number): Promise<bigint> {
    return this.#ask(Command.BAR_READ, barAccess(address, 0, byteLength));
  }

  /** Writes it; what the device does at once has been done when this is. */
  async writeRegister(address: number, value: number, byteLength: number): Promise<void> {
    await this.#ask(Command.BAR_WRITE, barAccess(address, value, byteLength));
  }

  /** Replaces the remote's memory. Done when a message behind it was answered: it works through them in order. */
  async setMemory(ranges: readonly RemoteRange[]): Promise<void> {
    const list = Buffer.alloc(LIST_RANGES * 24);
    for (const [index, { iova, byteLength, offsetBytes }] of ranges.entries()) {
      list.writeBigUInt64LE(BigInt(iova), 8 * index);
      list.writeBigUInt64LE(BigInt(byteLength), 8 * (LIST_RANGES + index));
      list.writeBigUInt64LE(BigInt(offsetBytes), 8 * (2 * LIST_RANGES + index));
    }
    const message = packed(Command.SYNC_SYSMEM, list);
    const fds = ranges.map((range) => range.fd);
    // One list is under way at a time, so the socket has room for it.
    const sent = sendWithFds(this.#socketFd, message, fds);
    if (sent !== message.length)
      throw new Error(`SYNC_SYSMEM: expected ${message.length} bytes to go out, got ${sent}`);
    await this.readConfig(0, 4);
  }

  /** Ends it. */
  async stop(): Promise<void> {
    this.#socket.destroy();
    this.#process.kill();
    for (let i = 0; i < 40 && !this.#exited; i++) await sleep(50);
    if (!this.#exited) this.#process.kill("SIGKILL");
  }

  #ask(command: number, body: Uint8Array): Promise<bigint> {
    return new Promise((resolve, reject) => {
      if (this.#exited) return reject(this.#gone());
      this.#waiting.push({ resolve, reject });
      this.#socket.write(packed(command, body));
    });
  }

  #receive(bytes: Buffer): void {
    this.#received = Buffer.concat([this.#received, bytes]);
    while (this.#received.length >= HEADER_BYTES) {
      const end = HEADER_BYTES + Number(this.#received.readBigUInt64LE(8));
      if (this.#received.length < end) return;
      const value = end >= HEADER_BYTES + 8 ? this.#received.readBigUInt64LE(HEADER_BYTES) : 0n;
      this.#received = this.#received.subarray(end);
      this.#waiting.shift()?.resolve(value);
    }
  }

  #ended(): void {
    this.#exited = true;
    for (const { reject } of this.#waiting.splice(0)) reject(this.#gone());
  }

  #gone(): Error {
    return new Error(`QEMU has ended: ${this.#log}`);
  }
}

function packed(command: number, body: Uint8Array): Buffer {
  const message = Buffer.alloc(HEADER_BYTES + body.length);
  message.writeInt32LE(command, 0);
  message.writeBigUInt64LE(BigInt(body.length), 8);
  message.set(body, HEADER_BYTES);
  return message;
}

function configAccess(offset: number, value: number, byteLength: number): Uint8Array {
  const body = Buffer.alloc(12);
  body.writeUInt32LE(offset, 0);
  body.writeUInt32LE(value, 4);
  body.writeInt32LE(byteLength, 8);
  return body;
}

function barAccess(address: number, value: number, byteLength: number): Uint8Array {
  const body = Buffer.alloc(24);
  body.writeBigUInt64LE(BigInt(address), 0);
  body.writeBigUInt64LE(BigInt(value), 8);
  body.writeUInt32LE(byteLength, 16);
  body.writeUInt8(1, 20);
  return body;
}
