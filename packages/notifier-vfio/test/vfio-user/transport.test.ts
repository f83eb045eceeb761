import { describe, expect, it } from "vitest";
import { Access, type IommuError } from "@iommu-kit/iommu-core";
import { ManualScheduler } from "@iommu-kit/iommu-core/testing";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { VfioNotifier } from "@iommu-kit/notifier-vfio";
import {
  type SendWithFds,
  socketTransport,
  VfioUserClient,
  VfioUserContainer,
} from "@iommu-kit/notifier-vfio/vfio-user";

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

function fdTransport(send?: SendWithFds) {
  const socket = new FakeSocket();
  const scheduler = new ManualScheduler();
  const sendAll: SendWithFds = (message, fds) => {
    socket.sent.push(`fds ${fds.join()} ${message[0]}`);
    return message.length;
  };
  return { socket, scheduler, transport: socketTransport(socket, send ?? sendAll, scheduler) };
}

describe("a transport on a socket", () => {
  it("keeps messages with descriptors in their place among those without", () => {
    const { socket, transport } = fdTransport();
    socket.fast = false;

    transport.send(Uint8Array.of(1), []);
    transport.send(Uint8Array.of(2), [7]);
    transport.send(Uint8Array.of(3), []);
    expect(socket.sent).toEqual(["bytes 1"]);
    expect(transport.pendingBytes).toBe(3);
    socket.drain();

    expect(socket.sent).toEqual(["bytes 1", "fds 7 2", "bytes 3"]);
    expect(transport.pendingBytes).toBe(1);
  });

  it("tries again where the socket is full for the native call, and keeps everything behind in its place", () => {
    let room = 0;
    const { socket, scheduler, transport } = fdTransport((message, fds) => {
      if (room === 0) return 0;
      room -= 1;
      socket.sent.push(`fds ${fds.join()} ${message[0]}`);
      return message.length;
    });

    transport.send(Uint8Array.of(1), [7]);
    transport.send(Uint8Array.of(2), []);
    transport.send(Uint8Array.of(3), [8]);
    expect(socket.sent).toEqual([]);
    room = 1;
    scheduler.advance(1);
    expect(socket.sent).toEqual(["fds 7 1", "bytes 2"]);
    room = 1;
    scheduler.advance(1);

    expect(socket.sent).toEqual(["fds 7 1", "bytes 2", "fds 8 3"]);
    expect(transport.pendingBytes).toBe(0);
  });

  it("sends the rest of a message of which the native call took a part, and its descriptors once", () => {
    const { socket, transport } = fdTransport((message, fds) => {
      socket.sent.push(`fds ${fds.join()} ${message.subarray(0, 2).join("-")}`);
      return 2;
    });
    socket.fast = false;

    transport.send(Uint8Array.of(1, 2, 3, 4), [7]);
    transport.send(Uint8Array.of(5, 6), [8]);
    expect(socket.sent).toEqual(["fds 7 1-2", "bytes 3-4"]);
    socket.drain();

    expect(socket.sent).toEqual(["fds 7 1-2", "bytes 3-4", "fds 8 5-6"]);
  });

  it("does not try again once it is closed", () => {
    let calls = 0;
    const { scheduler, transport } = fdTransport(() => {
      calls += 1;
      return 0;
    });

    transport.send(Uint8Array.of(1), [7]);
    transport.close();
    scheduler.advance(1000);

    expect(calls).toBe(1);
  });

  it("refuses what a native call cannot have answered, and descriptors where there is no such call", () => {
    const { transport } = fdTransport(() => -1);
    expect(() => transport.send(Uint8Array.of(1), [7])).toThrow(/from 0 to 1, got -1/);
    expect(() => socketTransport(new FakeSocket()).send(Uint8Array.of(1), [7])).toThrow(/not-supported|without file/);
  });

  it("says whether it carries descriptors", () => {
    expect(fdTransport().transport.sendsFds).toBe(true);
    expect(socketTransport(new FakeSocket()).sendsFds).toBe(false);
  });

  it("ends with the cause when descriptors that had to wait cannot be sent", () => {
    const { socket, transport } = fdTransport(() => {
      throw new Error("EBADF");
    });
    const ends: (Error | undefined)[] = [];
    transport.onClose = (error) => ends.push(error);
    socket.fast = false;
    transport.send(Uint8Array.of(1), []);
    transport.send(Uint8Array.of(2), [7]);

    socket.drain();

    expect(socket.destroyed).toBe(true);
    expect(ends.map(String)).toEqual(["Error: EBADF"]);
  });

  it("tells the socket's error as the cause of its end", () => {
    const { socket, transport } = fdTransport();
    const ends: (Error | undefined)[] = [];
    transport.onClose = (error) => ends.push(error);

    socket.tell("error", new Error("EPIPE"));
    socket.tell("close");

    expect(ends.map(String)).toEqual(["Error: EPIPE"]);
  });
});

it("descriptors that cannot be sent in the middle of a guest's map cut the server off: the guest goes on", async () => {
  const guest = new GuestDriver({ cachingMode: true });
  guest.context("00:03.0", { did: 1 });
  guest.start();
  const space = guest.device("00:03.0");
  const { socket, transport } = fdTransport(() => {
    throw new Error("EBADF");
  });
  const ends: IommuError[] = [];
  const client = new VfioUserClient({ transport, space, onClose: (error) => ends.push(error) });
  const connected = client.connect();
  // VERSION 0.0 without capabilities, in reply to the first message.
  socket.tell("data", Uint8Array.from([1, 0, 1, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
  await connected;
  const memory = [{ firstPfn: 0, pageCount: 0x40000, fd: 9, offsetBytes: 0 }];
  const container = new VfioUserContainer(client, { memory });
  const attachment = new VfioNotifier(container).attachTo(space);

  guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
  expect(() => guest.invalidate.domain(1)).not.toThrow();
  while (!guest.queue.completed) {
    guest.scheduler.turn();
    await Promise.resolve();
  }

  expect(attachment.state).toBe("failed");
  expect(ends.map(({ cause }) => String(cause))).toEqual(["Error: EBADF"]);
  expect(container.map(0, 1, 0, Access.read)).toEqual({ ok: false, cause: "gone" });
});
