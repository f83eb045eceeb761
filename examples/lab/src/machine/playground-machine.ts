/** A guest with its driver, one device, and two sets of tables that its context-entry can point to. Carries out actions under one strategy. */

import type { FrameRange } from "@iommu-kit/iommu-core";
import type { VtdIommu } from "@iommu-kit/iommu-vtd";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import type { Follow } from "@iommu-kit/linux-trace/follow/follow";
import type { Action, Context, Invalidation } from "../sessions/action.js";
import type { LabMachine } from "../sessions/session.js";
import type { ReadWord } from "../tables/table-tree.js";
import { type DmaOutcome, PlaygroundDevice } from "./playground-device.js";

/** The playground's only device. */
const DEVICE = "00:03.0";
const LEVELS = 3;
const DOMAINS: Readonly<Record<Context, number>> = { "tables-a": 1, "tables-b": 2, "pass-through": 3, absent: 1 };

/** See the file's header. */
export class PlaygroundMachine implements LabMachine {
  readonly unit: VtdIommu;
  readonly regions: readonly FrameRange[];
  readonly device: PlaygroundDevice;
  readonly devices: ReadonlyMap<number, PlaygroundDevice>;
  readonly read: ReadWord = (gpa) => this.#guest.memory.peek(gpa);
  readonly #guest = new GuestDriver({ cachingMode: true, addressWidths: [39], superpages: ["2M"] });
  /** What the context-entry says. */
  #context: Context = "tables-a";

  constructor(follow: Follow) {
    this.unit = this.#guest.unit;
    this.regions = this.#guest.memory.ram;
    const space = this.#guest.device(DEVICE);
    this.device = new PlaygroundDevice(DEVICE, space, follow, this.regions);
    this.devices = new Map([[space.sourceId, this.device]]);
    this.#fillTables();
    this.#guest.context(DEVICE, { did: 1, levels: LEVELS });
    this.#guest.start();
    this.device.attach("unmap");
    this.device.attach("map");
    this.#settle();
  }

  get translates(): boolean {
    return this.#guest.status >>> 31 === 1;
  }

  get context(): Context {
    return this.#context;
  }

  /** What keeps an action from making sense in this machine, as a sentence; `undefined`: nothing. */
  problemOf(action: Action): string | undefined {
    if (action.do === "split" && this.#leafPages(action.iovaPfn) < 512)
      return `There is no 2 MiB page at 0x${action.iovaPfn.toString(16)}: the guest can only break up what it has mapped as one.`;
    if (action.do !== "unmap") return undefined;
    for (let page = 0; page < action.pageCount; page++)
      if (this.#leafPages(action.iovaPfn + page) > 0) return undefined;
    return "None of these pages is mapped.";
  }

  /** Pages of the leaf that maps a page in the tables that are edited; 0: none does. */
  #leafPages(iovaPfn: number): number {
    const tables = this.#guest.tables(this.#edited);
    const level = tables.leafLevel(iovaPfn);
    const isPresent = (this.read(tables.entryGpa(iovaPfn, level)) & 3) !== 0;
    return isPresent ? 512 ** (level - 1) : 0;
  }

  /** Carries an action out, to its end. Answers how its DMA went, page by page. */
  perform(action: Action): readonly DmaOutcome[] {
    const outcomes = action.do === "dma" ? this.#dma(action) : [];
    if (action.do !== "dma") this.#change(action);
    this.#settle();
    return outcomes;
  }

  #change(action: Exclude<Action, { readonly do: "dma" }>): void {
    switch (action.do) {
      case "map":
        this.#guest.map(this.#edited, action);
        break;
      case "unmap":
        this.#guest.unmap(this.#edited, action.iovaPfn, action.pageCount);
        break;
      case "split":
        this.#guest.tables(this.#edited).split(action.iovaPfn);
        break;
      case "invalidate":
        this.#invalidate(action.what, action.iovaPfn ?? 0);
        break;
      case "context":
        this.#setContext(action.to);
        break;
      case "translation":
        if (action.on) this.#guest.enable();
        else this.#guest.disable();
        break;
      case "re-enable":
        this.#guest.disable();
        this.#settle();
        this.#guest.enable();
        break;
      case "attach":
        this.device.attach(action.kind);
        break;
      case "detach":
        this.device.detach(action.kind);
        break;
    }
  }

  /** The domain whose tables are edited: those that the context-entry points to, else the first. */
  get #edited(): number {
    return this.#context === "tables-b" ? 2 : 1;
  }

  #invalidate(what: Invalidation, iovaPfn: number): void {
    const { invalidate } = this.#guest;
    const did = DOMAINS[this.#context];
    switch (what) {
      case "page":
        invalidate.page(did, iovaPfn);
        break;
      case "domain":
        invalidate.domain(did);
        break;
      case "global":
        invalidate.all();
        break;
      case "context-device":
        invalidate.context(DEVICE, did);
        break;
      case "context-domain":
        invalidate.contextsOfDomain(did);
        break;
      case "context-global":
        invalidate.contexts();
        break;
    }
  }

  #setContext(to: Context): void {
    this.#context = to;
    if (to === "absent") this.#guest.contexts.clear(DEVICE);
    else this.#guest.context(DEVICE, { did: DOMAINS[to], levels: LEVELS, passThrough: to === "pass-through" });
  }

  #dma({ iovaPfn, pageCount, access }: Extract<Action, { readonly do: "dma" }>): readonly DmaOutcome[] {
    const outcomes = Array.from({ length: pageCount }, (_, page) => this.device.request(iovaPfn + page, access));
    // The driver reads its fault records, so that there is always room for the next one.
    this.#guest.takeFaults();
    return outcomes;
  }

  /** Both sets have pages 0x10 to 0x17 in common; the rest differs. */
  #fillTables(): void {
    const guest = this.#guest;
    for (const did of [1, 2]) {
      guest.tables(did, LEVELS);
      guest.map(did, { iovaPfn: 0x10, pageCount: 8, gpaPfn: 0x100 });
    }
    guest.map(1, { iovaPfn: 0x20, pageCount: 4, gpaPfn: 0x180, access: 1 });
    guest.map(1, { iovaPfn: 0x200, gpaPfn: 0x400, leafPages: 512 });
    guest.map(2, { iovaPfn: 0x20, pageCount: 2, gpaPfn: 0x1a0, access: 1 });
    guest.map(2, { iovaPfn: 0x30, pageCount: 4, gpaPfn: 0x1c0 });
  }

  /** Lets the unit finish what it deferred. */
  #settle(): void {
    while (this.#guest.scheduler.turn() > 0);
  }
}
