/**
 * What test files get for `vitest` under mutation: vitest's own `expect` and `vi`, and a `describe` and `it` that only
 * collect, so that the runner can call a single test any number of times.
 */
import { format } from "node:util";

/** @import { Real } from "./runner.mjs" */

const { expect, vi } = /** @type {Real} */ (Reflect.get(globalThis, Symbol.for("iommu-kit/mutation"))).vitest;

/** @typedef {() => unknown} Hook */
/** @typedef {{ names: string[], before: Hook[], after: Hook[] }} Suite */
/** @typedef {{ file: string, name: string, suite: Suite, body: (context: object) => unknown }} CollectedTest */

export { expect, vi };

/** @type {CollectedTest[]} */
export const collected = [];

let file = "";
/** @type {Suite} */
let suite = { names: [], before: [], after: [] };

/** Tests that are collected from here on belong to this file. @param {string} path */
export function enterFile(path) {
  file = path;
  suite = { names: [], before: [], after: [] };
}

/** @param {string} name @param {() => void} body */
function describeOne(name, body) {
  const outer = suite;
  suite = { names: [...outer.names, name], before: [...outer.before], after: [...outer.after] };
  body();
  suite = outer;
}

/** `it(name, body)`, `it(name, options, body)`, `it(name, body, timeout)`. @param {string} name @param {unknown[]} rest */
function itOne(name, ...rest) {
  const body = /** @type {CollectedTest["body"] | undefined} */ (rest.find((one) => typeof one === "function"));
  if (body !== undefined) collected.push({ file, name: [...suite.names, name].join(" > "), suite, body });
}

/** @param {(name: string, body: any) => void} one */
function withEach(one) {
  /** @param {readonly unknown[]} table */
  const each = (table) => (/** @type {string} */ name, /** @type {(...values: unknown[]) => unknown} */ body) => {
    for (const row of table) {
      const values = /** @type {unknown[]} */ (Array.isArray(row) ? row : [row]);
      const placeholders = name.match(/%[a-z]/g)?.length ?? 0;
      one(format(name, ...values.slice(0, placeholders)), () => body(...values));
    }
  };
  return Object.assign(one, { each, skip: () => undefined });
}

export const describe = withEach(describeOne);
export const it = withEach(itOne);
/** @param {Hook} hook */
export const beforeEach = (hook) => suite.before.push(hook);
/** @param {Hook} hook */
export const afterEach = (hook) => suite.after.unshift(hook);
