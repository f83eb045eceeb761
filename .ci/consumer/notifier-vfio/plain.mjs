import * as core from "@iommu-kit/iommu-core";
import * as testing from "@iommu-kit/iommu-core/testing";
import { MemoryContainer, type1v2, VfioNotifier } from "@iommu-kit/notifier-vfio";
import { scenario } from "./scenario.mjs";

scenario(new VfioNotifier(new MemoryContainer(type1v2)), core, testing);
