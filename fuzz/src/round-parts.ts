/** What the checks of a round work with. */

import type { Devices } from "./devices.js";
import type { Driver } from "./driver.js";
import type { Judge } from "./judge.js";
import type { Machine } from "./machine.js";
import type { Rest } from "./rest.js";

/** The parts of one round. */
export interface RoundParts {
  readonly machine: Machine;
  readonly judge: Judge;
  readonly driver: Driver;
  readonly devices: Devices;
  readonly rest: Rest;
}
