import * as testing from "@iommu-kit/iommu-core/testing";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { host, scenario } from "./scenario.mjs";

const options = host(testing);
scenario(new VtdIommu(options), options.memory, testing);
