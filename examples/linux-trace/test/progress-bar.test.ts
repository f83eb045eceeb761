import { describe, expect, it } from "vitest";
import { ProgressBar } from "../src/progress-bar.js";

function recorder(isTTY: boolean) {
  const written: string[] = [];
  return { written, isTTY, columns: 60, write: (text: string) => written.push(text) };
}

describe("the progress bar", () => {
  it("redraws one line in a terminal, at most once for each percent", () => {
    const output = recorder(true);
    const bar = new ProgressBar("trace", output);
    for (let step = 0; step <= 1000; step++) bar.update(step / 1000);
    bar.finish(1234);
    expect(output.written).toHaveLength(102);
    expect(output.written[50]?.startsWith("\r\u001B[K")).toBe(true);
    expect(output.written[50]).toMatch(/trace █+░+  50 %$/);
    expect(output.written.at(-1)).toMatch(/trace: 1\.2 s\n$/);
    for (const text of output.written) expect(text.length).toBeLessThan(60 + 6);
  });

  it("writes one plain line where nobody watches", () => {
    const output = recorder(false);
    const bar = new ProgressBar("trace", output);
    bar.update(0.5);
    bar.finish(900);
    expect(output.written).toEqual(["trace: 0.9 s\n"]);
  });
});
