/** Play, pause, step and speed: how fast a session goes on, and what one sees of the moments within a step. */

import { byId, count, setText } from "./dom.js";
import type { Stage } from "./stage.js";

/** Steps a second, by the position of the speed control. */
const SPEEDS = [0.5, 1, 3, 10, 100, 1_000, 10_000, 100_000];
/** Up to this speed the moments within a step are played one by one. */
const SLOW = 1;
/** Time that playing may take of a frame: at the fastest, pictures may be fewer. */
const BUDGET_MILLISECONDS = { smooth: 12, fastest: 60 };
const FASTEST = SPEEDS.length - 1;
const MOMENTS_MILLISECONDS = 700;

/** See the file's header. */
export class Playback {
  readonly #stage: Stage;
  readonly #changed: () => void;
  readonly #play = byId("play", HTMLButtonElement);
  readonly #speed = byId("speed", HTMLInputElement);
  #isPlaying = false;
  #last = 0;
  #debt = 0;
  /** When the moments of the last step began to be shown. */
  #momentsSince: number | undefined;

  /** @param changed Called after anything that the page has to draw. */
  constructor(stage: Stage, changed: () => void) {
    this.#stage = stage;
    this.#changed = changed;
    this.#play.addEventListener("click", () => (this.#isPlaying ? this.pause() : this.#start()));
    byId("step", HTMLButtonElement).addEventListener("click", () => this.#once("step"));
    byId("next", HTMLButtonElement).addEventListener("click", () => this.#once("change"));
    this.#speed.addEventListener("input", () => this.draw());
  }

  get isPlaying(): boolean {
    return this.#isPlaying;
  }

  pause(): void {
    this.#isPlaying = false;
    this.#momentsSince = undefined;
    this.#changed();
  }

  /** Sets the speed that suits a scene: a person's for the tour, a recording's for a recording. */
  suit(scene: string): void {
    this.#speed.value = scene === "playground" ? "1" : "5";
  }

  draw(): void {
    setText(this.#play, this.#isPlaying ? "Pause" : "Play");
    const speed = SPEEDS[this.#speed.valueAsNumber] ?? 1;
    const text =
      speed < 1 ? `a step in ${1 / speed} seconds` : `${count(speed)} ${speed === 1 ? "step" : "steps"} a second`;
    setText(byId("speed-text", HTMLOutputElement), text);
    this.#speed.setAttribute("aria-valuetext", text);
  }

  /** Once a frame: plays what is due. */
  tick(now: number): void {
    const elapsed = Math.min(1_000, now - this.#last);
    this.#last = now;
    if (this.#momentsSince !== undefined) this.#showMoments(now, this.#momentsSince);
    if (!this.#isPlaying) return;
    const speed = SPEEDS[this.#speed.valueAsNumber] ?? 1;
    this.#debt += (elapsed * speed) / 1_000;
    if (this.#debt < 1) return;
    const { smooth, fastest } = BUDGET_MILLISECONDS;
    const until = performance.now() + (this.#speed.valueAsNumber === FASTEST ? fastest : smooth);
    for (; this.#debt >= 1 && this.#isPlaying; this.#debt -= 1) {
      if (!this.#stage.advance("step")) this.pause();
      // What cannot be done in time is not owed: the page goes at the speed that the machine has.
      if (performance.now() > until) this.#debt = 1;
    }
    if (speed <= SLOW) this.#beginMoments(now);
    this.#changed();
  }

  #start(): void {
    this.#isPlaying = true;
    this.#debt = 1;
    this.#changed();
  }

  #once(how: "step" | "change"): void {
    this.pause();
    this.#stage.advance(how);
    this.#beginMoments(performance.now());
    this.#changed();
  }

  /** Shows the last step's moments one after the other, unless the reader wants no motion. */
  #beginMoments(now: number): void {
    const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const vanished = this.#stage.followed().recorder.last?.vanished.length ?? 0;
    if (!isStill && vanished > 0) this.#momentsSince = now;
  }

  #showMoments(now: number, since: number): void {
    const calls = this.#stage.followed().recorder.last?.calls.length ?? 0;
    const part = (now - since) / MOMENTS_MILLISECONDS;
    const isOver = part >= 1;
    if (isOver) this.#momentsSince = undefined;
    this.#stage.moment = isOver ? undefined : Math.floor(part * (calls + 1));
    this.#changed();
  }
}
