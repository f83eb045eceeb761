import { describe, it } from "vitest";
import { describeNotifierContract } from "@iommu-kit/iommu-core/testing";
import { FlatShadow } from "../src/flat-shadow.js";

describeNotifierContract({ describe, it }, () => {
  const notifier = new FlatShadow();
  return { notifier, lookup: (iovaPfn) => notifier.pages.get(iovaPfn) };
});
