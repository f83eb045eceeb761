/**
 * The page: boots the guest of `pnpm linux` with the unit, and shows what both do while they do it.
 *
 * Everything that is shown comes from the same adapter, judges and events as on the command line. The page is drawn once a frame at most.
 */

import type { Iommu } from "@iommu-kit/iommu-core";
import { V86 } from "v86";
import { type AttachedIommu, attachIommu } from "../../src/adapter/attach-iommu.js";
import { DMA_ENGINE, DmaEngine } from "../../src/devices/dma-engine.js";
import { GuestConsole } from "../../src/guest-console.js";
import { Judges } from "../../src/judge/judges.js";
import { IovaMap, paletteOf } from "./iova-map.js";
import { RegisterTable } from "./register-view.js";

const CONSOLE_CHARACTERS = 60_000;
const EVENT_LINES = 120;
const NAMES: ReadonlyMap<number, string> = new Map([
  [0xf0, "disk 00:1e.0"],
  [0x30, "9p 00:06.0"],
  [0x60, "console 00:0c.0"],
  [DMA_ENGINE.sourceId, "engine 00:03.0"],
]);

function byId<T extends HTMLElement>(id: string, kind: new () => T): T {
  const element = document.getElementById(id);
  if (!(element instanceof kind)) throw new TypeError(`the page has no ${kind.name} #${id}`);
  return element;
}

const status = byId("status", HTMLElement);
const output = byId("console", HTMLElement);
const tiles = byId("tiles", HTMLElement);
const maps = byId("maps", HTMLElement);
const registers = byId("registers", HTMLElement);
const events = byId("events", HTMLElement);
const command = byId("command", HTMLInputElement);
const pause = byId("pause", HTMLButtonElement);

/** What a terminal would obey and this one does not: colours, and questions about the cursor. */
const ESCAPES = new RegExp(`${String.fromCharCode(27)}\\[[0-9;?]*[A-Za-z]`, "g");

/** Text that waits for the next frame. Stays at the end unless the reader has scrolled away from it. */
class Terminal {
  #pending = "";
  #isAtEnd = true;

  constructor() {
    output.addEventListener(
      "scroll",
      () => (this.#isAtEnd = output.scrollTop + output.clientHeight >= output.scrollHeight - 30),
    );
    new ResizeObserver(() => this.#follow()).observe(output);
  }

  add(text: string): void {
    this.#pending += text;
  }

  draw(): void {
    if (this.#pending === "") return;
    output.textContent = (output.textContent + this.#pending).replaceAll(ESCAPES, "").slice(-CONSOLE_CHARACTERS);
    this.#pending = "";
    this.#follow();
  }

  #follow(): void {
    if (this.#isAtEnd) output.scrollTop = output.scrollHeight;
  }
}

/** The latest invalidations and faults; bursts of the same kind on one device become one line. */
class EventList {
  #last: { readonly key: string; readonly times: HTMLElement; count: number } | undefined;
  #waiting: { readonly kind: string; readonly text: string; readonly key: string }[] = [];

  add(kind: "invalidation" | "fault", key: string, text: string): void {
    this.#waiting.push({ kind, key: `${kind} ${key}`, text });
    if (this.#waiting.length > EVENT_LINES) this.#waiting.shift();
  }

  draw(): void {
    for (const { kind, key, text } of this.#waiting) {
      if (this.#last?.key === key) {
        this.#last.count += 1;
        this.#last.times.textContent = `× ${this.#last.count.toLocaleString("en")}`;
        continue;
      }
      const item = document.createElement("li");
      const times = document.createElement("b");
      item.className = kind;
      item.append(times, text);
      events.prepend(item);
      this.#last = { key, times, count: 1 };
      while (events.children.length > EVENT_LINES) events.lastElementChild?.remove();
    }
    this.#waiting = [];
  }
}

interface Totals {
  invalidations: number;
  faults: number;
}

function watch(iommu: Iommu, rows: ReadonlyMap<number, IovaMap>, list: EventList): Totals {
  const totals: Totals = { invalidations: 0, faults: 0 };
  const nameOf = (sourceId: number, label: string): string => NAMES.get(sourceId)?.split(" ")[0] ?? label;
  const pages = (count: number): string =>
    count >= 2 ** 20 ? "everything" : count === 1 ? "1 page" : `${count.toLocaleString("en")} pages`;
  iommu.events.on("map", ({ space, iovaPfn, pageCount }) => rows.get(space.sourceId)?.change(iovaPfn, pageCount, 1));
  iommu.events.on("unmap", ({ space, iovaPfn, pageCount }) => rows.get(space.sourceId)?.change(iovaPfn, pageCount, -1));
  iommu.events.on("invalidate", ({ space, iovaPfn, pageCount }) => {
    totals.invalidations += 1;
    if (!rows.has(space.sourceId)) return;
    const where = pageCount >= 2 ** 20 ? "" : ` at 0x${(iovaPfn * 4096).toString(16)}`;
    list.add(
      "invalidation",
      `${space.sourceId} ${pageCount}`,
      `${nameOf(space.sourceId, space.label)}: ${pages(pageCount)}${where}`,
    );
  });
  iommu.events.on("fault", ({ space, address, reason, cause }) => {
    totals.faults += 1;
    list.add(
      "fault",
      String(space.sourceId),
      `fault, ${nameOf(space.sourceId, space.label)}: ${cause} (${reason.toString(16)}h) at 0x${address.toString(16)}`,
    );
  });
  return totals;
}

function drawTiles(attached: AttachedIommu, judges: Judges, totals: Totals): void {
  const { shadow, container } = judges;
  const refused = attached.devices.reduce((sum, { counters }) => sum + counters.refused, 0);
  const counters = shadow?.counters;
  const rows: readonly (readonly [name: string, value: number, mustBeZero?: boolean])[] = [
    ["vanished pages", counters?.vanished ?? 0, true],
    ["shadow ≠ tables", (counters?.mismatches ?? 0) + (container?.counters.mismatches ?? 0), true],
    ["pages of DMA judged", counters?.checks ?? 0],
    ["DMA refused", refused],
    ["maps", counters?.maps ?? 0],
    ["unmaps", counters?.unmaps ?? 0],
    ["invalidations", totals.invalidations],
    ["faults", totals.faults],
  ];
  tiles.replaceChildren(
    ...rows.map(([name, value, mustBeZero]) => {
      const term = document.createElement("dt");
      const number = document.createElement("dd");
      const group = document.createElement("div");
      term.textContent = name;
      number.textContent = value.toLocaleString("en");
      number.dataset["counter"] = name;
      if (mustBeZero === true) number.className = value === 0 ? "good" : "bad";
      group.append(term, number);
      return group;
    }),
  );
}

async function boot(): Promise<void> {
  const terminal = new Terminal();
  const emulator = new V86({
    wasm_path: "./guest/v86.wasm",
    memory_size: 128 * 1024 * 1024,
    vga_memory_size: 2 * 1024 * 1024,
    acpi: true,
    autostart: false,
    disable_keyboard: true,
    disable_mouse: true,
    disable_speaker: true,
    bios: { url: "./guest/bios.bin" },
    bzimage: { url: "./guest/bzimage.bin" },
    initrd: { url: "./guest/initrd.bin" },
    hda: { url: "./guest/disk.img", async: false },
    filesystem: {},
    virtio_console: { type: "none" },
    cmdline:
      "console=ttyS0 tsc=reliable mitigations=off intel_iommu=on vfio_iommu_type1.allow_unsafe_interrupts=1 tasks=info,disk,p9,vcon,vfio",
  });
  const guest = new GuestConsole(() => undefined);
  emulator.add_listener("serial0-output-byte", (byte) => {
    guest.take(byte);
    if (byte !== 13) terminal.add(String.fromCharCode(byte));
  });
  await new Promise<void>((resolve) => emulator.add_listener("emulator-loaded", () => resolve()));

  const judges = new Judges();
  const attached = attachIommu(emulator, {
    unit: { addressWidths: [39], cachingMode: true },
    onDma: judges.onDma,
    onRegisterWrite: judges.onRegisterWrite,
  });
  attached.plug(DMA_ENGINE, (slot) => new DmaEngine(slot, (task) => setTimeout(task, 0)));
  const rows = new Map([...NAMES].map(([sourceId, label]) => [sourceId, new IovaMap(label)]));
  maps.append(...[...rows.values()].map(({ element }) => element));
  const list = new EventList();
  const registerTable = new RegisterTable(registers, attached.unit.iommu);
  const totals = watch(attached.unit.iommu, rows, list);
  judges.begin(attached);
  connectControls(emulator, guest);

  let palette = paletteOf(maps);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (palette = paletteOf(maps)));
  const draw = (): void => {
    terminal.draw();
    list.draw();
    for (const row of rows.values()) row.draw(palette);
    drawTiles(attached, judges, totals);
    registerTable.draw();
    requestAnimationFrame(draw);
  };
  requestAnimationFrame(draw);
  status.textContent = "Booting …";
  await emulator.run();
}

/** Buttons and the prompt type into the guest's shell, which is there when its tasks are done. */
function connectControls(emulator: V86, guest: GuestConsole): void {
  const taskButtons = [...document.querySelectorAll<HTMLButtonElement>("button[data-task]")];
  guest.when(/^@@ up/, () => (status.textContent = "Linux is up and works through its tasks."));
  guest.when(/^@@ done/, () => {
    const failed = [...guest.tasks].filter(([, { result }]) => result !== "ok").map(([name]) => name);
    status.textContent =
      failed.length === 0
        ? "All tasks passed. The shell is yours."
        : `Failed: ${failed.join(", ")}. The shell is yours.`;
    for (const button of taskButtons) button.disabled = false;
  });
  for (const button of taskButtons) {
    button.addEventListener("click", () => {
      const task = button.dataset["task"] ?? "";
      // In a shell of its own: a task may end with `return`.
      emulator.serial0_send(`(task=${task}; fact() { echo "@@ fact $task $*"; }; . /tasks/${task}.sh)\n`);
    });
  }
  byId("prompt", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    emulator.serial0_send(`${command.value}\n`);
    command.value = "";
  });
  pause.addEventListener("click", () => void togglePause(emulator));
}

async function togglePause(emulator: V86): Promise<void> {
  if (emulator.is_running()) await emulator.stop();
  else await emulator.run();
  pause.textContent = emulator.is_running() ? "Pause" : "Go on";
}

boot().catch((error: unknown) => {
  status.textContent = `The machine could not be started: ${error instanceof Error ? error.message : String(error)}`;
  throw error;
});
