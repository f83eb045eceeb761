/**
 * A vhost-user back-end written from the protocol, which checks every message that it receives. Its IOTLB behaves as DPDK's was seen to:
 * an UPDATE over an entry is ignored, entries are dropped whole, a miss is asked for once.
 */
import type { VhostChannel } from "../src/vhost-user/index.js";

interface Region {
  readonly gpa: bigint;
  readonly size: bigint;
  readonly user: bigint;
  readonly offset: bigint;
}

interface Entry {
  readonly iova: bigint;
  readonly size: bigint;
  readonly user: bigint;
  readonly perm: number;
}

/** A message as the back-end saw it. */
export interface Seen {
  readonly request: number;
  readonly needReply: boolean;
  readonly fds: readonly number[];
  readonly payload: DataView;
}

export interface FakeBackEndOptions {
  readonly features?: bigint;
  readonly protocolFeatures?: bigint;
  /** Bytes of guest memory, as seen through the memory table's file offsets. */
  readonly memory: Uint8Array;
  /** Cuts what it sends into pieces of this many bytes. */
  readonly pieceBytes?: number;
}

const F_PROTOCOL = 1n << 30n;
const F_PLATFORM = 1n << 33n;
const P_REPLY_ACK = 1n << 3n;
const P_BACKEND_REQ = 1n << 5n;
const PAGE = 4096n;
/** Payload bytes by request; a table of regions is checked on its own. */
const SIZES: Readonly<Record<number, number>> = {
  1: 0,
  2: 8,
  3: 0,
  6: 16,
  8: 8,
  9: 40,
  10: 8,
  11: 8,
  12: 8,
  13: 8,
  14: 8,
  15: 0,
  16: 8,
  17: 0,
  18: 8,
  21: 0,
  22: 32,
};
const HAVE_REPLIES = new Set([1, 6, 11, 15, 17]);

export class FakeBackEnd {
  /** For the front-end. */
  readonly channel: VhostChannel;
  /** The front-end's end of the back-end's request channel. */
  readonly requestChannel: VhostChannel;
  readonly seen: Seen[] = [];
  readonly broken: string[] = [];
  readonly replies: bigint[] = [];
  entries: Entry[] = [];
  /** While set, messages are neither worked off nor answered. */
  hung = false;
  /** Status of the next acknowledgements. */
  status = 0n;
  features = 0n;
  ringsEnabled = new Set<number>();
  logging: { readonly size: bigint; readonly offset: bigint } | undefined;
  readonly #offered: bigint;
  readonly #offeredProtocol: bigint;
  readonly #memory: Uint8Array;
  readonly #pieceBytes: number;
  readonly #held: (() => void)[] = [];
  readonly #pendingMisses = new Set<string>();
  #protocolFeatures = 0n;
  #owner = false;
  #haveRequestChannel = false;
  #regions: Region[] = [];
  readonly #ringAddresses = new Set<number>();

  constructor(options: FakeBackEndOptions) {
    this.#offered = options.features ?? F_PROTOCOL | F_PLATFORM | (1n << 32n) | (1n << 26n);
    this.#offeredProtocol = options.protocolFeatures ?? P_REPLY_ACK | P_BACKEND_REQ | 2n | 1n;
    this.#memory = options.memory;
    this.#pieceBytes = options.pieceBytes ?? 1 << 20;
    this.channel = endpoint((message, fds) => this.#receive(message, fds));
    this.requestChannel = endpoint((message) => this.#receiveReply(message));
  }

  /** Makes a request of the back-end: a MISS (1) or ACCESS_FAIL (4). */
  ask(type: number, iova: bigint, perm: number, needReply = false): void {
    const payload = new DataView(new ArrayBuffer(32));
    payload.setBigUint64(0, iova, true);
    payload.setUint8(24, perm);
    payload.setUint8(25, type);
    this.#deliver(this.requestChannel, frame(1, 1 | (needReply ? 8 : 0), payload));
  }

  /** Raw bytes towards the front-end: for broken back-ends. */
  inject(channel: VhostChannel, bytes: Uint8Array): void {
    channel.onBytes?.(bytes);
  }

  /** Works off what came in while it hung. */
  resume(): void {
    this.hung = false;
    for (const work of this.#held.splice(0)) work();
  }

  /** DMA of the device: the bytes, or `undefined` after having asked for a translation. */
  dmaRead(iova: bigint, byteLength: number): Uint8Array | undefined {
    const at = this.#translate(iova, byteLength, 1);
    return at === undefined ? undefined : this.#memory.slice(at, at + byteLength);
  }

  dmaWrite(iova: bigint, bytes: Uint8Array): boolean {
    const at = this.#translate(iova, bytes.length, 2);
    if (at !== undefined) this.#memory.set(bytes, at);
    return at !== undefined;
  }

  #translate(iova: bigint, byteLength: number, perm: number): number | undefined {
    const end = iova + BigInt(byteLength);
    const entry = this.entries.find((it) => it.iova <= iova && end <= it.iova + it.size);
    if (entry === undefined || (entry.perm & perm) !== perm) {
      const key = `${iova / PAGE}/${perm}`;
      if (!this.#pendingMisses.has(key)) this.ask(1, iova, perm);
      this.#pendingMisses.add(key);
      return undefined;
    }
    const user = entry.user + iova - entry.iova;
    const region = this.#regions.find((it) => it.user <= user && user < it.user + it.size);
    return region === undefined ? undefined : Number(user - region.user + region.offset);
  }

  #receive(message: Uint8Array, fds: readonly number[]): void {
    if (this.hung) {
      this.#held.push(() => this.#receive(message, fds));
      return;
    }
    const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
    const request = view.getUint32(0, true);
    const flags = view.getUint32(4, true);
    const size = view.getUint32(8, true);
    const payload = new DataView(view.buffer, view.byteOffset + 12, message.byteLength - 12);
    this.#check(
      payload.byteLength === size,
      `request ${request}: header says ${size} bytes, got ${payload.byteLength}`,
    );
    this.#check((flags & 3) === 1, `request ${request}: version ${flags & 3}`);
    this.#check((flags & ~(3 | 8)) === 0, `request ${request}: flags 0x${flags.toString(16)}`);
    const needReply = (flags & 8) !== 0;
    this.#check(
      !needReply || (this.#protocolFeatures & P_REPLY_ACK) !== 0n,
      `request ${request}: NEED_REPLY was not negotiated`,
    );
    this.#check(request === 5 || size === SIZES[request], `request ${request}: ${size} bytes of payload`);
    this.seen.push({ request, needReply, fds, payload });
    const reply = this.#work(request, payload, fds);
    if (HAVE_REPLIES.has(request)) this.#deliver(this.channel, frame(request, 5, reply));
    else if (needReply) this.#deliver(this.channel, frame(request, 5, word(this.status)));
  }

  #work(request: number, payload: DataView, fds: readonly number[]): DataView {
    const u64 = (at: number): bigint => payload.getBigUint64(at, true);
    const u32 = (at: number): number => payload.getUint32(at, true);
    const nothing = new DataView(new ArrayBuffer(0));
    this.#check(
      fds.length === this.#expectedFds(request, payload),
      `request ${request}: ${fds.length} file descriptors`,
    );
    if (request === 1) return word(this.#offered);
    if (request === 15) return word(this.#offeredProtocol);
    if (request === 17) return word(2n);
    if (request === 16) {
      this.#check(
        (u64(0) & ~this.#offeredProtocol) === 0n,
        `protocol features 0x${u64(0).toString(16)} were not offered`,
      );
      this.#protocolFeatures = u64(0);
      return nothing;
    }
    if (request === 3) {
      this.#check(!this.#owner, "SET_OWNER twice");
      this.#owner = true;
      return nothing;
    }
    this.#check(this.#owner, `request ${request} before SET_OWNER`);
    if (request === 21) this.#haveRequestChannel = true;
    else if (request === 2) {
      this.#check((u64(0) & ~this.#offered) === 0n, `features 0x${u64(0).toString(16)} were not offered`);
      this.features = u64(0);
    } else if (request === 5) this.#setMemory(payload, fds);
    else if (request === 6) {
      this.#check((this.#protocolFeatures & 2n) !== 0n, "a log without LOG_SHMFD");
      this.logging = { size: u64(0), offset: u64(8) };
    } else if (request === 22) this.#iotlb(payload);
    else return this.#ring(request, u32(0), payload);
    return nothing;
  }

  #setMemory(payload: DataView, fds: readonly number[]): void {
    const count = payload.getUint32(0, true);
    this.#check(
      payload.byteLength === 8 + 32 * count && count > 0 && count <= 8,
      `a memory table of ${count} regions in ${payload.byteLength} bytes`,
    );
    this.#check(fds.length === count, `${count} regions with ${fds.length} files`);
    const u64 = (at: number): bigint => payload.getBigUint64(at, true);
    this.#regions = Array.from({ length: count }, (_, i) => ({
      gpa: u64(8 + 32 * i),
      size: u64(16 + 32 * i),
      user: u64(24 + 32 * i),
      offset: u64(32 + 32 * i),
    }));
  }

  #ring(request: number, index: number, payload: DataView): DataView {
    const base = new DataView(new ArrayBuffer(8));
    if (request === 9) {
      this.#ringAddresses.add(index);
      for (const at of [8, 16, 24]) this.#check(payload.getBigUint64(at, true) % 2n === 0n, "a ring at an odd address");
    } else if (request === 18) {
      const on = payload.getUint32(4, true) === 1;
      if (on) {
        this.#check(this.#regions.length > 0, "a ring before the memory table");
        this.#check(this.#ringAddresses.has(index), "a ring was enabled before it had addresses");
        this.#check((this.features & F_PLATFORM) !== 0n, "a ring of IOVAs without ACCESS_PLATFORM");
        this.ringsEnabled.add(index);
      } else this.ringsEnabled.delete(index);
    } else if (request === 11) {
      base.setUint32(0, index, true);
      base.setUint32(4, 77, true);
    } else this.#check([8, 10, 12, 13, 14].includes(request), `request ${request} is not known`);
    return base;
  }

  #iotlb(payload: DataView): void {
    const [iova, size, user] = [0, 8, 16].map((at) => payload.getBigUint64(at, true)) as [bigint, bigint, bigint];
    const perm = payload.getUint8(24);
    const type = payload.getUint8(25);
    this.#check(
      (this.features & F_PLATFORM) !== 0n && this.#haveRequestChannel,
      "an IOTLB message before it was negotiated",
    );
    this.#check(
      iova % PAGE === 0n && size % PAGE === 0n && size > 0n,
      `IOTLB range 0x${iova.toString(16)}+0x${size.toString(16)}`,
    );
    this.#check(iova + size < 1n << 64n, "an IOTLB range that wraps");
    const overlapping = this.entries.filter((it) => it.iova < iova + size && iova < it.iova + it.size);
    if (type === 3) {
      this.entries = this.entries.filter((it) => !overlapping.includes(it));
      return;
    }
    this.#check(type === 2, `IOTLB type ${type} from a front-end`);
    this.#check(perm >= 1 && perm <= 3, `IOTLB rights ${perm}`);
    this.#check(
      this.#regions.some((it) => it.user <= user && user + size <= it.user + it.size),
      `user address 0x${user.toString(16)} is not in one region`,
    );
    const changed = overlapping.some((it) => it.user - it.iova !== user - iova || it.perm !== perm);
    this.#check(!changed, `an UPDATE of 0x${iova.toString(16)} over an entry that says otherwise: it would be ignored`);
    if (overlapping.length === 0) this.entries.push({ iova, size, user, perm });
    for (const key of this.#pendingMisses) {
      const [page, wanted] = key.split("/");
      const pageIova = BigInt(page ?? 0) * PAGE;
      if (pageIova >= iova && pageIova < iova + size && (perm & Number(wanted)) === Number(wanted))
        this.#pendingMisses.delete(key);
    }
  }

  #expectedFds(request: number, payload: DataView): number {
    if (request === 5) return payload.getUint32(0, true);
    if (request === 6 || request === 21) return 1;
    if (request >= 12 && request <= 14) return (payload.getUint32(0, true) & 0x100) === 0 ? 1 : 0;
    return 0;
  }

  #receiveReply(message: Uint8Array): void {
    const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
    this.#check(
      view.getUint32(4, true) === 5 && view.getUint32(8, true) === 8,
      "a malformed reply on the request channel",
    );
    this.replies.push(view.getBigUint64(12, true));
  }

  #deliver(to: VhostChannel, bytes: Uint8Array): void {
    queueMicrotask(() => {
      for (let at = 0; at < bytes.length; at += this.#pieceBytes)
        to.onBytes?.(bytes.subarray(at, at + this.#pieceBytes));
    });
  }

  #check(right: boolean, what: string): void {
    if (!right) this.broken.push(what);
  }
}

function endpoint(receive: (message: Uint8Array, fds: readonly number[]) => void): VhostChannel {
  let open = true;
  const channel: VhostChannel = {
    send: (message, fds) => {
      if (!open) throw new Error("sent on a closed channel");
      receive(message.slice(), fds);
    },
    close: () => {
      if (!open) return;
      open = false;
      channel.onClose?.(undefined);
    },
    onBytes: undefined,
    onClose: undefined,
  };
  return channel;
}

function frame(request: number, flags: number, payload: DataView): Uint8Array {
  const bytes = new Uint8Array(12 + payload.byteLength);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, request, true);
  view.setUint32(4, flags, true);
  view.setUint32(8, payload.byteLength, true);
  bytes.set(new Uint8Array(payload.buffer, payload.byteOffset, payload.byteLength), 12);
  return bytes;
}

function word(value: bigint): DataView {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, value, true);
  return view;
}
