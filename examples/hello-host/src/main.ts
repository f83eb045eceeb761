/** Four hosts that differ in one line each; what is asserted of them is the same. */

import { CacheNotifier } from "@iommu-kit/notifier-cache";
import { MemoryContainer, type1v2, VfioNotifier } from "@iommu-kit/notifier-vfio";
import { makeHost } from "./host.js";
import { choices, makeInjectedHost } from "./injected-host.js";
import { runScenario } from "./scenario.js";

const hosts = [
  ["new, mirror", makeHost(() => new VfioNotifier(new MemoryContainer(type1v2)))],
  ["new, cache", makeHost((disk) => new CacheNotifier(disk))],
  ["injected, mirror", makeInjectedHost(choices.mirror)],
  ["injected, cache", makeInjectedHost(choices.cache)],
] as const;

for (const [name, host] of hosts) console.log(`${name.padEnd(16)}  ${runScenario(host)}`);
