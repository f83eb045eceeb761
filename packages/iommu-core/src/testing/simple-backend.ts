/**
 * The smallest useful backend, and the reference that others are judged by: tables are lists of runs, nothing is cached, a guest's edit is seen only when it invalidates.
 *
 * As with hardware, editing and announcing are two steps: `domain.map(...)`, then `backend.invalidate(domain, range)`. Between the two a request sees the edit, because
 * there is no cache; a MAP notifier does not.
 */

import type { Access } from "../access.js";
import type { Announce, Backend, Domain, MappingSink, Requester } from "../backend.js";
import type { Completion } from "../completion.js";
import { ALL_FRAMES, type FrameRange } from "../range.js";
import type { SourceId } from "../source-id.js";
import type { Translation } from "../translation.js";
import { RunList } from "./run-list.js";

/** The reasons for which `SimpleBackend` refuses. */
export const SimpleReason = { blocked: 1, notMapped: 2, noRight: 3 } as const;

/** What `SimpleBackend` can say of a domain. */
export interface SimpleDomainOptions {
  /** Default: `table`. */
  readonly kind?: Domain["kind"];
  /** Never announced. Default: none. */
  readonly holes?: readonly FrameRange[];
}

/** A guest's tables. */
export class SimpleDomain implements Domain {
  readonly kind: Domain["kind"];
  readonly label: string;
  readonly holes: readonly FrameRange[];
  readonly #runs = new RunList();

  constructor(label: string, options: SimpleDomainOptions = {}) {
    this.label = label;
    this.kind = options.kind ?? "table";
    this.holes = options.holes ?? [];
  }

  /** Edits the tables; nobody is told. */
  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access = 3): void {
    this.#runs.set({ iovaPfn, pageCount, gpaPfn, access });
  }

  /** Edits the tables; nobody is told. */
  unmap(iovaPfn: number, pageCount: number): void {
    this.#runs.delete(iovaPfn, pageCount);
  }

  /** Where a frame goes, by the tables. */
  lookup(iovaPfn: number): { readonly gpaPfn: number; readonly access: Access } | undefined {
    return this.#runs.lookup(iovaPfn);
  }

  scan(range: FrameRange, sink: MappingSink): void {
    for (const run of this.#runs.joined(range.firstPfn, range.pageCount)) {
      if (!sink.reach(run.iovaPfn, 1) || !sink.run(run.iovaPfn, run.pageCount, run.gpaPfn, run.access)) return;
    }
  }
}

/** A backend for tests: `assign` says which `SimpleDomain` a device sees, `invalidate` announces a range of one. Nothing is cached. */
export class SimpleBackend implements Backend {
  /** What a requester sees before `assign`. */
  readonly unassigned: SimpleDomain;
  readonly #domains = new Map<SourceId, SimpleDomain>();
  #announce: Announce | undefined;

  constructor(unassigned: SimpleDomain = new SimpleDomain("blocked", { kind: "blocked" })) {
    this.unassigned = unassigned;
  }

  connect(announce: Announce): void {
    this.#announce = announce;
  }

  domainOf(requester: Requester): SimpleDomain {
    return this.#domains.get(requester.sourceId) ?? this.unassigned;
  }

  translate(requester: Requester, iovaPfn: number, access: Access, out: Translation): void {
    const domain = this.domainOf(requester);
    if (domain.kind === "bypass") return out.allow(iovaPfn, 1, 3);
    const page = domain.lookup(iovaPfn);
    if (domain.kind === "blocked") out.refuse(SimpleReason.blocked, "blocked");
    else if (page === undefined) out.refuse(SimpleReason.notMapped, "not mapped");
    else if ((page.access & access) !== access) out.refuse(SimpleReason.noRight, "no right");
    else out.allow(page.gpaPfn, 1, page.access);
  }

  /** Moves a requester to a domain, and announces that; with `announce: false` the guest has yet to invalidate. */
  assign(sourceId: SourceId, domain: SimpleDomain, announce = true): Completion {
    this.#domains.set(sourceId, domain);
    return announce ? this.invalidateDevice(sourceId) : undefined;
  }

  /** The guest invalidates a range of a domain: of every requester that saw or sees it. */
  invalidate(domain: SimpleDomain, range: FrameRange = ALL_FRAMES): Completion {
    return this.#announce?.({
      range,
      concerns: (requester, seen) => seen === domain || this.domainOf(requester) === domain,
    });
  }

  /** The guest invalidates everything cached for one device. */
  invalidateDevice(sourceId: SourceId): Completion {
    return this.#announce?.({ range: ALL_FRAMES, concerns: (requester) => requester.sourceId === sourceId });
  }

  /** The guest invalidates everything. */
  invalidateAll(): Completion {
    return this.#announce?.({ range: ALL_FRAMES, concerns: () => true });
  }
}
