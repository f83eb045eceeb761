import { describe, expect, it } from "vitest";
import { TraceError, type TraceProblem } from "../src/trace/trace-error.js";
import { Trace } from "../src/trace/trace.js";
import { openTrace } from "../src/trace/trace-file.js";
import { HEADER, packed, traceFile } from "./small-trace.js";

const READ = '["R","0",4,"10"]';

function problemOf(open: () => unknown): TraceError {
  try {
    open();
  } catch (error) {
    if (error instanceof TraceError) return error;
    throw error;
  }
  throw new Error("expected a TraceError");
}

function expectProblem(open: () => unknown, problem: TraceProblem, ...texts: readonly RegExp[]): void {
  const error = problemOf(open);
  expect(error.problem).toBe(problem);
  expect(error.hint).not.toBe("");
  for (const text of texts) expect(error.message).toMatch(text);
}

describe("a trace file", () => {
  it("tells what machine was recorded", () => {
    const { header, name, lineCount } = openTrace(traceFile(packed(HEADER, READ, READ)));
    expect({ name, lineCount }).toEqual({ name: "small", lineCount: 2 });
    expect(header).toMatchObject({
      guest: "a guest",
      addressWidth: 48,
      cachingMode: true,
      cap: 0xd2008c_222f0686n,
      ecap: 0xf00f4an,
      devices: [{ sourceId: 0x18, name: "disk" }],
      ram: [{ start: 0, end: 0x1000_0000 }],
    });
  });

  it("gives the events that are used, with the numbers of their lines, each time it is played", () => {
    const trace = openTrace(traceFile(packed(HEADER, READ, '["N","18","m","0","0","fff",3]', READ)));
    for (let time = 0; time < 2; time++) {
      expect([...trace.events()].map(({ lineNumber, event }) => [lineNumber, event.kind])).toEqual([
        [2, "read"],
        [4, "read"],
      ]);
    }
  });

  it("reads a last line without a line feed", () => {
    const trace = new Trace("t", `${JSON.stringify(HEADER)}\n${READ}\n${READ}`);
    expect(trace.lineCount).toBe(2);
    expect([...trace.events()]).toHaveLength(2);
  });

  it("says where it looked when there is no file", () => {
    expectProblem(() => openTrace("/nowhere/at-all.jsonl.gz"), "missing", /\/nowhere\/at-all\.jsonl\.gz/);
  });

  it("says that a file is empty, or is no gzip", () => {
    expectProblem(() => openTrace(traceFile("")), "damaged", /is empty/);
    expectProblem(() => openTrace(traceFile(JSON.stringify(HEADER))), "not-a-trace", /is not gzip/);
  });

  it("says that a file is damaged wherever it was cut off", () => {
    const whole = packed(HEADER, ...Array.from({ length: 50 }, (_, index) => `["X","${index.toString(16)}000","2"]`));
    for (let length = 2; length < whole.length; length += 7) {
      expectProblem(() => openTrace(traceFile(whole.subarray(0, length))), "damaged", /cut off/);
    }
  });

  it("says that a file is damaged when bytes in it changed", () => {
    const whole = packed(HEADER, READ, READ);
    const changed = Buffer.from(whole);
    changed[whole.length - 6] = (whole[whole.length - 6] ?? 0) ^ 0x10;
    expectProblem(() => openTrace(traceFile(changed)), "damaged", /bytes in it have changed/);
  });

  it("says that a file is another recording, another version, or no recording", () => {
    expectProblem(
      () => openTrace(traceFile(packed({ ...HEADER, format: "vtd-cases" }, READ))),
      "not-a-trace",
      /"vtd-cases"/,
    );
    expectProblem(() => openTrace(traceFile(packed({ ...HEADER, version: 2 }, READ))), "wrong-version", /got 2/);
    expectProblem(() => openTrace(traceFile(packed([1], READ))), "not-a-trace", /no header/);
    expectProblem(() => new Trace("t", "nonsense\n"), "not-a-trace", /no JSON/);
  });

  it("says that the header lacks something", () => {
    expectProblem(() => openTrace(traceFile(packed({ ...HEADER, ram: undefined }, READ))), "damaged", /header lacks/);
    expectProblem(
      () => openTrace(traceFile(packed({ ...HEADER, devices: [["zz", "disk"]] }, READ))),
      "damaged",
      /header lacks/,
    );
  });

  it("says that there is nothing behind the header", () => {
    expectProblem(() => openTrace(traceFile(packed(HEADER))), "damaged", /nothing behind it/);
  });

  it("names the line that cannot be read", () => {
    const play = (line: string) => () => [...new Trace("t", `${JSON.stringify(HEADER)}\n${READ}\n${line}\n`).events()];
    expectProblem(play('["R","0",4'), "bad-line", /line 3 .* no JSON/);
    expectProblem(play('{"R":1}'), "bad-line", /line 3 .* no array/);
    expectProblem(play('["Z",1]'), "bad-line", /line 3 .* unknown kind "Z"/);
    expectProblem(play('["R","0","4","10"]'), "bad-line", /line 3 .* "4" at place 3/);
    expectProblem(play('["R","0x8",4,"10"]'), "bad-line", /line 3 .* "0x8" at place 2/);
    expectProblem(play('["W","0",4]'), "bad-line", /line 3 .* nothing at place 4/);
    expectProblem(play('["T","18",1,"1000",{"x":0}]'), "bad-line", /line 3 .* count of repetitions/);
  });
});
