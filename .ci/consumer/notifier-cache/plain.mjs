import * as core from "@iommu-kit/iommu-core";
import * as testing from "@iommu-kit/iommu-core/testing";
import { CacheNotifier } from "@iommu-kit/notifier-cache";
import { scenario } from "./scenario.mjs";

scenario((space) => new CacheNotifier(space), core, testing);
