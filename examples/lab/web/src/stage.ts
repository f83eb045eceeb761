/** What is on stage: a session, which side and device of it are shown, and which moment. */

import { Playground } from "../../dist/sessions/playground.js";
import type { Followed, LabMachine, Session, Strategy } from "../../dist/sessions/session.js";
import { TraceSession } from "../../dist/sessions/trace-session.js";
import { loadTrace } from "./load-trace.js";

const LOG_LENGTH = 60;
/** The device shown first: one at work from the beginning to the end, under flushes that tell the strategies apart. 00:03.0, or 00:1f.2. */
const FIRST_SHOWN: Readonly<Record<string, number>> = { playground: 0x18, lazy39: 0x18, vfio48: 0xfa };

/** See the file's header. */
export class Stage {
  session: Session = new Playground();
  strategy: Strategy = "ours";
  sourceId = 0x18;
  /** Calls of the last step that have been made at the moment shown; `undefined`: all. */
  moment: number | undefined;
  /** Latest first. */
  readonly log: string[] = [];

  /** The playground, if that is on stage. */
  get playground(): Playground | undefined {
    return this.session instanceof Playground ? this.session : undefined;
  }

  get machine(): LabMachine {
    return this.session.machines[this.strategy];
  }

  /** The device shown, under the strategy shown or another. */
  followed(strategy: Strategy = this.strategy): Followed {
    const found = this.session.followed[strategy].get(this.sourceId);
    if (found === undefined) throw new Error(`the session has no device ${this.sourceId}`);
    return found;
  }

  /** Puts a scene on stage: `"playground"`, or the name of a trace. */
  async open(scene: string): Promise<void> {
    const session = scene === "playground" ? new Playground() : new TraceSession(await loadTrace(scene));
    this.session = session;
    const ids = [...session.machines.ours.devices.keys()];
    const shown = FIRST_SHOWN[scene] ?? 0x18;
    this.sourceId = ids.includes(shown) ? shown : (ids[0] ?? 0);
    this.moment = undefined;
    this.log.length = 0;
  }

  /** Plays on. `false` at the end. */
  advance(how: "step" | "change"): boolean {
    this.moment = undefined;
    const goesOn = how === "step" ? this.session.step() : this.session.stepToChange(this.sourceId);
    if (goesOn) this.note();
    return goesOn;
  }

  /** Remembers the story of the last step. */
  note(): void {
    this.log.unshift(this.session.story);
    if (this.log.length > LOG_LENGTH) this.log.pop();
  }
}
