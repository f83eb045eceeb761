const { scenario } = require("./scenario.mjs");

scenario(require("@iommu-kit/iommu-core"), require("@iommu-kit/iommu-core/testing"));
