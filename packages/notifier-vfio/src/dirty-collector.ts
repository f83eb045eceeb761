/**
 * Which guest frames a device wrote, found through the container: for live migration behind an IOMMU.
 *
 * A container logs by IOVA; what matters is the frame behind it, and that changes while the guest remaps. So the log is
 * read with each unmap, against the entries as they were, and the rest when it is asked for. Where a container has no
 * log, every frame that a device may write counts as written: slow, never wrong.
 */
import {
  Access,
  CompletionGroup,
  type Completion,
  type FrameRange,
  isPending,
  type Scheduler,
} from "@iommu-kit/iommu-core";
import type { Answer, DirtyLog, DirtyResult, DmaContainer, UnmapResult } from "./container.js";
import { DirtyPages } from "./dirty-pages.js";
import type { ShadowBlock, ShadowPageTable } from "./shadow-page-table.js";

/** Told a run of guest frames that may have been written. */
export type DirtyVisitor = (gpaPfn: number, pageCount: number) => void;

/** `off`; `log`: the container tells; `assume`: it cannot, all that is writable counts. */
export type DirtyMode = "off" | "log" | "assume";

/** A range of the log, and the entries that it was of. */
interface Unread {
  readonly range: FrameRange;
  readonly blocks: readonly ShadowBlock[];
  /** Read for who collects: the entries are still held, and will be asked for again. */
  readonly collected?: boolean;
}

/** Collects for one container, from `start` on; what it has collected is the caller's, once. */
export class DirtyCollector {
  readonly #container: DmaContainer;
  readonly #table: ShadowPageTable;
  readonly #written = new DirtyPages();
  /** Unmapped in the open step, to be read when it is closed. */
  #unread: Unread[] = [];
  /** Parts of the log that are on their way, and what they tell of. None rejects. */
  readonly #reading = new Map<Promise<void>, Unread>();
  readonly #scheduler: Scheduler;
  readonly #deadlineMilliseconds: number;
  #mode: DirtyMode = "off";
  /** Told to log, and not to stop: it may run even where its answer came too late to rely on it. */
  #mayLog = false;
  /** Counts starts and stops; an answer to a start counts as long as there was no other since. */
  #turn = 0;

  /**
   * @param table What the notifier holds.
   * @param deadlineMilliseconds How long whoever starts, stops or collects waits for the container.
   */
  constructor(container: DmaContainer, table: ShadowPageTable, scheduler: Scheduler, deadlineMilliseconds: number) {
    this.#container = container;
    this.#table = table;
    this.#scheduler = scheduler;
    this.#deadlineMilliseconds = deadlineMilliseconds;
  }

  get mode(): DirtyMode {
    return this.#mode;
  }

  /** Starts; done when the container logs, or has not answered in time: then all that is writable counts. What was written before is not reported. */
  start(): Completion {
    this.#mode = "assume";
    const turn = ++this.#turn;
    const answer = this.#container.dirtyLog?.start();
    let inTime = true;
    const settle = ({ ok }: DirtyResult): void => {
      // A log that begins later would know nothing of what is written until then.
      if (ok && inTime && turn === this.#turn) this.#mode = "log";
    };
    if (isPending(answer)) {
      this.#mayLog = true;
      return this.#within(Promise.resolve(answer).then(settle), () => (inTime = false));
    }
    if (answer === undefined) return undefined;
    if (answer.ok) this.#mayLog = true;
    settle(answer);
    return undefined;
  }

  /** Stops, whatever has become of the start, and forgets what was not collected. */
  stop(): Completion {
    const mayLog = this.#mayLog;
    this.#mayLog = false;
    this.#turn += 1;
    this.#mode = "off";
    this.#written.clear();
    this.#unread = [];
    const answer = mayLog ? this.#container.dirtyLog?.stop() : undefined;
    return isPending(answer) ? this.#within(Promise.resolve(answer), () => undefined) : undefined;
  }

  /** Unmaps a range of the container, and keeps what was written to it. */
  unmap(range: FrameRange, blocks: readonly ShadowBlock[], stepOpen: boolean): Answer<UnmapResult> {
    const { firstPfn, pageCount } = range;
    const log = this.#container.dirtyLog;
    if (this.#mode === "off") return this.#container.unmap(firstPfn, pageCount);
    if (this.#mode === "assume" || log === undefined) {
      if (stepOpen) this.#unread.push({ range, blocks });
      return this.insist(range, blocks);
    }
    const bitmap = new Uint8Array(Math.ceil(pageCount / 8));
    if (log.unmapAndRead !== undefined) {
      const answer = log.unmapAndRead(firstPfn, pageCount, bitmap);
      const keep = (result: UnmapResult): UnmapResult => {
        this.#keep(result.ok, blocks, range, bitmap);
        return result;
      };
      if (!isPending(answer)) return keep(answer);
      return this.#await(
        { range, blocks },
        Promise.resolve(answer).then(keep, (cause: unknown) => this.#lost(blocks, range, cause)),
      );
    }
    const answer = this.#container.unmap(firstPfn, pageCount);
    if (stepOpen) {
      // Devices write through the entries until the step closes.
      this.#unread.push({ range, blocks });
      return answer;
    }
    const read = this.#read(log, { range, blocks });
    return read === undefined ? answer : Promise.all([answer, read]).then(([result]) => result);
  }

  /** Unmaps a range once more: what is written until then counts, whatever the log knows. */
  insist(range: FrameRange, blocks: readonly ShadowBlock[]): Answer<UnmapResult> {
    // Before, should the call throw; and when it is answered, as devices write until then, whoever collects meanwhile.
    this.#addWhole(blocks, range);
    const answer = this.#container.unmap(range.firstPfn, range.pageCount);
    if (!isPending(answer)) return answer;
    return this.#await(
      { range, blocks },
      Promise.resolve(answer).finally(() => this.#addWhole(blocks, range)),
    );
  }

  /** Call when a step has been closed: reads what was unmapped in it, or counts it where the log is not to be relied on. */
  closeStep(): Completion {
    const log = this.#container.dirtyLog;
    const unread = this.#unread;
    this.#unread = [];
    const group = new CompletionGroup();
    for (const { range, blocks } of unread) {
      if (this.#mode !== "log" || log === undefined) {
        this.#addWhole(blocks, range);
        continue;
      }
      // Bits since the step closed belong to what is mapped there now: counted for both.
      const now = [...this.#table.blocks(range.firstPfn, range.pageCount)];
      group.add(this.#read(log, { range, blocks: [...blocks, ...now] }));
    }
    return group.take();
  }

  /**
   * Tells every guest frame that may have been written since it was last told, ascending, once each. What the container has not told in time counts whole; as long
   * as it has not answered the reads of an earlier call, what is held counts whole too, and is not read once more.
   */
  collect(visit: DirtyVisitor): Completion {
    const group = new CompletionGroup();
    const log = this.#container.dirtyLog;
    const asked = [...this.#reading.values()].some(({ collected }) => collected === true);
    // Devices write to these until the step is closed; they are read then.
    for (const { blocks, range } of this.#unread) this.#addWhole(blocks, range);
    for (const block of this.#mode === "off" ? [] : this.#table.blocks()) {
      if ((block.access & Access.write) === 0) continue;
      const range = { firstPfn: block.iovaPfn, pageCount: block.pageCount };
      if (this.#mode === "log" && log !== undefined && !asked)
        group.add(this.#read(log, { range, blocks: [block], collected: true }));
      else this.#addWhole([block], range);
    }
    for (const reading of this.#reading.keys()) group.add(reading);
    const pending = group.take();
    if (pending === undefined) return this.#tell(visit);
    const unknown = (): void => {
      for (const { blocks, range: part } of this.#reading.values()) this.#addWhole(blocks, part);
    };
    return this.#within(pending, unknown).then(() => this.#tell(visit));
  }

  /** Done when `pending` is, or, after `late` has been called, when the deadline has passed. */
  #within(pending: Promise<unknown>, late: () => void): Promise<void> {
    return new Promise((resolve, reject) => {
      const cancel = this.#scheduler.after(this.#deadlineMilliseconds, () => {
        late();
        resolve();
      });
      pending.then(() => resolve(), reject).finally(cancel);
    });
  }

  #tell(visit: DirtyVisitor): undefined {
    let first = -1;
    let count = 0;
    this.#written.takeAll((pfn) => {
      if (pfn === first + count) {
        count += 1;
        return;
      }
      if (count > 0) visit(first, count);
      first = pfn;
      count = 1;
    });
    if (count > 0) visit(first, count);
    return undefined;
  }

  /** Reads a range of the log. */
  #read(log: DirtyLog, of: Unread): Completion {
    const { range, blocks } = of;
    const bitmap = new Uint8Array(Math.ceil(range.pageCount / 8));
    const answer = log.read(range.firstPfn, range.pageCount, bitmap);
    const keep = ({ ok }: DirtyResult): void => this.#keep(ok, blocks, range, bitmap);
    if (isPending(answer))
      return this.#await(
        of,
        Promise.resolve(answer).then(keep, (cause: unknown) => this.#lost(blocks, range, cause)),
      );
    keep(answer);
    return undefined;
  }

  /** Whoever collects waits for it; whoever asked for it hears of a failure. */
  #await<T>(of: Unread, answer: Promise<T>): Promise<T> {
    const settled = answer.then(
      () => void this.#reading.delete(settled),
      () => void this.#reading.delete(settled),
    );
    this.#reading.set(settled, of);
    return answer;
  }

  /** A log that refuses has told nothing: then everything counts. */
  #keep(ok: boolean, blocks: readonly ShadowBlock[], range: FrameRange, bitmap: Uint8Array): void {
    if (ok) this.#addBits(blocks, range, bitmap);
    else this.#addWhole(blocks, range);
  }

  /** Nor has one that rejects. */
  #lost(blocks: readonly ShadowBlock[], range: FrameRange, cause: unknown): never {
    this.#addWhole(blocks, range);
    throw cause;
  }

  #addBits(blocks: readonly ShadowBlock[], range: FrameRange, bitmap: Uint8Array): void {
    this.#add(blocks, range, (bit) => ((bitmap[Math.floor(bit / 8)] ?? 0) & (1 << (bit % 8))) !== 0);
  }

  #addWhole(blocks: readonly ShadowBlock[], range: FrameRange): void {
    this.#add(blocks, range, () => true);
  }

  #add(blocks: readonly ShadowBlock[], range: FrameRange, isSet: (bit: number) => boolean): void {
    // Answers may come after the end.
    if (this.#mode === "off") return;
    for (const block of blocks) {
      if ((block.access & Access.write) === 0) continue;
      const from = Math.max(block.iovaPfn, range.firstPfn);
      const to = Math.min(block.iovaPfn + block.pageCount, range.firstPfn + range.pageCount);
      for (let pfn = from; pfn < to; pfn++)
        if (isSet(pfn - range.firstPfn)) this.#written.add(block.gpaPfn + (pfn - block.iovaPfn));
    }
  }
}
