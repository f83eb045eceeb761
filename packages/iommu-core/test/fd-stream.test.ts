import { describe, expect, it } from "vitest";
import { fdStream, type SendWithFds } from "@iommu-kit/iommu-core/fd-stream";
import { ManualScheduler } from "@iommu-kit/iommu-core/testing";

/** A socket whose buffer empties when the test says so. */
class FakeSocket {
  writableLength = 0;
  destroyed = false;
  /** Whether it takes bytes at once. */
  fast = true;
  /** Everything that went out, in order; `fds` by the native call. */
  readonly sent: string[] = [];
  readonly #listeners = new Map<string, (argument?: unknown) => void>();
  readonly #written: (() => void)[] = [];

  // As a socket below its high-water mark: `true` although the bytes wait, so there is no "drain" to come.
  write(bytes: Uint8Array, written?: () => void): boolean {
    this.sent.push(`bytes ${bytes.join("-")}`);
    if (this.fast) queueMicrotask(() => written?.());
    else {
      this.writableLength += bytes.length;
      if (written !== undefined) this.#written.push(written);
    }
    return true;
  }

  destroy(): void {
    this.destroyed = true;
    this.tell("close");
  }

  on(event: string, listener: unknown): void {
    this.#listeners.set(event, listener as (argument?: unknown) => void);
  }

  tell(event: string, argument?: unknown): void {
    this.#listeners.get(event)?.(argument);
  }

  /** The kernel takes everything. */
  drain(): void {
    this.writableLength = 0;
    for (const written of this.#written.splice(0)) written();
  }
}

function fdSocket(send?: SendWithFds) {
  const socket = new FakeSocket();
  const scheduler = new ManualScheduler();
  const sendAll: SendWithFds = (message, fds) => {
    socket.sent.push(`fds ${fds.join()} ${message[0]}`);
    return message.length;
  };
  return { socket, scheduler, stream: fdStream(socket, send ?? sendAll, scheduler) };
}

describe("a stream on a UNIX socket", () => {
  it("keeps messages with descriptors in their place among those without", () => {
    const { socket, stream } = fdSocket();
    socket.fast = false;

    stream.send(Uint8Array.of(1), []);
    stream.send(Uint8Array.of(2), [7]);
    stream.send(Uint8Array.of(3), []);
    expect(socket.sent).toEqual(["bytes 1"]);
    expect(stream.pendingBytes).toBe(3);
    socket.drain();

    expect(socket.sent).toEqual(["bytes 1", "fds 7 2", "bytes 3"]);
    expect(stream.pendingBytes).toBe(1);
  });

  it("tries again where the socket is full for the native call, and keeps everything behind in its place", () => {
    let room = 0;
    const { socket, scheduler, stream } = fdSocket((message, fds) => {
      if (room === 0) return 0;
      room -= 1;
      socket.sent.push(`fds ${fds.join()} ${message[0]}`);
      return message.length;
    });

    stream.send(Uint8Array.of(1), [7]);
    stream.send(Uint8Array.of(2), []);
    stream.send(Uint8Array.of(3), [8]);
    expect(socket.sent).toEqual([]);
    room = 1;
    scheduler.advance(1);
    expect(socket.sent).toEqual(["fds 7 1", "bytes 2"]);
    room = 1;
    scheduler.advance(1);

    expect(socket.sent).toEqual(["fds 7 1", "bytes 2", "fds 8 3"]);
    expect(stream.pendingBytes).toBe(0);
  });

  it("sends the rest of a message of which the native call took a part, and its descriptors once", () => {
    const { socket, stream } = fdSocket((message, fds) => {
      socket.sent.push(`fds ${fds.join()} ${message.subarray(0, 2).join("-")}`);
      return 2;
    });
    socket.fast = false;

    stream.send(Uint8Array.of(1, 2, 3, 4), [7]);
    stream.send(Uint8Array.of(5, 6), [8]);
    expect(socket.sent).toEqual(["fds 7 1-2", "bytes 3-4"]);
    socket.drain();

    expect(socket.sent).toEqual(["fds 7 1-2", "bytes 3-4", "fds 8 5-6"]);
  });

  it("does not try again once it is closed", () => {
    let calls = 0;
    const { scheduler, stream } = fdSocket(() => {
      calls += 1;
      return 0;
    });

    stream.send(Uint8Array.of(1), [7]);
    stream.close();
    scheduler.advance(1000);

    expect(calls).toBe(1);
  });

  it("leaves a full socket alone until it is time to try again, however much is sent meanwhile", () => {
    let calls = 0;
    const { scheduler, stream } = fdSocket((message) => {
      calls += 1;
      return calls === 1 ? 0 : message.length;
    });

    stream.send(Uint8Array.of(1), [7]);
    stream.send(Uint8Array.of(2), [8]);
    expect(calls).toBe(1);
    scheduler.advance(1);

    expect(calls).toBe(3);
    expect(scheduler.timerCount).toBe(0);
  });

  it("refuses what a native call cannot have answered, and descriptors where there is no such call", () => {
    for (const answer of [-1, 2, 0.5, Number.NaN]) {
      const { stream } = fdSocket(() => answer);
      expect(() => stream.send(Uint8Array.of(1), [7])).toThrow(
        expect.objectContaining({
          code: "bad-option",
          message: expect.stringContaining(`from 0 to 1, got ${answer}`) as unknown,
        }),
      );
    }
    const socket = new FakeSocket();
    const stream = fdStream(socket);
    expect(() => stream.send(Uint8Array.of(1), [7])).toThrow(expect.objectContaining({ code: "not-supported" }));
    stream.send(Uint8Array.of(2), []);
    expect(socket.sent).toEqual(["bytes 2"]);
  });

  it("hands bytes that come in to its user, if there is one", () => {
    const { socket, stream } = fdSocket();
    const seen: Uint8Array[] = [];

    socket.tell("data", Uint8Array.of(1));
    stream.onBytes = (bytes) => seen.push(bytes);
    socket.tell("data", Uint8Array.of(2, 3));

    expect(seen).toEqual([Uint8Array.of(2, 3)]);
  });

  it("says whether it carries descriptors", () => {
    expect(fdSocket().stream.sendsFds).toBe(true);
    expect(fdStream(new FakeSocket()).sendsFds).toBe(false);
  });

  it("ends with the cause when descriptors that had to wait cannot be sent", () => {
    const { socket, stream } = fdSocket(() => {
      throw new Error("EBADF");
    });
    const ends: (Error | undefined)[] = [];
    stream.onClose = (error) => ends.push(error);
    socket.fast = false;
    stream.send(Uint8Array.of(1), []);
    stream.send(Uint8Array.of(2), [7]);

    socket.drain();

    expect(socket.destroyed).toBe(true);
    expect(ends.map(String)).toEqual(["Error: EBADF"]);
  });

  it("tells the socket's error as the cause of its end", () => {
    const { socket, stream } = fdSocket();
    const ends: (Error | undefined)[] = [];
    stream.onClose = (error) => ends.push(error);

    socket.tell("error", new Error("EPIPE"));
    socket.tell("close");

    expect(ends.map(String)).toEqual(["Error: EPIPE"]);
  });
});
