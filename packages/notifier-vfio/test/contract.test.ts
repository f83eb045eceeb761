import { Access } from "@iommu-kit/iommu-core";
import { describeNotifierContract } from "@iommu-kit/iommu-core/testing";
import {
  iommufd,
  MemoryContainer,
  shadow,
  shadowBlock,
  type1,
  type1v2,
  VfioNotifier,
  type VfioNotifierOptions,
  vfioUser,
} from "@iommu-kit/notifier-vfio";
import { describe, it } from "vitest";
import { PlainContainer } from "./containers.js";

const coalescings: readonly VfioNotifierOptions[] = [{}, { coalescing: "aligned" }, { coalescing: "free" }];

const small = { ...type1v2, name: "type1v2 of 12 entries", entryLimit: 12 };

for (const profile of [type1v2, type1, iommufd, vfioUser, shadow, small]) {
  for (const options of profile === type1v2 || profile === small ? coalescings : coalescings.slice(0, 1)) {
    for (const kind of ["memory", "plain"] as const) {
      const title = `contract of the notifier: ${profile.name}, ${options.coalescing ?? "leaf"}, ${kind} container`;
      describeNotifierContract(
        { describe, it },
        () => {
          const container = new MemoryContainer(profile);
          const notifier = new VfioNotifier(kind === "memory" ? container : new PlainContainer(container), options);
          const out = shadowBlock();
          return {
            notifier,
            range: { firstPfn: 0, pageCount: 2 ** 27 },
            lookup(iovaPfn) {
              const readable = container.translate(iovaPfn, Access.read, out);
              const { gpaPfn: readPfn } = out;
              const writable = container.translate(iovaPfn, Access.write, out);
              if (!readable && !writable) return undefined;
              const access = ((readable ? 1 : 0) | (writable ? 2 : 0)) as Access;
              return { gpaPfn: writable ? out.gpaPfn : readPfn, access };
            },
          };
        },
        title,
      );
    }
  }
}
