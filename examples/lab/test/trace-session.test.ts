import { describe, expect, it } from "vitest";
import { Trace } from "@iommu-kit/linux-trace/trace/trace";
import { TraceSession } from "../src/sessions/trace-session.js";

const HEADER = {
  format: "vtd-linux-trace",
  version: 1,
  guest: "a guest",
  kernel_args: "",
  iommu: { aw_bits: 48, caching_mode: true },
  work: "nothing",
  devices: [["18", "disk"]],
  ram: [["0", "10000000"]],
  reset_registers: [
    ["8", "222f0686"],
    ["c", "d2008c"],
    ["10", "f00f4a"],
  ],
};
const DISK = 0x18;
const FLUSH_DOMAIN = '["W","f8",8,"a000000100000000"]';
const DISK_WRITES = '["T","18",2,"5010","9000","fff",3]';
const LINES = [
  '["M","10000","11001"]',
  '["M","11180","12001","101"]',
  '["M","12000","13003"]',
  '["M","13000","14003"]',
  '["M","14028","9003"]',
  '["W","20",8,"10000"]',
  '["W","18",4,"40000000"]',
  '["W","18",4,"80000000"]',
  DISK_WRITES,
  FLUSH_DOMAIN,
  DISK_WRITES,
];

function session(): TraceSession {
  return new TraceSession(new Trace("small", [JSON.stringify(HEADER), ...LINES].join("\n")));
}

describe("a recorded trace, step by step", () => {
  it("plays one event at a time in both machines, and says what it was", () => {
    const lab = session();
    expect(lab.story).toMatch(/has not run yet/);
    const stories: string[] = [];
    while (lab.step()) stories.push(lab.story);
    expect(stories).toHaveLength(LINES.length);
    expect(stories[0]).toBe("Line 2: the driver changes 1 entry in memory at 0x10000");
    expect(stories[7]).toBe("Line 9: the driver writes 0x80000000 to global command");
    expect(stories[8]).toBe("Line 10: 00:03.0 writes page 0x5: memory at page 0x9");
    expect([lab.position, lab.length]).toEqual([LINES.length, LINES.length]);
    expect(lab.step()).toBe(false);
    expect(lab.mismatches).toEqual([]);
  });

  it("plays on to the next change of one device's container", () => {
    const lab = session();
    expect(lab.stepToChange(DISK)).toBe(true);
    expect(lab.story).toMatch(/global command/);
    expect(lab.stepToChange(DISK)).toBe(true);
    expect(lab.followed.old.get(DISK)?.recorder.last).toMatchObject({ vanishedPages: 1, refusedRequests: 1 });
    expect(lab.followed.ours.get(DISK)?.timeline.totals).toMatchObject({ vanishedPages: 0, refusedRequests: 0 });
    expect(lab.stepToChange(DISK)).toBe(false);
  });

  it("names answers that differ from the recorded ones", () => {
    const lab = new TraceSession(new Trace("wrong", [JSON.stringify(HEADER), '["R","0",4,"11"]'].join("\n")));
    while (lab.step());
    expect(lab.mismatches[0]).toMatch(/register 0x0 reads/);
  });
});
