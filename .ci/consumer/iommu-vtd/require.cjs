const testing = require("@iommu-kit/iommu-core/testing");
const { VtdIommu } = require("@iommu-kit/iommu-vtd");
const { host, scenario } = require("./scenario.mjs");

const options = host(testing);
scenario(new VtdIommu(options), options.memory, testing);
