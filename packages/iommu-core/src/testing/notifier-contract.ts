/**
 * The contract of notifier.ts as a suite that anybody can run on their own notifier.
 *
 * The notifier is attached to a real hub on the reference backend, so it sees exactly what it will see in a machine; the suite plays the guest and then asks the
 * consumer behind the notifier, frame by frame, what a device would reach. A completed invalidation is all it waits for.
 */

import { Access } from "../access.js";
import { IommuError } from "../errors.js";
import { check, checkTarget, type ContractCase, describeCases, Dice, type TestApi } from "./contract.js";
import { type MakeNotifier, NotifierRig } from "./notifier-rig.js";
import { RecordingNotifier } from "./recording-notifier.js";
import { SimpleDomain } from "./simple-backend.js";

/** The suite, for a test framework: `describeNotifierContract({ describe, it }, (space) => ({ notifier, lookup }))`. */
export function describeNotifierContract(api: TestApi, make: MakeNotifier, title = "notifier contract"): void {
  describeCases(api, title, notifierContract(make));
}

/** The rules as cases. Those of the other kind of notifier pass without a check. */
export function notifierContract(make: MakeNotifier): ContractCase[] {
  return [...COMMON_RULES, ...MAP_RULES, ...CACHE_RULES].map(([name, rule]) => ({
    name,
    run: async () => {
      const rig = new NotifierRig(make);
      if (MAP_RULES.some(([it]) => it === name) && rig.fixture.notifier.kind !== "map") return;
      if (CACHE_RULES.some(([it]) => it === name) && rig.fixture.notifier.kind !== "unmap") return;
      await rule(rig);
    },
  }));
}

type Rule = readonly [name: string, rule: (rig: NotifierRig) => Promise<void>];

const COMMON_RULES: readonly Rule[] = [
  [
    "is accepted by the hub, and active after its replay",
    async (rig) => {
      rig.map(0, 3, 100);
      await rig.attach();
      check(rig.space.attachments.length === 1, "attached something else as well");
    },
  ],
  [
    "drops everything when it is detached, and works again when it is attached again",
    async (rig) => {
      rig.map(0, 600, 1000);
      await rig.attach();
      rig.fillAll();
      await rig.detach();
      rig.checkEmpty("after detach");
      rig.unmap(0, 10);
      await rig.attach();
      rig.fillAll();
      await rig.invalidate();
    },
  ],
  [
    "drops everything when it is revoked",
    async (rig) => {
      rig.map(0, 600, 1000);
      await rig.attach();
      rig.fillAll();
      const { notifier } = rig.fixture;
      if (notifier.revoke === undefined) return;
      await notifier.revoke(new IommuError("notifier-timeout", "the suite cuts it off", { hint: "drop everything" }));
      rig.checkEmpty("after revoke");
    },
  ],
  [
    "follows the device to another domain",
    async (rig) => {
      rig.map(0, 40, 1000);
      await rig.attach();
      rig.fillAll();
      const other = new SimpleDomain("other");
      await rig.backend.assign(rig.space.sourceId, other);
      rig.checkEmpty("in an empty domain");
      await rig.backend.assign(rig.space.sourceId, rig.domain);
      rig.fillAll();
    },
  ],
  [
    "never fails and is never wrong in a long random history",
    async (rig) => {
      const dice = new Dice(7);
      await rig.attach();
      for (let round = 0; round < 120; round++) {
        const first = dice.below(4) === 0 ? dice.below(4) * 512 : dice.below(2000);
        const count = dice.below(5) === 0 ? 512 : 1 + dice.below(20);
        if (dice.below(3) === 0) rig.unmap(first, count);
        else rig.map(first, count, 512 * dice.below(8) + dice.below(3), ((dice.below(3) % 3) + 1) as Access);
        if (dice.below(2) === 0) rig.fill();
        await rig.invalidate(dice.below(2) === 0 ? first : 0, dice.below(2) === 0 ? Math.max(count, 2600) : 3000);
        rig.fillAll();
      }
    },
  ],
];

const MAP_RULES: readonly Rule[] = [
  [
    "holds what is mapped when it is attached: first frame, last frame, and nothing beside them",
    async (rig) => {
      rig.map(5, 20, 100);
      rig.map(1000, 1, 7);
      await rig.attach();
      rig.checkAll();
    },
  ],
  [
    "follows removals at the start, in the middle and at the end of a range; the frames beside them stay",
    async (rig) => {
      rig.map(10, 64, 100);
      await rig.attach();
      for (const [first, count] of [
        [10, 1],
        [73, 1],
        [40, 2],
        [11, 5],
        [60, 13],
      ] as const) {
        rig.unmap(first, count);
        await rig.invalidate(first, count);
      }
      rig.unmap(0, 100);
      await rig.invalidate();
    },
  ],
  [
    "advances targets frame by frame in a block of 512",
    async (rig) => {
      rig.map(512, 512, 4096);
      await rig.attach();
      rig.watch(512, 512);
      await rig.invalidate();
    },
  ],
  [
    "keeps the rest of a block that the guest cuts",
    async (rig) => {
      rig.map(512, 512, 4096);
      await rig.attach();
      rig.unmap(700, 1);
      await rig.invalidate(700, 1);
      rig.unmap(512, 1);
      rig.unmap(1023, 1);
      await rig.invalidate();
    },
  ],
  [
    "takes over changes of the target, of the rights, and of both",
    async (rig) => {
      rig.map(0, 30, 100, Access.read);
      await rig.attach();
      rig.map(3, 4, 200, Access.read);
      await rig.invalidate(3, 4);
      rig.map(10, 4, 110, Access.readWrite);
      await rig.invalidate(10, 4);
      rig.map(20, 4, 700, Access.write);
      await rig.invalidate();
      rig.map(0, 30, 100, Access.read);
      await rig.invalidate();
    },
  ],
  [
    "holds each frame with exactly the rights that it was given",
    async (rig) => {
      rig.map(0, 4, 100, Access.read);
      rig.map(4, 4, 104, Access.write);
      rig.map(8, 4, 108, Access.readWrite);
      await rig.attach();
      rig.checkAll();
    },
  ],
  [
    "holds frames and targets far up exactly: no address is cut to 32 bits",
    async (rig) => {
      const span = rig.end - rig.first;
      for (const iovaPfn of [2 ** 20, 2 ** 32 + 5, 2 ** 36 - 1, 2 ** 45 + 3]) {
        if (iovaPfn + 4 >= span) continue;
        rig.map(iovaPfn, 2, Math.min(2 ** 20 + 3, rig.targetLimit - 4));
        rig.watch(iovaPfn % 2 ** 20, 2);
        rig.watch(iovaPfn % 2 ** 32, 2);
      }
      rig.map(span - 2, 2, rig.targetLimit - 2);
      rig.map(3, 1, rig.targetLimit - 5);
      await rig.attach();
      await rig.invalidate();
      rig.unmap(span - 1, 1);
      await rig.invalidate();
    },
  ],
  [
    "holds hundreds of scattered frames, and forgets some of them",
    async (rig) => {
      await rig.attach();
      for (let i = 0; i < 300; i++) rig.map(i * 3, 1, (i * 7) % 301);
      await rig.invalidate();
      for (let i = 0; i < 300; i += 4) rig.unmap(i * 3, 1);
      await rig.invalidate();
    },
  ],
  [
    "loses no frame that stays mapped while others change",
    async (rig) => {
      rig.map(0, 8, 100);
      rig.map(512, 512, 4096);
      for (let i = 0; i < 40; i++) rig.map(2000 + i * 2, 1, 500);
      await rig.attach();
      const lost: number[] = [];
      const stay = [0, 7, 512, 600, 1023];
      const onCall = (): void => {
        for (const pfn of stay)
          if (rig.fixture.lookup(rig.first + pfn) === undefined && !rig.hasRefused(pfn)) lost.push(pfn);
      };
      rig.space.attach(new RecordingNotifier({ onCall, steps: false }));
      for (let i = 0; i < 40; i += 3) rig.unmap(2000 + i * 2, 1);
      for (let i = 1; i < 40; i += 3) rig.map(2000 + i * 2, 1, 900);
      for (let i = 0; i < 20; i++) rig.map(3000 + i * 2, 1, 900);
      rig.unmap(3, 1);
      await rig.invalidate();
      check(lost.length === 0, `lost frames that stay mapped: ${lost.join(", ")}`);
    },
  ],
  [
    "holds nothing of an unmapped frame once the invalidation has completed",
    async (rig) => {
      rig.map(0, 50, 100);
      await rig.attach();
      rig.unmap(0, 50);
      await rig.backend.invalidate(rig.domain);
      rig.checkEmpty("after the completed invalidation");
    },
  ],
];

const CACHE_RULES: readonly Rule[] = [
  [
    "caches what it asked for, with target and rights, and nothing for a frame that is not mapped",
    async (rig) => {
      rig.map(0, 4, 100, Access.read);
      rig.map(600, 4, 800, Access.readWrite);
      await rig.attach();
      rig.fillAll();
      for (const pfn of [0, 3, 600, 603]) {
        checkTarget(
          "cached after a fill",
          pfn,
          rig.fixture.lookup(rig.first + pfn),
          rig.domain.lookup(rig.first + pfn),
        );
      }
    },
  ],
  [
    "drops the first and the last frame of the range that it is told",
    async (rig) => {
      rig.map(0, 64, 100);
      await rig.attach();
      for (const [first, count] of [
        [0, 1],
        [63, 1],
        [10, 20],
        [40, 8],
      ] as const) {
        rig.fillAll();
        rig.map(first, count, 900);
        await rig.invalidate(first, count);
        rig.fillAll();
        rig.unmap(first, count);
        await rig.invalidate(first, count);
      }
    },
  ],
  [
    "drops what lies inside of a range of any size, all frames included",
    async (rig) => {
      rig.map(5, 1, 100);
      rig.map(700, 30, 200);
      const far = Math.min(rig.end - rig.first - 10, 2 ** 40);
      rig.map(far, 2, 300);
      await rig.attach();
      for (const target of [1000, 2000]) {
        rig.fillAll();
        for (const pfn of [5, 710, far, far + 1]) rig.map(pfn, 1, target);
        await rig.invalidate();
      }
    },
  ],
  [
    "drops cached rights when they change",
    async (rig) => {
      rig.map(0, 4, 100, Access.readWrite);
      await rig.attach();
      rig.fillAll();
      rig.map(0, 4, 100, Access.read);
      await rig.invalidate(0, 4);
    },
  ],
];
