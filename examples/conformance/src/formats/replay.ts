/**
 * `vtd-replay-cases`: what MAP notifiers hold in the end.
 *
 * The oracle's single notifications are not compared: their order and number are its own. What counts is the view they add up to, and that ours gets there without
 * unmapping a page that stays mapped.
 */

import type { Header } from "../files/header.js";
import { numberIn, pagesOfMask, pfnIn } from "../files/numbers.js";
import { Machine } from "../machine/machine.js";
import type { Tally } from "../report/tally.js";
import { formatDifference, PageView } from "../view/page-view.js";
import { WatchedDevices } from "../view/watched-devices.js";
import type { Case, CaseStep } from "./steps.js";

/** Runs one case on a fresh machine. */
export function runReplayCase(header: Header, given: Case, tally: Tally): void {
  const machine = new Machine(header);
  const devices = new WatchedDevices(machine, header.sourceIds, tally);
  const finals = new Map<number, PageView>();
  given.s.forEach((step, index) => {
    tally.place = { id: given.id, step: index };
    if (step[0] === "M") machine.store(numberIn(step[1]), step, 2);
    else if (step[0] === "W") {
      machine.writeRegister(numberIn(step[1]), step[2], step[3]);
      devices.settle();
    } else if (step[0] === "V") finals.set(numberIn(step[1]), viewOf(step));
    else if (step[0] === "N" || step[0] === "U" || step[0] === "L") follow(devices, step);
    else throw new Error(`step ${step[0]} does not belong to this format`);
  });
  devices.finish();
  if (given.qemu_abort === 1) {
    // The oracle stopped at an assertion of its own: that we come to the end is the check.
    tally.pass("case completed");
    return;
  }
  for (const device of devices) {
    const final = finals.get(device.sourceId);
    if (final !== undefined && device.sections.size > 0) {
      const drift = device.theirs.difference(final, EVERYWHERE);
      if (drift.length > 0)
        tally.fail(
          "oracle's own view",
          "notifications and final view of the file",
          drift.map(formatDifference).join("; "),
          "",
        );
    }
    devices.compareAll(device, "final view", { theirs: final });
  }
}

const EVERYWHERE = { firstPfn: 0, pageCount: 2 ** 52 };

/** What tells of the oracle's notifiers; rights are numbers in cases and texts in traces. */
type OracleNotification =
  | Extract<CaseStep, readonly ["U" | "L", ...unknown[]]>
  | readonly ["N", string, "m" | "u", string, string, string, number | string];

/** Applies a notification of the oracle to its view. */
export function follow(devices: WatchedDevices, step: OracleNotification): void {
  if (step[0] === "N") {
    const [, sid, kind, iova, gpa, mask, access] = step;
    const device = devices.of(numberIn(sid));
    const range = { firstPfn: pfnIn(iova), pageCount: pagesOfMask(mask) };
    if (kind === "m") device.theirs.set(range.firstPfn, range.pageCount, pfnIn(gpa), Number(access));
    else device.theirs.clear(range.firstPfn, range.pageCount);
    device.touched.push(range);
  } else if (step[0] === "U") {
    const [, sid, start, end] = step;
    devices.of(numberIn(sid)).theirs.clear(pfnIn(start), pfnIn(end) + 1 - pfnIn(start));
  } else {
    const [, sid, change, start, end] = step;
    const device = devices.of(numberIn(sid));
    if (change === "+") device.sections.add(start);
    else device.sections.delete(start);
    const range = { firstPfn: pfnIn(start), pageCount: pfnIn(end) + 1 - pfnIn(start) };
    device.theirs.clear(range.firstPfn, range.pageCount);
    device.touched.push(range);
  }
}

function viewOf([, , ...mappings]: Extract<CaseStep, readonly ["V", ...unknown[]]>): PageView {
  const view = new PageView();
  for (const [iova, gpa, mask, access] of mappings) view.set(pfnIn(iova), pagesOfMask(mask), pfnIn(gpa), access);
  return view;
}
