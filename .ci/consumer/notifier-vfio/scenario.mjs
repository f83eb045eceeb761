import assert from "node:assert/strict";

/** Attaches a notifier with its container to a device of the reference backend. */
export function scenario(notifier, { BackendIommu }, { FakeMemory, SimpleBackend, SimpleDomain }) {
  const backend = new SimpleBackend();
  const iommu = new BackendIommu({ backend, memory: new FakeMemory() });
  const domain = new SimpleDomain("tables of the guest");
  domain.map(0x10, 4, 0x200);
  backend.assign(0x18, domain);
  notifier.attachTo(iommu.addressSpace(0x18));
  assert.equal(notifier.pagesHeld, 4);
  assert.equal(notifier.container.pagesHeld, 4);

  domain.unmap(0x10, 4);
  backend.invalidate(domain);
  assert.equal(notifier.container.pagesHeld, 0);
}
