/**
 * Runs one scenario in this process: builds the machine, attaches what the scenario asks for, boots, waits for the guest, and judges.
 */

import { createHash } from "node:crypto";
import { type Iommu, IommuError } from "@iommu-kit/iommu-core";
import { type AttachedIommu, attachIommu } from "./adapter/attach-iommu.js";
import { localApicMsi } from "./adapter/local-apic-msi.js";
import { plugPciDevice } from "./adapter/pci-slot.js";
import { V86GuestMemory } from "./adapter/v86-guest-memory.js";
import { internalsOf, type V86Cpu } from "./adapter/v86-internals.js";
import { DMA_ENGINE, DmaEngine } from "./devices/dma-engine.js";
import type { GuestFiles } from "./guest/guest-files.js";
import { compareDump, type DumpComparison } from "./judge/driver-dump.js";
import { Judges } from "./judge/judges.js";
import type { ShadowJudge } from "./judge/shadow-judge.js";
import { createMachine, type Machine } from "./machine.js";
import type { Check, RunEvidence, Scenario, UnitCounters } from "./scenario.js";

/** How a scenario ended. */
export interface ScenarioResult {
  readonly name: string;
  readonly title: string;
  readonly ok: boolean;
  readonly seconds: number;
  readonly checks: readonly Check[];
  readonly unit: UnitCounters;
  readonly dma: RunEvidence["dma"];
  readonly interruptsDelivered: number;
  readonly judge: RunEvidence["judge"];
  readonly container: RunEvidence["container"];
  readonly dump: DumpComparison | undefined;
  /** Disagreements found by the judge, the first few. */
  readonly examples: readonly string[];
}

/** Longest time from start to the guest's last word: a busy machine boots in half a minute. */
const DEADLINE_MILLISECONDS = 600_000;

/** CAP.CM (§11.4.2). */
const CAPABILITY_GPA = 0xfed90008;
const CACHING_MODE = 0x80;

/** Runs it. `onLine` gets the console. */
export async function runScenario(
  scenario: Scenario,
  files: GuestFiles,
  onLine: (line: string) => void,
): Promise<ScenarioResult> {
  const begin = performance.now();
  const machine = await createMachine({
    files,
    tasks: scenario.tasks,
    commandLine: `intel_iommu=on ${scenario.commandLine}`,
    onLine,
  });
  const judges = new Judges();
  const attached = attachIommu(machine.emulator, {
    unit: scenario.unit,
    ...(scenario.withoutAccessPlatform === undefined ? {} : { withoutAccessPlatform: scenario.withoutAccessPlatform }),
    ...(scenario.judge === true ? { onDma: judges.onDma, onRegisterWrite: judges.onRegisterWrite } : {}),
  });
  if (scenario.hideCachingMode === true) hideCachingMode(internalsOf(machine.emulator));
  const unit = countEvents(attached.unit.iommu);
  plugEngine(scenario, machine, attached);
  if (scenario.judge === true) judges.begin(attached);
  const { shadow, container } = judges;
  const notifierRefusal = scenario.tryNotifier === true ? tryToFollow(attached) : undefined;
  const dump = compareWhenDumped(machine, shadow);

  const finished = await boot(machine);
  const evidence: RunEvidence = {
    console: machine.console,
    virtioConsole: machine.virtioConsole(),
    sharedFileSha256: await sharedFileSha256(machine),
    unit: { ...unit },
    dma: Object.fromEntries(attached.devices.map(({ name, counters }) => [name, counters])),
    interruptsDelivered: attached.interrupts.delivered,
    // Copies: taking the unit away unmaps everything, and that is not what is judged.
    judge: shadow === undefined ? undefined : { ...shadow.counters },
    container: container === undefined ? undefined : { ...container.counters },
    dump: dump(),
    notifierRefusal,
  };
  const examples = [...(shadow?.examples ?? []), ...(evidence.dump?.examples ?? [])];
  const checks: readonly Check[] = [finished, ...scenario.expect(evidence)];
  await machine.emulator.destroy();
  attached.detach();
  return {
    name: scenario.name,
    title: scenario.title,
    ok: checks.every((check) => check.ok),
    seconds: (performance.now() - begin) / 1000,
    checks,
    unit: evidence.unit,
    dma: evidence.dma,
    interruptsDelivered: evidence.interruptsDelivered,
    judge: evidence.judge,
    container: evidence.container,
    dump: evidence.dump,
    examples,
  };
}

async function boot({ emulator, console }: Machine): Promise<Check> {
  const done = console.waitFor(/^@@ done/);
  await emulator.run();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(
      () => resolve(`no end after ${DEADLINE_MILLISECONDS / 1000} s; last line: ${console.lines.at(-1) ?? "none"}`),
      DEADLINE_MILLISECONDS,
    );
  });
  const found = await Promise.race([done.then(() => "all tasks ended"), late]);
  clearTimeout(timer);
  return { what: "the guest runs to the end", expected: "all tasks ended", found, ok: found === "all tasks ended" };
}

function plugEngine(scenario: Scenario, { emulator }: Machine, attached: AttachedIommu): void {
  if (scenario.engine === undefined) return;
  const defer = (task: () => void): void => void setImmediate(task);
  if (scenario.engine === "behind") {
    attached.plug(DMA_ENGINE, (slot) => new DmaEngine(slot, defer));
    return;
  }
  const cpu = internalsOf(emulator);
  plugPciDevice(
    cpu,
    DMA_ENGINE,
    { dma: new V86GuestMemory(cpu), msi: localApicMsi(cpu, queueMicrotask).sink },
    (slot) => new DmaEngine(slot, defer),
  );
}

/** Stands in front of the unit's capability register: the bit of caching mode reads 0. */
function hideCachingMode(cpu: V86Cpu): void {
  const block = CAPABILITY_GPA >>> 17;
  const read = cpu.memory_map_read32[block];
  cpu.memory_map_read32[block] = (address) => {
    const word = read?.(address) ?? -1;
    return address >>> 0 === CAPABILITY_GPA ? word & ~CACHING_MODE : word;
  };
}

function tryToFollow(attached: AttachedIommu): string | undefined {
  try {
    new Judges().begin(attached);
    return undefined;
  } catch (error) {
    if (error instanceof IommuError) return error.message;
    throw error;
  }
}

/** The shadows are copied at the moment at which the guest begins to send the dump: no device is working then. */
function compareWhenDumped({ console }: Machine, judge: ShadowJudge | undefined): () => DumpComparison | undefined {
  let comparison: DumpComparison | undefined;
  if (judge !== undefined) {
    let held: ReadonlyMap<number, ReturnType<ShadowJudge["heldBy"]>> = new Map();
    console.when(/^@@ table-begin/, () => {
      held = new Map(judge.sourceIds.map((sourceId) => [sourceId, judge.heldBy(sourceId)]));
    });
    console.when(/^@@ table-end/, () => {
      comparison = compareDump(console.table, held);
    });
  }
  return () => comparison;
}

function countEvents({ events }: Iommu): UnitCounters {
  const counters: UnitCounters = {
    faults: 0,
    invalidations: 0,
    maps: 0,
    unmaps: 0,
    changes: 0,
    windowPages: 0,
    failedAttachments: 0,
  };
  events.on("fault", () => (counters.faults += 1));
  events.on("invalidate", () => (counters.invalidations += 1));
  events.on("map", () => (counters.maps += 1));
  events.on("unmap", () => (counters.unmaps += 1));
  events.on("change", () => (counters.changes += 1));
  events.on("window", ({ pageCount }) => (counters.windowPages += pageCount));
  events.on("failed", () => (counters.failedAttachments += 1));
  return counters;
}

async function sharedFileSha256({ emulator }: Machine): Promise<string | undefined> {
  try {
    const bytes = await emulator.read_file("/sent.bin");
    return createHash("sha256").update(bytes).digest("hex");
  } catch {
    // v86 rejects with an error of its own when there is no such file, which is an answer here.
    return undefined;
  }
}
