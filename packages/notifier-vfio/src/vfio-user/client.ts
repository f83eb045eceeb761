/**
 * The client of vfio-user: one connection to a server that plays a device.
 *
 * Commands are pipelined; the promise of each is settled by its own reply. The server's requests for memory are answered from the device's address space, so
 * the guest's tables hold for them whatever was mapped. What the server sends is never trusted: a message that breaks the protocol ends the connection,
 * everything pending learns that the far side is gone, and nothing is thrown at whoever asked.
 */

import { type AddressSpace, IommuError } from "@iommu-kit/iommu-core";
import { CommandWindow, type Reply } from "./command-window.js";
import { DmaResponder } from "./dma-responder.js";
import { type IrqAction, packIrqAction } from "./irq-action.js";
import { MessageStream, type VfioUserMessage } from "./message-stream.js";
import {
  type DeviceInfo,
  type IrqInfo,
  packDeviceInfo,
  packIrqInfo,
  packMessage,
  packRegionAccess,
  packRegionInfo,
  readDeviceInfo,
  readEmpty,
  readIrqInfo,
  readRegionAccess,
  readRegionInfo,
  type RegionInfo,
} from "./messages.js";
import { Command, type CommandName, Default, Errno, HEADER_BYTES, HeaderFlag } from "./protocol.js";
import type { VfioUserTransport } from "./transport.js";
import { type Negotiated, packVersion, readVersion } from "./version.js";

/** What a client works with. */
export interface VfioUserClientOptions {
  /** The connection, made and not yet used. */
  readonly transport: VfioUserTransport;
  /** What the device sees: its requests for memory are answered from here. */
  readonly space: AddressSpace;
  /** Most bytes that the server may ask for in one message. Default 1 MiB. */
  readonly maxDataTransferBytes?: number;
  /** Most commands without a reply; further ones wait here. 1 to 65,536, default 1,024. */
  readonly maxInFlight?: number;
  /** Most bytes that may wait because the server does not read them while it goes on asking for memory. Default 64 MiB. */
  readonly maxUnreadBytes?: number;
  /** Called when the connection is lost or was closed: once. */
  readonly onClose?: (error: IommuError) => void;
}

const NO_BYTES = new Uint8Array(0);
const NO_FDS: readonly number[] = [];
/** Room for everything in a message but data and header. */
const LARGEST_STRUCTURE_BYTES = 4096;

/**
 * One connection to a vfio-user server. Call `connect` first. When the connection is over, everything pending is told so, `onClose` is called once, and further
 * calls answer the same; there is no way back: make a new client.
 */
export class VfioUserClient {
  readonly #transport: VfioUserTransport;
  readonly #stream: MessageStream;
  readonly #commands: CommandWindow;
  readonly #responder: DmaResponder;
  readonly #maxDataTransferBytes: number;
  readonly #onClose: VfioUserClientOptions["onClose"];
  readonly #closeListeners = new Set<(error: IommuError) => void>();
  #connected: Promise<Negotiated> | undefined;
  #negotiated: Negotiated | undefined;
  #closed: IommuError | undefined;

  /** @throws {IommuError} `bad-option` for limits that are no positive whole numbers. */
  constructor(options: VfioUserClientOptions) {
    const { transport, maxDataTransferBytes = Default.maxDataTransferBytes } = options;
    const { maxInFlight = 1024, maxUnreadBytes = 2 ** 26 } = options;
    checkWhole("maxDataTransferBytes", maxDataTransferBytes, 2 ** 31);
    checkWhole("maxInFlight", maxInFlight, 65_536);
    checkWhole("maxUnreadBytes", maxUnreadBytes, Number.MAX_SAFE_INTEGER);
    this.#transport = transport;
    this.#maxDataTransferBytes = maxDataTransferBytes;
    this.#onClose = options.onClose;
    const send = (message: Uint8Array, fds: readonly number[]): void => this.#send(message, fds);
    this.#commands = new CommandWindow(maxInFlight, send);
    this.#responder = new DmaResponder(options.space, maxDataTransferBytes, (message) => {
      if (transport.pendingBytes > maxUnreadBytes)
        this.#end("the server asks for memory, but does not read the answers");
      else this.#send(message, NO_FDS);
    });
    this.#stream = new MessageStream(
      HEADER_BYTES + LARGEST_STRUCTURE_BYTES + maxDataTransferBytes,
      (message) => this.#received(message),
      (why) => this.#end(why),
    );
    transport.onBytes = (bytes) => this.#stream.push(bytes);
    transport.onClose = (error) => this.#end("the server closed the connection", error);
  }

  /** What was agreed on; `undefined` before `connect`. */
  get negotiated(): Negotiated | undefined {
    return this.#negotiated;
  }

  /** Why the connection is over, or `undefined` while it is not. */
  get closed(): IommuError | undefined {
    return this.#closed;
  }

  /** Whether file descriptors can be sent. */
  get sendsFds(): boolean {
    return this.#transport.sendsFds;
  }

  /**
   * Negotiates version and capabilities, once: called again, it answers what the first call does.
   * @throws {IommuError} `not-supported` if the server refuses; `destroyed` if the connection ends, also because the answer makes no sense.
   */
  connect(): Promise<Negotiated> {
    return (this.#connected ??= this.#negotiate());
  }

  /** What the device is. @throws {IommuError} as `readRegion`. */
  async deviceInfo(): Promise<DeviceInfo> {
    return this.#get("DEVICE_GET_INFO", packDeviceInfo(), readDeviceInfo);
  }

  /** What a region of the device is. @throws {IommuError} as `readRegion`. */
  async regionInfo(index: number): Promise<RegionInfo> {
    return this.#get("DEVICE_GET_REGION_INFO", packRegionInfo(index), (payload) => readRegionInfo(payload, index));
  }

  /**
   * Reads registers or memory of the device, as one access.
   * @throws {IommuError} `bad-option` before `connect`, and for more bytes than the server takes at a time; `not-supported`, with the error number in the
   * message, if it refuses; `destroyed` if the connection ends.
   */
  async readRegion(index: number, offsetBytes: number | bigint, byteLength: number): Promise<Uint8Array> {
    this.#checkTransfer(byteLength);
    const request = packRegionAccess(index, BigInt(offsetBytes), byteLength, NO_BYTES);
    return this.#get("REGION_READ", request, (payload) => readRegionAccess(payload, byteLength, byteLength));
  }

  /** Writes registers or memory of the device, as one access; done when the device has taken it. @throws {IommuError} as `readRegion`. */
  async writeRegion(index: number, offsetBytes: number | bigint, bytes: Uint8Array): Promise<void> {
    this.#checkTransfer(bytes.length);
    const request = packRegionAccess(index, BigInt(offsetBytes), bytes.length, bytes);
    await this.#get("REGION_WRITE", request, (payload) => readRegionAccess(payload, bytes.length, 0));
  }

  /** What an interrupt type offers. @throws {IommuError} as `readRegion`. */
  async irqInfo(index: number): Promise<IrqInfo> {
    return this.#get("DEVICE_GET_IRQ_INFO", packIrqInfo(index), (payload) => readIrqInfo(payload, index));
  }

  /**
   * Connects interrupts to event descriptors, triggers, masks or unmasks them. A server without descriptors sends messages by DMA instead.
   * @throws {IommuError} `not-supported` for descriptors that the transport does not carry; else as `readRegion`.
   */
  async setIrqs(request: IrqAction): Promise<void> {
    const fds = request.eventfds ?? NO_FDS;
    const most = this.sendsFds ? this.agreed().maxMessageFds : 0;
    if (fds.length > most) {
      throw new IommuError("not-supported", `setIrqs: expected at most ${most} file descriptors, got ${fds.length}`, {
        hint: this.sendsFds ? "set them in several calls" : "give the transport a function that sends descriptors",
      });
    }
    await this.#get("DEVICE_SET_IRQS", packIrqAction(request), readEmpty, fds);
  }

  /** Resets the device; its DMA regions stay. @throws {IommuError} as `readRegion`. */
  async reset(): Promise<void> {
    await this.#get("DEVICE_RESET", NO_BYTES, readEmpty);
  }

  /** Ends the connection. Everything pending fails. */
  close(): void {
    this.#end("the client was closed");
  }

  /** @internal Calls `listener` when the connection ends. */
  onceClosed(listener: (error: IommuError) => void): void {
    this.#closeListeners.add(listener);
  }

  /** @internal What was agreed on. @throws {IommuError} `bad-option` before `connect`; `destroyed` if the connection has ended before. */
  agreed(): Negotiated {
    if (this.#negotiated !== undefined) return this.#negotiated;
    if (this.#closed !== undefined) throw this.#closed;
    throw new IommuError("bad-option", "vfio-user: expected a version that both sides have agreed on, got none yet", {
      hint: "call connect first",
    });
  }

  /**
   * @internal Sends a command. The promise never rejects.
   * @param read Reads the payload of a reply that does not refuse; `undefined`: it makes no sense, and the connection ends.
   */
  ask<T>(
    name: CommandName,
    payload: Uint8Array,
    fds: readonly number[],
    read: (payload: DataView) => T | undefined,
  ): Promise<Reply<T>> {
    return this.#commands.ask(Command[name], payload, fds, read);
  }

  /** A command that needs an agreed version, as all but VERSION do. */
  async #get<T>(
    name: CommandName,
    request: Uint8Array,
    read: (payload: DataView) => T | undefined,
    fds = NO_FDS,
  ): Promise<T> {
    this.agreed();
    return valueOf(await this.ask(name, request, fds, read), name);
  }

  async #negotiate(): Promise<Negotiated> {
    const own = {
      maxMessageFds: Default.maxMessageFds,
      maxDataTransferBytes: this.#maxDataTransferBytes,
      maxDmaMaps: 1_000_000,
    };
    const reply = await this.ask("VERSION", packVersion(own), NO_FDS, (payload) => this.#agree(payload));
    if (reply.kind === "error") this.#end("the server refused the version");
    return valueOf(reply, "VERSION");
  }

  #agree(payload: DataView): Negotiated | undefined {
    const answer = readVersion(payload);
    if (typeof answer !== "string") return (this.#negotiated = answer);
    this.#end(answer);
    return undefined;
  }

  #checkTransfer(byteLength: number): void {
    const most = Math.min(this.agreed().maxDataTransferBytes, this.#maxDataTransferBytes);
    if (Number.isInteger(byteLength) && byteLength >= 0 && byteLength <= most) return;
    throw new IommuError("bad-option", `expected an access of at most ${most} bytes, got ${byteLength}`, {
      hint: "split it",
    });
  }

  #send(message: Uint8Array, fds: readonly number[]): void {
    if (this.#closed !== undefined) return;
    try {
      this.#transport.send(message, fds);
    } catch (error) {
      this.#end("a message could not be sent", error);
    }
  }

  #received(message: VfioUserMessage): void {
    const why = message.isReply ? this.#commands.replied(message) : this.#requested(message);
    if (why !== undefined) this.#end(why);
  }

  /** A request of the server. A string says what is wrong with it. */
  #requested(message: VfioUserMessage): string | undefined {
    if (this.#negotiated === undefined) return "expected the reply to VERSION, got a command";
    const { DMA_READ, DMA_WRITE } = Command;
    if (message.command === DMA_READ || message.command === DMA_WRITE) return this.#responder.answer(message);
    // A later version may have more commands: the protocol lets us refuse them.
    const flags = HeaderFlag.REPLY | HeaderFlag.ERROR;
    if (!message.noReply) this.#send(packMessage(message.id, message.command, flags, Errno.EINVAL, NO_BYTES), NO_FDS);
    return undefined;
  }

  #end(why: string, cause?: unknown): void {
    if (this.#closed !== undefined) return;
    const error = ended(why, cause);
    this.#closed = error;
    this.#stream.stop();
    this.#commands.end(error);
    this.#transport.close();
    for (const listener of this.#closeListeners) listener(error);
    this.#onClose?.(error);
  }
}

/** What a reply says; a refusal or the end of the connection is thrown. */
function valueOf<T>(reply: Reply<T>, name: CommandName): T {
  if (reply.kind === "done") return reply.value;
  if (reply.kind === "gone") throw reply.error;
  throw new IommuError(
    "not-supported",
    `vfio-user: expected the server to carry out ${name}, got error ${reply.errno}`,
    {
      hint: "see the server's own log",
    },
  );
}

function checkWhole(name: string, value: number, most: number): void {
  if (Number.isInteger(value) && value >= 1 && value <= most) return;
  throw new IommuError("bad-option", `${name}: expected a whole number from 1 to ${most}, got ${value}`, {
    hint: "leave it out for the default",
  });
}

function ended(why: string, cause?: unknown): IommuError {
  return new IommuError("destroyed", `vfio-user: expected a connection, got its end: ${why}`, {
    hint: "connect again, attach again: the guest's state is replayed",
    cause,
  });
}
