import { Access, Translation } from "@iommu-kit/iommu-core";
import { describeNotifierContract } from "@iommu-kit/iommu-core/testing";
import { CacheNotifier, type CacheNotifierOptions } from "@iommu-kit/notifier-cache";
import { describe, it } from "vitest";

const shapes: [string, CacheNotifierOptions][] = [
  ["default", {}],
  ["rights as requested", { rights: "requested" }],
];

for (const [title, options] of shapes) {
  describeNotifierContract(
    { describe, it },
    (space) => {
      const notifier = new CacheNotifier(space, options);
      const out = new Translation();
      return {
        notifier,
        fill(iovaPfn) {
          for (const access of [Access.read, Access.write, Access.readWrite]) notifier.translate(iovaPfn, access, out);
        },
        lookup(iovaPfn) {
          for (const access of [Access.readWrite, Access.read, Access.write]) {
            if (notifier.lookup(iovaPfn, access, out)) return { gpaPfn: out.gpaPfn, access: out.access };
          }
          return undefined;
        },
      };
    },
    `contract of the cache: ${title}`,
  );
}
