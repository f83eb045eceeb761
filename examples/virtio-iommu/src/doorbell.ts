/**
 * The range in which an endpoint's writes are interrupts (virtio 1.3, §5.13.6.6, MSI).
 */

import type { MessageWindow, MsiSink } from "@iommu-kit/iommu-core";
import type { Endpoint } from "./endpoint.js";

const MESSAGE_BYTES = 4;

/** `undefined`: the driver maps the doorbell of the interrupt controller like any other page. */
export function doorbellOf(endpoint: Endpoint | undefined, msi: MsiSink): MessageWindow | undefined {
  const range = endpoint?.reserved.find(({ kind }) => kind === "msi");
  if (range === undefined) return undefined;
  return {
    range,
    write(_requester, address, bytes) {
      if (bytes.length !== MESSAGE_BYTES || address % MESSAGE_BYTES !== 0) return false;
      const data = new DataView(bytes.buffer, bytes.byteOffset, MESSAGE_BYTES).getUint32(0, true);
      msi({ address: address % 2 ** 32, addressHigh: Math.floor(address / 2 ** 32), data });
      return true;
    },
    read: () => false,
  };
}
