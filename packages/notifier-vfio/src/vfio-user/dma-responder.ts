/**
 * Answers the server's requests for memory from the device's address space.
 *
 * Such a request is one of the device like any other: the guest's tables decide, faults are recorded, and a write to the message window is an interrupt.
 */

import type { AddressSpace } from "@iommu-kit/iommu-core";
import type { VfioUserMessage } from "./message-stream.js";
import { packDmaReply, packMessage, readDmaRequest, type DmaRequest } from "./messages.js";
import { Command, Errno, HeaderFlag } from "./protocol.js";

const NO_BYTES = new Uint8Array(0);
const ADDRESS_LIMIT = 2n ** 64n;

/** Answers for one device. A request that the guest does not allow gets EFAULT, one that no request can be EINVAL. */
export class DmaResponder {
  readonly #space: AddressSpace;
  readonly #maxDataTransferBytes: number;
  readonly #send: (message: Uint8Array) => void;

  constructor(space: AddressSpace, maxDataTransferBytes: number, send: (message: Uint8Array) => void) {
    this.#space = space;
    this.#maxDataTransferBytes = maxDataTransferBytes;
    this.#send = send;
  }

  /** Answers DMA_READ or DMA_WRITE. A string says what is wrong with the message itself; a request that is refused is answered so. */
  answer(message: VfioUserMessage): string | undefined {
    const isWrite = message.command === Command.DMA_WRITE;
    const request = readDmaRequest(message.payload, isWrite);
    if (request === undefined)
      return `expected command ${message.command} of the shape that the protocol gives it, got another`;
    const outOfRange =
      request.byteLength > BigInt(this.#maxDataTransferBytes) || request.iova + request.byteLength > ADDRESS_LIMIT;
    if (outOfRange) this.#refuse(message, Errno.EINVAL);
    else if (isWrite) this.#write(message, request);
    else this.#read(message, request);
    return undefined;
  }

  #read(message: VfioUserMessage, request: DmaRequest): void {
    const { payload, data } = packDmaReply(request, Number(request.byteLength));
    if (data.length > 0 && !this.#space.dma.read(request.iova, data)) this.#refuse(message, Errno.EFAULT);
    else this.#reply(message, payload);
  }

  #write(message: VfioUserMessage, request: DmaRequest): void {
    const { iova, data } = request;
    if (data.length > 0 && !this.#space.dma.write(iova, data)) this.#refuse(message, Errno.EFAULT);
    else this.#reply(message, packDmaReply(request, 0).payload);
  }

  #reply({ id, command, noReply }: VfioUserMessage, payload: Uint8Array): void {
    if (!noReply) this.#send(packMessage(id, command, HeaderFlag.REPLY, 0, payload));
  }

  #refuse({ id, command, noReply }: VfioUserMessage, errno: number): void {
    if (!noReply) this.#send(packMessage(id, command, HeaderFlag.REPLY | HeaderFlag.ERROR, errno, NO_BYTES));
  }
}
