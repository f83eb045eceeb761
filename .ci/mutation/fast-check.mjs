/**
 * What test files get for `fast-check` under mutation: properties run a few times, from one seed, and do not shrink. A mutant
 * that survives here is one that a few runs do not find; `pnpm test` runs each property as often as its test says.
 */
import { MOST_RUNS } from "./settings.mjs";

/** @import { Real } from "./runner.mjs" */

const { fc } = /** @type {Real} */ (Reflect.get(globalThis, Symbol.for("iommu-kit/mutation")));

/** @param {import("fast-check").Parameters<unknown>} [parameters] */
const reduced = (parameters) => ({
  ...parameters,
  seed: 1,
  endOnFailure: true,
  numRuns: Math.min(parameters?.numRuns ?? 100, MOST_RUNS),
});

/** @param {import("fast-check").IRawProperty<unknown>} property @param {import("fast-check").Parameters<unknown>} [parameters] */
const assert = (property, parameters) => fc.assert(property, reduced(parameters));

// As fast-check is imported.
// oxlint-disable-next-line import/no-default-export
export default { ...fc, assert };
