/** By which names invalidations reach what devices hold, against a plain model: sets of names, each in use or retired. */

import type { Requester } from "@iommu-kit/iommu-core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { IotlbTag } from "../src/translate/iotlb.js";
import { ServedNames } from "../src/translate/served-names.js";

const ANY = "any";
const REQUESTERS = [0, 1, 2].map((sourceId) => ({ sourceId }) as Requester);
const TAGS = [1, 2, 3].flatMap((domainId) =>
  [0, 7].flatMap((pasid) => [false, true].map((firstStage): IotlbTag => ({ domainId, pasid, firstStage }))),
);

/** Names in use, `true`, and retired ones, of one requester. */
type Names = Map<IotlbTag | typeof ANY, boolean>;

const picked = fc.oneof(
  fc.constant(undefined),
  fc.nat(TAGS.length - 1).map((at) => (tag: IotlbTag) => tag === TAGS[at]),
  fc.integer({ min: 1, max: 3 }).map((domainId) => (tag: IotlbTag) => tag.domainId === domainId),
  fc.constantFrom(0, 7).map((pasid) => (tag: IotlbTag) => tag.pasid === pasid),
);
const step = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ do: fc.constant("note" as const), who: fc.nat(2), at: fc.nat(TAGS.length - 1) }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("retire" as const), whose: fc.nat(7), picks: picked }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("drop" as const), picks: picked }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("forget" as const), who: fc.nat(2) }) },
);

/** More than eight names of one requester are all of them. */
function noted(names: Names, tag: IotlbTag): void {
  if (names.has(ANY)) names.set(ANY, true);
  else if (names.has(tag) || names.size < 8) names.set(tag, true);
  else {
    names.clear();
    names.set(ANY, true);
  }
}

/** Whether an invalidation, of everything or by name, reaches a name for certain. */
function isPicked(name: IotlbTag | typeof ANY, picks: ((tag: IotlbTag) => boolean) | undefined): boolean {
  return picks === undefined || (name !== ANY && picks(name));
}

function retired(names: Names, picks: ((tag: IotlbTag) => boolean) | undefined): void {
  for (const name of [...names.keys()]) if (isPicked(name, picks)) names.set(name, false);
}

function dropped(names: Names, picks: ((tag: IotlbTag) => boolean) | undefined): void {
  for (const [name, inUse] of [...names]) if (!inUse && isPicked(name, picks)) names.delete(name);
}

describe("the names that a device was served by", () => {
  it("stay until the entry behind them and then their translations have been invalidated", () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 60 }), (steps) => {
        const served = new ServedNames();
        const model: Names[] = REQUESTERS.map(() => new Map());
        for (const one of steps) {
          if (one.do === "note") {
            served.note(REQUESTERS[one.who]!, { ...TAGS[one.at]! });
            noted(model[one.who]!, TAGS[one.at]!);
          } else if (one.do === "forget") {
            served.forget(REQUESTERS[one.who]!);
            model[one.who]!.clear();
          } else if (one.do === "drop") {
            served.drop(wrapped(one.picks));
            for (const names of model) dropped(names, one.picks);
          } else {
            served.retire(({ sourceId }) => ((one.whose >> sourceId) & 1) === 1, wrapped(one.picks));
            const matching = model.filter((_, index) => ((one.whose >> index) & 1) === 1);
            for (const names of matching) retired(names, one.picks);
          }
          for (const [index, names] of model.entries()) {
            for (const tag of TAGS)
              expect(served.holds(REQUESTERS[index]!, (other) => isSame(other, tag))).toBe(
                names.has(ANY) || names.has(tag),
              );
            expect(served.holds(REQUESTERS[index]!, () => false)).toBe(names.has(ANY));
          }
        }
      }),
      { numRuns: 200 },
    );
  });

  it("are any name once there are more than eight, until everything has been invalidated", () => {
    const served = new ServedNames();
    const [device, other] = [REQUESTERS[0]!, REQUESTERS[1]!];
    const isAny = (): boolean => served.holds(device, () => false);
    const everyone = (): boolean => true;
    for (let i = 0; i < 12; i++) served.note(device, { ...TAGS[0]! });
    for (const tag of TAGS.slice(0, 8)) served.note(device, tag);
    expect(isAny()).toBe(false);
    served.note(device, TAGS[8]!);
    expect([isAny(), served.holds(other, everyone)]).toEqual([true, false]);
    served.retire(everyone, everyone);
    served.drop();
    expect(isAny()).toBe(true);
    served.retire(everyone);
    served.note(device, TAGS[9]!);
    served.drop();
    expect(isAny()).toBe(true);
    served.retire(everyone);
    served.drop(everyone);
    expect(isAny()).toBe(true);
    served.drop();
    expect([isAny(), served.holds(device, everyone)]).toEqual([false, false]);
    served.note(device, TAGS[9]!);
    expect([isAny(), served.holds(device, everyone)]).toEqual([false, true]);
  });
});

/** Tags are told apart by what they say. */
function wrapped(picks: ((tag: IotlbTag) => boolean) | undefined): ((tag: IotlbTag) => boolean) | undefined {
  return picks === undefined ? undefined : (tag) => picks(TAGS.find((other) => isSame(other, tag))!);
}

function isSame(one: IotlbTag, other: IotlbTag): boolean {
  return one.domainId === other.domainId && one.pasid === other.pasid && one.firstStage === other.firstStage;
}
