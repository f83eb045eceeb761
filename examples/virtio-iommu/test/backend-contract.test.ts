import { type BackendFixture, describeBackendContract, RunList } from "@iommu-kit/iommu-core/testing";
import { describe, it } from "vitest";
import { DISK, Machine, NIC } from "./machine.js";

async function expectOk(status: Promise<number>): Promise<void> {
  const got = await status;
  if (got !== 0) throw new Error(`expected status OK, got ${got}`);
}

/**
 * A guest that maps page by page, and from `largeFrom` pages on in one request. Such a mapping cannot be cut: to unmap a part the guest unmaps the whole and maps the
 * rest again, as a driver of this device has to.
 */
function fixture(largeFrom: number): BackendFixture {
  const { driver, device } = Machine.booted();
  const mapped = new RunList();
  let attached: Promise<void> | undefined;
  const attach = async (): Promise<void> => {
    await expectOk(driver.attach(1, NIC));
    await expectOk(driver.attach(2, DISK));
  };
  const map: BackendFixture["map"] = async (iovaPfn, pageCount, gpaPfn, access) => {
    await (attached ??= attach());
    const unit = pageCount >= largeFrom ? pageCount : 1;
    for (let at = 0; at < pageCount; at += unit) {
      const run = { iovaPfn: iovaPfn + at, pageCount: unit, gpaPfn: gpaPfn + at, access };
      await expectOk(driver.map(1, run));
      mapped.set(run);
    }
  };
  // The suite asks for the domain's kind before it maps anything.
  attached = attach();
  return {
    iommu: device.iommu,
    sourceId: NIC,
    otherSourceId: DISK,
    range: { firstPfn: 0, pageCount: 2 ** 36 },
    targetLimit: 2 ** 36,
    map,
    async unmap(iovaPfn, pageCount) {
      const cut = mapped.touching(iovaPfn, pageCount);
      mapped.delete(iovaPfn, pageCount);
      for (const run of cut) {
        await expectOk(driver.unmap(1, run.iovaPfn, run.pageCount));
        for (const rest of mapped.touching(run.iovaPfn, run.pageCount)) await expectOk(driver.map(1, rest));
      }
    },
  };
}

for (const largeFrom of [Infinity, 512])
  describeBackendContract(
    { describe, it },
    () => fixture(largeFrom),
    `contract of a backend: virtio-iommu, ${largeFrom === 512 ? "2 MiB in one request" : "requests of one page"}`,
  );
