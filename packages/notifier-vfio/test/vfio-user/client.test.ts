import { describe, expect, it, onTestFinished } from "vitest";
import { IommuError } from "@iommu-kit/iommu-core";
import {
  socketTransport,
  VfioUserClient,
  VfioUserContainer,
  type VfioUserTransport,
} from "@iommu-kit/notifier-vfio/vfio-user";
import { Cmd, type FakeServer, message as packed, type Seen } from "./fake-server.js";
import { eventFd } from "./native.js";
import { failureOf, Rig, type RigOptions, until } from "./rig.js";

/** A rig whose server must have nothing to complain about when the test is over. */
async function start(options: RigOptions = {}): Promise<Rig> {
  const rig = await Rig.start(options);
  onTestFinished(async () => expect(await rig.stop()).toEqual([]));
  return rig;
}

describe("negotiation", () => {
  it("proposes version 0.1 with its capabilities, and takes the server's", async () => {
    const rig = await start({
      server: { capabilities: { max_msg_fds: 4, max_data_xfer_size: 8192, max_dma_maps: 77 } },
    });
    const client = await rig.rawClient();

    expect(client.negotiated).toBeUndefined();
    expect(await client.connect()).toEqual({ minor: 1, maxMessageFds: 4, maxDataTransferBytes: 8192, maxDmaMaps: 77 });
    expect(rig.server.clientCapabilities).toEqual({
      max_msg_fds: 1,
      max_data_xfer_size: 2 ** 20,
      max_dma_maps: 1_000_000,
      pgsizes: 4096,
    });
  });

  it("happens once, however often it is asked for", async () => {
    const rig = await start();
    const client = await rig.rawClient();
    const [first, second] = await Promise.all([client.connect(), client.connect()]);

    expect(second).toBe(first);
    expect(await client.connect()).toBe(first);
    expect(client.closed).toBeUndefined();
  });

  it.each(["", "{}\0", '{"capabilities":{}}\0'])(
    "takes the protocol's defaults where the server names nothing (%j)",
    async (text) => {
      const rig = await start({ server: { version: Buffer.concat([Buffer.from([0, 0, 0, 0]), Buffer.from(text)]) } });
      const { negotiated } = await rig.client();

      expect(negotiated).toEqual({ minor: 0, maxMessageFds: 1, maxDataTransferBytes: 2 ** 20, maxDmaMaps: 65_535 });
    },
  );

  it.each([
    ["another major version", Buffer.from([1, 0, 0, 0]), /version 0.1 or lower, got 1.0/],
    ["a higher minor version", Buffer.from([0, 0, 2, 0]), /got 0.2/],
    ["no version", Buffer.from([0, 0]), /expected a version, got 2 bytes/],
    ["no JSON", Buffer.from("\0\0\u0001\0{\0"), /JSON object/],
    ["JSON without its end", Buffer.from("\0\0\u0001\0{}"), /ends with NUL/],
    ["JSON that is no object", Buffer.from("\0\0\u0001\0[1]\0"), /JSON object/],
    ["capabilities that are no object", Buffer.from('\0\0\u0001\0{"capabilities":7}\0'), /JSON object/],
    ["no numbers", Buffer.from('\0\0\u0001\0{"capabilities":{"max_dma_maps":"x"}}\0'), /whole numbers/],
    ["no room at all", Buffer.from('\0\0\u0001\0{"capabilities":{"max_dma_maps":0}}\0'), /whole numbers/],
    ["no 4 KiB pages", Buffer.from('\0\0\u0001\0{"capabilities":{"pgsizes":65536}}\0'), /4 KiB pages/],
    ["broken text", Buffer.from([0, 0, 1, 0, 0xff, 0xfe, 0]), /JSON object/],
  ])("ends the connection with a reason for %s", async (_, version, reason) => {
    const rig = await start({ server: { version } });
    const client = await rig.rawClient();

    expect(await failureOf(client.connect())).toMatch(reason);
    expect(client.closed).toBeInstanceOf(IommuError);
  });

  it("says that the server refused", async () => {
    const intercept = (server: FakeServer, seen: Seen) => {
      server.refuse(seen, 22);
      return true;
    };
    const rig = await start({ server: { intercept } });

    expect(await failureOf((await rig.rawClient()).connect())).toMatch(/not-supported: .* VERSION, got error 22/);
  });

  it("ends the connection with a server that asks for something before it has answered", async () => {
    const intercept = (server: FakeServer) => {
      server.raw(packed(1, Cmd.DMA_READ, 0, 0, Buffer.alloc(16)));
      return true;
    };
    const rig = await start({ server: { intercept } });

    expect(await failureOf((await rig.rawClient()).connect())).toMatch(/expected the reply to VERSION, got a command/);
  });

  it("refuses limits that make no sense", async () => {
    const rig = await start();
    const transport = await rig.transport();
    const make = (limits: object) => () => new VfioUserClient({ transport, space: rig.space, ...limits });

    expect(make({ maxInFlight: 65_537 })).toThrow(/maxInFlight: expected a whole number from 1 to 65536, got 65537/);
    expect(make({ maxDataTransferBytes: 0 })).toThrow(/maxDataTransferBytes/);
    expect(make({ maxUnreadBytes: 0.5 })).toThrow(/maxUnreadBytes/);
    transport.close();
  });
});

describe("the device", () => {
  it("tells what it is, its regions and its interrupts", async () => {
    const rig = await start();
    const client = await rig.client();

    expect(await client.deviceInfo()).toEqual({ canReset: true, isPci: true, regionCount: 9, irqTypeCount: 5 });
    expect(await client.regionInfo(0)).toEqual({
      index: 0,
      readable: true,
      writable: true,
      mappable: false,
      byteLength: 256n,
      fileOffsetBytes: 0n,
    });
    expect((await client.regionInfo(8)).byteLength).toBe(0n);
    expect(await client.irqInfo(2)).toEqual({
      index: 2,
      count: 4,
      eventfd: true,
      maskable: true,
      automasked: false,
      noResize: false,
    });
  });

  it("is read and written, in the order of the calls", async () => {
    const rig = await start({ server: { pieceBytes: 7 } });
    const client = await rig.client();

    const answers = await Promise.all([
      client.writeRegion(0, 4, Uint8Array.of(1, 2, 3, 4)),
      client.readRegion(0, 4n, 4),
      client.writeRegion(0, 6, Uint8Array.of(9)),
      client.readRegion(0, 5, 2),
    ]);

    expect(answers.map((answer) => answer && [...answer])).toEqual([undefined, [1, 2, 3, 4], undefined, [2, 9]]);
    expect([...rig.server.registers.subarray(4, 8)]).toEqual([1, 2, 9, 4]);
  });

  it("answers an access that it refuses with its error, and goes on", async () => {
    const rig = await start();
    const client = await rig.client();

    expect(await failureOf(client.readRegion(0, 255, 2))).toMatch(/not-supported: .* REGION_READ, got error 22/);
    expect(await failureOf(client.writeRegion(3, 0, Uint8Array.of(1)))).toMatch(/REGION_WRITE, got error 22/);
    expect(await client.readRegion(0, 254, 2)).toHaveLength(2);
  });

  it("is not asked for more at a time than it takes", async () => {
    const rig = await start({ server: { capabilities: { max_data_xfer_size: 16 } } });
    const client = await rig.client();

    expect(await failureOf(client.readRegion(0, 0, 17))).toMatch(/bad-option: expected an access of at most 16 bytes/);
    expect(await client.readRegion(0, 0, 16)).toHaveLength(16);
  });

  it("is not asked for anything before a version was agreed on", async () => {
    const rig = await start();
    const client = await rig.rawClient();
    const early = { code: "bad-option", hint: "call connect first" };

    await expect(client.readRegion(0, 0, 1)).rejects.toMatchObject(early);
    await expect(client.deviceInfo()).rejects.toMatchObject(early);
    await expect(client.setIrqs({ index: 0, action: "mask" })).rejects.toMatchObject(early);
    await expect(client.reset()).rejects.toMatchObject(early);
    expect(() => new VfioUserContainer(client)).toThrow(expect.objectContaining(early));

    client.close();
    await expect(client.reset()).rejects.toMatchObject({ code: "destroyed" });
    expect(() => new VfioUserContainer(client)).toThrow(expect.objectContaining({ code: "destroyed" }));
    expect(rig.server.seen).toEqual([]);
  });

  it.each([
    ["IRQ_INFO", Cmd.IRQ_INFO, (client: VfioUserClient) => client.irqInfo(1), 8],
    ["a read region", Cmd.READ, (client: VfioUserClient) => client.readRegion(0, 0, 4), 17],
  ] as const)("that tells too little of %s is not talked to any more", async (_, command, ask, byteLength) => {
    const intercept = (server: FakeServer, seen: Seen) => {
      if (seen.command !== command) return false;
      server.reply(seen, Buffer.alloc(byteLength));
      return true;
    };
    const rig = await start({ server: { intercept } });
    const client = await rig.client();

    expect(await failureOf(ask(client))).toMatch(/destroyed/);
    expect(client.closed).toBeDefined();
  });

  it("is reset", async () => {
    const rig = await start();
    await (await rig.client()).reset();

    expect(rig.server.resets).toBe(1);
  });

  it("is told to trigger, mask and disable interrupts, and to signal descriptors", async () => {
    const rig = await start({ sendsFds: true });
    const client = await rig.client();

    await client.setIrqs({ index: 2, start: 1, count: 3, action: "mask" });
    await client.setIrqs({ index: 2, action: "trigger", bools: [true, false] });
    await client.setIrqs({ index: 2, action: "trigger", eventfds: [eventFd(), eventFd()] });
    await client.setIrqs({ index: 2, action: "trigger" });

    const words = rig.server.seen
      .filter(({ command }) => command === Cmd.SET_IRQS)
      .map(({ payload }) => [4, 8, 12, 16].map((at) => payload.readUInt32LE(at)).concat([...payload.subarray(20)]));
    expect(words).toEqual([
      [1 | 8, 2, 1, 3],
      [2 | 32, 2, 0, 2, 1, 0],
      [4 | 32, 2, 0, 2],
      [1 | 32, 2, 0, 0],
    ]);
  });

  it("is given no descriptors by a transport that has none, and no more than it takes", async () => {
    const plain = await start();
    const sending = await start({ sendsFds: true });
    const request = { index: 0, action: "trigger", eventfds: Array.from({ length: 9 }, () => 5) } as const;

    expect(await failureOf((await plain.client()).setIrqs(request))).toMatch(/not-supported: .* at most 0 file desc/);
    expect(await failureOf((await sending.client()).setIrqs(request))).toMatch(/at most 8 file descriptors, got 9/);
  });
});

describe("the device's own accesses", () => {
  it("go through the guest's tables, across pages that lie apart", async () => {
    const rig = await start({ server: { pieceBytes: 5000 } });
    rig.guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
    rig.guest.map(1, { iovaPfn: 0x11, gpaPfn: 0x3000 });
    await rig.client();
    rig.fill(0x1000, 0xaa);
    rig.fill(0x3000, 0xbb);

    const read = await rig.server.dmaRead(0x10ffen, 4);
    expect(await rig.server.dmaWrite(0x11000n, Uint8Array.of(1, 2))).toBe(0);

    expect(read).toEqual(Buffer.from([0xaa, 0xaa, 0xbb, 0xbb]));
    expect(rig.bytesAt(0x3000, 3)).toEqual([1, 2, 0xbb]);
  });

  it("are refused, and recorded as faults, where the guest maps nothing or gives no right", async () => {
    const rig = await start();
    rig.guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000, access: 1 });
    await rig.client();

    expect(await rig.server.dmaRead(0x20_000n, 8)).toBe(14);
    expect(await rig.server.dmaWrite(0x10_000n, Uint8Array.of(1))).toBe(14);
    expect(rig.guest.takeFaults()).toMatchObject([{ page: 0x20, sourceId: 0x18, type: 2 }]);
  });

  it("to the message window are interrupts", async () => {
    const rig = await start();
    await rig.client();

    expect(await rig.server.dmaWrite(0xfee0_0000n, Uint8Array.of(0x41, 0, 0, 0))).toBe(0);

    expect(rig.guest.messages).toEqual([{ address: 0xfee0_0000, addressHigh: 0, data: 0x41 }]);
  });

  it("of no byte, of too many, and beyond the address space are answered without touching anything", async () => {
    const rig = await start({ client: { maxDataTransferBytes: 64 } });
    await rig.client();

    expect(await rig.server.dmaRead(0n, 0)).toEqual(Buffer.alloc(0));
    expect(await rig.server.dmaRead(0n, 65)).toBe(22);
    expect(await rig.server.dmaRead(0n, 2n ** 63n)).toBe(22);
    expect(await rig.server.dmaRead(2n ** 64n - 1n, 2)).toBe(22);
    expect(await rig.server.command(13, Buffer.alloc(0))).toMatchObject({ errno: 22 });
    expect(rig.guest.takeFaults()).toEqual([]);
  });

  it("without a wish for a reply get none, whatever comes of them", async () => {
    const rig = await start();
    await rig.client();
    rig.guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
    const replies = rig.server.seen.length;
    const write = (iovaPfn: number): Buffer => {
      const payload = Buffer.alloc(17);
      payload.writeBigUInt64LE(BigInt(iovaPfn) * 4096n, 0);
      payload.writeBigUInt64LE(1n, 8);
      payload[16] = 0x5a;
      return payload;
    };
    const NO_REPLY = 0x10;
    rig.server.raw(packed(1, Cmd.DMA_WRITE, NO_REPLY, 0, write(0x10)));
    rig.server.raw(packed(2, Cmd.DMA_WRITE, NO_REPLY, 0, write(0x99)));
    rig.server.raw(packed(3, 13, NO_REPLY, 0, Buffer.alloc(0)));
    // Requests are worked off in order: when this one is answered, the others have been.
    expect(await rig.server.dmaRead(0x10000n, 1)).toEqual(Buffer.from([0x5a]));
    expect(rig.guest.takeFaults()).toHaveLength(1);
    expect(rig.server.seen.length).toBe(replies);
  });

  it("end the connection when it goes on asking and does not read the answers", async () => {
    const rig = await start({ client: { maxUnreadBytes: 100_000 } });
    rig.guest.map(1, { iovaPfn: 0, pageCount: 256, gpaPfn: 0x1000 });
    // A socket that takes nothing: its buffer only grows.
    let unread = 0;
    const listeners = new Map<string, (bytes: Uint8Array) => void>();
    const transport = socketTransport({
      write(bytes) {
        unread += bytes.length;
        return false;
      },
      destroy: () => undefined,
      get writableLength() {
        return unread;
      },
      on: (event: string, listener: unknown) => listeners.set(event, listener as (bytes: Uint8Array) => void),
    });
    const client = new VfioUserClient({ transport, space: rig.space, maxUnreadBytes: 100_000 });
    const connected = client.connect();
    const bytesIn = listeners.get("data");
    bytesIn?.(Uint8Array.from([1, 0, 1, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    await connected;
    const request = Buffer.alloc(32);
    request.set([7, 0, 11, 0, 32]);
    request.writeBigUInt64LE(50_000n, 24);

    for (let i = 0; i < 10; i++) bytesIn?.(request);

    expect(client.closed?.message).toMatch(/does not read the answers/);
    expect(unread).toBeLessThan(200_000);
  });
});

describe("a transport that carries a message and brings the reply within the call", () => {
  it("gets one message after the other, in the order in which they were asked for", async () => {
    const rig = await start();
    const { transport, log, send } = direct();
    const client = new VfioUserClient({ transport, space: rig.space, maxInFlight: 1 });
    await client.connect();
    log.length = 0;
    // Asked for in the middle of the sending of another.
    let info: Promise<unknown> | undefined;
    transport.send = (message) => {
      info ??= client.deviceInfo();
      send(message);
    };

    await Promise.all([client.reset(), client.irqInfo(2)]);
    await info;

    const inTurn = [Cmd.RESET, Cmd.INFO, Cmd.IRQ_INFO].flatMap((command) => [`send ${command}`, `sent ${command}`]);
    expect(log).toEqual(inTurn);
  });

  it("gets nothing more when the host closes the connection in the middle of the device's access", async () => {
    const rig = await start();
    const { transport, log } = direct();
    const client = new VfioUserClient({ transport, space: rig.space });
    await client.connect();
    log.length = 0;
    rig.space.events.on("fault", () => client.close());

    transport.onBytes?.(
      packed(1, Cmd.DMA_WRITE, 0, 0, Buffer.from([0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7])),
    );

    expect(client.closed?.message).toMatch(/the client was closed/);
    expect(log).toEqual(["close"]);
    expect(rig.guest.takeFaults()).toHaveLength(1);
  });

  /** Answers every command with zeroes of its size. */
  function direct() {
    const log: string[] = [];
    const transport: VfioUserTransport = {
      sendsFds: false,
      pendingBytes: 0,
      onBytes: undefined,
      onClose: undefined,
      send: (message) => send(message),
      close: () => void log.push("close"),
    };
    const send = (message: Uint8Array): void => {
      const view = new DataView(message.buffer);
      const [id, command] = [view.getUint16(0, true), view.getUint16(2, true)];
      log.push(`send ${command}`);
      const payload = command === Cmd.VERSION ? Buffer.alloc(4) : Buffer.from(message.subarray(16));
      transport.onBytes?.(packed(id, command, 1, 0, payload));
      log.push(`sent ${command}`);
    };
    return { transport, log, send };
  }
});

describe("a connection that ends", () => {
  it("fails what is pending, and everything that is asked afterwards", async () => {
    const rig = await start({ server: { intercept: (_, { command }) => command === Cmd.READ } });
    const client = await rig.client();
    const pending = failureOf(client.readRegion(0, 0, 4));
    await until(() => rig.server.seen.length === 2);

    rig.server.drop();

    expect(await pending).toMatch(/destroyed: .* the server closed the connection/);
    expect(await failureOf(client.reset())).toMatch(/destroyed/);
  });

  it("tells its host once, with the cause", async () => {
    const rig = await start();
    const told: IommuError[] = [];
    const client = new VfioUserClient({
      transport: await rig.transport(),
      space: rig.space,
      onClose: (error) => told.push(error),
    });
    await client.connect();

    client.close();
    client.close();

    expect(told.map(({ code, message }) => `${code} ${message}`)).toEqual([
      expect.stringMatching(/^destroyed vfio-user: .*: the client was closed/),
    ]);
  });
});
