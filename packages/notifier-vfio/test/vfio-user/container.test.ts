import fc from "fast-check";
import { describe, expect, it, onTestFinished } from "vitest";
import { Access, DirtyTracker } from "@iommu-kit/iommu-core";
import { descriptor } from "@iommu-kit/iommu-vtd/testing";
import { VfioUserContainer } from "@iommu-kit/notifier-vfio/vfio-user";
import { Cmd, type FakeServer, type Seen } from "./fake-server.js";
import { failureOf, Rig, type RigOptions, until } from "./rig.js";

const RW = Access.readWrite;

async function start(options: RigOptions = {}): Promise<Rig> {
  const rig = await Rig.start(options);
  onTestFinished(async () => expect(await rig.stop()).toEqual([]));
  return rig;
}

/** Regions of the guest's table, as the server names them. */
const pagesFrom = (first: number, count: number): string[] => Array.from({ length: count }, (_, i) => `${first + i}+1`);

describe("a container over vfio-user", () => {
  it("answers as its server answers", async () => {
    const rig = await start();
    const container = new VfioUserContainer(await rig.client());

    expect(await container.map(0x10, 2, 0x1000, RW)).toEqual({ ok: true });
    expect(await container.map(0x10, 2, 0x1000, RW)).toEqual({ ok: true });
    expect(await container.map(0x11, 2, 0x1000, RW)).toEqual({ ok: false, cause: "invalid" });
    expect(await container.unmap(0x10, 1)).toEqual({ ok: false, cause: "no-entry" });
    expect(container.entriesHeld).toBe(1);
    expect(await container.unmap(0x10, 2)).toEqual({ ok: true, removedPageCount: 2 });
    expect(await container.unmap(0x10, 2)).toEqual({ ok: false, cause: "no-entry" });
    expect(container.entriesHeld).toBe(0);
  });

  it("sends addresses, sizes and rights of the whole 64-bit space exactly", async () => {
    const rig = await start();
    const container = new VfioUserContainer(await rig.client());

    await container.map(2 ** 52 - 1, 1, 7, Access.write);
    await container.map(2 ** 40 + 1, 2 ** 39, 7, Access.read);

    expect([...rig.server.regions.values()]).toEqual([
      { iova: 2n ** 64n - 4096n, size: 4096n, offset: 0n, flags: 2, fd: undefined },
      { iova: 2n ** 52n + 4096n, size: 2n ** 51n, offset: 0n, flags: 1, fd: undefined },
    ]);
    expect(await container.map(2 ** 52 - 1, 2, 7, RW)).toEqual({ ok: false, cause: "overflow" });
  });

  it("does not ask for more regions than the server takes, and takes the server's word where it takes fewer", async () => {
    const rig = await start({ server: { capabilities: { max_dma_maps: 3 }, maxRegions: 2 } });
    const container = new VfioUserContainer(await rig.client());

    expect(container.entryLimit).toBe(3);
    const answers = await Promise.all([0, 1, 2].map(async (pfn) => container.map(pfn, 1, pfn, RW)));
    expect(answers[2]).toEqual({ ok: false, cause: "no-space" });
    expect(container.entriesHeld).toBe(2);
    const late = container.map(2, 1, 2, RW);
    expect(await container.map(3, 1, 3, RW)).toEqual({ ok: false, cause: "no-space" });
    expect(await late).toEqual({ ok: false, cause: "no-space" });
    expect(rig.server.seen.filter(({ command }) => command === Cmd.MAP)).toHaveLength(4);
  });

  it.each([
    [1, "denied"],
    [2, "no-entry"],
    [12, "no-space"],
    [13, "denied"],
    [14, "bad-target"],
    [17, "exists"],
    [19, "gone"],
    [22, "invalid"],
    [25, "unsupported"],
    [28, "no-space"],
    [38, "unsupported"],
    [75, "overflow"],
    [95, "unsupported"],
    [0, "invalid"],
    [4095, "invalid"],
  ])("understands error %i as %s", async (errno, cause) => {
    const intercept = (server: FakeServer, seen: Seen) => {
      if (seen.command === Cmd.MAP) server.refuse(seen, errno);
      return seen.command === Cmd.MAP;
    };
    const rig = await start({ server: { intercept } });
    const container = new VfioUserContainer(await rig.client());

    expect(await container.map(0, 1, 0, RW)).toEqual({ ok: false, cause });
    expect(container.entriesHeld).toBe(0);
  });

  it.each([true, false])("empties itself, where the server knows how to at once: %s", async (knowsUnmapAll) => {
    const rig = await start({ server: { knowsUnmapAll } });
    const container = new VfioUserContainer(await rig.client());
    await Promise.all([container.map(0, 4, 0, RW), container.map(8, 1, 0, RW)]);

    expect(await container.unmapAll()).toEqual({ ok: true, removedPageCount: 5 });
    expect(await container.unmapAll()).toEqual({ ok: true, removedPageCount: 0 });

    expect([rig.server.regions.size, container.entriesHeld]).toEqual([0, 0]);
  });

  it("that the server does not empty region by region either says so, and is empty when the connection ends meanwhile", async () => {
    for (const [wrong, answer] of [
      [(server: FakeServer, seen: Seen) => server.refuse(seen, 22), { ok: false, cause: "invalid" }],
      [(server: FakeServer) => server.drop(), { ok: true, removedPageCount: 5 }],
    ] as const) {
      // The second region: the first is let go of.
      const intercept = (server: FakeServer, seen: Seen): boolean => {
        const isSecond = seen.command === Cmd.UNMAP && seen.payload.readBigUInt64LE(8) === 0x8000n;
        if (isSecond) wrong(server, seen);
        return isSecond;
      };
      const rig = await start({ server: { knowsUnmapAll: false, intercept } });
      const container = new VfioUserContainer(await rig.client());
      await Promise.all([container.map(0, 4, 0, RW), container.map(8, 1, 0, RW)]);

      expect(await container.unmapAll()).toEqual(answer);
    }
  });

  it("takes no nonsense for the confirmation that all is unmapped: the connection ends", async () => {
    const intercept = (server: FakeServer, seen: Seen): boolean => {
      if (seen.command === Cmd.UNMAP) server.reply(seen, Buffer.alloc(8));
      return seen.command === Cmd.UNMAP;
    };
    const rig = await start({ server: { intercept } });
    const client = await rig.client();
    const container = new VfioUserContainer(client);
    await container.map(0, 4, 0, RW);

    expect(await container.unmapAll()).toEqual({ ok: true, removedPageCount: 4 });
    expect(client.closed?.message).toMatch(/of the shape that the protocol gives it/);
  });

  it("refuses files where the transport sends none", async () => {
    const rig = await start();
    const client = await rig.client();
    const memory = [{ firstPfn: 0, pageCount: 1, fd: 3, offsetBytes: 0 }];

    expect(() => new VfioUserContainer(client, { memory })).toThrow(/not-supported|sends file descriptors/);
  });

  it("counts what it holds as a plain list does, whatever is under way", async () => {
    const rig = await start({ server: { maxRegions: 6 }, client: { maxInFlight: 3 } });
    const client = await rig.client();
    const container = new VfioUserContainer(client);
    const call = fc.record({ map: fc.boolean(), pfn: fc.nat({ max: 7 }), count: fc.integer({ min: 1, max: 2 }) });
    await fc.assert(
      fc.asyncProperty(fc.array(fc.array(call, { maxLength: 6 }), { maxLength: 5 }), async (bursts) => {
        await container.unmapAll();
        for (const burst of bursts) {
          await Promise.all(
            burst.map(async ({ map, pfn, count }) =>
              map ? container.map(pfn, count, pfn, RW) : container.unmap(pfn, count),
            ),
          );
          expect(container.entriesHeld).toBe(rig.server.regions.size);
        }
      }),
      { numRuns: 200 },
    );
  });
});

describe("behind the notifier", () => {
  it("holds what the guest maps, follows by differences, and is emptied on detach", async () => {
    const rig = await start();
    rig.guest.map(1, { iovaPfn: 0x10, pageCount: 8, gpaPfn: 0x1000 });
    const { notifier, attachment } = await rig.device.connect();
    expect(rig.server.pages()).toEqual(pagesFrom(0x10, 8));

    rig.guest.unmap(1, 0x12);
    rig.guest.map(1, { iovaPfn: 0x30, gpaPfn: 0x2000 });
    rig.server.seen.length = 0;
    rig.guest.invalidate.domain(1);
    await until(() => rig.guest.queue.completed);

    expect(rig.server.pages()).toEqual([...pagesFrom(0x10, 2), ...pagesFrom(0x13, 5), "48+1"]);
    expect(rig.server.seen.map(({ command }) => command)).toEqual([Cmd.UNMAP, Cmd.MAP]);
    expect([attachment.heldPages, notifier.entriesHeld]).toEqual([8, 8]);
    await notifier.detach();
    expect(rig.server.pages()).toEqual([]);
    expect(attachment.state).toBe("detached");
  });

  it("completes the guest's wait descriptor when the server has let go, not before", async () => {
    const rig = await start();
    rig.guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
    await rig.device.connect();
    rig.guest.unmap(1, 0x10);
    rig.server.hold();

    expect(rig.guest.invalidate.page(1, 0x10)).toBe(false);
    await until(() => rig.server.waiting === 1);
    expect(rig.guest.queue.completed).toBe(false);
    expect(rig.server.pages()).toEqual([]);

    rig.server.release();
    await until(() => rig.guest.queue.completed);
  });

  it("pipelines: a thousand changes are under way before the first answer, and each answer may come in any order", async () => {
    const rig = await start();
    rig.guest.map(1, { iovaPfn: 0, pageCount: 500, gpaPfn: 0x1000 });
    const { attachment } = await rig.device.connect();
    rig.guest.unmap(1, 0, 500);
    rig.guest.map(1, { iovaPfn: 0x1000, pageCount: 500, gpaPfn: 0x1000 });
    rig.server.hold();

    rig.guest.invalidate.domain(1);
    await until(() => rig.server.waiting === 1000);
    expect(rig.guest.queue.completed).toBe(false);
    rig.server.release("last");
    await until(() => rig.guest.queue.completed);

    expect(rig.server.pages()).toEqual(pagesFrom(0x1000, 500));
    expect([attachment.state, attachment.heldPages]).toEqual(["active", 500]);
  });

  it("keeps the order of calls where more are asked for than may be under way", async () => {
    const rig = await start({ client: { maxInFlight: 2 } });
    const { attachment } = await rig.device.connect();
    for (let round = 0; round < 5; round++) {
      rig.guest.unmap(1, 0, 40);
      rig.guest.map(1, { iovaPfn: 0, pageCount: 40, gpaPfn: 0x1000 + round * 64 });
      rig.guest.queue.submit(descriptor.domain(1));
    }
    expect(rig.guest.invalidate.domain(1)).toBe(false);
    await until(() => rig.guest.queue.completed);

    expect(rig.server.pages()).toEqual(pagesFrom(0, 40));
    expect([attachment.state, attachment.heldPages]).toEqual(["active", 40]);
  });

  it("at the server's limit reports what could not be mapped, and maps it when entries free up", async () => {
    const rig = await start({ server: { maxRegions: 4 } });
    rig.guest.map(1, { iovaPfn: 0, pageCount: 6, gpaPfn: 0x1000 });
    const { attachment } = await rig.device.connect();
    expect([attachment.heldPages, attachment.refusedPages]).toEqual([4, 2]);

    rig.guest.unmap(1, 0, 2);
    rig.guest.invalidate.domain(1);
    await until(() => rig.guest.queue.completed && attachment.refusedPages === 0);

    expect(rig.server.pages()).toEqual(pagesFrom(2, 4));
    expect(attachment.state).toBe("active");
  });

  it("reports a superpage that the guest breaks up, and ends at exactly the guest's table", async () => {
    const rig = await start();
    rig.guest.map(1, { iovaPfn: 0x200, gpaPfn: 0x4000, leafPages: 512 });
    await rig.device.connect();
    expect(rig.server.pages()).toEqual(["512+512"]);
    const windows: number[] = [];
    rig.space.events.on("window", () => windows.push(1));

    rig.guest.unmap(1, 0x200, 512);
    rig.guest.map(1, { iovaPfn: 0x200, pageCount: 511, gpaPfn: 0x4000 });
    rig.guest.invalidate.domain(1);
    await until(() => rig.guest.queue.completed);

    const mapped = rig.server.pages().map((page) => page.split("+").map(Number));
    expect(mapped.reduce((sum, [, count = 0]) => sum + count, 0)).toBe(511);
    expect(mapped.at(0)?.[0]).toBe(0x200);
    expect(windows.length).toBeGreaterThan(0);
  });

  it("the device's writes by message are found by frame with the address space's own tracker", async () => {
    const rig = await start();
    rig.guest.map(1, { iovaPfn: 0x10, pageCount: 4, gpaPfn: 0x1000 });
    await rig.device.connect();
    const tracker = new DirtyTracker(rig.space);
    tracker.start();

    await rig.server.dmaWrite(0x11_ffen, Uint8Array.of(1, 2, 3, 4));

    const frames: number[][] = [];
    tracker.collect({ gpa: (pfn, count) => void frames.push([pfn, count]) });
    expect(frames).toEqual([[0x1001, 2]]);
    tracker.stop();
  });

  it("refuses a second connection while one is in use", async () => {
    const rig = await start();
    await rig.device.connect();

    expect(await failureOf(rig.device.connect())).toMatch(/already-attached/);
  });

  it("is not connected any more once it was closed, although it was closed while it connected", async () => {
    const rig = await start();
    rig.guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });

    const connecting = failureOf(rig.device.connect());
    await rig.device.close();

    expect(await connecting).toMatch(/destroyed: .* was closed/);
    expect([rig.device.connection, rig.space.attachments.length]).toEqual([undefined, 0]);
    await until(() => !rig.server.isConnected);
    await rig.device.connect();
    expect(rig.server.pages()).toEqual(["16+1"]);
  });

  it("closes the connection again where the address space refuses the notifier", async () => {
    const rig = await start();
    void rig.space.unplug();

    expect(await failureOf(rig.device.connect())).toMatch(/unplugged/);
    await until(() => !rig.server.isConnected);
    expect(rig.device.connection).toBeUndefined();
  });
});
