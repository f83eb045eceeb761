import assert from "node:assert/strict";
import * as core from "@iommu-kit/iommu-core";
import { createMachineContainer, IOMMU } from "@iommu-kit/iommu-core/di";
import * as testing from "@iommu-kit/iommu-core/testing";
import { CACHE_NOTIFIER, registerCacheNotifier } from "@iommu-kit/notifier-cache/di";
import { scenario } from "./scenario.mjs";

scenario(
  (space, iommu) => {
    const machine = createMachineContainer();
    machine.register(IOMMU, { useValue: iommu });
    registerCacheNotifier(machine, { sourceId: space.sourceId });
    const notifier = machine.resolve(CACHE_NOTIFIER);
    assert.equal(machine.resolve(CACHE_NOTIFIER), notifier, "one machine has one notifier");
    return notifier;
  },
  core,
  testing,
);
