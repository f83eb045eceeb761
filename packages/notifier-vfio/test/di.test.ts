import { describe, expect, it } from "vitest";
import { container as root, DMA_CONTAINER, registerVfioNotifier, VFIO_NOTIFIER } from "@iommu-kit/notifier-vfio/di";
import { MemoryContainer, shadow, type1v2, VfioNotifier } from "@iommu-kit/notifier-vfio";
import { Guest } from "./guest.js";

describe("registerVfioNotifier", () => {
  it("gives one notifier, with one container, to everybody in a machine", () => {
    const machine = root.createChildContainer();
    registerVfioNotifier(machine, { name: "disk" });

    const notifier = machine.resolve(VFIO_NOTIFIER);

    expect(notifier).toBeInstanceOf(VfioNotifier);
    expect(machine.resolve(VFIO_NOTIFIER)).toBe(notifier);
    expect(machine.resolve(DMA_CONTAINER)).toBe(notifier.container);
    expect([notifier.name, notifier.container.entryLimit]).toEqual(["disk", type1v2.entryLimit]);
  });

  it("gives each machine its own", () => {
    const [a, b] = [root.createChildContainer(), root.createChildContainer()];
    registerVfioNotifier(a);
    registerVfioNotifier(b, { profile: shadow });

    expect(a.resolve(VFIO_NOTIFIER)).not.toBe(b.resolve(VFIO_NOTIFIER));
    expect(b.resolve(DMA_CONTAINER).granularity).toBe("page");
  });

  it("uses the container that the host registered", () => {
    const machine = root.createChildContainer();
    const mine = new MemoryContainer(type1v2);
    machine.register(DMA_CONTAINER, { useValue: mine });
    registerVfioNotifier(machine);
    const guest = new Guest();
    guest.table.map(4, 2, 40);

    machine.resolve(VFIO_NOTIFIER).attachTo(guest.device(3));

    expect(mine.pagesHeld).toBe(2);
  });
});
