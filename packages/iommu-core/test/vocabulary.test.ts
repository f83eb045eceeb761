import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  Access,
  accessOf,
  ALL_FRAMES,
  byteAddress,
  CompletionGroup,
  contains,
  endOf,
  formatAccess,
  formatPfn,
  formatRange,
  formatSourceId,
  intersect,
  IommuError,
  LocalReason,
  notifierName,
  offsetInPage,
  parseSourceId,
  pfnOf,
  sourceId,
  Translation,
  whenDone,
} from "../src/index.js";

const anyRange = fc.record({ firstPfn: fc.nat(60), pageCount: fc.integer({ min: 1, max: 30 }) });

describe("addresses", () => {
  it("split into frame and offset exactly, over the whole 64-bit space", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (address) => {
        expect(BigInt(pfnOf(address))).toBe(address >> 12n);
        expect(BigInt(offsetInPage(address))).toBe(address & 0xfffn);
        expect(byteAddress(pfnOf(address), offsetInPage(address))).toBe(address);
        if (address >= 2n ** 53n) return;
        expect(pfnOf(Number(address))).toBe(pfnOf(address));
        expect(offsetInPage(Number(address))).toBe(offsetInPage(address));
      }),
    );
    expect(formatPfn(2 ** 52 - 1)).toBe("0xfffffffffffff000");
  });
});

describe("ranges", () => {
  it("intersect and contain like sets of frames", () => {
    fc.assert(
      fc.property(anyRange, anyRange, fc.nat(100), (a, b, pfn) => {
        expect(contains(a, pfn)).toBe(pfn >= a.firstPfn && pfn < endOf(a));
        expect(contains(intersect(a, b), pfn)).toBe(contains(a, pfn) && contains(b, pfn));
        expect(intersect(a, ALL_FRAMES)).toEqual(a);
      }),
    );
    expect(formatRange({ firstPfn: 16, pageCount: 2 })).toMatch(/^0x10000.*2 pages/);
    expect(formatRange({ firstPfn: 16, pageCount: 0 })).toMatch(/^empty/);
  });
});

describe("source-ids", () => {
  it("are the same number however they are made, and read back", () => {
    fc.assert(
      fc.property(fc.nat(255), fc.nat(31), fc.nat(7), (bus, device, fn) => {
        const id = sourceId(bus, device, fn);
        expect(id).toBe(bus * 256 + device * 8 + fn);
        expect(parseSourceId(formatSourceId(id))).toBe(id);
      }),
    );
  });

  it("are refused for what is none", () => {
    for (const bad of ["", "0:3", "00:20.0", "00:03.8", "100:00.0", "zz:00.0"]) {
      expect(() => parseSourceId(bad)).toThrow(IommuError);
    }
    expect(() => sourceId(256, 0, 0)).toThrow(IommuError);
    expect(() => sourceId(0, 32, 0)).toThrow(IommuError);
    expect(() => sourceId(0, 0, 8)).toThrow(IommuError);
  });
});

describe("rights", () => {
  it("are the two low bits of a word", () => {
    expect([0, 1, 2, 3, 0x80 | 3, -1].map(accessOf)).toEqual([0, 1, 2, 3, 3, 3]);
    expect([Access.none, Access.read, Access.write, Access.readWrite].map(formatAccess)).toEqual([
      "--",
      "r-",
      "-w",
      "rw",
    ]);
  });
});

describe("a translation", () => {
  it("says one thing at a time when it is reused", () => {
    const out = new Translation();
    out.allow(5, 8, 3);
    expect(out).toMatchObject({ gpaPfn: 5, pageCount: 8, access: 3, reason: 0, cause: "" });
    out.refuse(7, "why");
    expect(out).toMatchObject({ gpaPfn: 0, pageCount: 1, access: 0, reason: 7, cause: "why" });
  });
});

describe("completions", () => {
  it("cost nothing when done already, and gather what is pending", async () => {
    const group = new CompletionGroup();
    group.add(undefined);
    expect(group.take()).toBeUndefined();
    const resolvers: (() => void)[] = [];
    for (let i = 0; i < 2; i++) group.add(new Promise<void>((resolve) => resolvers.push(resolve)));
    const all = group.take();
    expect(group.take()).toBeUndefined();
    const seen: string[] = [];
    whenDone(undefined, () => seen.push("at once"));
    whenDone(all, () => seen.push("later"));
    resolvers[0]!();
    await Promise.resolve();
    expect(seen).toEqual(["at once"]);
    resolvers[1]!();
    await all;
    await Promise.resolve();
    expect(seen).toEqual(["at once", "later"]);
  });
});

describe("a group of completions that lives long", () => {
  it("counts what is pending once, forgets what is done, and keeps what has failed for whoever takes it", async () => {
    const group = new CompletionGroup();
    expect(group.size).toBe(0);
    const settle: (() => void)[] = [];
    const [one, two] = [0, 1].map(() => new Promise<void>((resolve) => settle.push(resolve)));
    for (const completion of [one, two, one]) group.add(completion);
    expect(group.size).toBe(2);
    settle[0]!();
    await one;
    expect(group.size).toBe(1);
    // A single one is handed on as it is.
    expect(group.take()).toBe(two);
    expect([group.size, group.take()]).toEqual([0, undefined]);
    group.add(one);
    await one;
    expect([group.size, group.take()]).toEqual([0, undefined]);
    const failed = Promise.reject<void>(new Error("gone"));
    group.add(failed);
    await Promise.resolve();
    expect(group.size).toBe(1);
    await expect(group.take()).rejects.toThrow("gone");
    settle[1]!();
  });
});

describe("reasons that no architecture has", () => {
  it("are negative, and no number has two meanings", () => {
    const reasons = Object.values(LocalReason);
    expect(reasons.every((reason) => Number.isInteger(reason) && reason < 0 && reason > -100)).toBe(true);
    expect(new Set(reasons).size).toBe(reasons.length);
  });
});

describe("errors of the host programmer", () => {
  it("carry a code, the fix, and the cause", () => {
    const cause = new Error("deep down");
    const error = new IommuError("bad-option", "expected a, got b", { hint: "give a", cause });
    expect(error).toMatchObject({ name: "IommuError", code: "bad-option", hint: "give a", cause });
    expect(error.message).toBe("expected a, got b (give a)");
    expect(error).toBeInstanceOf(Error);
  });

  it("name a notifier by its name, or by its kind", () => {
    expect(notifierName({ kind: "unmap", unmap: () => undefined })).toBe("unmap notifier");
    expect(notifierName({ kind: "unmap", name: "vhost", unmap: () => undefined })).toBe("vhost");
  });
});
