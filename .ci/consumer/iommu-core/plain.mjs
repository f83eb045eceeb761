import * as core from "@iommu-kit/iommu-core";
import * as testing from "@iommu-kit/iommu-core/testing";
import { scenario } from "./scenario.mjs";

scenario(core, testing);
