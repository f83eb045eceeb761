/** The playground: two machines with one device each, on which the user and the tour act. */

import { announceDifferences, unmapAllThenMap } from "@iommu-kit/linux-trace/follow/follow";
import type { DmaOutcome } from "../machine/playground-device.js";
import { PlaygroundMachine } from "../machine/playground-machine.js";
import { type Action, describeAction, problemOf } from "./action.js";
import { endSteps, followAll, type Followed, type Session, STRATEGIES, type Strategy } from "./session.js";
import { TOUR } from "./tour.js";

/** See the file's header. */
export class Playground implements Session {
  #machines!: Readonly<Record<Strategy, PlaygroundMachine>>;
  #followed!: Readonly<Record<Strategy, ReadonlyMap<number, Followed>>>;
  /** Whether the user has done something since the machines were made: what the tour says would not be true of them. */
  #touched = false;
  #tourStep = 0;
  #position = 0;
  #story =
    "The guest has set up its tables and switched translation on. Play takes the tour; or do something yourself.";

  constructor() {
    this.#begin();
  }

  get machines(): Readonly<Record<Strategy, PlaygroundMachine>> {
    return this.#machines;
  }

  get followed(): Readonly<Record<Strategy, ReadonlyMap<number, Followed>>> {
    return this.#followed;
  }

  get position(): number {
    return this.#position;
  }

  get length(): number {
    return this.#position + TOUR.slice(this.#tourStep).reduce((sum, { actions }) => sum + actions.length, 0);
  }

  get story(): string {
    return this.#story;
  }

  /** Stops of the tour that were made. */
  get tourStep(): number {
    return this.#tourStep;
  }

  /** The next stop of the tour. It is about new machines: after something else was done with these, the tour begins with others. */
  step(): boolean {
    const isNew = this.#touched;
    if (isNew) this.#begin();
    const next = TOUR[this.#tourStep];
    if (next === undefined) return false;
    this.#tourStep += 1;
    for (const action of next.actions) this.#carryOut(action);
    this.#story = isNew ? `The tour begins with new machines. ${next.say}` : next.say;
    return true;
  }

  stepToChange(): boolean {
    const before = this.#calls;
    while (this.step()) if (this.#calls > before) return true;
    return false;
  }

  /**
   * Does something in both machines, and says how it went.
   * @throws {RangeError} With a sentence for the user, if the action makes no sense.
   */
  perform(action: Action): string {
    const problem = problemOf(action) ?? this.#machines.ours.problemOf(action);
    if (problem !== undefined) throw new RangeError(problem);
    this.#touched = true;
    return this.#carryOut(action);
  }

  #begin(): void {
    this.#machines = { old: new PlaygroundMachine(unmapAllThenMap), ours: new PlaygroundMachine(announceDifferences) };
    this.#followed = { old: followAll(this.#machines.old), ours: followAll(this.#machines.ours) };
    this.#touched = false;
    this.#tourStep = 0;
    this.#position = 0;
  }

  #carryOut(action: Action): string {
    const outcomes = this.machines.ours.perform(action);
    this.machines.old.perform(action);
    this.#position += 1;
    const losses = this.#losses();
    endSteps(this, this.#position);
    this.#story = `${describeAction(action)}${summary(outcomes)}${lost(losses, this.#losses())}.`;
    return this.#story;
  }

  /** Calls to the containers so far. */
  get #calls(): number {
    let calls = 0;
    for (const strategy of STRATEGIES) {
      const { maps, unmaps } = this.machines[strategy].device.container.calls;
      calls += maps + unmaps;
    }
    return calls;
  }

  #losses(): Readonly<Record<Strategy, number>> {
    const lossOf = (strategy: Strategy): number => {
      let pages = 0;
      for (const { timeline } of this.followed[strategy].values()) pages += timeline.totals.vanishedPages;
      return pages;
    };
    return { old: lossOf("old"), ours: lossOf("ours") };
  }
}

function lost(before: Readonly<Record<Strategy, number>>, after: Readonly<Record<Strategy, number>>): string {
  const [old, ours] = [after.old - before.old, after.ours - before.ours];
  if (old === 0 && ours === 0) return "";
  return `. Pages that vanished for a while: ${old.toLocaleString("en")} under the old strategy, ${ours.toLocaleString("en")} under ours`;
}

function summary(outcomes: readonly DmaOutcome[]): string {
  if (outcomes.length === 0) return "";
  const refused = outcomes.filter(({ gpaPfn }) => gpaPfn === undefined);
  const hits = outcomes.filter(({ cache }) => cache === "hit").length;
  const reached = `${outcomes.length - refused.length} of ${outcomes.length} pages reached, ${hits} from the cache`;
  return refused[0] === undefined ? `: ${reached}` : `: ${reached}; refused because of ${refused[0].cause}`;
}
