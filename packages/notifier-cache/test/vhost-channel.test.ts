/**
 * The channel of vhost-user on a socket whose buffer empties when the test says so.
 */
import { ManualScheduler } from "@iommu-kit/iommu-core/testing";
import { describe, expect, it } from "vitest";
import { socketChannel } from "../src/vhost-user/index.js";

class SlowSocket {
  writableLength = 0;
  /** Everything that went out, in order. */
  readonly sent: string[] = [];
  readonly #written: (() => void)[] = [];
  readonly #listeners = new Map<string, (argument?: unknown) => void>();

  // As a socket below its high-water mark: `true` although the bytes wait, so there is no "drain" to come.
  write(bytes: Uint8Array, written?: () => void): boolean {
    this.sent.push(`bytes ${bytes.join("-")}`);
    this.writableLength += bytes.length;
    if (written !== undefined) this.#written.push(written);
    return true;
  }

  destroy(): void {
    this.#listeners.get("close")?.();
  }

  on(event: string, listener: unknown): void {
    this.#listeners.set(event, listener as (argument?: unknown) => void);
  }

  /** The kernel takes everything. */
  drain(): void {
    this.writableLength = 0;
    for (const written of this.#written.splice(0)) written();
  }
}

/** A channel whose native call takes at most `room` bytes of a message. */
function channelWith(room: () => number) {
  const socket = new SlowSocket();
  const scheduler = new ManualScheduler();
  const send = (message: Uint8Array, fds: readonly number[]): number => {
    const count = Math.min(room(), message.length);
    if (count > 0) socket.sent.push(`fds ${fds.join()} ${message.subarray(0, count).join("-")}`);
    return count;
  };
  return { socket, scheduler, channel: socketChannel(socket, send, scheduler) };
}

describe("a channel on a socket", () => {
  it("keeps messages with descriptors in their place among those without", () => {
    const { socket, channel } = channelWith(() => 9);

    channel.send(Uint8Array.of(1), []);
    channel.send(Uint8Array.of(2), [7]);
    channel.send(Uint8Array.of(3), []);
    expect(socket.sent).toEqual(["bytes 1"]);
    socket.drain();

    expect(socket.sent).toEqual(["bytes 1", "fds 7 2", "bytes 3"]);
  });

  it("tries again where the socket is full for the native call", () => {
    let room = 0;
    const { socket, scheduler, channel } = channelWith(() => room);

    channel.send(Uint8Array.of(1), [7]);
    channel.send(Uint8Array.of(2), []);
    expect(socket.sent).toEqual([]);
    room = 9;
    scheduler.advance(1);

    expect(socket.sent).toEqual(["fds 7 1", "bytes 2"]);
  });

  it("sends the rest of a message of which the native call took a part, and its descriptors once", () => {
    const { socket, channel } = channelWith(() => 2);

    channel.send(Uint8Array.of(1, 2, 3), [7]);
    channel.send(Uint8Array.of(4, 5), [8]);
    socket.drain();

    expect(socket.sent).toEqual(["fds 7 1-2", "bytes 3", "fds 8 4-5"]);
  });

  it("ends with the cause when descriptors that had to wait cannot be sent", () => {
    const { socket, channel } = channelWith(() => -1);
    const ends: (Error | undefined)[] = [];
    channel.onClose = (error) => ends.push(error);

    channel.send(Uint8Array.of(1), []);
    channel.send(Uint8Array.of(2), [7]);
    socket.drain();

    expect(ends.map(String)).toEqual([expect.stringMatching(/from 0 to 1, got -1/)]);
  });

  it("does not try again once it is closed", () => {
    let calls = 0;
    const { scheduler, channel } = channelWith(() => {
      calls += 1;
      return 0;
    });

    channel.send(Uint8Array.of(1), [7]);
    channel.close();
    scheduler.advance(1000);

    expect(calls).toBe(1);
  });
});
