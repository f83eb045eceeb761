import { describe, expect, it } from "vitest";
import { RecordingNotifier, SimpleDomain } from "../src/testing/index.js";
import { Machine } from "./support/machine.js";

/** Two devices that see nothing, and a table that no budget allows. */
function machineWithHugeTables(): { machine: Machine; huge: SimpleDomain; told: string[] } {
  const machine = new Machine({ limits: { mappingsPerView: 50 } });
  const huge = new SimpleDomain("huge");
  for (let i = 0; i < 100; i++) huge.map(i * 512, 1, i);
  void machine.backend.assign(machine.nic, machine.backend.unassigned);
  void machine.backend.assign(machine.disk, machine.backend.unassigned);
  const told: string[] = [];
  machine.unit.events.on("budget", ({ space, budget }) => told.push(`${space.label} ${budget}`));
  return { machine, huge, told };
}

describe("a device that comes to a view over its budget", () => {
  it("is named when it moves there alone, away from others", async () => {
    const { machine, huge, told } = machineWithHugeTables();
    const notifiers = [machine.nicSpace, machine.diskSpace].map((space) => {
      const notifier = new RecordingNotifier();
      space.attach(notifier);
      return notifier;
    });
    void machine.backend.assign(machine.nic, huge);
    await machine.scheduler.idle();
    expect(notifiers.map((notifier) => notifier.pageCount)).toEqual([0, 0]);
    expect(told).toEqual(["00:03.0 mappings"]);
  });

  it("is named when it moves to others, who are named again", async () => {
    const { machine, huge, told } = machineWithHugeTables();
    machine.nicSpace.attach(new RecordingNotifier());
    machine.diskSpace.attach(new RecordingNotifier());
    void machine.backend.assign(machine.nic, huge);
    told.length = 0;
    void machine.backend.assign(machine.disk, huge);
    await machine.scheduler.idle();
    expect(told.toSorted()).toEqual(["00:03.0 mappings", "00:04.0 mappings"]);
  });

  it("is not named when it comes to a view that has failed for another reason", () => {
    const { machine, huge, told } = machineWithHugeTables();
    machine.nicSpace.attach(new RecordingNotifier());
    void machine.backend.assign(machine.nic, huge);
    huge.scan = () => {
      throw new Error("the memory is gone");
    };
    told.length = 0;
    const attachment = machine.diskSpace.attach(new RecordingNotifier());
    void machine.backend.assign(machine.disk, huge);
    expect(() => machine.scheduler.turn()).toThrow("the memory is gone");
    expect([told, attachment.state, attachment.heldPages]).toEqual([[], "active", 0]);
  });

  it("is named when its notifier is attached to such a view", async () => {
    const { machine, huge, told } = machineWithHugeTables();
    machine.nicSpace.attach(new RecordingNotifier());
    void machine.backend.assign(machine.nic, huge);
    void machine.backend.assign(machine.disk, huge);
    told.length = 0;
    machine.diskSpace.attach(new RecordingNotifier());
    await machine.scheduler.idle();
    expect(told.toSorted()).toEqual(["00:03.0 mappings", "00:04.0 mappings"]);
  });
});
