import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it, onTestFinished } from "vitest";
import { VfioUserDevice } from "@iommu-kit/notifier-vfio/vfio-user";
import { Cmd, type FakeServer, message, type Seen } from "./fake-server.js";
import { createFile } from "./native.js";
import { failureOf, Rig, type RigOptions, until } from "./rig.js";

/** What a server may do wrong in answer to a command. */
type Wrong = (server: FakeServer, seen: Seen) => void;

async function start(options: RigOptions = {}): Promise<Rig> {
  const rig = await Rig.start(options);
  onTestFinished(async () => expect(await rig.stop()).toEqual([]));
  return rig;
}

/** A guest with two pages mapped, whose server behaves until told otherwise. */
async function connected(
  wrong: Wrong,
  command: number,
  options: RigOptions = {},
): Promise<{ rig: Rig; turn: () => void }> {
  let turned = false;
  const intercept = (server: FakeServer, seen: Seen): boolean => {
    if (!turned || seen.command !== command) return false;
    wrong(server, seen);
    return true;
  };
  const rig = await start({ ...options, server: { ...options.server, intercept } });
  rig.guest.map(1, { iovaPfn: 0x10, pageCount: 2, gpaPfn: 0x1000 });
  await rig.device.connect();
  return { rig, turn: () => (turned = true) };
}

const wrongs: readonly (readonly [string, Wrong])[] = [
  ["closes", (server) => server.drop()],
  ["names a size beyond all bounds", (server) => server.raw(Buffer.from("0100020000ffffff01000000000000ff", "hex"))],
  ["names a size below the header's", (server) => server.raw(Buffer.from("01000200050000000100000000000000", "hex"))],
  ["answers something that was not asked", (server, seen) => server.reply({ ...seen, id: seen.id + 77 })],
  ["answers another command", (server, seen) => server.reply({ ...seen, command: Cmd.RESET })],
  ["answers twice", (server, seen) => server.raw(Buffer.concat([done(seen), done(seen)]))],
  ["answers with a region that nobody asked for", (server, seen) => server.reply(seen, Buffer.alloc(24))],
  ["answers with too much", (server, seen) => server.reply(seen, Buffer.alloc(7))],
  [
    "sends a message of no known type",
    (server, seen) => server.raw(message(seen.id, seen.command, 5, 0, Buffer.alloc(0))),
  ],
  ["asks for memory without an address", (server) => server.raw(message(1, Cmd.DMA_READ, 0, 0, Buffer.alloc(3)))],
  ["writes more than it says", (server) => server.raw(message(1, Cmd.DMA_WRITE, 0, 0, Buffer.alloc(20)))],
  ["sends noise", (server) => server.raw(Buffer.alloc(64, 0xc3))],
];

describe.each(wrongs)("a server that %s", (_, wrong) => {
  it.each([
    ["map", Cmd.MAP],
    ["unmap", Cmd.UNMAP],
  ])("in answer to a guest's %s is cut off: nothing is thrown, the guest goes on", async (_call, command) => {
    const { rig, turn } = await connected(wrong, command);
    const { attachment, client } = rig.device.connection ?? expect.unreachable();
    turn();
    rig.guest.unmap(1, 0x10);
    rig.guest.map(1, { iovaPfn: 0x40, gpaPfn: 0x2000 });

    expect(() => rig.guest.invalidate.domain(1)).not.toThrow();
    await until(() => rig.guest.queue.completed && client.closed !== undefined && attachment.state !== "active");

    expect(["failed", "detached"]).toContain(attachment.state);
    expect(rig.losses).toHaveLength(1);
    expect(rig.device.connection).toBeUndefined();
    // The unit works on, for this device as well.
    rig.guest.map(1, { iovaPfn: 0x50, gpaPfn: 0x3000 });
    expect(rig.guest.invalidate.domain(1)).toBe(true);
    rig.fill(0x3000, 0x77);
    const byte = new Uint8Array(1);
    expect([rig.space.dma.read(0x50000, byte), byte[0]]).toEqual([true, 0x77]);
  });
});

it("random bytes from a server never throw, and end in a connection that is over or waits for more", async () => {
  const rig = await start();
  const loose: unknown[] = [];
  const catchLoose = (error: unknown) => loose.push(error);
  process.on("uncaughtException", catchLoose).on("unhandledRejection", catchLoose);
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ minLength: 1, maxLength: 60 }), { minLength: 1, maxLength: 4 }),
      async (pieces) => {
        const client = await rig.client();
        const pending = failureOf(client.reset());
        for (const piece of pieces) rig.server.raw(piece);
        client.close();
        expect(await pending).not.toBe("");
        await until(() => rig.server.pages().length === 0 && !busy(rig));
      },
    ),
    { numRuns: 40 },
  );
  process.off("uncaughtException", catchLoose).off("unhandledRejection", catchLoose);
  expect(loose).toEqual([]);
});

it("random replies behind valid headers end the connection or settle the command, whichever command it was", async () => {
  const answer = fc.record({ errno: fc.constantFrom(undefined, 0, 22), length: fc.nat({ max: 48 }) });
  await fc.assert(
    fc.asyncProperty(answer, async ({ errno, length }) => {
      const intercept = (server: FakeServer, seen: Seen): boolean => {
        if (seen.command === Cmd.VERSION) return false;
        const flags = errno === undefined ? 1 : 0x21;
        server.raw(message(seen.id, seen.command, flags, errno ?? 0, randomBytes(length)));
        return true;
      };
      const rig = await Rig.start({ server: { intercept } });
      const client = await rig.client();
      const asked = [
        client.deviceInfo(),
        client.regionInfo(1),
        client.irqInfo(1),
        client.readRegion(0, 0, 4),
        client.writeRegion(0, 0, Uint8Array.of(1)),
        client.reset(),
      ];
      for (const { status, reason } of (await Promise.allSettled(asked)) as {
        status: string;
        reason?: { code?: string };
      }[])
        if (status === "rejected") expect(["destroyed", "not-supported"]).toContain(reason?.code);
      expect(await rig.stop()).toEqual([]);
    }),
    { numRuns: 40 },
  );
});

describe("a connection that was lost", () => {
  it("is cut off even when nothing is asked of it", async () => {
    const { rig } = await connected(() => undefined, Cmd.RESET);
    const { attachment } = rig.device.connection ?? expect.unreachable();

    rig.server.drop();
    await until(() => attachment.state !== "active");

    expect(rig.losses.map(({ code }) => code)).toEqual(["destroyed"]);
  });

  it("does not stand in the way of the next one, although its notifier could not be detached", async () => {
    const { rig } = await connected(() => undefined, Cmd.RESET);
    const { notifier } = rig.device.connection ?? expect.unreachable();
    Object.assign(notifier, { detach: () => Promise.reject(new Error("in the middle of a step")) });
    rig.server.drop();

    await until(() => rig.losses.length === 2);
    const again = await rig.device.connect();

    expect(rig.losses.map(({ code }) => code)).toEqual(["destroyed", "notifier-failed"]);
    expect(again.attachment.state).toBe("active");
  });

  it("is told with whatever it was that kept its notifier from being detached", async () => {
    const { rig } = await connected(() => undefined, Cmd.RESET);
    const { notifier } = rig.device.connection ?? expect.unreachable();
    // oxlint-disable-next-line typescript/prefer-promise-reject-errors
    Object.assign(notifier, { detach: () => Promise.reject("no error at all") });
    rig.server.drop();

    await until(() => rig.losses.length === 2);

    expect(rig.losses[1]?.message).toMatch(/expected the lost connection to be detached, got no error at all/);
  });

  it("by a message that could not be sent, in the middle of attaching, fails the connecting, and can be tried again", async () => {
    const rig = await start();
    rig.guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
    let broken = true;
    const losses: string[] = [];
    const device = new VfioUserDevice({
      space: rig.space,
      onLost: (error) => losses.push(error.message),
      open: async () => {
        const transport = await rig.transport();
        const { send } = transport;
        transport.send = (bytes, fds) => {
          if (broken && bytes[2] === Cmd.MAP) throw new Error("EPIPE");
          send.call(transport, bytes, fds);
        };
        return transport;
      },
    });

    expect(await failureOf(device.connect())).toMatch(/destroyed: .* a message could not be sent/);
    expect([device.connection, losses.length]).toEqual([undefined, 1]);
    broken = false;
    await until(() => !rig.server.isConnected);
    const { attachment } = await device.connect();

    expect([attachment.state, rig.server.pages()]).toEqual(["active", ["16+1"]]);
    await device.close();
  });

  it("is ended by close, although its notifier could not be detached", async () => {
    const { rig } = await connected(() => undefined, Cmd.RESET);
    const { client, notifier } = rig.device.connection ?? expect.unreachable();
    Object.assign(notifier, { detach: () => Promise.reject(new Error("in the middle of a step")) });

    await expect(rig.device.close()).rejects.toThrow("in the middle of a step");

    expect(client.closed).toMatchObject({ code: "destroyed" });
  });

  it("is replaced by a new one, which is replayed to exactly the guest's present table", async () => {
    const { rig } = await connected(() => undefined, Cmd.RESET);
    const before = rig.device.connection;
    rig.server.drop();
    await until(() => rig.losses.length === 1);
    rig.guest.unmap(1, 0x10);
    rig.guest.map(1, { iovaPfn: 0x80, pageCount: 3, gpaPfn: 0x5000 });
    rig.guest.invalidate.domain(1);

    const again = await rig.device.connect();

    expect(rig.server.pages()).toEqual(["17+1", "128+1", "129+1", "130+1"]);
    expect([before?.attachment.state, again.attachment.state]).toEqual([
      expect.stringMatching(/failed|detached/),
      "active",
    ]);
    rig.guest.unmap(1, 0x80, 3);
    rig.guest.invalidate.domain(1);
    await until(() => rig.guest.queue.completed);
    expect(rig.server.pages()).toEqual(["17+1"]);
  });

  it("comes back again and again while the guest goes on", async () => {
    const { rig } = await connected(() => undefined, Cmd.RESET);
    for (let round = 1; round <= 5; round++) {
      rig.guest.map(1, { iovaPfn: 0x100 + round, gpaPfn: 0x3000 });
      rig.guest.invalidate.domain(1);
      rig.server.drop();
      await until(() => rig.losses.length === round && rig.guest.queue.completed);
      await rig.device.connect();
      expect(rig.server.pages()).toHaveLength(2 + round);
    }
    expect(rig.server.connections).toBe(6);
  });

  it("that breaks in the middle of a replay fails the connecting, and can be tried again", async () => {
    let maps = 0;
    const intercept = (server: FakeServer, { command }: Seen): boolean => {
      if (command !== Cmd.MAP || ++maps !== 3) return false;
      server.drop();
      return true;
    };
    const rig = await start({ server: { intercept } });
    rig.guest.map(1, { iovaPfn: 0, pageCount: 8, gpaPfn: 0x1000 });

    expect(await failureOf(rig.device.connect())).toMatch(/destroyed/);
    await rig.device.connect();

    expect(rig.server.pages()).toHaveLength(8);
  });

  it("with files that the server may still have mapped is reported as stuck: the device must be reset", async () => {
    const memory = [{ firstPfn: 0, pageCount: 0x10000, fd: createFile(0x1000_0000), offsetBytes: 0 }];
    const { rig } = await connected(() => undefined, Cmd.RESET, { sendsFds: true, device: { memory } });
    const { notifier, attachment } = rig.device.connection ?? expect.unreachable();
    const stuck: string[] = [];
    notifier.events.on("stuck", ({ error }) => stuck.push(error.message));

    rig.server.drop();
    await until(() => attachment.state !== "active");
    await until(() => stuck.length > 0);

    expect(stuck[0]).toMatch(/expected the container to let go/);
  });
});

it("a server that does not answer is cut off at the deadline, and the guest goes on when it has had as long to let go", async () => {
  const { rig, turn } = await connected(() => undefined, Cmd.UNMAP);
  const { attachment } = rig.device.connection ?? expect.unreachable();
  const hints: string[] = [];
  rig.guest.unit.events.on("failed", ({ error }) => hints.push(error.hint));
  turn();
  rig.guest.unmap(1, 0x10);

  expect(rig.guest.invalidate.domain(1)).toBe(false);
  rig.guest.scheduler.advance(5000);
  await until(() => attachment.state === "failed");
  expect(rig.guest.queue.completed).toBe(false);
  rig.guest.scheduler.advance(5000);
  await until(() => rig.guest.queue.completed);

  expect(attachment.failure?.code).toBe("notifier-timeout");
  expect(hints).toEqual([attachment.failure?.hint, "reset the device behind it"]);
});

/** A reply without a payload. */
function done(seen: Seen): Buffer {
  return message(seen.id, seen.command, 1, 0, Buffer.alloc(0));
}

/** Whether the server has not seen the end of the last connection yet. */
function busy(rig: Rig): boolean {
  return rig.server.isConnected;
}
