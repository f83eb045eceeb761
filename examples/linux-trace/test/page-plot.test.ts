import { describe, expect, it } from "vitest";
import { escapeText, pagePlot, translated } from "../src/report/page-plot.js";

const sample = (lineNumber: number, fewestPages: number, pages: number) => ({
  lineNumber,
  fewestPages,
  pages,
  bypass: false,
});

/** The heights that the line of a plot passes, without neighbours that are equal. */
function heights(samples: readonly ReturnType<typeof sample>[]): number[] {
  const svg = pagePlot({ title: "a plot", samples, lineCount: 1000, mostPages: 99, style: "old" });
  const path = / d="([^"]*)"/.exec(svg)?.[1] ?? "";
  const all = [...path.matchAll(/(?:^M\d+ |V)([\d.]+)/g)].map((match) => Number(match[1]));
  return all.filter((height, index) => height !== all[index - 1]);
}

describe("a plot of mapped pages", () => {
  const [bottom = 0, top = 0] = [heights([sample(1, 0, 0)])[0], heights([sample(1, 99, 99)])[0]];

  it("falls to what was left and comes back where pages were gone for a while", () => {
    expect(top).toBeLessThan(bottom);
    expect(heights([sample(1, 99, 99), sample(500, 0, 99)])).toEqual([top, bottom, top]);
    expect(heights([sample(1, 99, 99), sample(500, 99, 99)])).toEqual([top]);
  });

  it("shows a gap in the first sample, and one that shares its pixel with others", () => {
    expect(heights([sample(1, 0, 99)])).toEqual([bottom, top]);
    const crowded = Array.from({ length: 50 }, (_, index) => sample(500 + index / 100, index === 25 ? 0 : 99, 99));
    expect(heights([sample(1, 99, 99), ...crowded])).toEqual([top, bottom, top]);
  });

  it("does not grow with the trace", () => {
    const samples = Array.from({ length: 20_000 }, (_, index) => sample(index / 20, index % 2, 99));
    expect(pagePlot({ title: "", samples, lineCount: 1000, mostPages: 99, style: "ours" }).length).toBeLessThan(20_000);
  });

  it("leaves out the time in which the device reaches all RAM", () => {
    expect(translated([{ ...sample(1, 9, 9), bypass: true }, sample(2, 1, 1)])).toEqual([sample(2, 1, 1)]);
  });

  it("keeps a device's name from being markup", () => {
    expect(escapeText('<b title="x">&')).toBe("&lt;b title=&quot;x&quot;&gt;&amp;");
  });
});
