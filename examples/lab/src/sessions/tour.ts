/** A walk through the playground: what to watch, step by step. Every step is actions that the user can also do by hand. */

import type { Action } from "./action.js";

/** A stop of the tour. */
export interface TourStep {
  /** What to watch for. */
  readonly say: string;
  readonly actions: readonly Action[];
}

const WORK: Action = { do: "dma", iovaPfn: 0x10, pageCount: 8, access: 1 };

/** See the file's header. */
export const TOUR: readonly TourStep[] = [
  {
    say: "The device is at work on pages 0x10 to 0x17. Its cache fills, a page at a time.",
    actions: [WORK],
  },
  {
    say: "The guest maps page 0x18, and tells nobody: only its own tables know.",
    actions: [{ do: "map", iovaPfn: 0x18, gpaPfn: 0x108, pageCount: 1, access: 3, leafPages: 1 }],
  },
  {
    say: "It invalidates that page. Now the MAP notifier hears of it; everything else stays as it is.",
    actions: [{ do: "invalidate", what: "page", iovaPfn: 0x18 }],
  },
  {
    say: "It flushes the whole domain, though nothing has changed. The old strategy unmaps every page and maps it again; a device at work finds none.",
    actions: [{ do: "invalidate", what: "domain" }],
  },
  { say: "The device works on.", actions: [WORK] },
  {
    say: "The guest takes page 0x11 away and flushes the domain: one page goes, and under our replay no other.",
    actions: [
      { do: "unmap", iovaPfn: 0x11, pageCount: 1 },
      { do: "invalidate", what: "domain" },
    ],
  },
  {
    say: "It breaks the 2 MiB page at 0x200 up into 512 entries that say the same: no difference, no event.",
    actions: [
      { do: "split", iovaPfn: 0x200 },
      { do: "invalidate", what: "global" },
    ],
  },
  { say: "The device works on; page 0x11 is refused, as it should be.", actions: [WORK] },
  {
    say: "The whole context cache is invalidated, and again nothing has changed.",
    actions: [{ do: "invalidate", what: "context-global" }],
  },
  {
    say: "The device moves to tables B. Pages 0x10 to 0x17 are the same in both, except 0x11: those that stay mapped stay.",
    actions: [
      { do: "context", to: "tables-b" },
      { do: "invalidate", what: "context-device" },
      { do: "invalidate", what: "global" },
    ],
  },
  { say: "The device works on.", actions: [WORK] },
  {
    say: "Translation goes off and on again. Off means that the device reaches all memory; both ways are differences like any other.",
    actions: [{ do: "re-enable" }],
  },
  {
    say: "The MAP notifier is detached, and a new one is attached: its replay starts with nothing, under either strategy.",
    actions: [
      { do: "detach", kind: "map" },
      { do: "attach", kind: "map" },
    ],
  },
  { say: "A last flush of everything.", actions: [WORK, { do: "invalidate", what: "global" }] },
];
