import { afterEach, describe, expect, it } from "vitest";
import {
  BACKEND,
  container,
  createMachineContainer,
  GUEST_MEMORY,
  IOMMU,
  MSI_SINK,
  registerBackendIommu,
  registerPerContainer,
  resolveRequired,
  SCHEDULER,
} from "../src/di.js";
import { BackendIommu, type Iommu, IommuError, type MsiMessage } from "../src/index.js";
import { FakeMemory, ManualScheduler, RecordingNotifier, SimpleBackend, SimpleDomain } from "../src/testing/index.js";

/** A machine whose parts the host has registered. */
function machine() {
  const own = createMachineContainer();
  const tables = new SimpleDomain("tables");
  const backend = new SimpleBackend(tables);
  own.register(GUEST_MEMORY, { useValue: new FakeMemory() });
  own.register(BACKEND, { useValue: backend });
  return { own, tables, backend };
}

describe("dependency injection", () => {
  afterEach(() => container.reset());

  it("gives one unit for two resolves in one machine", () => {
    const { own } = machine();
    registerBackendIommu(own);
    const unit: Iommu = own.resolve(IOMMU);
    expect(unit).toBeInstanceOf(BackendIommu);
    expect(own.resolve(IOMMU)).toBe(unit);
  });

  it("gives two machines two units, on memory and backends of their own, from one registration in the root", () => {
    registerBackendIommu(container);
    const machines = [machine(), machine()];
    const units = machines.map(({ own }) => own.resolve(IOMMU));
    expect(units[0]).not.toBe(units[1]);
    for (const [i, { own }] of machines.entries()) expect(own.resolve(IOMMU)).toBe(units[i]);
    const notifiers = units.map((unit) => {
      const notifier = new RecordingNotifier();
      unit.addressSpace(0x18).attach(notifier);
      return notifier;
    });
    machines[0]!.tables.map(0, 1, 5);
    void machines[0]!.backend.invalidate(machines[0]!.tables);
    expect(notifiers.map((notifier) => notifier.pageCount)).toEqual([1, 0]);
  });

  it("works as plain construction does", () => {
    const { own, tables, backend } = machine();
    registerBackendIommu(own, { limits: { mappingsPerSlice: 5 } });
    const unit = own.resolve(IOMMU);
    const space = unit.addressSpace(0x18);
    const notifier = new RecordingNotifier();
    space.attach(notifier);
    tables.map(0, 3, 7);
    void backend.invalidate(tables);
    expect(notifier.pageCount).toBe(3);
    expect(space.dma.write(4, Uint8Array.of(9))).toBe(true);
    expect(unit).toMatchObject({ limits: { mappingsPerSlice: 5 } });
  });

  it("uses the host's scheduler where there is one", () => {
    const { own } = machine();
    const scheduler = new ManualScheduler();
    own.register(SCHEDULER, { useValue: scheduler });
    registerBackendIommu(own);
    own.resolve(IOMMU).events.on("attach", () => {
      throw new Error("listener");
    });
    own.resolve(IOMMU).addressSpace(0).attach(new RecordingNotifier());
    expect(scheduler.deferredCount).toBe(1);
  });

  it("says what is missing", () => {
    const own = createMachineContainer();
    registerBackendIommu(own);
    expect(() => own.resolve(IOMMU)).toThrow(/expected BACKEND to be registered/);
    own.register(BACKEND, { useValue: new SimpleBackend() });
    expect(() => own.resolve(IOMMU)).toThrow(/expected GUEST_MEMORY to be registered/);
    expect(() => resolveRequired(own, MSI_SINK, "MSI_SINK")).toThrow(IommuError);
  });

  it("has tokens that another copy of the package knows too", () => {
    expect(IOMMU).toBe(Symbol.for("@iommu-kit/iommu-core/Iommu"));
    expect(GUEST_MEMORY).toBe(Symbol.for("@iommu-kit/iommu-core/GuestMemory"));
    expect(MSI_SINK).toBe(Symbol.for("@iommu-kit/iommu-core/MsiSink"));
  });

  it("makes anything else once for each container", () => {
    let made = 0;
    registerPerContainer(container, MSI_SINK, () => {
      made += 1;
      return (_message: MsiMessage) => undefined;
    });
    const [a, b] = [createMachineContainer(), createMachineContainer()];
    expect(a.resolve(MSI_SINK)).toBe(a.resolve(MSI_SINK));
    expect(a.resolve(MSI_SINK)).not.toBe(b.resolve(MSI_SINK));
    expect(made).toBe(2);
  });
});
