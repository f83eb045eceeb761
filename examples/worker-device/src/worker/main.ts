/** The device's thread in Node. */

import { parentPort } from "node:worker_threads";
import { deviceProgram } from "../device.js";

if (parentPort === null) throw new TypeError("expected to run in a worker");
const port = parentPort;
port.on(
  "message",
  deviceProgram(port, (message) => port.postMessage(message)),
);
