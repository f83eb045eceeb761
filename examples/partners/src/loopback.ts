/**
 * A guest with a network card whose device forwards every packet back: it sends numbered packets with a pattern in them and checks what returns.
 *
 * Every page of it is mapped by itself, to frames that are scattered, so that nothing can be right by accident.
 */
import type { GuestDriver } from "./guest-driver.js";
import type { SharedGuestMemory } from "./guest-memory.js";
import { turn } from "./proof.js";
import { VirtioRing } from "./virtio-ring.js";

/** First IOVA of the card, in pages. */
const CARD_PFN = 0x100000;
/** Buffers of each ring, a page each. */
export const BUFFERS = 256;
/** What is written over memory that the device must not read any more. */
const POISON = 0xee;
const PAGES = 1024;
const RECEIVE_PAGE = 0x100;
const SEND_PAGE = 0x200;
const HEADER_BYTES = 12;
const PACKET_BYTES = 128;
const FIRST_FRAME = 4096;
const SPARE_FRAME = 8192;
const SPARE_FRAMES = 8192;
const MOST_IN_FLIGHT = 64;

/** What came of a number of packets. */
export interface Tally {
  readonly sent: number;
  /** Packets that the device read. */
  readonly read: number;
  /** Packets that came back with every byte right. */
  readonly intact: number;
  /** Packets that came back otherwise. */
  readonly wrong: number;
}

/** See the file's header. */
export class Loopback {
  readonly receive: VirtioRing;
  readonly send: VirtioRing;
  /** Frame of each page of the card. */
  readonly #frames: number[] = Array.from({ length: PAGES }, (_, page) => FIRST_FRAME + ((page * 37 + 11) % PAGES));
  readonly #memory: SharedGuestMemory;
  readonly #driver: GuestDriver;
  readonly #inFlight = new Set<number>();
  #next = 1;
  #spare = 0;
  #intact = 0;
  #wrong = 0;

  constructor(memory: SharedGuestMemory, driver: GuestDriver) {
    this.#memory = memory;
    this.#driver = driver;
    const locate = (iova: number): number =>
      (this.#frames[Math.floor(iova / 4096) - CARD_PFN] ?? 0) * 4096 + (iova % 4096);
    this.receive = new VirtioRing(memory.view, locate, CARD_PFN * 4096, BUFFERS);
    this.send = new VirtioRing(memory.view, locate, (CARD_PFN + 16) * 4096, BUFFERS);
    for (const page of [0, 1, 2, 16, 17, 18]) this.#map(page);
    for (let i = 0; i < BUFFERS; i++) {
      this.#map(RECEIVE_PAGE + i);
      // The card only reads these.
      this.#map(SEND_PAGE + i, 1);
      this.receive.post(i, (CARD_PFN + RECEIVE_PAGE + i) * 4096, 2048, true);
    }
    this.receive.publish();
  }

  /** First pages of the two rings and of the receive buffers, as IOVA frames with their number. */
  get pagesToPreload(): readonly (readonly [number, number])[] {
    return [
      [CARD_PFN, 3],
      [CARD_PFN + 16, 3],
      [CARD_PFN + RECEIVE_PAGE, BUFFERS],
    ];
  }

  /** Frames that the device writes when it has used every receive buffer: those, and the pages of the used rings. */
  get framesWritten(): readonly number[] {
    const usedRings = [2, 18];
    return [...usedRings, ...Array.from({ length: BUFFERS }, (_, i) => RECEIVE_PAGE + i)].map((page) =>
      this.#frame(page),
    );
  }

  /** IOVA frame of the first buffer for sending; `BUFFERS` of them, aligned to their number. */
  get sendPfn(): number {
    return CARD_PFN + SEND_PAGE;
  }

  /** Descriptor that the next packet will use. */
  get nextBuffer(): number {
    return this.send.posted % BUFFERS;
  }

  /** Descriptor that the next packet will arrive in, if the device takes receive buffers in order. */
  get nextReceiveBuffer(): number {
    return this.receive.taken % BUFFERS;
  }

  /** Writes a packet and puts it into the ring; `publish` shows it. */
  post(): void {
    const number = this.#next++;
    const buffer = this.nextBuffer;
    this.#memory.bytes.set(packet(number), this.#frame(SEND_PAGE + buffer) * 4096);
    this.send.post(buffer, (this.sendPfn + buffer) * 4096, HEADER_BYTES + PACKET_BYTES, false);
    this.#inFlight.add(number);
  }

  /** Takes what has come back, checks it, and gives the buffers to the device again. */
  drain(): void {
    for (let buffer = this.receive.take(); buffer !== undefined; buffer = this.receive.take()) {
      const at = this.#frame(RECEIVE_PAGE + buffer) * 4096;
      const number = this.#memory.view.getUint32(at + HEADER_BYTES + 14, true);
      const got = this.#memory.bytes.subarray(at + HEADER_BYTES, at + HEADER_BYTES + PACKET_BYTES);
      const right = packet(number).subarray(HEADER_BYTES);
      const intact = this.#inFlight.delete(number) && got.every((byte, index) => byte === right[index]);
      if (intact) this.#intact += 1;
      else this.#wrong += 1;
      this.receive.post(buffer, (CARD_PFN + RECEIVE_PAGE + buffer) * 4096, 2048, true);
    }
    this.receive.publish();
  }

  /** Sends packets, a few at a time, until all are back, or nothing has moved for so long. */
  async pump(count: number, stillMilliseconds = 10_000): Promise<Tally> {
    const start = this.#count();
    const goal = start.read + count;
    let sent = 0;
    const moved = (): number => this.send.used + this.#intact + this.#wrong;
    const isDone = (): boolean =>
      this.send.used >= goal && this.#intact + this.#wrong - start.intact - start.wrong >= count;
    let seen = moved();
    for (let end = Date.now() + stillMilliseconds; !isDone() && Date.now() < end; await turn()) {
      for (; sent < count && this.send.posted - this.send.used < MOST_IN_FLIGHT; sent++) this.post();
      this.send.publish();
      this.#reap();
      this.drain();
      if (moved() === seen) continue;
      seen = moved();
      end = Date.now() + stillMilliseconds;
    }
    return this.#since(start, sent);
  }

  /** Shows the device what was posted and waits until all of it is back, or nothing has come back for so long. */
  async flush(stillMilliseconds = 10_000): Promise<Tally> {
    const start = this.#count();
    const expected = this.#inFlight.size;
    let missing = expected;
    this.send.publish();
    for (let end = Date.now() + stillMilliseconds; missing > 0 && Date.now() < end; await turn()) {
      this.drain();
      if (this.#inFlight.size < missing) end = Date.now() + stillMilliseconds;
      missing = this.#inFlight.size;
    }
    this.#reap();
    return this.#since(start, expected);
  }

  /** Gives up on packets that the device has dropped. Answers how many there were. */
  forget(): number {
    const lost = this.#inFlight.size;
    this.#inFlight.clear();
    return lost;
  }

  /** Puts the send buffer `buffer` into a fresh frame with the same contents, poisons the old one when told to, and answers how to do that. */
  move(buffer: number): () => void {
    const page = SEND_PAGE + buffer;
    const old = this.#frame(page);
    const fresh = SPARE_FRAME + (this.#spare++ % SPARE_FRAMES);
    this.#memory.bytes.copyWithin(fresh * 4096, old * 4096, old * 4096 + 4096);
    this.#frames[page] = fresh;
    this.#driver.map(CARD_PFN + page, fresh, 1, 1);
    return () => this.#memory.bytes.fill(POISON, old * 4096, old * 4096 + 4096);
  }

  /** Maps all buffers for sending again, each to its frame. */
  mapSendBuffers(): void {
    for (let i = 0; i < BUFFERS; i++) this.#map(SEND_PAGE + i, 1);
  }

  /** Maps one buffer for sending again. */
  mapSendBuffer(buffer: number): void {
    this.#map(SEND_PAGE + buffer, 1);
  }

  /** Maps one receive buffer, with these rights. */
  mapReceiveBuffer(buffer: number, rights: 1 | 3): void {
    this.#map(RECEIVE_PAGE + buffer, rights);
  }

  /** The contents of a receive buffer's frame. */
  receiveBytes(buffer: number): Uint8Array {
    const at = this.#frame(RECEIVE_PAGE + buffer) * 4096;
    return this.#memory.bytes.subarray(at, at + 4096);
  }

  /** IOVA frame of a receive buffer. */
  receivePfn(buffer: number): number {
    return CARD_PFN + RECEIVE_PAGE + buffer;
  }

  #map(page: number, rights: 1 | 3 = 3): void {
    this.#driver.map(CARD_PFN + page, this.#frame(page), 1, rights);
  }

  #frame(page: number): number {
    return this.#frames[page] ?? 0;
  }

  /** Takes back descriptors of packets that were read. */
  #reap(): void {
    while (this.send.take() !== undefined);
  }

  #count(): Tally {
    this.#reap();
    return { sent: 0, read: this.send.taken, intact: this.#intact, wrong: this.#wrong };
  }

  #since(start: Tally, sent: number): Tally {
    const now = this.#count();
    return { sent, read: now.read - start.read, intact: now.intact - start.intact, wrong: now.wrong - start.wrong };
  }
}

/** A packet with its number: network header of virtio, Ethernet header, number, pattern. */
function packet(number: number): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + PACKET_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.fill(0xff, HEADER_BYTES, HEADER_BYTES + 6);
  bytes.fill(0x02, HEADER_BYTES + 6, HEADER_BYTES + 12);
  view.setUint16(HEADER_BYTES + 12, 0x0800);
  view.setUint32(HEADER_BYTES + 14, number, true);
  for (let i = HEADER_BYTES + 18; i < bytes.length; i++) bytes[i] = (number * 31 + i) & 0xff;
  return bytes;
}
