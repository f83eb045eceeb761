/** The device's thread in the browser. */

import { type FromDevice, deviceProgram } from "../../../src/device.js";

/** A worker's global scope, as far as it is used here: its types and those of a page do not go together. */
interface WorkerScope {
  postMessage(message: unknown): void;
  addEventListener(event: "message", listener: (event: { readonly data: unknown }) => void): void;
}

const scope = globalThis as unknown as WorkerScope;
const take = deviceProgram(scope, (message: FromDevice) => scope.postMessage(message));
scope.addEventListener("message", (event) => take(event.data));
