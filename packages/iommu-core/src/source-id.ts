/**
 * Source-ids: who makes a request, the requester-id of PCI Express. Bus in bits 15:8, device in 7:3, function in 2:0.
 */

import { IommuError } from "./errors.js";

/** A requester-id, 0 to 0xffff. */
export type SourceId = number;

/**
 * The source-id of bus/device/function.
 * @throws {IommuError} `bad-source-id` if bus is not in 0..255, device not in 0..31 or function not in 0..7.
 */
export function sourceId(bus: number, device: number, fn: number): SourceId {
  const inRange = (value: number, limit: number): boolean => Number.isInteger(value) && value >= 0 && value <= limit;
  if (!inRange(bus, 255) || !inRange(device, 31) || !inRange(fn, 7)) {
    throw badSourceId(`${bus}/${device}/${fn}`);
  }
  return bus * 256 + device * 8 + fn;
}

/**
 * Reads `"bb:dd.f"` (hexadecimal, as lspci prints it).
 * @throws {IommuError} `bad-source-id` for any other text.
 */
export function parseSourceId(text: string): SourceId {
  if (!/^[0-9a-f]{1,2}:[0-9a-f]{1,2}\.[0-7]$/i.test(text)) throw badSourceId(text);
  const [bus = 0, device = 0, fn = 0] = text.split(/[:.]/).map((part) => Number.parseInt(part, 16));
  return sourceId(bus, device, fn);
}

/** `"bb:dd.f"`, as lspci prints it. */
export function formatSourceId(sid: SourceId): string {
  const hex = (value: number): string => value.toString(16).padStart(2, "0");
  return `${hex(sid >> 8)}:${hex((sid >> 3) & 31)}.${sid & 7}`;
}

/** @throws {IommuError} `bad-source-id` unless `sid` is an integer in 0..0xffff. */
export function checkSourceId(sid: SourceId): void {
  if (!Number.isInteger(sid) || sid < 0 || sid > 0xffff) throw badSourceId(String(sid));
}

function badSourceId(got: string): IommuError {
  return new IommuError("bad-source-id", `expected bus 0-255, device 0-31, function 0-7, got ${got}`, {
    hint: 'use sourceId(bus, device, function) or parseSourceId("00:03.0")',
  });
}
