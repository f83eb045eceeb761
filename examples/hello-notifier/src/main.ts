/**
 * A MAP notifier of fifteen lines on a machine of ten: watch it follow a guest, one page at a time.
 */

import { equal } from "node:assert/strict";
import { BackendIommu, parseSourceId } from "@iommu-kit/iommu-core";
import { FakeMemory, SimpleBackend, SimpleDomain } from "@iommu-kit/iommu-core/testing";
import { FlatShadow } from "./flat-shadow.js";

const tables = new SimpleDomain("the guest's tables");
const backend = new SimpleBackend(tables);
const unit = new BackendIommu({ backend, memory: new FakeMemory() });
const nic = unit.addressSpace(parseSourceId("00:03.0"));

const shadow = new FlatShadow();
const attachment = nic.attach(shadow);

const step = (what: string, edit: () => void): void => {
  edit();
  void backend.invalidate(tables);
  const held = [...shadow.pages].map(([iova, { gpaPfn }]) => `${iova.toString(16)}->${gpaPfn.toString(16)}`);
  console.log(`${what.padEnd(32)} ${held.join("  ")}`);
  for (const [iova, page] of shadow.pages) equal(tables.lookup(iova)?.gpaPfn, page.gpaPfn);
};

step("the guest maps 4 pages", () => tables.map(0x10, 4, 0x100));
step("it unmaps the second", () => tables.unmap(0x11, 1));
step("it moves the third", () => tables.map(0x12, 1, 0x500));
void attachment.detach();
equal(shadow.pages.size, 0);
console.log("detached: the shadow is empty");
