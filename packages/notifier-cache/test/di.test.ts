import { Access, Translation } from "@iommu-kit/iommu-core";
import { IOMMU } from "@iommu-kit/iommu-core/di";
import { describe, expect, it } from "vitest";
import { CACHE_NOTIFIER, container, DEVICE_TLB, registerCacheNotifier, registerDeviceTlb } from "../src/di.js";
import { FakeMachine } from "./fake-machine.js";

describe("dependency injection", () => {
  it("makes one cache per container, for the device named, on the container's unit", () => {
    const machines = [new FakeMachine(), new FakeMachine()];
    const caches = machines.map((machine) => {
      const child = container.createChildContainer();
      child.register(IOMMU, { useValue: machine.iommu });
      registerCacheNotifier(child, { sourceId: 0x18, entries: 64 });
      const cache = child.resolve(CACHE_NOTIFIER);
      expect(child.resolve(CACHE_NOTIFIER)).toBe(cache);
      cache.space.attach(cache);
      return cache;
    });
    expect(caches[0]).not.toBe(caches[1]);
    machines[0]?.map(5, 100);
    const out = new Translation();
    expect(caches[0]?.translate(5, Access.read, out)).toBe(true);
    expect(caches[0]?.capacity).toBe(64);
    expect(caches[0]?.entryCount).toBe(1);
    expect(caches[1]?.translate(5, Access.read, out)).toBe(false);
  });

  it("says what is missing when there is no unit", () => {
    const child = container.createChildContainer();
    registerCacheNotifier(child, { sourceId: 0x18 });
    expect(() => child.resolve(CACHE_NOTIFIER)).toThrow(/expected IOMMU to be registered/);
  });

  it("makes a device TLB, for requests with a PASID if named", () => {
    const machine = new FakeMachine();
    const child = container.createChildContainer();
    child.register(IOMMU, { useValue: machine.iommu });
    registerDeviceTlb(child, { sourceId: 0x18, pasid: 5 });
    const tlb = child.resolve(DEVICE_TLB);
    expect(tlb.space.pasid).toBe(5);
    expect(tlb.kind).toBe("device-tlb");
  });
});
