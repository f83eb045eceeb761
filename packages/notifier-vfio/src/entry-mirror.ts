/**
 * A container's entries, made from runs of frames by a coalescing policy.
 *
 * The unit adds and removes runs; this class cuts them into entries, and cuts entries that lose a part (whole entry out, the rest in again). Whatever of all this the
 * container has no room for is reported to the unit, which takes it for refused and offers it again: what the unit takes for held is always held here.
 */
import { type Access, CompletionGroup, IommuError, type MapAnswer, type MapReports } from "@iommu-kit/iommu-core";
import { type Coalescing, type Piece, piecesOf } from "./coalescing.js";
import type { Answer, ContainerRefusal, DmaContainer } from "./container.js";
import { EntryPressure } from "./entry-pressure.js";
import type { VfioEventEmitter } from "./events.js";
import { HeldEntries, type LateRefusal, type Unmapper } from "./held-entries.js";
import { shadowBlock, type ShadowPageTable } from "./shadow-page-table.js";

/** What an `EntryMirror` works by. */
export interface MirrorOptions {
  readonly name: string;
  readonly policy: Coalescing;
  /** Most frames of an entry: a power of two, or Infinity. */
  readonly largest: number;
  readonly pressureLevels: readonly number[];
  /** Whether the container applies calls as one step: then cutting an entry opens no window. */
  readonly atomic: boolean;
  readonly unmapper: Unmapper;
}

/** The entries of one notifier in one container. */
export class EntryMirror {
  readonly #container: DmaContainer;
  readonly #events: VfioEventEmitter;
  readonly #options: MirrorOptions;
  readonly #held: HeldEntries;
  readonly #pressure: EntryPressure;
  /** Entries that were freed, counted by calls. */
  #frees = 0;
  /** Something found no room since entries were freed last. */
  #short = false;
  /** Where to report what is not an answer; `undefined` until the first event. */
  reports: MapReports | undefined;

  /** @throws {IommuError} `bad-option` for pressure levels that do not ascend. */
  constructor(container: DmaContainer, events: VfioEventEmitter, options: MirrorOptions) {
    this.#container = container;
    this.#events = events;
    this.#options = options;
    this.#pressure = new EntryPressure(options.pressureLevels, (event) => events.report("pressure", event));
    this.#held = new HeldEntries(container, options.unmapper);
  }

  /** What is held, each entry a block. */
  get table(): ShadowPageTable {
    return this.#held.table;
  }

  /** Entries are being freed: what found no room before, in the same step even, is worth another try. */
  roomMade(): void {
    this.freed();
    if (!this.#short) return;
    this.#short = false;
    this.reports?.retry();
  }

  /** Entries were freed, by whomever: what is being answered, and turns out to have found no room, is worth another try. */
  freed(): void {
    this.#frees += 1;
  }

  /** Adds a run, as far as there is room for it. None of its frames is held. */
  place(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer | Promise<MapAnswer> {
    const run = { iovaPfn, pageCount, gpaPfn };
    const group = new CompletionGroup();
    const answer = this.#put(run, access, group);
    const pending = group.take();
    this.#updatePressure();
    return pending === undefined ? answer : pending.then(() => this.#updatePressure());
  }

  /** A refusal of a whole run in the words of the notifier contract. */
  refuse({ iovaPfn, pageCount, gpaPfn }: Piece, cause: ContainerRefusal): "full" | "unsupported" {
    if (cause === "gone")
      throw new IommuError("notifier-failed", `${this.#options.name}: expected a container, got one that is gone`, {
        hint: "make a new one and attach to it: it is replayed",
      });
    if (this.#events.listenerCount("refused") > 0)
      this.#events.report("refused", { iovaPfn, pageCount, gpaPfn, cause });
    return cause === "no-space" ? "full" : "unsupported";
  }

  /** Takes a range away. */
  remove(iovaPfn: number, pageCount: number, group: CompletionGroup): void {
    const endPfn = iovaPfn + pageCount;
    if (this.#container.granularity === "page") this.#removeParts(iovaPfn, endPfn, group);
    else this.#removeEntries(iovaPfn, endPfn, group);
    this.#updatePressure();
  }

  /** Removes every entry, one by one, and insists on removals that are not confirmed. Answers how many frames devices may reach even so. */
  dropAll(): Answer<number> {
    return this.#held.dropAll();
  }

  /** Forgets everything, without a word to the container. */
  forget(): void {
    this.#held.forget();
  }

  #updatePressure(): void {
    this.#pressure.update(this.#container.entriesHeld, this.#container.entryLimit);
  }

  /** Puts a run into the container, as the entries of the policy. Answers if all of it is refused at once; else reports what is, now or later. */
  #put(run: Piece, access: Access, group: CompletionGroup): MapAnswer {
    const { iovaPfn, pageCount, gpaPfn } = run;
    const { policy, largest } = this.#options;
    const whole = policy !== "aligned" && pageCount <= largest;
    const frees = this.#frees;
    const late: LateRefusal = (cause, rest) => {
      for (const piece of rest) this.#report(piece, access, this.refuse(piece, cause), frees);
    };
    for (const piece of whole ? [run] : piecesOf(policy, iovaPfn, pageCount, gpaPfn, largest)) {
      const outcome = this.#held.add(piece, access, late);
      if (typeof outcome !== "string") group.add(outcome);
      else {
        // Where there is no room there is none for what follows.
        const left = outcome === "no-space" ? pageCount - (piece.iovaPfn - iovaPfn) : piece.pageCount;
        if (left === pageCount) return this.refuse(run, outcome);
        const rest = { ...piece, pageCount: left };
        this.#report(rest, access, this.refuse(rest, outcome), frees);
        if (outcome === "no-space") break;
      }
    }
    return undefined;
  }

  /**
   * The container does not hold what the unit takes for held.
   * @param frees As counted when it was put there: if entries were freed since, it is offered again at once.
   */
  #report(piece: Piece, access: Access, answer: "full" | "unsupported", frees: number): void {
    this.reports?.refused(piece.iovaPfn, piece.pageCount, piece.gpaPfn, access, answer);
    if (answer === "unsupported") return;
    if (frees === this.#frees) this.#short = true;
    else this.reports?.retry();
  }

  /** In a container that can cut: one call for each contiguous part that is held. */
  #removeParts(iovaPfn: number, endPfn: number, group: CompletionGroup): void {
    const block = shadowBlock();
    for (let at = iovaPfn; this.#held.table.blockFrom(at, block) && block.iovaPfn < endPfn;) {
      const firstPfn = Math.max(at, block.iovaPfn);
      do at = Math.min(endPfn, block.iovaPfn + block.pageCount);
      while (at < endPfn && this.#held.table.blockAt(at, block));
      group.add(this.#held.drop(firstPfn, at - firstPfn));
    }
  }

  /** In a container that cannot: whole entries; what a cut one still holds is mapped again. */
  #removeEntries(iovaPfn: number, endPfn: number, group: CompletionGroup): void {
    const entry = shadowBlock();
    for (let at = iovaPfn; this.#held.table.blockFrom(at, entry) && entry.iovaPfn < endPfn;) {
      const { iovaPfn: firstPfn, pageCount: count, gpaPfn, access } = entry;
      at = firstPfn + count;
      group.add(this.#held.drop(firstPfn, count));
      const below = Math.max(0, iovaPfn - firstPfn);
      const above = Math.max(0, at - endPfn);
      if (below > 0) this.#restore({ iovaPfn: firstPfn, pageCount: below, gpaPfn }, access, group);
      if (above > 0)
        this.#restore({ iovaPfn: endPfn, pageCount: above, gpaPfn: gpaPfn + (count - above) }, access, group);
      if (below + above > 0 && !this.#options.atomic) {
        this.#events.report("window", { iovaPfn: firstPfn, pageCount: count, keptPageCount: below + above });
      }
    }
  }

  /** Maps again what is left of a cut entry. */
  #restore(piece: Piece, access: Access, group: CompletionGroup): void {
    if (!this.#options.atomic) this.reports?.window(piece.iovaPfn, piece.pageCount);
    const frees = this.#frees;
    const answer = this.#put(piece, access, group);
    if (answer !== undefined) this.#report(piece, access, answer, frees);
  }
}
