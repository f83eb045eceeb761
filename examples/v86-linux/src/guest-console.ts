/**
 * The guest's serial console, as lines and as reports.
 *
 * Lines that begin with "@@" are reports of guest/init and its tasks: `@@ begin TASK`, `@@ fact TASK NAME VALUE...`, `@@ end TASK ok|failed`,
 * `@@ table-begin` ... `@@ table-end` around the driver's dump, `@@ done`. The kernel may print into the middle of a line; a report is found wherever it begins.
 */

/** What one task of the guest reported. */
export interface TaskReport {
  /** `running` until its end was seen. */
  result: "running" | "ok" | "failed";
  /** By name, every value in the order in which it came. */
  readonly facts: Map<string, string[]>;
}

/** Collects what the guest prints. */
export class GuestConsole {
  readonly tasks = new Map<string, TaskReport>();
  /** Lines of the driver's dump of its tables. */
  readonly table: string[] = [];
  readonly lines: string[] = [];
  /** Guest uptime in seconds when user space came up, or `undefined` before. */
  upAfter: number | undefined;
  readonly #onLine: (line: string) => void;
  readonly #waiting: { readonly pattern: RegExp; readonly action: () => void }[] = [];
  #line = "";
  #inTable = false;

  /** `onLine` gets every line that is not part of the dump. */
  constructor(onLine: (line: string) => void) {
    this.#onLine = onLine;
  }

  /** Takes one byte of the serial line. */
  take(byte: number): void {
    if (byte === 13) return;
    if (byte !== 10) {
      this.#line += String.fromCharCode(byte);
      return;
    }
    const line = this.#line;
    this.#line = "";
    this.#complete(line);
  }

  /** Resolves when a line matches. */
  waitFor(pattern: RegExp): Promise<void> {
    return new Promise((resolve) => this.when(pattern, resolve));
  }

  /** Runs `action` once, when a line matches: in the guest's own instruction that ends the line, so nothing of the machine goes on meanwhile. */
  when(pattern: RegExp, action: () => void): void {
    this.#waiting.push({ pattern, action });
  }

  /** The last value of a fact, or `undefined`. */
  fact(task: string, name: string): string | undefined {
    return this.tasks.get(task)?.facts.get(name)?.at(-1);
  }

  /** A fact as a number; `NaN` if it was not reported. */
  number(task: string, name: string): number {
    return Number(this.fact(task, name) ?? Number.NaN);
  }

  #complete(line: string): void {
    const report = /@@ (.*)$/.exec(line)?.[1];
    if (report === "table-begin") this.#inTable = true;
    else if (report === "table-end") this.#inTable = false;
    else if (this.#inTable) this.table.push(line);
    else {
      this.lines.push(line);
      this.#onLine(line);
      if (report !== undefined) this.#report(report.split(" "));
    }
    for (const waiter of this.#waiting.filter(({ pattern }) => pattern.test(line))) {
      this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
      waiter.action();
    }
  }

  #report([kind, task = "", name = "", ...values]: readonly string[]): void {
    if (kind === "up") this.upAfter = Number(task);
    else if (kind === "begin") this.tasks.set(task, { result: "running", facts: new Map() });
    else if (kind === "end") {
      const report = this.tasks.get(task);
      if (report !== undefined) report.result = name === "ok" ? "ok" : "failed";
    } else if (kind === "fact") {
      const facts = this.tasks.get(task)?.facts;
      facts?.set(name, [...(facts.get(name) ?? []), values.join(" ")]);
    }
  }
}
