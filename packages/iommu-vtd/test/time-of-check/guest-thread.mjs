/* oxlint-disable typescript/no-unsafe-assignment -- what a thread is given has no type */
/**
 * A second CPU of the guest: changes entries of tables in shared memory as fast as it can, until it is told to stop. Plain JavaScript: it runs in a thread of its own, without a build.
 *
 * `places` says, for each entry that changes, the 64-bit values it takes in turn; control[0] is 1 while it shall run, control[1] counts the turns that are done: once it is not 0, every place holds one of its values.
 */

import { workerData } from "node:worker_threads";

/** @type {{ ram: SharedArrayBuffer, control: SharedArrayBuffer, places: { gpa: number, values: bigint[] }[] }} */
const given = workerData;
const { ram, control, places } = given;
const entries = new BigInt64Array(ram);
const signals = new Int32Array(control);

for (let turn = 0; Atomics.load(signals, 0) === 1; turn++) {
  for (const { gpa, values } of places) Atomics.store(entries, gpa / 8, values[turn % values.length] ?? 0n);
  Atomics.add(signals, 1, 1);
}
