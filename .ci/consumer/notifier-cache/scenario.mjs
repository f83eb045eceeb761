import assert from "node:assert/strict";

/** Makes a machine of the reference backend with one device, and asks the cache that `makeNotifier` gives for it. */
export function scenario(
  makeNotifier,
  { BackendIommu, Translation, Access },
  { FakeMemory, SimpleBackend, SimpleDomain },
) {
  const backend = new SimpleBackend();
  const iommu = new BackendIommu({ backend, memory: new FakeMemory() });
  const domain = new SimpleDomain("tables of the guest");
  domain.map(0x10, 4, 0x200);
  backend.assign(0x18, domain);
  const space = iommu.addressSpace(0x18);
  const notifier = makeNotifier(space, iommu);
  space.attach(notifier);

  const out = new Translation();
  assert.equal(notifier.translate(0x11, Access.read, out), true);
  assert.equal(out.gpaPfn, 0x201);
  assert.equal(notifier.lookup(0x11, Access.read, out), true, "it is cached");
  domain.unmap(0x10, 4);
  backend.invalidate(domain);
  assert.equal(notifier.lookup(0x11, Access.read, out), false, "it was flushed");
}
