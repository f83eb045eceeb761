import { describe, expect, it } from "vitest";
import { capabilitiesPage, missingCapabilities, unusedReasons } from "./capabilities-page.js";
import { absentCapabilities, absentReasons, withoutEffect } from "./why-not.js";

describe("docs/capabilities.md", () => {
  it("says what the tables and the unit say; `vitest --update` writes it", async () => {
    await expect(capabilitiesPage()).toMatchFileSnapshot("../../../../docs/capabilities.md");
  });

  it("gives a reason for every capability that no configuration has, and for no other", () => {
    expect(Object.keys(absentCapabilities).toSorted()).toEqual(missingCapabilities().toSorted());
    for (const name of Object.keys(withoutEffect)) expect(Object.keys(absentCapabilities)).not.toContain(name);
  });

  it("gives a reason for every fault reason that no code can arrive at", () => {
    const unused = unusedReasons();
    expect(unused.length).toBeGreaterThan(5);
    expect(Object.keys(absentReasons).toSorted()).toEqual(unused.toSorted());
  });
});
