/**
 * The front-end of vhost-user: negotiation, memory table, rings, and the channel for IOTLB messages.
 *
 * Every request is confirmed: by an acknowledgement where the back-end has REPLY_ACK, else by the answer to a GET_FEATURES sent behind it, since a back-end
 * works through its channel in order. Replies come in the order of the requests.
 */

import { type Access, IommuError } from "@iommu-kit/iommu-core";
import type { VhostChannel } from "./channel.js";
import { MessageReader } from "./message-reader.js";
import { MemoryTable, type VhostRegion } from "./memory-table.js";
import {
  type IotlbMessage,
  packIotlb,
  packMessage,
  packRingAddress,
  packWords32,
  packWords64,
  readIotlb,
  type VhostMessage,
  type VhostRing,
} from "./messages.js";
import {
  BackEndRequest,
  Feature,
  FrontEndRequest,
  HeaderFlag,
  IotlbType,
  NO_FILE_DESCRIPTOR,
  ProtocolFeature,
} from "./protocol.js";

/** What a front-end talks through. */
export interface VhostFrontEndOptions {
  /** The connected socket. */
  readonly channel: VhostChannel;
  /** A socket pair for the back-end's own requests: our end as a channel, the other end as a descriptor that is sent over. */
  readonly backEnd: { readonly channel: VhostChannel; readonly peerFd: number };
  /** Virtio features that the driver accepted, without those of the transport. Default none. What the back-end does not offer is left out. */
  readonly features?: bigint;
  /** Called when the connection is lost or was closed: once. */
  readonly onClose?: (error: IommuError) => void;
}

/** Where a dirty log is. */
export interface VhostLog {
  /** The file. */
  readonly fd: number;
  /** One bit for each frame up to the end of guest memory, at least. */
  readonly byteLength: number;
  /** Where in the file. Default 0. */
  readonly offsetBytes?: number;
}

interface Expected {
  readonly request: number;
  readonly settle: (reply: DataView) => void;
  readonly fail: (error: IommuError) => void;
}

const NO_PAYLOAD = new Uint8Array(0);
const NO_FDS: readonly number[] = [];
/** Half of the 64-bit space in frames: the whole does not fit into the 64 bits of a length. */
const HALF_SPACE = 2 ** 51;

/**
 * One connection to a vhost-user back-end, from the front-end's side. Call `connect` first; each further call is confirmed by the back-end before its promise
 * fulfils. When the connection is over, for whatever reason, everything pending rejects with `destroyed`, and `onClose` is called once: make a new one.
 */
export class VhostFrontEnd {
  /** Set by `VhostIotlb`: what to do with the back-end's MISS and ACCESS_FAIL messages. `false`: could not be served now. */
  onIotlb: ((message: IotlbMessage) => boolean) | undefined;
  readonly #channel: VhostChannel;
  readonly #backEnd: VhostFrontEndOptions["backEnd"];
  readonly #wantedFeatures: bigint;
  readonly #onClose: VhostFrontEndOptions["onClose"];
  readonly #expected: Expected[] = [];
  readonly #rings = new Map<number, VhostRing>();
  #features = 0n;
  #protocolFeatures = 0n;
  #memory: MemoryTable | undefined;
  #closed: IommuError | undefined;

  constructor(options: VhostFrontEndOptions) {
    this.#channel = options.channel;
    this.#backEnd = options.backEnd;
    this.#wantedFeatures = options.features ?? 0n;
    this.#onClose = options.onClose;
    const replies = new MessageReader(
      (message) => this.#replied(message),
      (why) => void this.#end(why),
    );
    const requests = new MessageReader(
      (message) => this.#requested(message),
      (why) => void this.#end(why),
    );
    options.channel.onBytes = (bytes) => replies.push(bytes);
    options.channel.onClose = (error) => void this.#end("the back-end closed the connection", error);
    options.backEnd.channel.onBytes = (bytes) => requests.push(bytes);
    options.backEnd.channel.onClose = (error) => void this.#end("the back-end closed its request channel", error);
  }

  /** Features in force. */
  get features(): bigint {
    return this.#features;
  }

  /** Protocol features in force. */
  get protocolFeatures(): bigint {
    return this.#protocolFeatures;
  }

  /** Guest memory as the back-end knows it. */
  get memory(): MemoryTable | undefined {
    return this.#memory;
  }

  /** Why the connection is over, or `undefined` while it is not. */
  get closed(): IommuError | undefined {
    return this.#closed;
  }

  /**
   * Negotiates features with an IOMMU in between, and hands over the channel for misses.
   * @throws {IommuError} `not-supported` if the back-end cannot translate through an IOTLB; `destroyed` if the connection ends.
   */
  async connect(): Promise<void> {
    const offered = await this.#get(FrontEndRequest.GET_FEATURES);
    demand(offered, Feature.PROTOCOL_FEATURES, "vhost-user protocol features", "use a newer back-end");
    demand(
      offered,
      Feature.ACCESS_PLATFORM,
      "an IOTLB (VIRTIO_F_ACCESS_PLATFORM)",
      "start the back-end with IOMMU support: for DPDK, iommu-support=1",
    );
    const protocol = await this.#get(FrontEndRequest.GET_PROTOCOL_FEATURES);
    demand(protocol, ProtocolFeature.BACKEND_REQ, "requests of the back-end, which misses are", "use a newer back-end");
    const { MQ, LOG_SHMFD, REPLY_ACK, BACKEND_REQ } = ProtocolFeature;
    this.#send(
      FrontEndRequest.SET_PROTOCOL_FEATURES,
      0,
      packWords64(protocol & (MQ | LOG_SHMFD | REPLY_ACK | BACKEND_REQ)),
      NO_FDS,
    );
    this.#protocolFeatures = protocol & (MQ | LOG_SHMFD | REPLY_ACK | BACKEND_REQ);
    await this.#confirm(FrontEndRequest.SET_OWNER, NO_PAYLOAD);
    await this.#confirm(FrontEndRequest.SET_BACKEND_REQ_FD, NO_PAYLOAD, [this.#backEnd.peerFd]);
    const { PROTOCOL_FEATURES, VERSION_1, ACCESS_PLATFORM } = Feature;
    await this.#setFeatures((this.#wantedFeatures | PROTOCOL_FEATURES | VERSION_1 | ACCESS_PLATFORM) & offered);
  }

  /**
   * Tells the back-end where guest memory is.
   * @throws {IommuError} `bad-option` for a table that is not whole pages or too long; `destroyed` if the connection ends.
   */
  async setMemory(regions: readonly VhostRegion[]): Promise<void> {
    const table = new MemoryTable(regions);
    await this.#confirm(FrontEndRequest.SET_MEM_TABLE, table.pack(), table.fds);
    this.#memory = table;
  }

  /**
   * Rings that the back-end has; 1 pair where it cannot say.
   * @throws {IommuError} `destroyed` if the connection ends.
   */
  async queueCount(): Promise<number> {
    if ((this.#protocolFeatures & ProtocolFeature.MQ) === 0n) return 1;
    return Number(await this.#get(FrontEndRequest.GET_QUEUE_NUM));
  }

  /**
   * Sets a ring up and enables it. Its addresses are IOVAs: the back-end will ask for them.
   * @throws {IommuError} `not-supported` if the back-end refuses; `destroyed` if the connection ends.
   */
  async startRing(ring: VhostRing): Promise<void> {
    const { index } = ring;
    await this.#confirm(FrontEndRequest.SET_VRING_NUM, packWords32(index, ring.size));
    await this.#confirm(FrontEndRequest.SET_VRING_BASE, packWords32(index, ring.base ?? 0));
    await this.#confirm(
      FrontEndRequest.SET_VRING_ADDR,
      packRingAddress(ring, (this.#features & Feature.LOG_ALL) !== 0n),
    );
    await this.#giveFd(FrontEndRequest.SET_VRING_CALL, index, ring.callFd);
    if (ring.errorFd !== undefined) await this.#giveFd(FrontEndRequest.SET_VRING_ERR, index, ring.errorFd);
    await this.#giveFd(FrontEndRequest.SET_VRING_KICK, index, ring.kickFd);
    await this.#confirm(FrontEndRequest.SET_VRING_ENABLE, packWords32(index, 1));
    this.#rings.set(index, ring);
  }

  /**
   * Stops a ring. Answers the index to start it at again.
   * @throws {IommuError} `not-supported` if the back-end refuses; `destroyed` if the connection ends.
   */
  async stopRing(index: number): Promise<number> {
    this.#rings.delete(index);
    await this.#confirm(FrontEndRequest.SET_VRING_ENABLE, packWords32(index, 0));
    return Number((await this.#get(FrontEndRequest.GET_VRING_BASE, packWords32(index, 0))) >> 32n);
  }

  /**
   * Starts logging of the pages that the back-end writes: one bit for each frame of guest memory, least significant first, in a shared file that this side
   * reads and clears. `undefined` stops it. Rings that run are told.
   * @throws {IommuError} `not-supported` if the back-end cannot log or refuses; `destroyed` if the connection ends.
   */
  async logWrites(log: VhostLog | undefined): Promise<void> {
    if (log !== undefined) {
      const hint = "this back-end cannot take part in a migration";
      demand(this.#protocolFeatures, ProtocolFeature.LOG_SHMFD, "a shared dirty log", hint);
      await this.#ask(FrontEndRequest.SET_LOG_BASE, packWords64(log.byteLength, log.offsetBytes ?? 0), [log.fd], 0);
    }
    await this.#setFeatures(log === undefined ? this.#features & ~Feature.LOG_ALL : this.#features | Feature.LOG_ALL);
    for (const ring of this.#rings.values()) {
      await this.#confirm(FrontEndRequest.SET_VRING_ADDR, packRingAddress(ring, log !== undefined));
    }
  }

  /** Tells the back-end where frames go. Not confirmed: an UPDATE that is lost is asked for again. */
  update(iovaPfn: number, pageCount: number, userAddress: number, access: Access): void {
    this.#send(
      FrontEndRequest.IOTLB_MSG,
      0,
      packIotlb(IotlbType.UPDATE, iovaPfn, pageCount, userAddress, access),
      NO_FDS,
    );
  }

  /** Makes the back-end drop what it holds for these frames. Done when it has confirmed, and so touches nothing through it any more. */
  async invalidate(iovaPfn: number, pageCount: number): Promise<void> {
    const parts: Promise<void>[] = [];
    const end = iovaPfn + pageCount;
    for (let at = iovaPfn; at < end;) {
      // A range must not end at 2^64 either: its end would wrap to 0. `VhostIotlb` never tells the last frame, so nothing is held there.
      const count = Math.min(end - at, HALF_SPACE - (at % HALF_SPACE), 2 ** 52 - 1 - at);
      if (count <= 0) break;
      parts.push(this.#confirm(FrontEndRequest.IOTLB_MSG, packIotlb(IotlbType.INVALIDATE, at, count, 0, 0)));
      at += count;
    }
    await Promise.all(parts);
  }

  /**
   * Done when the back-end has worked off everything that was sent so far, UPDATEs included.
   * @throws {IommuError} `destroyed` if the connection ends.
   */
  async settled(): Promise<void> {
    await this.#ask(FrontEndRequest.GET_FEATURES, NO_PAYLOAD, NO_FDS, 0);
  }

  /** Ends the connection. Everything pending fails. */
  close(): void {
    this.#end("the front-end was closed");
  }

  async #setFeatures(features: bigint): Promise<void> {
    await this.#confirm(FrontEndRequest.SET_FEATURES, packWords64(features));
    this.#features = features;
  }

  #giveFd(request: number, index: number, fd: number | undefined): Promise<void> {
    return this.#confirm(
      request,
      packWords64(fd === undefined ? index + NO_FILE_DESCRIPTOR : index),
      fd === undefined ? NO_FDS : [fd],
    );
  }

  async #get(request: number, payload: Uint8Array = NO_PAYLOAD): Promise<bigint> {
    return this.#number(request, await this.#ask(request, payload, NO_FDS, 0));
  }

  /** The 64 bits of a reply. */
  #number(request: number, reply: DataView): bigint {
    if (reply.byteLength >= 8) return reply.getBigUint64(0, true);
    throw this.#end(`expected 8 bytes in reply to request ${request}, got ${reply.byteLength}`);
  }

  /** Sends a request that has no reply of its own; done when the back-end has worked it off. */
  async #confirm(request: number, payload: Uint8Array, fds = NO_FDS): Promise<void> {
    if ((this.#protocolFeatures & ProtocolFeature.REPLY_ACK) === 0n) {
      this.#send(request, 0, payload, fds);
      return this.settled();
    }
    const reply = await this.#ask(request, payload, fds, HeaderFlag.NEED_REPLY);
    const status = this.#number(request, reply);
    if (status === 0n) return;
    throw new IommuError(
      "not-supported",
      `vhost-user: expected the back-end to carry out request ${request}, got status ${status}`,
      {
        hint: "see the back-end's own log",
      },
    );
  }

  #ask(request: number, payload: Uint8Array, fds: readonly number[], flags: number): Promise<DataView> {
    return new Promise((settle, fail) => {
      if (this.#closed !== undefined) {
        fail(this.#closed);
        return;
      }
      this.#expected.push({ request, settle, fail });
      this.#send(request, flags, payload, fds);
    });
  }

  #send(request: number, flags: number, payload: Uint8Array, fds: readonly number[]): void {
    this.#sendOn(this.#channel, packMessage(request, flags, payload), fds);
  }

  #sendOn(channel: VhostChannel, message: Uint8Array, fds: readonly number[]): void {
    if (this.#closed !== undefined) return;
    try {
      channel.send(message, fds);
    } catch (error) {
      this.#end("a message could not be sent", error);
    }
  }

  #replied(message: VhostMessage): void {
    const expected = this.#expected.shift();
    const isReply = (message.flags & HeaderFlag.REPLY) !== 0;
    if (expected !== undefined && isReply && message.request === expected.request) {
      expected.settle(message.payload);
      return;
    }
    if (expected !== undefined) this.#expected.unshift(expected);
    this.#end(
      `expected a reply to request ${expected?.request ?? "(none)"}, got ${isReply ? "one" : "no reply but a request"} numbered ${message.request}`,
    );
  }

  /** A request of the back-end. */
  #requested(message: VhostMessage): void {
    const iotlb = message.request === BackEndRequest.IOTLB_MSG ? readIotlb(message.payload) : undefined;
    const served =
      iotlb === undefined ? message.request === BackEndRequest.CONFIG_CHANGE : this.onIotlb?.(iotlb) === true;
    if ((message.flags & HeaderFlag.NEED_REPLY) === 0) return;
    const reply = packMessage(message.request, HeaderFlag.REPLY, packWords64(served ? 0 : 1));
    this.#sendOn(this.#backEnd.channel, reply, NO_FDS);
  }

  /** Answers why the connection is over. */
  #end(why: string, cause?: unknown): IommuError {
    if (this.#closed !== undefined) return this.#closed;
    const error = ended(why, cause);
    this.#closed = error;
    for (const { fail } of this.#expected.splice(0)) fail(error);
    this.#channel.close();
    this.#backEnd.channel.close();
    this.#onClose?.(error);
    return error;
  }
}

function demand(features: bigint, bit: bigint, what: string, hint: string): void {
  if ((features & bit) !== 0n) return;
  throw new IommuError(
    "not-supported",
    `vhost-user: expected a back-end with ${what}, got features 0x${features.toString(16)}`,
    { hint },
  );
}

function ended(why: string, cause?: unknown): IommuError {
  return new IommuError("destroyed", `vhost-user: expected a connection, got its end: ${why}`, {
    hint: "connect again, attach again: the guest's state is replayed",
    cause,
  });
}
