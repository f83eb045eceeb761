/**
 * Changes a scenario that reached new code: cut, doubled, moved, crossed with another one, with new steps in between.
 */

import { randomUnit } from "./generate.js";
import type { Random } from "./random.js";
import { randomStep } from "./random-step.js";
import type { Scenario, Step } from "./step.js";

const MOST_STEPS = 500;

/** A relative of a scenario; `others` are candidates to cross it with. */
export function mutated(scenario: Scenario, others: readonly Scenario[], random: Random): Scenario {
  let steps: Step[] = [...scenario.steps];
  let { unit } = scenario;
  const changes = 1 + random.below(5);
  for (let i = 0; i < changes; i++) {
    const at = random.below(steps.length + 1);
    const length = 1 + random.below(8);
    switch (random.below(7)) {
      case 0:
        steps.splice(at, length);
        break;
      case 1:
        steps.splice(at, 0, ...steps.slice(at, at + length));
        break;
      case 2: {
        const other = random.pick(others).steps;
        const from = random.below(other.length);
        steps.splice(at, 0, ...other.slice(from, from + length * 4));
        break;
      }
      case 3: {
        const moved = steps.splice(at, length);
        steps.splice(random.below(steps.length + 1), 0, ...moved);
        break;
      }
      case 4: {
        const { mode, nested } = unit;
        unit = { ...randomUnit(random), mode, nested };
        break;
      }
      default:
        steps.splice(at, 0, ...randomStep(random, unit), ...randomStep(random, unit));
    }
  }
  if (steps.length > MOST_STEPS) steps = steps.slice(-MOST_STEPS);
  steps.push({ do: "flush", by: random.pick(["queue", "root", "registers"]) });
  return { version: 1, unit, steps };
}
