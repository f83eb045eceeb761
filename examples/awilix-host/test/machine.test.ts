import { describe, expect, it } from "vitest";
import { choices, makeMachine } from "../src/machine.js";

describe("a machine made by awilix", () => {
  it.each([
    ["mirrors", choices.mirror, "map"],
    ["caches", choices.cache, "unmap"],
  ] as const)("%s when one registration says so", (_what, choice, kind) => {
    const { cradle } = makeMachine(choice);
    expect(cradle.notifier.kind).toBe(kind);
    expect(cradle.disk.attachments.map(({ notifier }) => notifier)).toEqual([cradle.notifier]);
  });

  it("has one unit, and shares it with no other machine", () => {
    const [first, second] = [makeMachine(choices.mirror), makeMachine(choices.mirror)];
    expect(first.cradle.unit).toBe(first.cradle.unit);
    expect(first.cradle.unit).not.toBe(second.cradle.unit);
    expect(first.cradle.notifier).not.toBe(second.cradle.notifier);
  });
});
