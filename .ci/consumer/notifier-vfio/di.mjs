import assert from "node:assert/strict";
import * as core from "@iommu-kit/iommu-core";
import * as testing from "@iommu-kit/iommu-core/testing";
import { container, DMA_CONTAINER, registerVfioNotifier, VFIO_NOTIFIER } from "@iommu-kit/notifier-vfio/di";
import { scenario } from "./scenario.mjs";

const machine = container.createChildContainer();
registerVfioNotifier(machine);
const notifier = machine.resolve(VFIO_NOTIFIER);
assert.equal(machine.resolve(VFIO_NOTIFIER), notifier, "one machine has one notifier");
assert.equal(machine.resolve(DMA_CONTAINER), notifier.container);
scenario(notifier, core, testing);

const other = container.createChildContainer();
registerVfioNotifier(other);
assert.notEqual(other.resolve(VFIO_NOTIFIER), notifier, "another machine has its own");
