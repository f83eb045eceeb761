/**
 * A backend of forty lines, with everything that the hub brings along: DMA, replay, exact events.
 */

import { deepEqual, equal } from "node:assert/strict";
import { Access, BackendIommu, parseSourceId } from "@iommu-kit/iommu-core";
import { FakeMemory, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { Aperture } from "./aperture.js";

const memory = new FakeMemory();
const aperture = new Aperture(0xd0000, 64);
const unit = new BackendIommu({ backend: aperture, memory });
const gpu = unit.addressSpace(parseSourceId("01:00.0"));
const notifier = new RecordingNotifier();
gpu.attach(notifier);

void aperture.write(0, 0x1234 * 4 + Access.readWrite);
void aperture.write(1, 0x0042 * 4 + Access.read);
memory.poke(0x1234_008, 77);

const word = new Uint8Array(1);
equal(gpu.dma.read(0xd000_0008, word), true);
equal(word[0], 77);
equal(gpu.dma.write(0xd000_1000, word), false);
console.log(`read ${word[0]} through the aperture; a write to a read-only page: ${gpu.dma.failure?.cause}`);

void aperture.write(0, 0);
const told = notifier.take();
console.log(`a MAP notifier was told: ${told.join(", ")}`);
deepEqual(told, ["map 0xd0000+1 -> 0x1234 rw", "map 0xd0001+1 -> 0x42 r-", "unmap 0xd0000+1"]);
