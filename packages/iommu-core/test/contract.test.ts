/**
 * What was written for contract 1: parts as other packages have them, frozen. They must compile and be served for as long as the contracts are 1.
 *
 * If a change breaks this file, it is breaking (docs/contract.md): raise the number, and add a file for the new contract.
 */

import { describe, expect, it } from "vitest";
import {
  type Access,
  type Announce,
  type Backend,
  BACKEND_CONTRACT,
  BackendIommu,
  type Completion,
  type DeviceTlbNotifier,
  type Domain,
  type FrameRange,
  type MapNotifier,
  type MappingSink,
  NOTIFIER_CONTRACT,
  type Requester,
  type Translation,
  type UnmapNotifier,
} from "../src/index.js";
import { FakeMemory, ManualScheduler } from "../src/testing/index.js";

/** Frame 5 goes to frame 9. */
class Backend1 implements Backend {
  readonly contract = 1;
  announce: Announce = () => undefined;
  readonly domain: Domain = {
    kind: "table",
    label: "frozen",
    holes: [],
    scan: (range: FrameRange, sink: MappingSink): void => {
      if (!sink.reach(range.firstPfn, 1)) return;
      if (range.firstPfn <= 5 && range.firstPfn + range.pageCount > 5) sink.run(5, 1, 9, 3);
    },
  };

  connect(announce: Announce): void {
    this.announce = announce;
  }

  domainOf(_requester: Requester): Domain {
    return this.domain;
  }

  translate(_requester: Requester, iovaPfn: number, _access: Access, out: Translation): void {
    if (iovaPfn === 5) out.allow(9, 1, 3);
    else out.refuse(1, "not mapped");
  }
}

class Map1 implements MapNotifier {
  readonly kind = "map";
  readonly contract = 1;
  readonly granularity = "page";
  readonly told: string[] = [];

  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): undefined {
    this.told.push(`map ${iovaPfn}+${pageCount} to ${gpaPfn} ${access}`);
  }

  unmap(iovaPfn: number, pageCount: number): Completion {
    this.told.push(`unmap ${iovaPfn}+${pageCount}`);
    return undefined;
  }
}

class Unmap1 implements UnmapNotifier {
  readonly kind = "unmap";
  readonly contract = 1;
  flushes = 0;

  unmap(_iovaPfn: number, _pageCount: number): Completion {
    this.flushes += 1;
    return undefined;
  }
}

class DeviceTlb1 implements DeviceTlbNotifier {
  readonly kind = "device-tlb";
  readonly contract = 1;

  invalidate(_iovaPfn: number, _pageCount: number): Completion {
    return undefined;
  }
}

function unitOn(backend: Backend): BackendIommu {
  return new BackendIommu({ backend, memory: new FakeMemory(), scheduler: new ManualScheduler() });
}

describe("parts written for contract 1", () => {
  it("are served", () => {
    expect([NOTIFIER_CONTRACT, BACKEND_CONTRACT]).toEqual([1, 1]);
    const backend = new Backend1();
    const space = unitOn(backend).addressSpace(0x18);
    const [mirror, cache] = [new Map1(), new Unmap1()];
    for (const notifier of [mirror, cache, new DeviceTlb1()]) space.attach(notifier);
    expect(mirror.told).toEqual(["map 5+1 to 9 3"]);
    const { flushes } = cache;
    void backend.announce({ range: { firstPfn: 0, pageCount: 16 }, concerns: () => true });
    expect([mirror.told.length, cache.flushes]).toEqual([1, flushes + 1]);
  });

  it("need not say so: who states no version was written for 1", () => {
    const { told, kind, granularity } = new Map1();
    const silent: MapNotifier = { kind, granularity, map: () => void told.push("map"), unmap: () => undefined };
    const old = new Backend1();
    const backend: Backend = {
      connect: (announce) => old.connect(announce),
      domainOf: (requester) => old.domainOf(requester),
      translate: (requester, iovaPfn, access, out) => old.translate(requester, iovaPfn, access, out),
    };
    unitOn(backend).addressSpace(0x18).attach(silent);
    expect(told).toEqual(["map"]);
  });
});

describe("parts written for another contract", () => {
  it("are refused with a sentence that says so, and nothing of them is called", () => {
    const backend = Object.assign(new Backend1(), { contract: 2 as 1 });
    expect(() => unitOn(backend)).toThrow(/^backend: expected contract 1, got 2 \(install a version of it/);
    expect(backend.announce({ range: { firstPfn: 0, pageCount: 1 }, concerns: () => true })).toBeUndefined();
    const space = unitOn(new Backend1()).addressSpace(0x18);
    const notifier = Object.assign(new Map1(), { contract: 0 as 1, name: "old mirror" });
    expect(() => space.attach(notifier)).toThrow(/^old mirror: expected contract 1, got 0 /);
    expect([notifier.told, space.attachments]).toEqual([[], []]);
  });
});
