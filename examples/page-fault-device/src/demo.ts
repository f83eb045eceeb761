/**
 * The scenario: what the device does, what the guest answers, and what has to be true after each step.
 */

import { DemandPagingGuest, DEVICE, PASID } from "./demand-paging-guest.js";
import { PageFaultDevice, type TransferResult } from "./page-fault-device.js";

const FIRST_PFN = 0x7f000;
const PAGES = 16;

/** Runs it; `print` gets a line for each step. `true`: everything held. */
export async function runDemo(print: (line: string) => void): Promise<boolean> {
  const guest = new DemandPagingGuest(FIRST_PFN, PAGES);
  const { unit, memory } = guest.driver;
  const device = new PageFaultDevice(unit, unit.addressSpace(guest.driver.device(DEVICE).sourceId, { pasid: PASID }));
  let held = true;
  const check = (what: string, ok: boolean): void => {
    held &&= ok;
    print(`${ok ? "ok  " : "FAIL"} ${what}`);
  };

  const data = Uint8Array.from({ length: 10_000 }, (_, i) => i & 0xff);
  const wrote = await served(guest, device.write(FIRST_PFN * 4096 + 100, data));
  check(`a write of 10,000 bytes to memory that does not exist succeeds (${wrote})`, wrote === "done");
  check(`the guest was asked for 3 pages, and for none twice (${device.faultCount})`, device.faultCount === 3);
  const stored = new Uint8Array(data.length);
  for (let at = 0; at < data.length; at++) {
    const address = FIRST_PFN * 4096 + 100 + at;
    const frame = guest.frames.get(Math.floor(address / 4096)) ?? 0;
    memory.read(frame * 4096 + (address % 4096), stored.subarray(at, at + 1));
  }
  check(
    "every byte is in the frames that the guest handed out",
    stored.every((byte, at) => byte === data[at]),
  );

  const translations = device.translationCount;
  const back = new Uint8Array(data.length);
  const read = await served(guest, device.read(FIRST_PFN * 4096 + 100, back));
  check(
    "reading it back needs neither the unit nor the guest",
    read === "done" && device.translationCount === translations,
  );
  check(
    "it reads what was written",
    back.every((byte, at) => byte === data[at]),
  );

  guest.reclaim(FIRST_PFN + 1);
  check(`reclaiming a page empties it from the device's TLB (${device.cachedPages} left)`, device.cachedPages === 2);
  const again = await served(guest, device.read((FIRST_PFN + 1) * 4096, new Uint8Array(8)));
  check("the device faults the page in again, read-only", again === "done" && device.faultCount === 4);
  const upgraded = await served(guest, device.write((FIRST_PFN + 1) * 4096, Uint8Array.of(1)));
  check("a write to it asks for the right to write, and gets it", upgraded === "done" && device.faultCount === 5);

  const beyond = await served(guest, device.write((FIRST_PFN + PAGES) * 4096, Uint8Array.of(1)));
  check(`a page that is not the process's is refused (${beyond})`, beyond === "no such page");
  check("no fault was recorded: missing pages are no mistakes", guest.driver.faults().length === 0);
  return held;
}

/** Lets the guest handle its interrupts until the device is done. */
async function served(guest: DemandPagingGuest, transfer: Promise<TransferResult>): Promise<TransferResult> {
  let result: TransferResult | undefined;
  void transfer.then((ended) => (result = ended));
  for (let turn = 0; turn < 1000; turn++) {
    guest.handleInterrupts();
    await guest.driver.scheduler.idle();
    if (result !== undefined) return result;
  }
  return "guest failed";
}
