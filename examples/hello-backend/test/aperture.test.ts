import { describe, it } from "vitest";
import { describeBackendContract } from "@iommu-kit/iommu-core/testing";
import { Aperture } from "../src/aperture.js";

describeBackendContract({ describe, it }, () => {
  const backend = new Aperture(0xd0000, 4096);
  const write = async (iovaPfn: number, pageCount: number, entryOf: (i: number) => number): Promise<void> => {
    for (let i = 0; i < pageCount; i++) await backend.write(iovaPfn - 0xd0000 + i, entryOf(i));
  };
  return {
    backend,
    sourceId: 0x100,
    range: { firstPfn: 0xd0000, pageCount: 4096 },
    targetLimit: 2 ** 30,
    map: (iovaPfn, pageCount, gpaPfn, access) => write(iovaPfn, pageCount, (i) => (gpaPfn + i) * 4 + access),
    unmap: (iovaPfn, pageCount) => write(iovaPfn, pageCount, () => 0),
  };
});
