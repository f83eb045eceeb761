import { describe, expect, it } from "vitest";
import type { Access, Completion, FrameRange, MappingSink, Requester, Translation } from "../src/index.js";
import {
  backendContract,
  describeBackendContract,
  describeNotifierContract,
  type MakeNotifier,
  notifierContract,
  RecordingFlushNotifier,
  type Run,
  runCases,
  SimpleBackend,
  SimpleDomain,
} from "../src/testing/index.js";
import { ReferenceBackend, ReferenceDomain } from "./support/reference-backend.js";
import { Cache, Shadow } from "./support/reference-notifiers.js";

const shadowOf = (notifier: Shadow): MakeNotifier => {
  return () => ({ notifier, lookup: (pfn) => notifier.pages.get(pfn), range: { firstPfn: 0, pageCount: 2 ** 46 } });
};

const cacheOf = (make: (space: Parameters<MakeNotifier>[0]) => Cache): MakeNotifier => {
  return (space) => {
    const notifier = make(space);
    return { notifier, lookup: (pfn) => notifier.pages.get(pfn), fill: (pfn) => notifier.fill(pfn) };
  };
};

const backendOf = (backend: ReferenceBackend) => ({
  backend,
  sourceId: 0x18,
  otherSourceId: 0x20,
  map: (iovaPfn: number, pageCount: number, gpaPfn: number, access: Access) =>
    backend.map(0x18, { iovaPfn, pageCount, gpaPfn, access }),
  unmap: (firstPfn: number, pageCount: number) => backend.unmap(0x18, { firstPfn, pageCount }),
});

describe("correct implementations pass", () => {
  describeNotifierContract({ describe, it }, (space) => shadowOf(new Shadow())(space), "a MAP notifier");
  describeNotifierContract(
    { describe, it },
    (space) => shadowOf(Object.assign(new Shadow(), { granularity: "block" as const, largestBlock: 64 }))(space),
    "a block notifier",
  );
  describeNotifierContract(
    { describe, it },
    cacheOf((space) => new Cache(space)),
    "a cache",
  );
  describeBackendContract({ describe, it }, () => backendOf(new ReferenceBackend()), "a backend with a cache");
  describeBackendContract(
    { describe, it },
    () => {
      const domain = new SimpleDomain("tables");
      const backend = new SimpleBackend();
      void backend.assign(1, domain);
      return {
        backend,
        sourceId: 1,
        otherSourceId: 2,
        map: (iovaPfn, pageCount, gpaPfn, access) => {
          domain.map(iovaPfn, pageCount, gpaPfn, access);
          return backend.invalidate(domain, { firstPfn: iovaPfn, pageCount });
        },
        unmap: (firstPfn, pageCount) => {
          domain.unmap(firstPfn, pageCount);
          return backend.invalidate(domain, { firstPfn, pageCount });
        },
      };
    },
    "the reference backend",
  );
});

/** Names of the rules that a faulty notifier breaks. */
async function caught(make: () => MakeNotifier): Promise<string[]> {
  const failures = await runCases(notifierContract((space) => make()(space)));
  return failures.map(({ name }) => name);
}

const mapMutants: Record<string, new () => Shadow> = {
  "drops an unmap now and then": class extends Shadow {
    #count = 0;
    override unmap(iovaPfn: number, pageCount: number): Completion {
      this.#count += 1;
      return this.#count % 5 === 0 ? undefined : super.unmap(iovaPfn, pageCount);
    }
  },
  "keeps the last page of every unmap": class extends Shadow {
    override unmap(iovaPfn: number, pageCount: number): Completion {
      return super.unmap(iovaPfn, pageCount - 1);
    }
  },
  "unmaps one page too many": class extends Shadow {
    override unmap(iovaPfn: number, pageCount: number): Completion {
      return super.unmap(iovaPfn, pageCount + 1);
    }
  },
  "unmaps the whole 2 MiB around an unmapped page": class extends Shadow {
    override unmap(iovaPfn: number, pageCount: number): Completion {
      return super.unmap(iovaPfn - (iovaPfn % 512), 512 + pageCount);
    }
  },
  "misses the last page of a map": class extends Shadow {
    override map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
      super.map(iovaPfn, Math.max(1, pageCount - 1), gpaPfn, access);
    }
  },
  "forgets to advance the target": class extends Shadow {
    override map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
      for (let i = 0; i < pageCount; i++) super.map(iovaPfn + i, 1, gpaPfn, access);
    }
  },
  "ignores rights": class extends Shadow {
    override map(iovaPfn: number, pageCount: number, gpaPfn: number): void {
      super.map(iovaPfn, pageCount, gpaPfn, 3);
    }
  },
  "cuts frame numbers to 32 bits": class extends Shadow {
    override map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
      super.map(iovaPfn >>> 0, pageCount, gpaPfn, access);
    }
  },
  "cuts targets to 32 bits": class extends Shadow {
    override map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
      super.map(iovaPfn, pageCount, gpaPfn & 0xfffff, access);
    }
  },
  "answers a replace and does nothing": class extends Shadow {
    replace(): void {
      // This is the fault.
    }
  },
  "keeps everything when it is revoked": class extends Shadow {
    override revoke(): void {
      // This is the fault.
    }
  },
  "unmaps after it has said that it is done": class extends Shadow {
    override unmap(iovaPfn: number, pageCount: number): Completion {
      setTimeout(() => void super.unmap(iovaPfn, pageCount), 0);
      return undefined;
    }
  },
  "maps in the wrong order: a queue that runs backwards": class extends Shadow {
    readonly #queue: (() => void)[] = [];
    override map(...call: [number, number, number, Access]): void {
      this.#queue.unshift(() => super.map(...call));
    }
    override unmap(...call: [number, number]): Completion {
      this.#queue.unshift(() => void super.unmap(...call));
      return undefined;
    }
    commit(): void {
      for (const task of this.#queue.splice(0)) task();
    }
  },
  "rebuilds its shadow from nothing in every step": class extends Shadow {
    #old: [number, { gpaPfn: number; access: Access }][] = [];
    begin(): void {
      this.#old = [...this.pages];
      this.pages.clear();
    }
    override unmap(iovaPfn: number, pageCount: number): Completion {
      this.#old = this.#old.filter(([pfn]) => pfn < iovaPfn || pfn >= iovaPfn + pageCount);
      return super.unmap(iovaPfn, pageCount);
    }
    commit(): void {
      for (const [pfn, page] of this.#old) if (!this.pages.has(pfn)) this.pages.set(pfn, page);
    }
  },
  "never commits its last step": class extends Shadow {
    readonly #waiting: (() => void)[] = [];
    override map(...call: [number, number, number, Access]): void {
      this.#waiting.push(() => super.map(...call));
    }
    override unmap(...call: [number, number]): Completion {
      this.#waiting.push(() => void super.unmap(...call));
      return undefined;
    }
    begin(): void {
      for (const task of this.#waiting.splice(0)) task();
    }
  },
  "throws when it holds many pages": class extends Shadow {
    override map(...call: [number, number, number, Access]): void {
      if (this.pages.size > 250) throw new Error("full");
      super.map(...call);
    }
  },
};

describe("the notifier contract catches a MAP notifier that", () => {
  it.each(Object.entries(mapMutants))("%s", async (_name, Mutant) => {
    expect(await caught(() => shadowOf(new Mutant()))).not.toEqual([]);
  });

  it("attaches or detaches something from inside a callback", async () => {
    const failures = await caught(() => (space) => {
      const notifier = new Shadow();
      const map = notifier.map.bind(notifier);
      notifier.map = (...call) => {
        map(...call);
        space.attach(new RecordingFlushNotifier());
      };
      return { notifier, lookup: (pfn) => notifier.pages.get(pfn) };
    });
    expect(failures).toContain("is accepted by the hub, and active after its replay");
  });
});

const cacheMutants: Record<string, new (space: Parameters<MakeNotifier>[0]) => Cache> = {
  "stays as it is after an invalidation": class extends Cache {
    override unmap(): Completion {
      return undefined;
    }
  },
  "keeps the last frame of a range": class extends Cache {
    override unmap(iovaPfn: number, pageCount: number): Completion {
      return super.unmap(iovaPfn, pageCount - 1);
    }
  },
  "keeps the first frame of a range": class extends Cache {
    override unmap(iovaPfn: number, pageCount: number): Completion {
      return super.unmap(iovaPfn + 1, pageCount - 1);
    }
  },
  "drops only an entry that starts where the range does": class extends Cache {
    override unmap(iovaPfn: number): Completion {
      return super.unmap(iovaPfn, 1);
    }
  },
  "ignores ranges larger than its size": class extends Cache {
    override unmap(iovaPfn: number, pageCount: number): Completion {
      return pageCount > 2 ** 32 ? undefined : super.unmap(iovaPfn, pageCount);
    }
  },
  "treats a range as 32-bit numbers": class extends Cache {
    override unmap(iovaPfn: number, pageCount: number): Completion {
      return super.unmap(iovaPfn | 0, pageCount | 0);
    }
  },
  "keeps everything when it is revoked": class extends Cache {
    override revoke(): void {
      // This is the fault.
    }
  },
  "fills itself again with what it just dropped": class extends Cache {
    override unmap(iovaPfn: number, pageCount: number): Completion {
      const old = [...this.pages];
      void super.unmap(iovaPfn, pageCount);
      for (const [pfn, page] of old.slice(0, 1)) this.pages.set(pfn, page);
      return undefined;
    }
  },
  "caches rights that it was not given": class extends Cache {
    override fill(iovaPfn: number): void {
      super.fill(iovaPfn);
      const page = this.pages.get(iovaPfn);
      if (page !== undefined) this.pages.set(iovaPfn, { ...page, access: 3 });
    }
  },
};

describe("the notifier contract catches a cache that", () => {
  it.each(Object.entries(cacheMutants))("%s", async (_name, Mutant) => {
    expect(await caught(() => cacheOf((space) => new Mutant(space)))).not.toEqual([]);
  });
});

class BadDomainBackend extends ReferenceBackend {
  readonly #make: (label: string) => ReferenceDomain;
  constructor(make: (label: string) => ReferenceDomain) {
    super();
    this.#make = make;
  }
  override newDomain(label: string): ReferenceDomain {
    return this.#make(label);
  }
}

/** A backend whose scan is wrong in one way. */
function scanning(clipped: (domain: ReferenceDomain, range: FrameRange, correct: readonly Run[]) => readonly Run[]) {
  return () =>
    new BadDomainBackend(
      (label) =>
        new (class extends ReferenceDomain {
          override clipped(range: FrameRange): readonly Run[] {
            return clipped(this, range, super.clipped(range));
          }
        })(label),
    );
}

const backendMutants: Record<string, () => ReferenceBackend> = {
  "drops an announcement": () =>
    new (class extends ReferenceBackend {
      #count = 0;
      override tell(sourceId: number, range: FrameRange): Completion {
        this.#count += 1;
        return this.#count % 3 === 0 ? undefined : super.tell(sourceId, range);
      }
    })(),
  "announces a range that ends one frame early": () =>
    new (class extends ReferenceBackend {
      override tell(sourceId: number, range: FrameRange): Completion {
        return super.tell(sourceId, { ...range, pageCount: Math.max(1, range.pageCount - 1) });
      }
    })(),
  "says that a change concerns nobody": () =>
    new (class extends ReferenceBackend {
      override tell(_sourceId: number, range: FrameRange): Completion {
        return this.announce?.({ range, concerns: () => false });
      }
    })(),
  "stays stale after an invalidation": () =>
    new (class extends ReferenceBackend {
      override drop(): void {
        // This is the fault.
      }
    })(),
  "keeps the last frame of a range in its cache": () =>
    new (class extends ReferenceBackend {
      override drop(sourceId: number, range: FrameRange): void {
        super.drop(sourceId, { ...range, pageCount: range.pageCount - 1 });
      }
    })(),
  "runs notifiers before it drops its cache": () =>
    new (class extends ReferenceBackend {
      override invalidate(sourceId: number, range: FrameRange): Completion {
        const completion = this.tell(sourceId, range);
        this.drop(sourceId, range);
        return completion;
      }
    })(),
  "mixes up the cached frames of two devices": () =>
    new (class extends ReferenceBackend {
      override keyOf(_requester: unknown, iovaPfn: number): string {
        return String(iovaPfn);
      }
      override domainOf(): ReferenceDomain {
        return super.domainOf({ sourceId: 0 });
      }
    })(),
  "does not wait for notifiers": () =>
    new (class extends ReferenceBackend {
      override tell(sourceId: number, range: FrameRange): Completion {
        void super.tell(sourceId, range);
        return undefined;
      }
    })(),
  "ignores rights in translations": () =>
    new (class extends ReferenceBackend {
      override isAllowed(): boolean {
        return true;
      }
    })(),
  "translates to another target than it scans": () =>
    new (class extends ReferenceBackend {
      override translate(requester: Requester, iovaPfn: number, access: Access, out: Translation): void {
        super.translate(requester, iovaPfn, access, out);
        if (out.reason === 0 && iovaPfn % 512 === 511) out.gpaPfn += 1;
      }
    })(),
  "claims a block larger than what is mapped": () =>
    new (class extends ReferenceBackend {
      override translate(requester: Requester, iovaPfn: number, access: Access, out: Translation): void {
        super.translate(requester, iovaPfn, access, out);
        out.pageCount = 512;
      }
    })(),
  "throws for addresses far up": () =>
    new (class extends ReferenceBackend {
      override translate(requester: Requester, iovaPfn: number, access: Access, out: Translation): void {
        if (iovaPfn > 2 ** 40) throw new RangeError("address");
        super.translate(requester, iovaPfn, access, out);
      }
    })(),
  "makes a new domain object for every question": () =>
    new (class extends ReferenceBackend {
      override domainOf(requester: Pick<Requester, "sourceId">): ReferenceDomain {
        const known = super.domainOf(requester);
        return Object.assign(new ReferenceDomain(known.label), { runs: known.runs });
      }
    })(),
  "scans one frame less at the end of a range": scanning((_domain, range, runs) =>
    runs.map((run) => {
      const atEnd = run.iovaPfn + run.pageCount === range.firstPfn + range.pageCount && run.pageCount > 1;
      return atEnd ? { ...run, pageCount: run.pageCount - 1 } : run;
    }),
  ),
  "forgets to advance the target of a run that it cuts": scanning((domain, _range, runs) =>
    runs.map((run) => ({ ...run, gpaPfn: domain.runs.find(run.iovaPfn)?.gpaPfn ?? run.gpaPfn })),
  ),
  "scans in descending order": scanning((_domain, _range, runs) => runs.toReversed()),
  "scans a frame that is not mapped (a hole in its tables)": scanning((_domain, _range, runs) =>
    runs.map((run) => ({ ...run, pageCount: run.pageCount === 3 ? 4 : run.pageCount })),
  ),
  "scans with all rights": scanning((_domain, _range, runs) => runs.map((run) => ({ ...run, access: 3 }))),
  "forgets where a scan was when another begins inside it": () =>
    new BadDomainBackend(
      (label) =>
        new (class extends ReferenceDomain {
          #runs: readonly Run[] = [];
          override scan(range: FrameRange, sink: MappingSink): void {
            this.#runs = this.clipped(range);
            for (let i = 0; i < this.#runs.length; i++) {
              const run = this.#runs[i];
              if (run === undefined || !sink.run(run.iovaPfn, run.pageCount, run.gpaPfn, run.access)) return;
            }
          }
        })(label),
    ),
  "does not stop a scan when it is told to": () =>
    new BadDomainBackend(
      (label) =>
        new (class extends ReferenceDomain {
          override scan(range: FrameRange, sink: MappingSink): void {
            for (const run of this.clipped(range)) sink.run(run.iovaPfn, run.pageCount, run.gpaPfn, run.access);
          }
        })(label),
    ),
};

describe("the backend contract catches a backend that", () => {
  it.each(Object.entries(backendMutants))("%s", async (_name, make) => {
    const failures = await runCases(backendContract(() => backendOf(make())));
    expect(failures).not.toEqual([]);
  });
});
