/**
 * Packing and reading of vfio-user messages. A reader answers `undefined` for a payload that is not what the protocol says.
 */

import { type Access, byteAddress } from "@iommu-kit/iommu-core";
import { HEADER_BYTES, UnmapFlag } from "./protocol.js";

/** What DEVICE_GET_INFO tells. */
export interface DeviceInfo {
  /** The device takes `reset`. */
  readonly canReset: boolean;
  /** The regions and interrupts are those of PCI. */
  readonly isPci: boolean;
  /** Regions, the configuration space among them. */
  readonly regionCount: number;
  /** Kinds of interrupts: INTx, MSI and so on. */
  readonly irqTypeCount: number;
}

/** What DEVICE_GET_REGION_INFO tells. */
export interface RegionInfo {
  /** Which region. */
  readonly index: number;
  /** It can be read. */
  readonly readable: boolean;
  /** It can be written. */
  readonly writable: boolean;
  /** A file descriptor came with the reply: a transport that takes none cannot map the region. */
  readonly mappable: boolean;
  /** Bytes; 0: there is no such region. */
  readonly byteLength: bigint;
  /** Where the region begins in its file. */
  readonly fileOffsetBytes: bigint;
}

/** What DEVICE_GET_IRQ_INFO tells. */
export interface IrqInfo {
  /** Which kind of interrupt. */
  readonly index: number;
  /** Interrupts of this type. */
  readonly count: number;
  /** It can be signalled through a descriptor. */
  readonly eventfd: boolean;
  /** It can be masked. */
  readonly maskable: boolean;
  /** A level-triggered interrupt masks itself when it fires. */
  readonly automasked: boolean;
  /** The number of vectors cannot be changed while some are in use. */
  readonly noResize: boolean;
}

/** A request of the server for memory. */
export interface DmaRequest {
  readonly iova: bigint;
  readonly byteLength: bigint;
  /** What is to be written; empty for a read. */
  readonly data: Uint8Array;
}

/** Bytes of DMA_MAP, DMA_UNMAP, the information structures and their replies. */
const MAP_BYTES = 32;
const UNMAP_BYTES = 24;
const DEVICE_INFO_BYTES = 16;
const REGION_INFO_BYTES = 32;
const IRQ_INFO_BYTES = 16;
const IRQ_SET_BYTES = 20;
const TRANSFER_BYTES = 16;

/** A whole message. */
export function packMessage(
  id: number,
  command: number,
  flags: number,
  errno: number,
  payload: Uint8Array,
): Uint8Array {
  const message = new Uint8Array(HEADER_BYTES + payload.length);
  const view = new DataView(message.buffer);
  view.setUint16(0, id, true);
  view.setUint16(2, command, true);
  view.setUint32(4, message.length, true);
  view.setUint32(8, flags, true);
  view.setUint32(12, errno, true);
  message.set(payload, HEADER_BYTES);
  return message;
}

/** Payload of DMA_MAP. `fileOffsetBytes` is 0 where no file goes with it. */
export function packMap(iovaPfn: number, pageCount: number, access: Access, fileOffsetBytes: number): Uint8Array {
  const { payload, view } = make(MAP_BYTES);
  view.setUint32(4, access, true);
  view.setBigUint64(8, BigInt(fileOffsetBytes), true);
  view.setBigUint64(16, byteAddress(iovaPfn), true);
  view.setBigUint64(24, byteAddress(pageCount), true);
  return payload;
}

/** Payload of DMA_UNMAP for one region. */
export function packUnmap(iovaPfn: number, pageCount: number): Uint8Array {
  const { payload, view } = make(UNMAP_BYTES);
  view.setBigUint64(8, byteAddress(iovaPfn), true);
  view.setBigUint64(16, byteAddress(pageCount), true);
  return payload;
}

/** Payload of DMA_UNMAP for all of them. */
export function packUnmapAll(): Uint8Array {
  const { payload, view } = make(UNMAP_BYTES);
  view.setUint32(4, UnmapFlag.ALL, true);
  return payload;
}

/** Reads a reply to DMA_UNMAP, which speaks of the same region; servers may leave the region out. */
export function readUnmapReply(reply: DataView, request: Uint8Array): true | undefined {
  if (reply.byteLength === 0) return true;
  if (reply.byteLength !== UNMAP_BYTES) return undefined;
  const asked = new DataView(request.buffer, request.byteOffset, request.byteLength);
  return [8, 16].every((at) => reply.getBigUint64(at, true) === asked.getBigUint64(at, true)) || undefined;
}

/** Reads a reply to DMA_UNMAP of everything; servers may leave the region out. */
export function readUnmapAllReply(reply: DataView): true | undefined {
  return reply.byteLength === 0 || reply.byteLength === UNMAP_BYTES || undefined;
}

/** Reads a reply without a payload. */
export function readEmpty(reply: DataView): true | undefined {
  return reply.byteLength === 0 || undefined;
}

/** Payload of DEVICE_GET_INFO. */
export function packDeviceInfo(): Uint8Array {
  return make(DEVICE_INFO_BYTES).payload;
}

/** Reads the reply. */
export function readDeviceInfo(payload: DataView): DeviceInfo | undefined {
  if (payload.byteLength < DEVICE_INFO_BYTES) return undefined;
  const flags = payload.getUint32(4, true);
  return {
    canReset: (flags & 1) !== 0,
    isPci: (flags & 2) !== 0,
    regionCount: payload.getUint32(8, true),
    irqTypeCount: payload.getUint32(12, true),
  };
}

/** Payload of DEVICE_GET_REGION_INFO. */
export function packRegionInfo(index: number): Uint8Array {
  const { payload, view } = make(REGION_INFO_BYTES);
  view.setUint32(8, index, true);
  return payload;
}

/** Reads the reply. */
export function readRegionInfo(payload: DataView, index: number): RegionInfo | undefined {
  if (payload.byteLength < REGION_INFO_BYTES || payload.getUint32(8, true) !== index) return undefined;
  const flags = payload.getUint32(4, true);
  return {
    index,
    readable: (flags & 1) !== 0,
    writable: (flags & 2) !== 0,
    mappable: (flags & 4) !== 0,
    byteLength: payload.getBigUint64(16, true),
    fileOffsetBytes: payload.getBigUint64(24, true),
  };
}

/** Payload of DEVICE_GET_IRQ_INFO. */
export function packIrqInfo(index: number): Uint8Array {
  const { payload, view } = make(IRQ_INFO_BYTES);
  view.setUint32(8, index, true);
  return payload;
}

/** Reads the reply. */
export function readIrqInfo(payload: DataView, index: number): IrqInfo | undefined {
  if (payload.byteLength < IRQ_INFO_BYTES || payload.getUint32(8, true) !== index) return undefined;
  const flags = payload.getUint32(4, true);
  return {
    index,
    count: payload.getUint32(12, true),
    eventfd: (flags & 1) !== 0,
    maskable: (flags & 2) !== 0,
    automasked: (flags & 4) !== 0,
    noResize: (flags & 8) !== 0,
  };
}

/** Payload of DEVICE_SET_IRQS; `bools` goes with the flag for it. */
export function packIrqSet(
  flags: number,
  index: number,
  start: number,
  count: number,
  bools: readonly boolean[],
): Uint8Array {
  const { payload, view } = make(IRQ_SET_BYTES + bools.length);
  for (const [at, word] of [flags, index, start, count].entries()) view.setUint32(4 + at * 4, word, true);
  for (const [at, bool] of bools.entries()) payload[IRQ_SET_BYTES + at] = bool ? 1 : 0;
  return payload;
}

/** Payload of REGION_READ and REGION_WRITE. */
export function packRegionAccess(index: number, offset: bigint, byteLength: number, data: Uint8Array): Uint8Array {
  const payload = new Uint8Array(TRANSFER_BYTES + data.length);
  const view = new DataView(payload.buffer);
  view.setBigUint64(0, offset, true);
  view.setUint32(8, index, true);
  view.setUint32(12, byteLength, true);
  payload.set(data, TRANSFER_BYTES);
  return payload;
}

/** Reads the data of a REGION_READ reply, or the confirmation of a REGION_WRITE, which carries none. */
export function readRegionAccess(payload: DataView, byteLength: number, dataBytes: number): Uint8Array | undefined {
  if (payload.byteLength !== TRANSFER_BYTES + dataBytes || payload.getUint32(12, true) !== byteLength) return undefined;
  return new Uint8Array(payload.buffer, payload.byteOffset + TRANSFER_BYTES, dataBytes);
}

/** Reads the payload of DMA_READ or DMA_WRITE: data comes with a write, as much as it says. */
export function readDmaRequest(payload: DataView, isWrite: boolean): DmaRequest | undefined {
  if (payload.byteLength < TRANSFER_BYTES) return undefined;
  const byteLength = payload.getBigUint64(8, true);
  const dataBytes = payload.byteLength - TRANSFER_BYTES;
  if (BigInt(dataBytes) !== (isWrite ? byteLength : 0n)) return undefined;
  const data = new Uint8Array(payload.buffer, payload.byteOffset + TRANSFER_BYTES, dataBytes);
  return { iova: payload.getBigUint64(0, true), byteLength, data };
}

/** Payload of a reply to DMA_READ, with room for the data, or to DMA_WRITE. */
export function packDmaReply(
  request: DmaRequest,
  dataBytes: number,
): { readonly payload: Uint8Array; readonly data: Uint8Array } {
  const payload = new Uint8Array(TRANSFER_BYTES + dataBytes);
  const view = new DataView(payload.buffer);
  view.setBigUint64(0, request.iova, true);
  view.setBigUint64(8, request.byteLength, true);
  return { payload, data: payload.subarray(TRANSFER_BYTES) };
}

/** A structure that begins with its own size. */
function make(byteLength: number): { readonly payload: Uint8Array; readonly view: DataView } {
  const payload = new Uint8Array(byteLength);
  const view = new DataView(payload.buffer);
  view.setUint32(0, byteLength, true);
  return { payload, view };
}
