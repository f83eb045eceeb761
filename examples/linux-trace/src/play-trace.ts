/** Plays a trace from its first line to its last, in the file's order. */

import type { Follow } from "./follow/follow.js";
import type { Trace } from "./trace/trace.js";
import { type Playback, TracePlayer } from "./trace-player.js";

/**
 * Plays a trace from the first line to the last.
 * @param onProgress Told now and then which part of the lines is done, 0 to 1.
 * @throws {TraceError} `bad-line`.
 */
export function playTrace(
  trace: Trace,
  follow: Follow,
  onProgress: (part: number) => void = () => undefined,
): Playback {
  const started = performance.now();
  const player = new TracePlayer(trace, follow);
  const reportEvery = Math.max(1, Math.floor(trace.lineCount / 200));
  let reportAt = reportEvery;
  for (const { lineNumber, event } of trace.events()) {
    player.play(event, lineNumber);
    if (lineNumber < reportAt) continue;
    reportAt = lineNumber + reportEvery;
    onProgress(lineNumber / trace.lineCount);
  }
  onProgress(1);
  return player.finish(performance.now() - started);
}
