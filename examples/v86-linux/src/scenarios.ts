/**
 * The scenarios, in the order in which they run. Each says what is special about it; what all of them share is above the list.
 */

import { type Check, equal, holds, moreThan, type RunEvidence, type Scenario } from "./scenario.js";

/** 36 bits are what v86's processor says that it has. */
const MACHINE = { interruptRemapping: false, hostAddressWidth: 36 } as const;
const COMMON_TASKS = ["info", "disk", "p9", "vcon", "net", "log"] as const;
const VFIO = "vfio_iommu_type1.allow_unsafe_interrupts=1";

/** Every device that does DMA did it through the unit, correctly. */
function everythingWorks(run: RunEvidence): readonly Check[] {
  return [
    ...driverIsUp(run),
    ...diskCopied(run),
    ...sharedFileEqual(run),
    holds("virtio console: the line arrives", run.virtioConsole.includes("virtio console over the IOMMU")),
    ...pingsReturn(run),
    ...noFaults(run),
  ];
}

function driverIsUp({ console }: RunEvidence): readonly Check[] {
  return [
    holds(
      "the driver says that it is up",
      console.lines.some((line) => line.includes("Intel(R) Virtualization Technology for Directed I/O")),
    ),
  ];
}

function diskCopied({ console, dma }: RunEvidence): readonly Check[] {
  const original = console.fact("disk", "original");
  return [
    equal("disk: SHA-256 of the copy", console.fact("disk", "copy"), original ?? "a checksum"),
    moreThan("disk: bytes copied", console.number("disk", "bytes"), 3_000_000),
    moreThan("disk: bytes that the controller wrote to memory by IOVA", dma["ide"]?.bytesWritten ?? 0, 6_000_000),
    equal("disk: DMA refused", dma["ide"]?.refused, 0),
  ];
}

function sharedFileEqual({ console, dma, sharedFileSha256 }: RunEvidence): readonly Check[] {
  const sent = console.fact("p9", "sent") ?? "a checksum";
  return [
    equal("9p: SHA-256 that the guest reads back", console.fact("p9", "received"), sent),
    equal("9p: SHA-256 that the host has", sharedFileSha256, sent),
    equal("9p: DMA refused", dma["virtio_9p"]?.refused, 0),
  ];
}

function pingsReturn({ console, dma }: RunEvidence): readonly Check[] {
  return [
    equal("network: pings of 1,208 bytes that came back", console.number("net", "replies"), 5),
    equal("network: DMA refused", dma["virtio_net"]?.refused, 0),
    moreThan("network: bytes that the card read by IOVA", dma["virtio_net"]?.bytesRead ?? 0, 5 * 1_208),
  ];
}

function noFaults({ unit, console }: RunEvidence): readonly Check[] {
  return [
    equal("faults recorded by the unit", unit.faults, 0),
    equal("faults in the kernel's log", console.number("log", "dmar-faults"), 0),
  ];
}

function saidBy(what: string, run: RunEvidence, pattern: RegExp): Check {
  return holds(
    what,
    run.console.lines.some((line) => pattern.test(line)),
  );
}

function domainTypes({ console }: RunEvidence, type: string): Check {
  const devices = console.tasks.get("info")?.facts.get("device") ?? [];
  const others = devices.filter((device) => !device.endsWith(`type=${type}`));
  return {
    what: `domain type of every device is ${type}`,
    expected: "0 others",
    found: `${others.length} others of ${devices.length}`,
    ok: devices.length > 0 && others.length === 0,
  };
}

function judged(run: RunEvidence): readonly Check[] {
  const { judge, container, unit } = run;
  return [
    equal("VFIO notifier's container against fresh walk: mismatches", container?.mismatches, 0),
    moreThan("VFIO notifier's container: pages checked", container?.checks ?? 0, 500),
    equal("shadow against fresh walk: mismatches", judge?.mismatches, 0),
    equal("pages unmapped while the tables still map them", judge?.vanished, 0),
    equal("maps of held pages, unmaps of others", judge?.contractBreaches, 0),
    equal("windows: pages briefly not held", unit.windowPages, 0),
    equal("failed attachments", unit.failedAttachments, 0),
  ];
}

function dumpEqual({ dump }: RunEvidence): readonly Check[] {
  return [
    moreThan("driver's dump: pages compared", dump?.pages ?? 0, 4_000),
    moreThan("driver's dump: devices", dump?.devices ?? 0, 8),
    equal("driver's dump: pages that differ", dump?.different, 0),
    equal("driver's dump: lines that cannot be read", dump?.unreadable, 0),
  ];
}

/** Status words of the DMA engine. */
const DONE = 1;
const REFUSED = 2;

function vfioPasses({ console }: RunEvidence): readonly Check[] {
  const status = (name: string, expected: number): Check =>
    equal(`VFIO: ${name}`, console.number("vfio", name), expected);
  return [
    status("finished", 1),
    status("identity-ok", 1),
    status("copied-bytes", 32_768),
    status("mismatches", 0),
    status("stale-write-status", REFUSED),
    status("stale-read-status", REFUSED),
    status("read-only-read-status", DONE),
    status("read-only-write-status", REFUSED),
    status("msi-events", 1),
    status("rounds", 200),
    status("rounds-passed", 200),
    status("stale-passed", 0),
  ];
}

/** All of them. */
export const SCENARIOS: readonly Scenario[] = [
  {
    name: "strict",
    title: "39-bit tables, queued invalidation, strict flushing",
    unit: { ...MACHINE, addressWidths: [39] },
    commandLine: "iommu.strict=1",
    tasks: COMMON_TASKS,
    expect: (run) => [
      ...everythingWorks(run),
      saidBy("strict mode", run, /TLB invalidation policy: strict mode/),
      domainTypes(run, "DMA"),
    ],
  },
  {
    name: "lazy",
    title: "flushing deferred",
    unit: { ...MACHINE, addressWidths: [39] },
    commandLine: "iommu.strict=0",
    tasks: COMMON_TASKS,
    expect: (run) => [
      ...everythingWorks(run),
      saidBy("lazy mode", run, /TLB invalidation policy: lazy mode/),
      domainTypes(run, "DMA-FQ"),
    ],
  },
  {
    name: "48-bit",
    title: "four levels of tables",
    unit: { ...MACHINE, addressWidths: [48] },
    commandLine: "",
    tasks: COMMON_TASKS,
    expect: everythingWorks,
  },
  {
    name: "caching-mode",
    title: "caching mode on; every device followed by a MAP notifier and judged",
    unit: { ...MACHINE, addressWidths: [39], cachingMode: true },
    commandLine: "",
    tasks: ["info", "disk", "p9", "vcon", "net", "load", "tables", "log"],
    engine: "behind",
    judge: true,
    expect: (run) => [
      ...everythingWorks(run),
      moreThan("shadow against fresh walk: pages checked", run.judge?.checks ?? 0, 10_000),
      ...judged(run),
      ...dumpEqual(run),
    ],
  },
  {
    name: "register-based",
    title: "no invalidation queue: CCMD and IOTLB registers",
    unit: { ...MACHINE, addressWidths: [39], queuedInvalidation: false },
    commandLine: "",
    tasks: COMMON_TASKS,
    expect: (run) => [
      ...everythingWorks(run),
      saidBy("register-based invalidation", run, /Using Register based invalidation/),
    ],
  },
  {
    name: "pass-through",
    title: "iommu=pt: identity for every device",
    unit: { ...MACHINE, addressWidths: [39] },
    commandLine: "iommu=pt",
    tasks: COMMON_TASKS,
    expect: (run) => [...everythingWorks(run), domainTypes(run, "identity")],
  },
  {
    name: "vfio",
    title: "a user program drives the DMA engine through VFIO; judged",
    unit: { ...MACHINE, addressWidths: [39], cachingMode: true },
    commandLine: VFIO,
    tasks: ["vfio", "tables", "log"],
    engine: "behind",
    judge: true,
    expect: (run) => [
      ...driverIsUp(run),
      ...vfioPasses(run),
      ...judged(run),
      ...dumpEqual(run),
      moreThan("faults recorded for stale and forbidden DMA", run.unit.faults, 200),
      moreThan("messages delivered", run.interruptsDelivered, 1),
    ],
  },
  {
    name: "vfio-no-caching-mode",
    title: "the same program on a unit without caching mode: the caches of the unit alone",
    unit: { ...MACHINE, addressWidths: [39] },
    commandLine: VFIO,
    tasks: ["vfio"],
    engine: "behind",
    expect: (run) => [...driverIsUp(run), ...vfioPasses(run)],
  },
  {
    name: "control-plain-virtio",
    title: "negative control: virtio without ACCESS_PLATFORM gives physical addresses, and must fault",
    unit: { ...MACHINE, addressWidths: [39] },
    commandLine: "",
    tasks: ["p9", "log"],
    withoutAccessPlatform: ["virtio_9p"],
    expect: (run) => [
      equal("9p task", run.console.tasks.get("p9")?.result, "failed"),
      moreThan("9p: DMA refused", run.dma["virtio_9p"]?.refused ?? 0, 0),
      saidBy("the kernel logs the read fault", run, /DMA Read.*\[00:06\.0\].*fault reason 0x06/),
    ],
  },
  {
    name: "control-no-adapter",
    title: "negative control: the DMA engine in front of the unit must not find the program's buffer",
    unit: { ...MACHINE, addressWidths: [39] },
    commandLine: VFIO,
    tasks: ["vfio"],
    engine: "raw",
    expect: (run) => [
      equal("VFIO: read-status", run.console.number("vfio", "read-status"), REFUSED),
      moreThan("VFIO: mismatches", run.console.number("vfio", "mismatches"), 30_000),
    ],
  },
  {
    name: "control-silent-guest",
    title:
      "negative control of the judge: a guest that believes the unit has no caching mode announces nothing, and shadows go stale",
    unit: { ...MACHINE, addressWidths: [39], cachingMode: true },
    commandLine: "",
    tasks: ["info", "disk", "tables", "log"],
    judge: true,
    hideCachingMode: true,
    expect: (run) => [
      ...diskCopied(run),
      moreThan("shadow against fresh walk: mismatches", run.judge?.mismatches ?? 0, 500),
      moreThan("driver's dump: pages that differ", run.dump?.different ?? 0, 0),
    ],
  },
  {
    name: "control-no-caching-mode",
    title: "negative control: a MAP notifier on a unit without caching mode must be refused",
    unit: { ...MACHINE, addressWidths: [39] },
    commandLine: "",
    tasks: ["info", "log"],
    tryNotifier: true,
    expect: (run) => [
      holds(
        "attach is refused, and the message names cachingMode",
        run.notifierRefusal?.includes("cachingMode") === true,
        run.notifierRefusal ?? "accepted",
      ),
    ],
  },
];
