import assert from "node:assert/strict";

const DEVICE = 0x0018;
const ROOT_PFN = 0x100;
const CONTEXT_PFN = 0x101;

/** Options for a unit, and what the scenario looks at afterwards. */
export function host({ FakeMemory }) {
  const messages = [];
  return { memory: new FakeMemory(), msi: (message) => void messages.push(message), cachingMode: true };
}

/** Programs the unit as a guest's driver would, then lets a device and a notifier use it. */
export function scenario(unit, memory, { PageTables, RecordingNotifier }) {
  const tables = new PageTables(memory);
  tables.map(0x10, 4, 0x200, 3);
  memory.pokeEntry(ROOT_PFN * 4096, CONTEXT_PFN * 4096 + 1, 0);
  const context = CONTEXT_PFN * 4096 + (DEVICE % 256) * 16;
  memory.pokeEntry(context, tables.rootPfn * 4096 + 1, 0);
  memory.pokeEntry(context + 8, 0x102, 0);
  const space = unit.addressSpace(DEVICE);
  const notifier = new RecordingNotifier();
  space.attach(notifier);

  unit.mmio.write64(0x20, BigInt(ROOT_PFN * 4096));
  unit.mmio.write32(0x18, 0x4000_0000);
  unit.mmio.write32(0x18, 0x8000_0000 | 0);

  assert.equal(unit.mmio.read32(0x1c) >>> 30, 3, "translation is on");
  assert.deepEqual(notifier.lookup(0x12), { gpaPfn: 0x202, access: 3 });
  assert.equal(space.dma.write(0x1_2004, Uint8Array.of(1, 2, 3, 4)), true);
  assert.equal(memory.peek(0x20_2004), 0x0403_0201);
  assert.equal(space.dma.read(0x5_0000, new Uint8Array(4)), false);
  assert.equal(unit.mmio.read32(0x34) & 2, 2, "the fault is recorded");
}
