/**
 * A guest moves a scatter-gather list from one set of buffers to another: many table entries, one invalidation. A device that walks the list through the shadow must
 * find all of it in the old place or all of it in the new one.
 */
import { describe, expect, it } from "vitest";
import { Access } from "@iommu-kit/iommu-core";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { type Coalescing, MemoryContainer, shadow, shadowBlock, type1v2, VfioNotifier } from "@iommu-kit/notifier-vfio";
import { PlainContainer, SteppedContainer } from "./containers.js";

const NIC = "00:03.0";
/** Pages of the list: in runs of four with gaps between them, over several leaf tables. */
const LIST: readonly number[] = Array.from({ length: 64 }, (_, i) => 0x1f0 + Math.floor(i / 4) * 40 + (i % 4));

/** A guest whose list lies in buffers of a generation; each page of a generation says in its first byte which. */
class ListGuest extends GuestDriver {
  constructor() {
    // A slice is far less than the list: the unit goes back to the event loop in the middle of a step.
    super({ cachingMode: true, limits: { mappingsPerSlice: 7, entriesPerSlice: 512 } });
    this.context(NIC, { did: 1 });
    this.place(1);
    this.start();
  }

  /** Rewrites every entry of the list; the unit is not told. */
  place(generation: number): void {
    for (const [index, iovaPfn] of LIST.entries()) {
      const gpaPfn = 0x1000 + generation * 0x100 + index;
      this.memory.write(gpaPfn * 4096, Uint8Array.of(generation));
      this.map(1, { iovaPfn, gpaPfn });
    }
  }
}

/** A device that reads the whole list at a moment, through a container. */
class ListReader {
  readonly #guest: ListGuest;
  readonly #container: MemoryContainer;
  lists = 0;
  readonly generations = new Set<number>();
  /** Lists that were not of one piece: of two generations, or with pages missing. */
  readonly torn: string[] = [];

  constructor(guest: ListGuest, container: MemoryContainer) {
    this.#guest = guest;
    this.#container = container;
  }

  read(): void {
    const out = shadowBlock();
    const byte = new Uint8Array(1);
    const found = new Set<number>();
    for (const iovaPfn of LIST) {
      const reached = this.#container.translate(iovaPfn, Access.read, out);
      found.add(reached && this.#guest.memory.read(out.gpaPfn * 4096, byte) ? (byte[0] ?? -1) : -1);
    }
    this.lists += 1;
    for (const generation of found) this.generations.add(generation);
    if (found.size > 1 || found.has(-1)) this.torn.push([...found].join(" and "));
  }
}

/** Lets the unit work, a slice at a time, with the device reading before each. */
async function settle(guest: ListGuest, reader: ListReader): Promise<void> {
  for (let quiet = 0; quiet < 10; quiet++) {
    reader.read();
    if (guest.scheduler.turn() > 0) quiet = -1;
    await Promise.resolve();
  }
}

describe.each<Coalescing>(["leaf", "aligned", "free"])("with the %s policy", (coalescing) => {
  it.each([shadow, type1v2])(
    "a reader between all calls and all slices of an invalidation never sees half of it ($name)",
    async (profile) => {
      const guest = new ListGuest();
      const container = new MemoryContainer(profile);
      const watched = new SteppedContainer(container);
      new VfioNotifier(watched, { coalescing }).attachTo(guest.device(NIC));
      await guest.scheduler.idle();
      const reader = new ListReader(guest, container);
      watched.afterCall = () => reader.read();

      for (let generation = 2; generation <= 12; generation++) {
        guest.place(generation);
        guest.invalidate.domain(1);
        await settle(guest, reader);
        expect(guest.queue.completed).toBe(true);
      }

      expect(reader.torn).toEqual([]);
      expect([...reader.generations]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
      expect(reader.lists).toBeGreaterThan(200);
    },
  );
});

it("the same reader does see halves in a container that applies each call by itself", async () => {
  const guest = new ListGuest();
  const container = new MemoryContainer(shadow);
  new VfioNotifier(new PlainContainer(container)).attachTo(guest.device(NIC));
  await guest.scheduler.idle();
  const reader = new ListReader(guest, container);

  guest.place(2);
  guest.invalidate.domain(1);
  await settle(guest, reader);

  expect(reader.torn.length).toBeGreaterThan(0);
});

it("a step is closed before the guest's wait descriptor completes: whoever has seen the wait sees all of the step", async () => {
  const guest = new ListGuest();
  const container = new MemoryContainer(shadow);
  new VfioNotifier(container).attachTo(guest.device(NIC));
  await guest.scheduler.idle();

  for (let generation = 2; generation <= 6; generation++) {
    const reader = new ListReader(guest, container);
    guest.place(generation);
    guest.invalidate.domain(1);
    while (!guest.queue.completed) {
      guest.scheduler.turn();
      await Promise.resolve();
    }
    reader.read();
    expect([...reader.generations]).toEqual([generation]);
  }
});

it("a list that is taken away is there as a whole, and then not at all", async () => {
  const guest = new ListGuest();
  const container = new MemoryContainer(shadow);
  const watched = new SteppedContainer(container);
  new VfioNotifier(watched).attachTo(guest.device(NIC));
  await guest.scheduler.idle();
  const reader = new ListReader(guest, container);
  watched.afterCall = () => reader.read();

  for (const iovaPfn of LIST) guest.unmap(1, iovaPfn);
  guest.invalidate.domain(1);
  await settle(guest, reader);

  // Only whole lists, and lists of which nothing is left.
  expect(new Set(reader.torn)).toEqual(new Set(["-1"]));
  expect(container.entriesHeld).toBe(0);
});
