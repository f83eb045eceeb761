/**
 * The first message in each direction: version, and capabilities as JSON behind it.
 */

import { Default, VERSION_MAJOR, VERSION_MINOR } from "./protocol.js";

/** What one side can do. */
export interface Capabilities {
  /** Most file descriptors in one message. */
  readonly maxMessageFds: number;
  /** Most bytes of data in one message. */
  readonly maxDataTransferBytes: number;
  /** Most DMA regions at a time. */
  readonly maxDmaMaps: number;
}

/** What the server answered. */
export interface Negotiated extends Capabilities {
  /** Minor version that both sides speak. */
  readonly minor: number;
}

// Every host of JavaScript has these two; naming them here keeps the package free of Node's and the browser's types.
declare const TextEncoder: new () => { encode(text: string): Uint8Array };
declare const TextDecoder: new (label: string, options: { fatal: boolean }) => { decode(bytes: Uint8Array): string };

/** Payload of the client's VERSION. */
export function packVersion(capabilities: Capabilities): Uint8Array {
  const text = JSON.stringify({
    capabilities: {
      max_msg_fds: capabilities.maxMessageFds,
      max_data_xfer_size: capabilities.maxDataTransferBytes,
      max_dma_maps: capabilities.maxDmaMaps,
      pgsizes: Default.pageSizes,
    },
  });
  const data = new TextEncoder().encode(text);
  // With the terminating NUL.
  const payload = new Uint8Array(4 + data.length + 1);
  const view = new DataView(payload.buffer);
  view.setUint16(0, VERSION_MAJOR, true);
  view.setUint16(2, VERSION_MINOR, true);
  payload.set(data, 4);
  return payload;
}

/** Reads the server's reply. A string says what is wrong with it. */
export function readVersion(payload: DataView): Negotiated | string {
  if (payload.byteLength < 4) return `expected a version, got ${payload.byteLength} bytes`;
  const [major, minor] = [payload.getUint16(0, true), payload.getUint16(2, true)];
  if (major !== VERSION_MAJOR || minor > VERSION_MINOR) {
    return `expected version ${VERSION_MAJOR}.${VERSION_MINOR} or lower, got ${major}.${minor}`;
  }
  const given = capabilitiesIn(payload);
  if (given === undefined) return "expected capabilities as a JSON object that ends with NUL, got something else";
  const number = (name: string, otherwise: number, least: number): number => {
    const value = given[name] ?? otherwise;
    return typeof value === "number" && Number.isSafeInteger(value) && value >= least ? value : -1;
  };
  const maxMessageFds = number("max_msg_fds", Default.maxMessageFds, 0);
  const maxDataTransferBytes = number("max_data_xfer_size", Default.maxDataTransferBytes, 1);
  const maxDmaMaps = number("max_dma_maps", Default.maxDmaMaps, 1);
  const pageSizes = number("pgsizes", Default.pageSizes, 1);
  if (Math.min(maxMessageFds, maxDataTransferBytes, maxDmaMaps, pageSizes) < 0) {
    return "expected whole numbers as capabilities, got something else";
  }
  if (Math.floor(pageSizes / 4096) % 2 === 0)
    return `expected a server that maps 4 KiB pages, got page sizes 0x${pageSizes.toString(16)}`;
  return { minor, maxMessageFds, maxDataTransferBytes, maxDmaMaps };
}

/** What is in the JSON, if it is JSON at all; nothing where the server sent none. */
function capabilitiesIn(payload: DataView): Readonly<Record<string, unknown>> | undefined {
  const dataBytes = payload.byteLength - 4;
  if (dataBytes === 0) return {};
  const data = new Uint8Array(payload.buffer, payload.byteOffset + 4, dataBytes);
  if (data.at(-1) !== 0) return undefined;
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(data.subarray(0, -1));
    const parsed: unknown = JSON.parse(text);
    if (!isObject(parsed)) return undefined;
    const capabilities = parsed["capabilities"] ?? {};
    return isObject(capabilities) ? capabilities : undefined;
  } catch {
    // Neither text nor JSON: the caller says so.
    return undefined;
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
