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
} from "@iommu-kit/iommu-core";

/** A graphics aperture, as in old AGP bridges: one flat table of 32-bit entries in the chip, shared by every device. */
export class Aperture implements Backend, Domain {
  readonly kind = "table";
  readonly label = "aperture";
  readonly holes = [];
  readonly #firstPfn: number;
  readonly #entries: Uint32Array;
  #announce: Announce | undefined;

  constructor(firstPfn: number, pageCount: number) {
    this.#firstPfn = firstPfn;
    this.#entries = new Uint32Array(pageCount);
  }

  connect(announce: Announce): void {
    this.#announce = announce;
  }

  domainOf(): Domain {
    return this;
  }

  /** The driver writes an entry (target frame * 4 + rights, 0 for none); the chip takes it over at once. */
  write(index: number, entry: number): Completion {
    this.#entries[index] = entry;
    return this.#announce?.({ range: { firstPfn: this.#firstPfn + index, pageCount: 1 }, concerns: () => true });
  }

  translate(_requester: Requester, iovaPfn: number, access: Access, out: Translation): void {
    const entry = this.#entries[iovaPfn - this.#firstPfn] ?? 0;
    const rights = (entry & 3) as Access;
    if (rights === 0 || (rights & access) !== access) out.refuse(1, rights === 0 ? "not mapped" : "no right");
    else out.allow(entry >>> 2, 1, rights);
  }

  scan({ firstPfn, pageCount }: FrameRange, sink: MappingSink): void {
    const end = Math.min(firstPfn + pageCount, this.#firstPfn + this.#entries.length);
    for (let pfn = Math.max(firstPfn, this.#firstPfn); pfn < end; pfn++) {
      const entry = this.#entries[pfn - this.#firstPfn] ?? 0;
      if (!sink.run(pfn, 1, entry >>> 2, (entry & 3) as Access)) return;
    }
  }
}
