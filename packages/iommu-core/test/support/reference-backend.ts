import type {
  Access,
  Announce,
  Backend,
  Completion,
  Domain,
  FrameRange,
  MappingSink,
  Requester,
  Translation,
} from "../../src/index.js";
import { type Run, RunList } from "../../src/testing/index.js";

export class ReferenceDomain implements Domain {
  readonly kind = "table";
  readonly label: string;
  readonly holes: readonly FrameRange[] = [];
  readonly runs = new RunList();

  constructor(label: string) {
    this.label = label;
  }

  scan(range: FrameRange, sink: MappingSink): void {
    for (const run of this.clipped(range)) if (!sink.run(run.iovaPfn, run.pageCount, run.gpaPfn, run.access)) return;
  }

  /** The runs of a range, cut at its edges. */
  clipped(range: FrameRange): readonly Run[] {
    return this.runs.joined(range.firstPfn, range.pageCount);
  }
}

/** A correct backend with a translation cache, made of small parts that mutants replace. */
export class ReferenceBackend implements Backend {
  readonly domains = new Map<number, ReferenceDomain>();
  readonly cache = new Map<string, { gpaPfn: number; access: Access }>();
  protected announce: Announce | undefined;

  connect(announce: Announce): void {
    this.announce = announce;
  }

  domainOf(requester: Pick<Requester, "sourceId">): ReferenceDomain {
    let domain = this.domains.get(requester.sourceId);
    if (domain === undefined) {
      domain = this.newDomain(`device ${requester.sourceId}`);
      this.domains.set(requester.sourceId, domain);
    }
    return domain;
  }

  newDomain(label: string): ReferenceDomain {
    return new ReferenceDomain(label);
  }

  translate(requester: Requester, iovaPfn: number, access: Access, out: Translation): void {
    const key = this.keyOf(requester, iovaPfn);
    const page = this.cache.get(key) ?? this.domainOf(requester).runs.lookup(iovaPfn);
    if (page === undefined) return out.refuse(1, "not mapped");
    this.cache.set(key, page);
    if (this.isAllowed(page.access, access)) out.allow(page.gpaPfn, 1, page.access);
    else out.refuse(2, "no right");
  }

  keyOf(requester: Pick<Requester, "sourceId">, iovaPfn: number): string {
    return `${requester.sourceId} ${iovaPfn}`;
  }

  isAllowed(given: Access, wanted: Access): boolean {
    return (given & wanted) === wanted;
  }

  map(sourceId: number, run: Run): Completion {
    this.domainOf({ sourceId }).runs.set(run);
    return this.invalidate(sourceId, { firstPfn: run.iovaPfn, pageCount: run.pageCount });
  }

  unmap(sourceId: number, range: FrameRange): Completion {
    this.domainOf({ sourceId }).runs.delete(range.firstPfn, range.pageCount);
    return this.invalidate(sourceId, range);
  }

  invalidate(sourceId: number, range: FrameRange): Completion {
    this.drop(sourceId, range);
    return this.tell(sourceId, range);
  }

  drop(sourceId: number, range: FrameRange): void {
    for (let i = 0; i < range.pageCount; i++) {
      this.cache.delete(this.keyOf({ sourceId }, range.firstPfn + i));
    }
  }

  tell(sourceId: number, range: FrameRange): Completion {
    return this.announce?.({ range, concerns: (requester) => requester.sourceId === sourceId });
  }
}
