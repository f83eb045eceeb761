/**
 * What a fuzzed guest is: plain data, so it can be shrunk, stored and replayed. 64-bit values are hexadecimal strings.
 */

/** A requester: a source-id, and the PASID of its requests. */
export interface Who {
  readonly source: number;
  readonly pasid?: number;
  readonly privileged?: boolean;
}

/** An edit of guest memory: a 64-bit word of a frame. */
export interface Edit {
  readonly frame: number;
  /** 0 to 511. */
  readonly index: number;
  readonly value: string;
}

/** How a consumer behaves. */
export interface ConsumerPlan {
  readonly kind: "map" | "unmap" | "device-tlb";
  readonly granularity?: "page" | "block";
  readonly largestBlock?: number;
  readonly replace?: boolean;
  readonly steps?: boolean;
  readonly capacity?: number;
  readonly answers?: "sync" | "microtask" | "manual";
  /** It throws at every call from this one on. */
  readonly throwsAt?: number;
  /** [first frame, frames]. Default: all. */
  readonly range?: readonly [number, number];
}

/** An invalidation, or a wait. */
export interface Invalidation {
  readonly what:
    | "contexts"
    | "contextsOfDomain"
    | "contextsOfDevice"
    | "all"
    | "domain"
    | "pages"
    | "pasids"
    | "pasidsOfDomain"
    | "pasid"
    | "pasidAll"
    | "pasidPages"
    | "interrupts"
    | "wait"
    | "raw";
  readonly did?: number;
  readonly source?: number;
  readonly pasid?: number;
  readonly pfn?: number;
  readonly order?: number;
  /** Of `raw`: the words, as hexadecimal. */
  readonly words?: readonly string[];
}

/** One thing that a guest, a device or the host does. */
export type Step =
  | ({ readonly do: "poke" } & Edit)
  | ({ readonly do: "fill"; readonly count: number; readonly stride: string } & Edit)
  /** `value` is written at the `after`th fetch of the unit from now on: between any two reads. */
  | ({ readonly do: "ambush"; readonly after: number } & Edit)
  | { readonly do: "write"; readonly offset: number; readonly bytes: 4 | 8; readonly value: string }
  | { readonly do: "read"; readonly offset: number; readonly bytes: 4 | 8 }
  | { readonly do: "root"; readonly frame: number; readonly mode: number }
  | { readonly do: "enable"; readonly on: boolean }
  | { readonly do: "queue"; readonly on: boolean; readonly wide: boolean; readonly order: number }
  | { readonly do: "submit"; readonly list: readonly Invalidation[] }
  | { readonly do: "registers"; readonly it: Invalidation }
  | { readonly do: "attach"; readonly slot: number; readonly who: Who; readonly plan: ConsumerPlan }
  | { readonly do: "share"; readonly slot: number; readonly who: Who }
  | { readonly do: "detach"; readonly slot: number }
  | { readonly do: "retry"; readonly slot: number; readonly capacity: number }
  | { readonly do: "answer"; readonly slot: number; readonly how: "settle" | "fail" }
  | {
      readonly do: "dma";
      readonly who: Who;
      readonly pfn: number;
      readonly how: "translate" | "read" | "write" | "cas" | "zero" | "lease";
      readonly access: 0 | 1 | 2 | 3;
      readonly bytes?: number;
      /** `pfn` picks one of the pages that the tables map. */
      readonly mapped?: boolean;
    }
  | {
      readonly do: "ats";
      readonly who: Who;
      readonly pfn: number;
      readonly count: number;
      readonly noWrite: boolean;
      /** As of `dma`. */
      readonly mapped?: boolean;
    }
  | {
      readonly do: "page-request";
      readonly who: Who;
      readonly pfn: number;
      readonly write: boolean;
      readonly group: number;
      readonly last: boolean;
    }
  | { readonly do: "interrupt"; readonly who?: Who; readonly address: number; readonly data: number }
  /** Edits on the way to a page, then the invalidation that covers them: nothing older may be answered. Skipped unless the guest's caches are clean. */
  | {
      readonly do: "cover";
      readonly who: Who;
      readonly pfn: number;
      readonly level: number;
      readonly value: string;
      readonly by: "pages" | "domain" | "all" | "context";
      readonly order: number;
    }
  | { readonly do: "turn"; readonly turns: number }
  | { readonly do: "advance"; readonly milliseconds: number }
  | { readonly do: "idle" }
  | { readonly do: "reset"; readonly warm: boolean }
  | { readonly do: "save" }
  | { readonly do: "restore" }
  | { readonly do: "unplug"; readonly who: Who }
  | { readonly do: "regions"; readonly list: readonly (readonly [number, number])[] }
  /**
   * A device that never answers is sent `count` device-TLB invalidations; it answers, or time passes, or the unit is reset, or nothing of this happens. Then it is sent one
   * more, with a wait: it is told, and the guest hears of a time-out.
   */
  | {
      readonly do: "drop";
      readonly source: number;
      readonly count: number;
      readonly meanwhile: "answer" | "time" | "reset" | "nothing";
    }
  /** A global flush, quiescence, and every check there is. */
  | { readonly do: "flush"; readonly by: "root" | "queue" | "registers" };

/** What a unit is configured as: the part of `VtdConfig` that is varied, as plain data. */
export interface UnitPlan {
  readonly mode: "legacy" | "scalable";
  readonly hostBits: number;
  readonly guestBits: number;
  readonly widths: readonly (39 | 48 | 57)[];
  readonly fiveLevels: boolean;
  readonly firstStage1G: boolean;
  readonly superpages: readonly ("2M" | "1G")[];
  readonly snoopControl: boolean;
  readonly passThrough: boolean;
  readonly nested: boolean;
  readonly pasidBits: number;
  readonly requestPasid: boolean;
  readonly requestPrivilege: boolean;
  readonly supervisor: boolean;
  readonly secondStageFlags: boolean;
  readonly extendedAccessed: boolean;
  readonly deviceTlb: boolean;
  readonly pageRequests: boolean;
  readonly zeroLengthRead: boolean;
  readonly cachingMode: boolean;
  readonly caches: number;
  readonly faultRecords: number;
  readonly protectedRegions: boolean;
  readonly windows: boolean;
  readonly limits: {
    readonly entriesPerSlice: number;
    readonly mappingsPerSlice: number;
    readonly mappingsPerView: number;
    readonly tablesPerView: number;
  };
}

/** One round: a unit and what happens to it. */
export interface Scenario {
  readonly version: 1;
  /** What it is a reproduction of, for people. */
  readonly note?: string;
  readonly unit: UnitPlan;
  readonly steps: readonly Step[];
}

/** The steps of one kind. */
export type StepOf<Kind extends Step["do"]> = Extract<Step, { do: Kind }>;
