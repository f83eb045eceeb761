import { describe, expect, it } from "vitest";
import { announceDifferences, type Follow, unmapAllThenMap } from "../src/follow/follow.js";
import { playTrace } from "../src/play-trace.js";
import type { Playback } from "../src/trace-player.js";
import { failureCount, lossTotals } from "../src/report/summary.js";
import { Trace } from "../src/trace/trace.js";
import { HEADER } from "./small-trace.js";

/** A driver gives the disk at 00:03.0 a table of three levels that maps page 5 to page 9, and switches translation on. */
const BOOT = [
  '["M","10000","11001"]',
  '["M","11180","12001","101"]',
  '["M","12000","13003"]',
  '["M","13000","14003"]',
  '["M","14028","9003"]',
  '["W","20",8,"10000"]',
  '["W","18",4,"40000000"]',
  '["W","18",4,"80000000"]',
];
const DISK_WRITES = '["T","18",2,"5010","9000","fff",3]';
/** The invalidation registers: all translations of domain 1. */
const FLUSH_DOMAIN = '["W","f8",8,"a000000100000000"]';

function play(follow: Parameters<typeof playTrace>[1], ...lines: readonly string[]): Playback {
  return playTrace(new Trace("small", [JSON.stringify(HEADER), ...lines].join("\n")), follow);
}

describe("playing a trace", () => {
  it("finds a live page gone under the old strategy when its domain is flushed, and not under ours", () => {
    const lines = [...BOOT, DISK_WRITES, FLUSH_DOMAIN, DISK_WRITES];
    const [old, ours] = [play(unmapAllThenMap, ...lines), play(announceDifferences, ...lines)];

    expect(lossTotals(old)).toMatchObject({ vanishedPages: 1, occasions: 1, refusedRequests: 1, longestCalls: 1 });
    expect(lossTotals(ours)).toMatchObject({ vanishedPages: 0, occasions: 0, refusedRequests: 0, longestCalls: 0 });
    for (const { checks } of [old, ours]) expect(checks.translations).toEqual({ passed: 2, failed: 0 });
    expect(failureCount({ old, ours })).toBe(0);
    // Were ours to lose pages as the old one does, the demo would fail.
    expect(failureCount({ old, ours: old })).toBe(1);
  });

  it.each([
    [
      "another address",
      '["T","18",2,"5010","8000","fff",3]',
      /line 10: disk, page 0x5: the cache answers frame 0x9, recorded 0x8/,
    ],
    ["other rights", '["T","18",2,"5010","9000","fff",2]', /gives rights 3, recorded 2/],
    ["another block size", '["T","18",2,"205010","200000","1fffff",3]', /refuses \(.*\) what was allowed/],
    ["a request that was refused", '["T","18",2,"5010"]', /allows what was refused/],
    ["an unknown device", '["T","20",2,"5010"]', /line 10: a request of a device that the header does not name/],
  ])("reports %s", (_what, line, expected) => {
    const { checks, mismatches } = play(announceDifferences, ...BOOT, line);
    expect(checks.translations).toEqual({ passed: 0, failed: 1 });
    expect(mismatches[0]).toMatch(expected);
  });

  it("reports a register that reads otherwise, except bits that may differ", () => {
    const read = (line: string): unknown => play(announceDifferences, ...BOOT, line).checks.registerReads;
    expect(read('["R","8",8,"d2008c222f0686"]')).toEqual({ passed: 1, failed: 0 });
    expect(read('["R","8",8,"d2008c222f0606"]')).toEqual({ passed: 0, failed: 1 });
    expect(read('["R","22c",4,"ffff00"]')).toEqual({ passed: 1, failed: 0 });
    expect(read('["R","22c",4,"80ffff00"]')).toEqual({ passed: 0, failed: 1 });
    expect(read('["R","1c",4,"c0000000"]')).toEqual({ passed: 1, failed: 0 });
  });

  it("reports an interrupt that became another one, and a word that was not stored", () => {
    const message = (line: string): unknown => play(announceDifferences, line).checks.interrupts;
    expect(message('["I","-","fee01000","30","fee01000","30"]')).toEqual({ passed: 1, failed: 0 });
    expect(message('["I","-","fee01000","30","fee01000","31"]')).toEqual({ passed: 0, failed: 1 });
    expect(message('["I","-","fee01000","30"]')).toEqual({ passed: 0, failed: 1 });
    expect(play(announceDifferences, '["X","1000","2"]').checks.waits).toEqual({ passed: 0, failed: 1 });
  });

  it("compares containers with the tables after commands to the unit", () => {
    const { checks } = play(announceDifferences, ...BOOT, FLUSH_DOMAIN);
    expect(checks.views).toEqual({ passed: 2, failed: 0 });
  });

  it("reports a container that nobody keeps in step", () => {
    const nobody: Follow = (space) => space.attach({ kind: "unmap", unmap: () => undefined });
    const { checks, mismatches } = play(nobody, ...BOOT, DISK_WRITES, FLUSH_DOMAIN);
    expect(checks.translations).toEqual({ passed: 0, failed: 1 });
    expect(checks.views).toEqual({ passed: 0, failed: 2 });
    expect(mismatches).toContain("line 10: disk, page 0x5: the container does not follow");
    expect(mismatches).toContain("line 9: the container of disk differs from the tables");
  });

  it("counts what the driver did", () => {
    const { driver } = play(
      announceDifferences,
      ...BOOT,
      '["R","1c",4,"c0000000"]',
      '["Q","500f2","0"]',
      '["Q","21","0"]',
    );
    expect([...driver.writes]).toEqual([
      ["root table address", 1],
      ["global command", 2],
    ]);
    expect([...driver.invalidations]).toEqual([
      ["translations, pages", 1],
      ["context cache, one domain", 1],
    ]);
    expect([driver.registerReads, driver.memoryWords]).toEqual([1, 6]);
  });
});
