/** Containers as they come: without steps, behind a socket. Each wraps an in-memory one, which keeps the rules. */
import type { Access } from "@iommu-kit/iommu-core";
import type {
  DirtyLog,
  DirtyResult,
  DmaContainer,
  MapResult,
  MemoryContainer,
  UnmapResult,
} from "@iommu-kit/notifier-vfio";

/** A container that applies each call by itself, as a kernel's does, and writes the calls down. */
export class PlainContainer implements DmaContainer {
  readonly inner: MemoryContainer;
  /** `map first+count`, `unmap first+count`, in order. */
  readonly calls: string[] = [];

  constructor(inner: MemoryContainer) {
    this.inner = inner;
  }

  get granularity(): "page" | "block" {
    return this.inner.granularity;
  }

  get entryLimit(): number {
    return this.inner.entryLimit;
  }

  get entriesHeld(): number {
    return this.inner.entriesHeld;
  }

  get dirtyLog() {
    return this.inner.dirtyLog;
  }

  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapResult {
    this.calls.push(`map ${iovaPfn}+${pageCount}`);
    return this.inner.map(iovaPfn, pageCount, gpaPfn, access);
  }

  unmap(iovaPfn: number, pageCount: number): UnmapResult {
    this.calls.push(`unmap ${iovaPfn}+${pageCount}`);
    return this.inner.unmap(iovaPfn, pageCount);
  }

  unmapAll(): UnmapResult {
    this.calls.push("unmapAll");
    return this.inner.unmapAll();
  }

  onEntriesFreed(listener: () => void): () => void {
    return this.inner.onEntriesFreed(listener);
  }
}

/** A container that applies the calls between `begin` and `commit` as one step, and lets a test look after each call. */
export class SteppedContainer extends PlainContainer {
  /** Runs after every map and unmap: a device that does DMA at that moment. */
  afterCall: () => void = () => undefined;

  override map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapResult {
    const answer = super.map(iovaPfn, pageCount, gpaPfn, access);
    this.afterCall();
    return answer;
  }

  override unmap(iovaPfn: number, pageCount: number): UnmapResult {
    const answer = super.unmap(iovaPfn, pageCount);
    this.afterCall();
    return answer;
  }

  begin(): void {
    this.inner.begin();
  }

  commit(): void {
    this.inner.commit();
  }
}

/** A container at the other end of a pipe: carries calls out in order, each when the test says so. */
export class RemoteContainer implements DmaContainer {
  readonly granularity: "page" | "block";
  readonly inner: MemoryContainer;
  readonly #queue: (() => void)[] = [];

  constructor(inner: MemoryContainer) {
    this.inner = inner;
    this.granularity = inner.granularity;
  }

  get entryLimit(): number {
    return this.inner.entryLimit;
  }

  get entriesHeld(): number {
    return this.inner.entriesHeld;
  }

  get dirtyLog(): DirtyLog {
    const { inner } = this;
    const later = <T>(call: () => T | Promise<T>) => this.#later(call);
    const { unmapAndRead } = inner.dirtyLog;
    const log: DirtyLog = {
      get active() {
        return inner.dirtyLog.active;
      },
      start: () => later<DirtyResult>(() => inner.dirtyLog.start()),
      stop: () => later<DirtyResult>(() => inner.dirtyLog.stop()),
      read: (...range) => later<DirtyResult>(() => inner.dirtyLog.read(...range)),
    };
    if (unmapAndRead !== undefined) log.unmapAndRead = (...range) => later<UnmapResult>(() => unmapAndRead(...range));
    return log;
  }

  /** Calls that wait. */
  get waiting(): number {
    return this.#queue.length;
  }

  /** Carries out the next calls, and lets their answers arrive. */
  async answer(count = Infinity): Promise<void> {
    for (let done = 0; done < count && this.#queue.length > 0; done++) {
      this.#queue.shift()?.();
      // An answer passes through a few promises before anybody acts on it.
      for (let turn = 0; turn < 8; turn++) await Promise.resolve();
    }
  }

  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): Promise<MapResult> {
    return this.#later(() => this.inner.map(iovaPfn, pageCount, gpaPfn, access));
  }

  unmap(iovaPfn: number, pageCount: number): Promise<UnmapResult> {
    return this.#later(() => this.inner.unmap(iovaPfn, pageCount));
  }

  unmapAll(): Promise<UnmapResult> {
    return this.#later(() => this.inner.unmapAll());
  }

  #later<T>(call: () => T | Promise<T>): Promise<T> {
    return new Promise((resolve) => this.#queue.push(() => resolve(call())));
  }
}

/** Every page that a container lets a device reach, ascending, as `iova:gpa:access`. */
export function pagesOf(container: MemoryContainer): string[] {
  return [...container.ranges()].flatMap(({ iovaPfn, pageCount, gpaPfn, access }) =>
    Array.from({ length: pageCount }, (_, i) => `${iovaPfn + i}:${gpaPfn + i}:${access}`),
  );
}

/** Entries of a container as `first+count`. */
export function entriesOf(container: MemoryContainer): string[] {
  return [...container.entries()].map(({ iovaPfn, pageCount }) => `${iovaPfn}+${pageCount}`);
}
