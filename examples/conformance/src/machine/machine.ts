/**
 * The machine around the unit: memory, register accesses in the spelling of the files, and the messages that leave the unit.
 */

import { type AddressSpace, type ByteAddress, type MsiMessage, Translation } from "@iommu-kit/iommu-core";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import type { Header } from "../files/header.js";
import { formatWords, highWord, lowWord, numberIn } from "../files/numbers.js";
import { configOf } from "./unit-config.js";
import { ManualScheduler } from "./manual-scheduler.js";
import { SparseMemory } from "./sparse-memory.js";

const FSTS = 0x34;
const PASID_BITS = 0x0fff_ff00;

/** How one DMA request of our unit ended. */
export type DmaAnswer =
  | { readonly gpaPfn: number; readonly pageCount: number; readonly access: number; readonly reason?: undefined }
  | { readonly reason: number };

/** See the file's header. */
export class Machine {
  readonly memory: SparseMemory;
  readonly unit: VtdIommu;
  /** Where the fault recording register lies. */
  readonly faultOffset: number;
  /** Messages that have left the unit and that nobody has taken yet. */
  readonly messages: MsiMessage[] = [];
  readonly #scheduler = new ManualScheduler();
  readonly #translation = new Translation();
  readonly #spaces = new Map<number, AddressSpace>();

  constructor(header: Header) {
    const config = configOf(header);
    this.memory = new SparseMemory(header.ram);
    this.faultOffset = config.faultRecordOffset;
    this.unit = new VtdIommu({
      ...config,
      memory: this.memory,
      msi: (message) => void this.messages.push(message),
      scheduler: this.#scheduler,
      // A step of a recorded case is over before the next begins: work is not cut into slices.
      limits: { entriesPerSlice: Number.MAX_SAFE_INTEGER, mappingsPerSlice: Number.MAX_SAFE_INTEGER },
    });
  }

  /** Stores 64-bit words at `gpa` and following. */
  store(gpa: number, texts: readonly string[], from: number): void {
    for (let index = from; index < texts.length; index++) {
      const text = texts[index] ?? "0";
      const at = gpa + (index - from) * 8;
      this.memory.writeWord(at, lowWord(text));
      this.memory.writeWord(at + 4, highWord(text));
    }
  }

  /** A register write of 4 or 8 bytes, with everything that it sets off. */
  writeRegister(offset: number, size: number, text: string): void {
    if (size === 8) this.unit.mmio.write64(offset, BigInt.asUintN(64, BigInt(withPrefix(text))));
    else this.unit.mmio.write32(offset, lowWord(text));
    this.#scheduler.drain();
  }

  /** A register read, as two words; the high one is 0 for 4 bytes. */
  readRegister(offset: number, size: number): { readonly low: number; readonly high: number } {
    if (size !== 8) return { low: this.unit.mmio.read32(offset), high: 0 };
    const value = this.unit.mmio.read64(offset);
    return { low: Number(value & 0xffffffffn), high: Number(value >> 32n) };
  }

  /** FSTS and the four words of the fault record; its PASID field reads 0 unless PP is set. */
  faultWords(): number[] {
    const { mmio } = this.unit;
    const at = this.faultOffset;
    const flags = mmio.read32(at + 8);
    return [mmio.read32(FSTS), mmio.read32(at), mmio.read32(at + 4), flags, maskPasid(mmio.read32(at + 12), flags)];
  }

  /** What a device sees. */
  space(sourceId: number): AddressSpace {
    const known = this.#spaces.get(sourceId);
    if (known !== undefined) return known;
    const space = this.unit.addressSpace(sourceId);
    this.#spaces.set(sourceId, space);
    return space;
  }

  /** One translation of a device's request. */
  translate(sourceId: number, iovaPfn: number, access: 0 | 1 | 2 | 3): DmaAnswer {
    const out = this.#translation;
    if (!this.space(sourceId).translate(iovaPfn, access, out)) return { reason: out.reason };
    return { gpaPfn: out.gpaPfn, pageCount: out.pageCount, access: out.access };
  }

  /** One DMA request through the device's port; the answer is what a second, equal translation says if the request was not refused. */
  dma(
    sourceId: number,
    iova: ByteAddress,
    iovaPfn: number,
    request: { readonly write: boolean; readonly bytes: Uint8Array },
  ): DmaAnswer {
    const { dma } = this.space(sourceId);
    const done = request.write ? dma.write(iova, request.bytes) : dma.read(iova, request.bytes);
    const reason = done ? 0 : (dma.failure?.reason ?? 0);
    if (reason !== 0) return { reason };
    return this.translate(sourceId, iovaPfn, request.write ? 2 : 1);
  }

  /** A message of a device (or of the I/O APIC: `undefined`), and the message that left the unit for it. */
  interrupt(sourceId: number | undefined, address: string, data: number): MsiMessage | undefined {
    const before = this.messages.length;
    this.unit.interrupt(sourceId, { address: lowWord(address), addressHigh: highWord(address), data });
    return this.messages.splice(before).at(-1);
  }

  /** Takes the messages that have left the unit. */
  takeMessages(): MsiMessage[] {
    return this.messages.splice(0);
  }
}

/** The last word of a fault record without its PASID field, unless PP (bit 31 of the word before) is set: it means nothing then. */
export function maskPasid(word12: number, word8: number): number {
  return word8 >>> 31 === 1 ? word12 : (word12 & ~PASID_BITS) >>> 0;
}

/** A read value as text. */
export function formatRead(value: { readonly low: number; readonly high: number }): string {
  return formatWords(value.low, value.high);
}

/** A message as text. */
export function formatMessage(message: MsiMessage | undefined): string {
  return message === undefined
    ? "none"
    : `${formatWords(message.address, message.addressHigh)} ${message.data.toString(16)}`;
}

/** Whether a message is this one. */
export function isMessage(message: MsiMessage | undefined, address: string, data: string): boolean {
  return (
    message !== undefined &&
    message.address === lowWord(address) &&
    message.addressHigh === highWord(address) &&
    message.data === numberIn(data)
  );
}

function withPrefix(text: string): string {
  return text.startsWith("0x") ? text : `0x${text}`;
}
