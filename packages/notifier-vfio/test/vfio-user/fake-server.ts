/**
 * A vfio-user server written from the public protocol, on a real UNIX socket. It checks every message of the client: what breaks the protocol is in `violations`.
 *
 * Its DMA regions keep the rules that real servers were seen to keep: an identical map is accepted, any other overlap is EINVAL, an unmap names exactly one
 * region (ENOENT otherwise), ALL goes with 0 / 0. As a device it reads and writes memory by messages, or through the files that came with its regions.
 */
import { closeSync } from "node:fs";
import { createServer, type Server } from "node:net";
import type { Peer } from "./descriptor-peer.js";
import { mapFile } from "./native.js";

/** A region as the client mapped it. */
export interface DmaRegion {
  readonly iova: bigint;
  readonly size: bigint;
  readonly offset: bigint;
  readonly flags: number;
  /** The file that came with it, as the server's own descriptor. */
  readonly fd: number | undefined;
}

/** A message as the server saw it. */
export interface Seen {
  readonly id: number;
  readonly command: number;
  readonly payload: Buffer;
  /** File descriptors that came with it, the server's own. */
  readonly fds: readonly number[];
}

/** How the server behaves. */
export interface FakeServerOptions {
  /** Replaces what it says in VERSION: the bytes behind the header. */
  readonly version?: Buffer;
  /** Capabilities that it names. */
  readonly capabilities?: Readonly<Record<string, unknown>>;
  /** Most regions. Default: 1,000,000. */
  readonly maxRegions?: number;
  /** Whether it knows how to unmap everything at once. Default true. */
  readonly knowsUnmapAll?: boolean;
  /** Cuts what it sends into pieces of this many bytes. */
  readonly pieceBytes?: number;
  /** Called with every command before it is carried out. `true`: the server does nothing more about it. */
  readonly intercept?: (server: FakeServer, seen: Seen) => boolean;
}

/** Descriptors, and the bytes with which they came, counted from the beginning of the connection. */
interface Arrival {
  readonly fds: readonly number[];
  readonly start: number;
  readonly end: number;
}

interface Pending {
  readonly resolve: (reply: { readonly errno: number | undefined; readonly data: Buffer }) => void;
  readonly command: number;
}

const HEADER = 16;
export const Cmd = {
  VERSION: 1,
  MAP: 2,
  UNMAP: 3,
  INFO: 4,
  REGION_INFO: 5,
  IRQ_INFO: 7,
  SET_IRQS: 8,
  READ: 9,
  WRITE: 10,
  DMA_READ: 11,
  DMA_WRITE: 12,
  RESET: 13,
} as const;
const [ENOENT, EINVAL, ENOSPC] = [2, 22, 28];
const REGION_BYTES = 256;

/** See the file's header. One connection at a time; regions go with it. */
export class FakeServer {
  /** What the client did wrong. Must stay empty. */
  readonly violations: string[] = [];
  /** Every command, in order. */
  readonly seen: Seen[] = [];
  readonly regions = new Map<bigint, DmaRegion>();
  /** What the client said it can do. */
  clientCapabilities: Record<string, unknown> = {};
  /** Registers of the device. */
  readonly registers = Buffer.alloc(REGION_BYTES);
  resets = 0;
  connections = 0;
  readonly #options: FakeServerOptions;
  readonly #server: Server;
  #socket: Peer | undefined;
  #input = Buffer.alloc(0);
  /** Bytes of the connection before `#input`. */
  #consumed = 0;
  readonly #arrivals: Arrival[] = [];
  #nextId = 1000;
  readonly #pending = new Map<number, Pending>();
  #greeted = false;
  #held: (() => void)[] | undefined;

  constructor(options: FakeServerOptions = {}) {
    this.#options = options;
    this.#server = createServer((socket) => this.accept(socket));
  }

  /** Whether a client is there. */
  get isConnected(): boolean {
    return this.#socket !== undefined;
  }

  listen(path: string): Promise<void> {
    return new Promise((resolve) => this.#server.listen(path, resolve));
  }

  async close(): Promise<void> {
    this.drop();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** Ends the connection, as a server that dies. */
  drop(): void {
    this.#socket?.destroy();
  }

  /** From now on replies wait. */
  hold(): void {
    this.#held = [];
  }

  /** Replies that wait. */
  get waiting(): number {
    return this.#held?.length ?? 0;
  }

  /** Sends the replies that waited, the given ones first; later ones are not held. */
  release(order: "first" | "last" = "first"): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    for (const send of order === "first" ? held : held.toReversed()) send();
  }

  /** Regions as `iovaPfn+pageCount`, ascending. */
  pages(): string[] {
    const sorted = [...this.regions.values()].sort((a, b) => (a.iova < b.iova ? -1 : 1));
    return sorted.map(({ iova, size }) => `${iova / 4096n}+${size / 4096n}`);
  }

  /** The device reads memory by message. */
  async dmaRead(iova: bigint, byteLength: number | bigint): Promise<Buffer | number> {
    const payload = Buffer.alloc(16);
    payload.writeBigUInt64LE(iova, 0);
    payload.writeBigUInt64LE(BigInt(byteLength), 8);
    const { errno, data } = await this.#ask(Cmd.DMA_READ, payload);
    if (errno !== undefined) return this.#headerOnly(errno, data);
    this.#check(data.subarray(0, 16).equals(payload), "reply to DMA_READ of another range");
    this.#check(data.length === 16 + Number(byteLength), "reply to DMA_READ of another length");
    return data.subarray(16);
  }

  /** The device writes memory by message. Answers 0, or the error number. */
  async dmaWrite(iova: bigint, bytes: Uint8Array): Promise<number> {
    const payload = Buffer.alloc(16 + bytes.length);
    payload.writeBigUInt64LE(iova, 0);
    payload.writeBigUInt64LE(BigInt(bytes.length), 8);
    payload.set(bytes, 16);
    const { errno, data } = await this.#ask(Cmd.DMA_WRITE, payload);
    if (errno !== undefined) return this.#headerOnly(errno, data);
    this.#check(data.equals(payload.subarray(0, 16)), "reply to DMA_WRITE of another range");
    return 0;
  }

  /** The memory of a region whose file came with it, as the device reaches it: without a word to the client. */
  fileBytes(iova: bigint): Uint8Array {
    const region = this.regions.get(iova);
    if (region?.fd === undefined) throw new Error(`no region with a file begins at ${iova}`);
    return mapFile(region.fd, Number(region.offset), Number(region.size));
  }

  /** Any message, as it is. */
  raw(bytes: Uint8Array): void {
    const { pieceBytes = bytes.length } = this.#options;
    for (let at = 0; at < bytes.length; at += pieceBytes) this.#socket?.write(bytes.subarray(at, at + pieceBytes));
  }

  /** A reply. */
  reply(seen: Seen, payload: Uint8Array = Buffer.alloc(0)): void {
    this.#later(() => this.raw(message(seen.id, seen.command, 1, 0, payload)));
  }

  /** A refusal. */
  refuse(seen: Seen, errno: number): void {
    this.#later(() => this.raw(message(seen.id, seen.command, 0x21, errno, Buffer.alloc(0))));
  }

  /** A command of the server's own. Answers what the client replied. */
  command(
    command: number,
    payload: Uint8Array,
  ): Promise<{ readonly errno: number | undefined; readonly data: Buffer }> {
    return this.#ask(command, payload);
  }

  #ask(command: number, payload: Uint8Array): Promise<{ readonly errno: number | undefined; readonly data: Buffer }> {
    const id = this.#nextId++ % 65536;
    return new Promise((resolve) => {
      this.#pending.set(id, { resolve, command });
      this.raw(message(id, command, 0, 0, payload));
    });
  }

  #later(send: () => void): void {
    if (this.#held === undefined) send();
    else this.#held.push(send);
  }

  #headerOnly(errno: number, data: Buffer): number {
    this.#check(data.length === 0, "a refusal with data");
    return errno;
  }

  #check(condition: boolean, text: string): void {
    if (!condition) this.violations.push(text);
  }

  /** Takes a connection that was made otherwise. */
  accept(socket: Peer): void {
    this.#check(this.#socket === undefined, "a second connection at the same time");
    this.#socket = socket;
    this.connections += 1;
    this.#greeted = false;
    this.#input = Buffer.alloc(0);
    this.#consumed = 0;
    socket.on("data", (bytes, fds = []) => this.#received(bytes, fds));
    socket.on("error", () => undefined);
    socket.on("close", () => {
      this.#forget(...this.regions.values());
      if (this.#socket === socket) this.#socket = undefined;
    });
  }

  #received(bytes: Buffer, fds: readonly number[]): void {
    const start = this.#consumed + this.#input.length;
    if (fds.length > 0) this.#arrivals.push({ fds, start, end: start + bytes.length });
    this.#input = Buffer.concat([this.#input, bytes]);
    while (this.#input.length >= HEADER) {
      const size = this.#input.readUInt32LE(4);
      this.#check(size >= HEADER && size <= HEADER + 4096 + 2 ** 20, `message of ${size} bytes`);
      if (this.#input.length < size) return;
      const whole = this.#input.subarray(0, size);
      this.#input = this.#input.subarray(size);
      const descriptors = this.#descriptorsAt(this.#consumed, this.#consumed + size);
      this.#consumed += size;
      this.#message(whole, descriptors);
    }
  }

  /** Descriptors belong to the last message that begins in the bytes with which they came: the kernel hands out nothing behind it in one piece. */
  #descriptorsAt(start: number, end: number): readonly number[] {
    const [arrival] = this.#arrivals;
    if (arrival === undefined || end < arrival.end) return [];
    this.#check(start >= arrival.start && start < arrival.end, "descriptors in the middle of a message");
    this.#arrivals.shift();
    return arrival.fds;
  }

  #message(whole: Buffer, fds: readonly number[]): void {
    const [id, command] = [whole.readUInt16LE(0), whole.readUInt16LE(2)];
    const [flags, errno] = [whole.readUInt32LE(8), whole.readUInt32LE(12)];
    const payload = whole.subarray(HEADER);
    if ((flags & 0xf) === 1) {
      const pending = this.#pending.get(id);
      this.#check(pending?.command === command, `reply to nothing that was asked: id ${id}, command ${command}`);
      this.#check((flags & ~0x21) === 0, `flags ${flags} in a reply`);
      this.#check((flags & 0x20) !== 0 || errno === 0, "an error number without the flag");
      this.#pending.delete(id);
      pending?.resolve({ errno: (flags & 0x20) === 0 ? undefined : errno, data: Buffer.from(payload) });
      return;
    }
    this.#check(flags === 0 && errno === 0, `flags ${flags} and error ${errno} in a command`);
    this.#check(this.#greeted === (command !== Cmd.VERSION), "VERSION must come first, and once");
    this.#check(
      fds.length === 0 || [Cmd.MAP, Cmd.SET_IRQS].some((it) => it === command),
      `descriptors with ${command}`,
    );
    const seen = { id, command, payload: Buffer.from(payload), fds };
    this.seen.push(seen);
    if (this.#options.intercept?.(this, seen) !== true) this.#carryOut(seen);
  }

  #carryOut(seen: Seen): void {
    const { command, payload } = seen;
    switch (command) {
      case Cmd.VERSION:
        return this.#version(seen);
      case Cmd.MAP:
        return this.#map(seen);
      case Cmd.UNMAP:
        return this.#unmap(seen);
      case Cmd.INFO:
        this.#structure(payload, 16, []);
        return this.reply(seen, words(16, 3, 9, 5));
      case Cmd.REGION_INFO:
        this.#structure(payload, 32, [8]);
        return this.reply(seen, regionInfo(payload.readUInt32LE(8)));
      case Cmd.IRQ_INFO:
        this.#structure(payload, 16, [8]);
        return this.reply(seen, words(16, 3, payload.readUInt32LE(8), 4));
      case Cmd.SET_IRQS:
        return this.#setIrqs(seen);
      case Cmd.READ:
      case Cmd.WRITE:
        return this.#access(seen);
      case Cmd.RESET:
        this.#check(payload.length === 0, "RESET with a payload");
        this.resets += 1;
        return this.reply(seen);
      default:
        this.violations.push(`command ${command}`);
    }
  }

  #version(seen: Seen): void {
    const { payload } = seen;
    this.#check(payload.readUInt16LE(0) === 0 && payload.readUInt16LE(2) <= 1, "a version that nobody knows");
    this.#check(payload.at(-1) === 0, "VERSION without the terminating NUL");
    const data = JSON.parse(payload.subarray(4, -1).toString("utf8")) as { capabilities?: Record<string, unknown> };
    this.clientCapabilities = data.capabilities ?? {};
    this.#greeted = true;
    const { version, capabilities = { max_msg_fds: 8, max_dma_maps: 1_000_000 } } = this.#options;
    const text = Buffer.from(`${JSON.stringify({ capabilities })}\0`, "utf8");
    this.reply(seen, version ?? Buffer.concat([Buffer.from([0, 0, 1, 0]), text]));
  }

  #map(seen: Seen): void {
    const { payload, fds } = seen;
    const [fd] = fds;
    if (payload.length !== 32) return void this.violations.push(`DMA_MAP of ${payload.length} bytes`);
    this.#check(fds.length <= 1, `DMA_MAP with ${fds.length} files`);
    const [flags, offset] = [payload.readUInt32LE(4), payload.readBigUInt64LE(8)];
    const [iova, size] = [payload.readBigUInt64LE(16), payload.readBigUInt64LE(24)];
    this.#check(payload.readUInt32LE(0) === 32, "DMA_MAP with another argsz");
    this.#check((flags & ~3) === 0 && flags !== 0, `DMA_MAP with flags ${flags}`);
    this.#check(fd !== undefined || offset === 0n, "a file offset without a file");
    this.#check(size > 0n && iova + size <= 2n ** 64n, "DMA_MAP outside of the address space");
    const same = this.regions.get(iova);
    if (same !== undefined && same.size === size && same.offset === offset && same.flags === flags)
      return this.reply(seen);
    for (const region of this.regions.values())
      if (region.iova < iova + size && iova < region.iova + region.size) return this.refuse(seen, EINVAL);
    if (this.regions.size >= (this.#options.maxRegions ?? 1_000_000)) return this.refuse(seen, ENOSPC);
    this.regions.set(iova, { iova, size, offset, flags, fd });
    this.reply(seen);
  }

  #unmap(seen: Seen): void {
    const { payload } = seen;
    if (payload.length !== 24) return void this.violations.push(`DMA_UNMAP of ${payload.length} bytes`);
    const [argsz, flags] = [payload.readUInt32LE(0), payload.readUInt32LE(4)];
    const [iova, size] = [payload.readBigUInt64LE(8), payload.readBigUInt64LE(16)];
    this.#check(argsz >= 24, "DMA_UNMAP with no room for the reply");
    this.#check(flags === 0 || flags === 2, `DMA_UNMAP with flags ${flags}`);
    if (flags === 2) {
      this.#check(iova === 0n && size === 0n, "ALL with a range");
      if (this.#options.knowsUnmapAll === false) return this.refuse(seen, EINVAL);
      this.#forget(...this.regions.values());
      return this.reply(seen, payload);
    }
    const region = this.regions.get(iova);
    if (region?.size !== size) return this.refuse(seen, ENOENT);
    this.#forget(region);
    this.reply(seen, payload);
  }

  #forget(...regions: readonly DmaRegion[]): void {
    for (const { iova, fd } of regions) {
      this.regions.delete(iova);
      if (fd !== undefined) closeSync(fd);
    }
  }

  #setIrqs(seen: Seen): void {
    const { payload, fds } = seen;
    this.#check(payload.length >= 20 && payload.readUInt32LE(0) === payload.length, "SET_IRQS with another argsz");
    const flags = payload.readUInt32LE(4);
    this.#check([1, 2, 4].includes(flags & 7), `SET_IRQS with data flags ${flags & 7}`);
    this.#check(
      fds.length === 0 || ((flags & 4) !== 0 && fds.length === payload.readUInt32LE(16)),
      "SET_IRQS with other fds",
    );
    this.#check([8, 16, 32].includes(flags & ~7), `SET_IRQS with action flags ${flags & ~7}`);
    this.#check(payload.length - 20 === ((flags & 2) === 0 ? 0 : payload.readUInt32LE(16)), "SET_IRQS with other data");
    this.reply(seen);
  }

  #access(seen: Seen): void {
    const { payload, command } = seen;
    const [offset, index, count] = [
      Number(payload.readBigUInt64LE(0)),
      payload.readUInt32LE(8),
      payload.readUInt32LE(12),
    ];
    this.#check(payload.length === (command === Cmd.READ ? 16 : 16 + count), "region access of another length");
    if (index !== 0 || offset + count > REGION_BYTES) return this.refuse(seen, EINVAL);
    if (command === Cmd.WRITE) {
      payload.copy(this.registers, offset, 16);
      return this.reply(seen, payload.subarray(0, 16));
    }
    this.reply(seen, Buffer.concat([payload, this.registers.subarray(offset, offset + count)]));
  }

  /** A structure that begins with its size and is 0 but for some words. */
  #structure(payload: Buffer, byteLength: number, used: readonly number[]): void {
    this.#check(payload.length === byteLength && payload.readUInt32LE(0) >= byteLength, "another argsz");
    for (let at = 4; at + 4 <= payload.length; at += 4)
      if (!used.includes(at)) this.#check(payload.readUInt32LE(at) === 0, `a word at ${at} that is not 0`);
  }
}

/** A whole message. */
export function message(id: number, command: number, flags: number, errno: number, payload: Uint8Array): Buffer {
  const header = Buffer.alloc(HEADER);
  header.writeUInt16LE(id, 0);
  header.writeUInt16LE(command, 2);
  header.writeUInt32LE(HEADER + payload.length, 4);
  header.writeUInt32LE(flags, 8);
  header.writeUInt32LE(errno, 12);
  return Buffer.concat([header, payload]);
}

function words(...values: number[]): Buffer {
  return Buffer.from(Uint32Array.from(values).buffer);
}

function regionInfo(index: number): Buffer {
  const info = Buffer.alloc(32);
  info.writeUInt32LE(32, 0);
  info.writeUInt32LE(3, 4);
  info.writeUInt32LE(index, 8);
  info.writeBigUInt64LE(index === 0 ? BigInt(REGION_BYTES) : 0n, 16);
  return info;
}
