/**
 * The contract of backend.ts as a suite that anybody can run on their own backend.
 *
 * The suite plays the guest through two functions of the fixture, asks the backend its two questions through an address space, and hears its announcements through
 * notifiers on a real hub. What was mapped is kept beside as plain runs.
 */

import { Access } from "../access.js";
import type { FrameRange } from "../range.js";
import { Translation } from "../translation.js";
import { type BackendFixture, BackendRig, CollectingSink } from "./backend-rig.js";
import { check, checkTarget, type ContractCase, describeCases, Dice, type TestApi } from "./contract.js";
import { RecordingFlushNotifier } from "./recording-flush-notifier.js";
import { RecordingNotifier } from "./recording-notifier.js";
import { RunList } from "./run-list.js";

/** Makes a new fixture. Called once for every case. */
export type MakeBackend = () => BackendFixture;

/** The suite, for a test framework: `describeBackendContract({ describe, it }, () => ({ backend, sourceId, map, unmap }))`. */
export function describeBackendContract(api: TestApi, make: MakeBackend, title = "backend contract"): void {
  describeCases(api, title, backendContract(make));
}

/** The rules as cases. */
export function backendContract(make: MakeBackend): ContractCase[] {
  return RULES.map(([name, rule]) => ({ name, run: () => rule(new BackendRig(make())) }));
}

type Rule = readonly [name: string, rule: (rig: BackendRig) => Promise<void>];

const RULES: readonly Rule[] = [
  [
    "translates every frame that is mapped, with all its rights, and refuses every other",
    async (rig) => {
      for (const [i, access] of rig.rights.entries()) await rig.map(i * 100, 5, 1000 + i * 10, access);
      await rig.map(1024, 512, 4096);
      rig.checkTranslations();
    },
  ],
  [
    "answers a zero-length read of a mapped frame, and refuses it elsewhere",
    async (rig) => {
      await rig.map(3, 1, 100);
      check(rig.translate(rig.first + 3, Access.none) !== undefined, "a zero-length read of a mapped frame is refused");
      check(rig.translate(rig.first + 4, Access.none) === undefined, "a zero-length read beside it is allowed");
    },
  ],
  [
    "answers for a naturally aligned block, and every frame of the block translates to its place",
    async (rig) => {
      await rig.map(512, 1024, 4096);
      await rig.map(5, 1, 70);
      const out = new Translation();
      for (const pfn of [rig.first + 5, rig.first + 512, rig.first + 700, rig.first + 1535]) {
        rig.space.translate(pfn, Access.read, out);
        const { gpaPfn, pageCount } = out;
        check(out.reason === 0, `frame ${pfn} is refused: ${out.cause}`);
        check(Number.isInteger(Math.log2(pageCount)), `frame ${pfn}: a block of ${pageCount} pages`);
        const block = pfn - (pfn % pageCount);
        for (const at of [block, block + pageCount - 1]) {
          checkTarget(
            "the answer's block",
            at,
            { gpaPfn: gpaPfn + (at - pfn), access: out.access },
            rig.truth.lookup(at),
          );
        }
      }
    },
  ],
  [
    "scans exactly what it translates",
    async (rig) => {
      rig.checkScan();
      for (const [i, access] of rig.rights.entries()) await rig.map(i * 100, 5, 1000 + i * 10, access);
      await rig.map(1024, 512, 4096);
      await rig.map(2000, 1, 5);
      rig.checkScan();
      await rig.unmap(1024, 512);
      rig.checkScan();
    },
  ],
  [
    "scans parts of the space, cut at any frame, with targets advanced",
    async (rig) => {
      await rig.map(10, 40, 1000);
      await rig.map(1024, 1024, 4096);
      for (const at of [0, 10, 11, 49, 50, 1023, 1024, 1025, 1500, 2047, 2048]) {
        for (const pageCount of [1, 2, 39, 600]) rig.checkScan({ firstPfn: rig.first + at, pageCount });
      }
    },
  ],
  [
    "stops a scan as soon as it is told to, and goes on where it stopped",
    async (rig) => {
      for (let i = 0; i < 12; i++) await rig.map(i * 300, 3, 1000 + i * 10);
      for (const calls of [1, 2, 5]) rig.checkScan(undefined, calls);
    },
  ],
  [
    "scans from inside a scan: neither disturbs the other",
    async (rig) => {
      for (let i = 0; i < 6; i++) await rig.map(i * 600, 3, 1000 + i * 10);
      await rig.map(4096, 512, 4096);
      rig.checkScan(undefined, Infinity, () => {
        rig.checkScan();
        rig.checkScan({ firstPfn: rig.first + 600, pageCount: 2 });
      });
    },
  ],
  [
    "forgets what it cached when the guest unmaps or maps anew",
    async (rig) => {
      await rig.map(0, 8, 100);
      rig.checkTranslations();
      await rig.unmap(3, 2);
      rig.checkTranslations();
      await rig.map(3, 2, 500);
      rig.checkTranslations();
      await rig.unmap(0, 8);
      rig.checkTranslations();
      await rig.map(0, 8, 100, rig.rights[0] ?? Access.read);
      rig.checkTranslations();
    },
  ],
  [
    "has dropped its caches before any notifier runs",
    async (rig) => {
      await rig.map(0, 8, 100);
      rig.checkTranslations();
      let stale: Error | undefined;
      const onCall = (range: FrameRange): void => {
        try {
          rig.checkTranslations(range);
        } catch (error) {
          stale ??= error as Error;
        }
      };
      rig.space.attach(new RecordingFlushNotifier({ onCall }));
      await rig.unmap(2, 3);
      await rig.map(2, 3, 700);
      await rig.unmap(0, 8);
      if (stale !== undefined) throw stale;
    },
  ],
  [
    "announces every change, over a range that covers it",
    async (rig) => {
      await rig.map(0, 4, 100);
      const page = new RecordingNotifier();
      const flush = new RecordingFlushNotifier();
      rig.space.attach(page);
      rig.space.attach(flush);
      const told = (at: number): boolean => {
        const pfn = rig.first + at;
        return flush.take().some(({ firstPfn, pageCount }) => pfn >= firstPfn && pfn < firstPfn + pageCount);
      };
      const holds = (what: string): void => {
        page.check();
        const [held, expected] = [JSON.stringify(page.held()), JSON.stringify(rig.truth.joined())];
        check(held === expected, `${what}: a MAP notifier holds ${held}, the guest mapped ${expected}`);
      };
      holds("at replay");
      await rig.map(600, 5, 200);
      holds("after a map");
      flush.take();
      await rig.unmap(0, 4);
      check(told(3), "an UNMAP-only notifier was not told of the last frame of an unmap");
      holds("after an unmap");
      await rig.unmap(604, 1);
      check(told(604), "an UNMAP-only notifier was not told of an unmap");
      holds("after another unmap");
      await rig.map(604, 1, 999, rig.rights[0] ?? Access.read);
      holds("after a map with other rights");
    },
  ],
  [
    "lets the guest's wait complete only when every notifier has completed",
    async (rig) => {
      await rig.map(0, 4, 100);
      const flush = new RecordingFlushNotifier();
      rig.space.attach(flush);
      flush.answers.mode = "manual";
      let done = false;
      const wait = rig.unmap(0, 4).then(() => (done = true));
      for (let i = 0; i < 50; i++) await Promise.resolve();
      check(flush.answers.size > 0, "an UNMAP-only notifier was not told");
      check(!done, "the guest's wait completed before the notifier had");
      flush.answers.mode = "sync";
      flush.answers.settle();
      await wait;
    },
  ],
  [
    "answers with the same domain object while nothing changes",
    async (rig) => {
      await rig.map(0, 4, 100);
      const { domain } = rig.space;
      rig.checkTranslations();
      check(rig.space.domain === domain, "another object although nothing has changed");
      check(domain.kind === "table", `expected a domain of kind table, got ${domain.kind}`);
      let end = 0;
      for (const hole of domain.holes) {
        check(hole.firstPfn >= end && hole.pageCount > 0, "holes are not ascending and disjoint");
        end = hole.firstPfn + hole.pageCount;
      }
    },
  ],
  [
    "shows one device nothing of another's tables",
    async (rig) => {
      const { otherSourceId } = rig.fixture;
      if (otherSourceId === undefined) return;
      const other = rig.unit.addressSpace(otherSourceId);
      const notifier = new RecordingNotifier();
      other.attach(notifier);
      await rig.map(0, 4, 100);
      const out = new Translation();
      other.translate(rig.first, Access.read, out);
      check(out.reason !== 0, "the other device reaches the first one's frames");
      check(notifier.pageCount === 0, "the other device's notifier was told of the first one's frames");
      check(other.domain !== rig.space.domain, "both devices see one domain");
    },
  ],
  [
    "never throws, whatever a device asks for",
    async (rig) => {
      await rig.map(0, 4, 100);
      const stranger = rig.unit.addressSpace(0xfffe);
      const out = new Translation();
      for (const space of [rig.space, stranger]) {
        for (const pfn of [0, 1, 2 ** 20, 2 ** 31, 2 ** 36, 2 ** 40 + 1, 2 ** 52 - 1]) {
          for (const access of [0, 1, 2, 3] as const) space.translate(pfn, access, out);
        }
        const sink = new CollectingSink(new RunList(), { firstPfn: 0, pageCount: 2 ** 52 }, Infinity);
        space.domain.scan({ firstPfn: 2 ** 45, pageCount: 2 ** 45 }, sink);
      }
    },
  ],
  [
    "leaves every notifier with what it translates, in a long random history",
    async (rig) => {
      const dice = new Dice(11);
      const notifiers = [new RecordingNotifier(), new RecordingNotifier({ granularity: "block" })];
      for (const notifier of notifiers) rig.space.attach(notifier);
      for (let round = 0; round < 40; round++) {
        const at = dice.below(4) === 0 ? dice.below(4) * 512 : dice.below(1500);
        const count = dice.below(10) === 0 ? 512 : 1 + dice.below(20);
        for (const run of rig.truth.joined(rig.first + at, count))
          await rig.unmap(run.iovaPfn - rig.first, run.pageCount);
        const access = rig.rights[dice.below(rig.rights.length)] ?? Access.read;
        if (dice.below(4) > 0) await rig.map(at, count, 512 * dice.below(8), access);
        for (const notifier of notifiers) {
          notifier.check();
          const [held, expected] = [JSON.stringify(notifier.held()), JSON.stringify(rig.truth.joined())];
          check(held === expected, `a MAP notifier holds ${held}, the guest mapped ${expected}`);
        }
        rig.checkTranslations();
      }
      rig.checkScan();
    },
  ],
];
