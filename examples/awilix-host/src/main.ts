/** Two machines that differ in one line, and share nothing. */

import { equal, notEqual } from "node:assert/strict";
import { choices, makeMachine } from "./machine.js";

const mirror = makeMachine(choices.mirror);
const cache = makeMachine(choices.cache);
for (const { cradle } of [mirror, cache]) {
  equal(cradle.unit, cradle.unit);
  equal(cradle.disk.attachments[0]?.notifier, cradle.notifier);
  equal(cradle.disk.dma.write(0x1000, Uint8Array.of(1)), true);
  console.log(`${cradle.disk.label}: ${cradle.notifier.constructor.name} of kind ${cradle.notifier.kind}`);
}
notEqual(mirror.cradle.unit, cache.cradle.unit);
