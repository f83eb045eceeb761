/**
 * A server's end of a UNIX socket that receives file descriptors, which Node's sockets drop. Bytes go out through Node, and come in by looking every turn of the
 * event loop.
 */
import { Socket } from "node:net";
import { receive } from "./native.js";

/** What a server needs of a connection. */
export interface Peer {
  write(bytes: Uint8Array): unknown;
  destroy(): unknown;
  on(event: "data", listener: (bytes: Buffer, fds?: readonly number[]) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "close", listener: () => void): unknown;
}

/** See the file's header. Takes the socket over. */
export class DescriptorPeer extends Socket implements Peer {
  /** While true, what comes in stays in the kernel. */
  deaf = false;
  readonly #fd: number;

  constructor(fd: number) {
    super({ fd, readable: false, writable: true });
    this.#fd = fd;
    this.#look();
  }

  #look(): void {
    while (!this.destroyed && !this.deaf) {
      const received = receive(this.#fd, 65_536);
      if (received === undefined) break;
      if (received.bytes.length === 0) return void this.destroy();
      this.emit("data", Buffer.from(received.bytes), received.fds);
    }
    if (!this.destroyed) setImmediate(() => this.#look());
  }
}
