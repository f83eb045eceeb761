/**
 * Packing and reading of vhost-user messages. All words are little-endian.
 */

import { type Access, accessOf, byteAddress } from "@iommu-kit/iommu-core";
import { HEADER_BYTES, HeaderFlag, type IotlbType } from "./protocol.js";

/** A message as it came in. */
export interface VhostMessage {
  readonly request: number;
  readonly flags: number;
  readonly payload: DataView;
}

/** A ring's place, as IOVAs in bytes, and its file descriptors. */
export interface VhostRing {
  /** Which ring, 0 to 255. */
  readonly index: number;
  /** Descriptors: a power of two up to 32768. */
  readonly size: number;
  /** Descriptor table: IOVA in bytes, 0 up to 2^64 - 1; above 2^53 as a bigint. */
  readonly descriptorIova: number | bigint;
  /** Available ring, in the same way. */
  readonly availableIova: number | bigint;
  /** Used ring, in the same way. */
  readonly usedIova: number | bigint;
  /** Index of the next available entry to be taken. Default 0. */
  readonly base?: number;
  /** Written by the driver's side to wake the device. Default: the device polls. */
  readonly kickFd?: number;
  /** Written by the device to interrupt the driver. Default: no interrupts. */
  readonly callFd?: number;
  /** Written by the device when the ring is broken. */
  readonly errorFd?: number;
}

/** An IOTLB message. */
export interface IotlbMessage {
  /** The number of the protocol. */
  readonly type: number;
  /** IOVA in bytes. */
  readonly iova: bigint;
  /** Bytes. */
  readonly byteLength: bigint;
  /** Address in the front-end's address space, as the memory table names it. 0 where it has no meaning. */
  readonly userAddress: bigint;
  /** For an UPDATE the rights granted, for a MISS those asked for. */
  readonly access: Access;
}

const IOTLB_BYTES = 32;

/** A whole message. */
export function packMessage(request: number, flags: number, payload: Uint8Array): Uint8Array {
  const message = new Uint8Array(HEADER_BYTES + payload.length);
  const view = new DataView(message.buffer);
  view.setUint32(0, request, true);
  view.setUint32(4, flags | HeaderFlag.VERSION, true);
  view.setUint32(8, payload.length, true);
  message.set(payload, HEADER_BYTES);
  return message;
}

/** 64-bit words. */
export function packWords64(...words: readonly (number | bigint)[]): Uint8Array {
  const payload = new Uint8Array(words.length * 8);
  const view = new DataView(payload.buffer);
  for (const [index, word] of words.entries()) view.setBigUint64(index * 8, BigInt(word), true);
  return payload;
}

/** 32-bit words. */
export function packWords32(...words: readonly number[]): Uint8Array {
  const payload = new Uint8Array(words.length * 4);
  const view = new DataView(payload.buffer);
  for (const [index, word] of words.entries()) view.setUint32(index * 4, word, true);
  return payload;
}

/** Payload of SET_VRING_ADDR. While writes are logged, those to the used ring are as well: at its own address, an IOVA like the others. */
export function packRingAddress(ring: VhostRing, logged: boolean): Uint8Array {
  const payload = new Uint8Array(40);
  payload.set(packWords32(ring.index, logged ? 1 : 0), 0);
  payload.set(packWords64(ring.descriptorIova, ring.usedIova, ring.availableIova, logged ? ring.usedIova : 0), 8);
  return payload;
}

/** Payload of an IOTLB message for `pageCount` frames. */
export function packIotlb(
  type: (typeof IotlbType)[keyof typeof IotlbType],
  iovaPfn: number,
  pageCount: number,
  userAddress: number,
  access: Access,
): Uint8Array {
  const payload = new Uint8Array(IOTLB_BYTES);
  payload.set(packWords64(byteAddress(iovaPfn), byteAddress(pageCount), userAddress), 0);
  payload[24] = access;
  payload[25] = type;
  return payload;
}

/** Reads the payload of an IOTLB message; `undefined` if it is too short. */
export function readIotlb(payload: DataView): IotlbMessage | undefined {
  if (payload.byteLength < IOTLB_BYTES) return undefined;
  return {
    iova: payload.getBigUint64(0, true),
    byteLength: payload.getBigUint64(8, true),
    userAddress: payload.getBigUint64(16, true),
    access: accessOf(payload.getUint8(24)),
    type: payload.getUint8(25),
  };
}
