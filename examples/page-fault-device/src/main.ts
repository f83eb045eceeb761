/** The process around demo.ts. */

import { runDemo } from "./demo.js";

const held = await runDemo((line) => process.stdout.write(`${line}\n`));
process.exitCode = held ? 0 : 1;
