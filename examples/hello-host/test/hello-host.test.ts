import { CacheNotifier } from "@iommu-kit/notifier-cache";
import { MemoryContainer, type1v2, VfioNotifier } from "@iommu-kit/notifier-vfio";
import { describe, expect, it } from "vitest";
import { Guest } from "../src/guest.js";
import { makeHost } from "../src/host.js";
import { choices, makeInjectedHost } from "../src/injected-host.js";
import { runScenario } from "../src/scenario.js";

describe.each([
  [
    "made by new",
    () => makeHost(() => new VfioNotifier(new MemoryContainer(type1v2))),
    () => makeHost((disk) => new CacheNotifier(disk)),
  ],
  ["made by injection", () => makeInjectedHost(choices.mirror), () => makeInjectedHost(choices.cache)],
])("a host %s", (_name, mirroring, caching) => {
  it("mirrors what the disk may reach", () => {
    expect(runScenario(mirroring())).toBe('mirrors [{"iovaPfn":5,"pageCount":1,"gpaPfn":9,"access":3}]');
  });

  it("flushes a cache instead when one line is changed", () => {
    expect(runScenario(caching())).toBe("caches page 5 -> page 9");
  });

  it("shares nothing with another host", () => {
    const [first, second] = [mirroring(), mirroring()];
    expect(first.unit).not.toBe(second.unit);
    expect(first.notifier).not.toBe(second.notifier);
    new Guest(first.memory, first.unit).boot();
    expect(first.disk.domain.kind).toBe("table");
    expect(second.disk.domain.kind).toBe("bypass");
  });
});
