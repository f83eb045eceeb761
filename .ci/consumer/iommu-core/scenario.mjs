import assert from "node:assert/strict";

/** Makes an IOMMU of the reference backend and uses it. */
export function scenario(core, testing) {
  const memory = new testing.FakeMemory();
  const backend = new testing.SimpleBackend();
  useIommu(new core.BackendIommu({ backend, memory }), { memory, backend }, core, testing);
}

/** Lets a device and a notifier use an IOMMU. */
export function useIommu(iommu, { memory, backend }, { parseSourceId, Access }, { RecordingNotifier, SimpleDomain }) {
  const device = parseSourceId("00:03.0");
  const space = iommu.addressSpace(device);
  const notifier = new RecordingNotifier();
  space.attach(notifier);
  const domain = new SimpleDomain("tables of the guest");
  domain.map(0x10, 4, 0x200, Access.readWrite);
  backend.assign(device, domain);

  assert.deepEqual(notifier.lookup(0x12), { gpaPfn: 0x202, access: Access.readWrite });
  assert.equal(space.dma.write(0x1_2004, Uint8Array.of(1, 2, 3, 4)), true);
  assert.equal(memory.peek(0x20_2004), 0x0403_0201);
  assert.equal(space.dma.read(0x5_0000, new Uint8Array(4)), false);
}
