const { CacheNotifier } = require("@iommu-kit/notifier-cache");
const { scenario } = require("./scenario.mjs");

const makeNotifier = (space) => new CacheNotifier(space);
scenario(makeNotifier, require("@iommu-kit/iommu-core"), require("@iommu-kit/iommu-core/testing"));
