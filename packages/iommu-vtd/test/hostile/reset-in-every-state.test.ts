import { describe, expect, it } from "vitest";
import { endIn, ends, states } from "./reset-rig.js";

describe.each(states)("a unit %s that", (state) => {
  it.each(ends)("%s", async (end) => {
    await expect(endIn(state, end)).resolves.toBeUndefined();
  });
});
