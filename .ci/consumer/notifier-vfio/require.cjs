const { MemoryContainer, type1v2, VfioNotifier } = require("@iommu-kit/notifier-vfio");
const { scenario } = require("./scenario.mjs");

const notifier = new VfioNotifier(new MemoryContainer(type1v2));
scenario(notifier, require("@iommu-kit/iommu-core"), require("@iommu-kit/iommu-core/testing"));
