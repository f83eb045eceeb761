import { type Access, Translation } from "@iommu-kit/iommu-core";
import { RecordingNotifier, type Run } from "@iommu-kit/iommu-core/testing";
import { CacheNotifier } from "@iommu-kit/notifier-cache";
import { MemoryContainer, type1v2, VfioNotifier } from "@iommu-kit/notifier-vfio";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Shape } from "../src/guest/driver-queue.js";
import { encode } from "../src/guest/requests.js";
import { DISK, DOORBELL, GPU, Machine, NIC, RESERVED } from "./machine.js";
import { NaiveModel, type Request } from "./naive-model.js";

const ENDPOINTS = [NIC, DISK, GPU];
const START: readonly Request[] = [
  { type: "attach", domain: 1, endpoint: NIC, flags: 0 },
  { type: "attach", domain: 1, endpoint: DISK, flags: 0 },
  { type: "attach", domain: 2, endpoint: GPU, flags: 0 },
];
const DOMAIN_LAST = 5;
const INPUT_FRAMES = 0x100000;
const TARGET_BITS = 32;
const MAPPINGS = 12;
/** What notifiers are told of bypass. */
const REGION_FRAMES = 0x280;
/** Frames that are looked at after every request: where runs begin and end, the reserved ranges, and their neighbours. */
const FRAMES = [...Array.from({ length: 14 }, (_frame, i) => i), 0x1ff, 0x200, 0x20f, 0x210, 0xfedff, 0xfee00, 0xfffff];

const page = (pfn: number): bigint => BigInt(pfn) * 4096n;
const bytesOf = ({ kind, firstPfn, pageCount }: typeof DOORBELL | typeof RESERVED) => ({
  kind,
  start: page(firstPfn),
  end: page(firstPfn + pageCount) - 1n,
});

/** Endpoints 1 and 2 begin in domain 1, the third in domain 2: requests mostly meet what is there. */
const domain = fc.constantFrom(1, 1, 1, 1, 2, 2, 2, 3, DOMAIN_LAST, DOMAIN_LAST + 1);
const endpoint = fc.constantFrom(...ENDPOINTS, ...ENDPOINTS, 0x7777);
/** Mostly whole pages in a small corner, so that requests meet; now and then anything. */
const frame = fc.oneof({ weight: 12, arbitrary: fc.integer({ min: 0, max: 9 }) }, fc.constantFrom(...FRAMES, 2 ** 40));
const count = fc.oneof({ weight: 9, arbitrary: fc.integer({ min: 1, max: 5 }) }, fc.constantFrom(0, 0x200, 2 ** 30));
const slip = fc.oneof({ weight: 30, arbitrary: fc.constant(0n) }, fc.constantFrom(1n, -1n, 0x800n));
const range = fc.tuple(frame, count, slip, slip).map(([first, pages, startSlip, endSlip]) => ({
  start: BigInt.asUintN(64, page(first) + startSlip),
  end: BigInt.asUintN(64, page(first + pages) - 1n + endSlip),
}));
const target = fc
  .tuple(
    fc.oneof({ weight: 12, arbitrary: fc.integer({ min: 0x100, max: 0x110 }) }, fc.constantFrom(0xfffff, 2 ** 38)),
    slip,
  )
  .map(([first, off]) => BigInt.asUintN(64, page(first) + off));
const flags = fc.oneof({ weight: 20, arbitrary: fc.constantFrom(1, 2, 3, 3, 7) }, fc.constantFrom(0, 4, 8));
const request: fc.Arbitrary<Request> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      type: fc.constant("attach" as const),
      domain,
      endpoint,
      flags: fc.constantFrom(0, 0, 0, 0, 1, 2),
    }),
  },
  { weight: 2, arbitrary: fc.record({ type: fc.constant("detach" as const), domain, endpoint }) },
  {
    weight: 12,
    arbitrary: fc
      .tuple(domain, range, target, flags)
      .map(([of, bytes, to, has]) => ({ type: "map" as const, domain: of, ...bytes, target: to, flags: has })),
  },
  {
    weight: 6,
    arbitrary: fc.tuple(domain, range).map(([of, bytes]) => ({ type: "unmap" as const, domain: of, ...bytes })),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant("probe" as const), endpoint }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant("bypass" as const), on: fc.boolean() }) },
);
const shape: fc.Arbitrary<Shape> = fc.record({ pieces: fc.integer({ min: 1, max: 3 }), indirect: fc.boolean() });

function bytesFor(wanted: Exclude<Request, { type: "bypass" | "probe" }>): Uint8Array {
  switch (wanted.type) {
    case "attach":
      return encode.attach(wanted.domain, wanted.endpoint, wanted.flags);
    case "detach":
      return encode.detach(wanted.domain, wanted.endpoint);
    case "map":
      return encode.map(wanted.domain, wanted);
    default:
      return encode.unmap(wanted.domain, wanted.start, wanted.end);
  }
}

/** Both notifiers of the project, as they are, and two that object to every breach of the contract. */
class Followers {
  readonly mirror = new VfioNotifier(new MemoryContainer(type1v2));
  readonly cache: CacheNotifier;
  readonly page: RecordingNotifier;
  readonly block = new RecordingNotifier({ granularity: "block", name: "block" });

  constructor(machine: Machine, model: NaiveModel, id: number) {
    const space = machine.device.addressSpace(id);
    const truth = (iovaPfn: number) => {
      const verdict = model.lookup(id, page(iovaPfn), 0);
      return "target" in verdict
        ? { gpaPfn: Number(verdict.target / 4096n), access: verdict.rights as Access }
        : undefined;
    };
    this.page = new RecordingNotifier({ name: "page", truth });
    this.cache = new CacheNotifier(space);
    for (const notifier of [this.mirror, this.cache, this.page, this.block]) space.attach(notifier);
  }
}

describe("random requests, against a naive model", () => {
  it("get the same status, and leave every notifier with what the model maps", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(request, shape), { maxLength: 40, size: "max" }),
        fc.boolean(),
        async (steps, bypass) => {
          const machine = Machine.booted({
            bypass,
            inputRange: { firstPfn: 0, pageCount: INPUT_FRAMES },
            domainRange: { first: 0, last: DOMAIN_LAST },
            targetBits: TARGET_BITS,
            mappingLimit: MAPPINGS,
            regions: [{ firstPfn: 0, pageCount: REGION_FRAMES }],
          });
          const limits = {
            domainLast: DOMAIN_LAST,
            inputEnd: page(INPUT_FRAMES) - 1n,
            targetEnd: 2n ** BigInt(TARGET_BITS) - 1n,
            mappings: MAPPINGS,
          };
          const endpoints = ENDPOINTS.map((id) => ({
            id,
            reserved: id === GPU ? [RESERVED, DOORBELL].map(bytesOf) : [],
          }));
          const model = new NaiveModel(endpoints, limits, bypass);
          const followers = ENDPOINTS.map((id) => new Followers(machine, model, id));
          const first = START.map((wanted) => [wanted, {}] as const);
          for (const [wanted, how] of [...first, ...steps]) {
            const expected = model.perform(wanted);
            if (wanted.type === "bypass") machine.driver.setBypass(wanted.on);
            else if (wanted.type === "probe") {
              const regions = expected === 0 ? model.regionsOf(wanted.endpoint) : [];
              expect(await machine.driver.probe(wanted.endpoint)).toEqual({ status: expected, regions });
            } else
              expect(await machine.driver.status(bytesFor(wanted), how), JSON.stringify(wanted, big)).toBe(expected);
            checkAll(machine, model, followers);
          }
        },
      ),
      { numRuns: 25 },
    );
  });
});

function big(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? `0x${value.toString(16)}` : value;
}

function checkAll(machine: Machine, model: NaiveModel, followers: readonly Followers[]): void {
  const out = new Translation();
  for (const [i, id] of ENDPOINTS.entries()) {
    const { mirror, cache, page: exact, block } = followers[i]!;
    const mirrored = [...mirror.entries()];
    for (const notifier of [exact, block]) notifier.check();
    for (const pfn of FRAMES) {
      for (const rights of [1, 2] as const) {
        const verdict = model.lookup(id, page(pfn), rights);
        const expected =
          "target" in verdict ? { gpaPfn: Number(verdict.target / 4096n), access: verdict.rights } : undefined;
        machine.device.addressSpace(id).translate(pfn, rights, out);
        const got = out.reason === 0 ? { gpaPfn: out.gpaPfn, access: out.access } : undefined;
        expect(got).toEqual(expected);
        const cached = cache.translate(pfn, rights, out) ? { gpaPfn: out.gpaPfn, access: out.access } : undefined;
        expect(cached).toEqual(expected);
        // The device reports what it refuses: to the test, and to the cache that asked.
        const report =
          "reason" in verdict ? [{ ...verdict, endpoint: id, address: page(pfn), flags: 0x100 | rights }] : [];
        expect(machine.driver.faults()).toEqual([...report, ...report]);
      }
      const any = model.lookup(id, page(pfn), 0);
      const reachable =
        "target" in any && (machine.device.addressSpace(id).domain.kind === "table" || pfn < REGION_FRAMES);
      const held = reachable ? { gpaPfn: Number(any.target / 4096n), access: any.rights } : undefined;
      expect(exact.lookup(pfn)).toEqual(held);
      expect(block.lookup(pfn)).toEqual(held);
      // type1v2 keeps PC's interrupt window free, whatever the guest maps there.
      if (pfn < 0xfee00 || pfn > 0xfeeff) expect(within(mirrored, pfn)).toEqual(held);
    }
  }
}

/** Where a frame goes by a list of entries. */
function within(entries: readonly Run[], pfn: number): { gpaPfn: number; access: Access } | undefined {
  const entry = entries.find(({ iovaPfn, pageCount }) => pfn >= iovaPfn && pfn < iovaPfn + pageCount);
  return entry === undefined ? undefined : { gpaPfn: entry.gpaPfn + pfn - entry.iovaPfn, access: entry.access };
}
