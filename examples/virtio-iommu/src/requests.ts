/**
 * Carries out requests (virtio 1.3, §5.13.6): checks in the order in which they are written here, the first that fails gives the status.
 *
 * Where the specification names no status: a domain outside of `domain_range` is RANGE for ATTACH and does not exist for the others; a range that ends before it
 * begins is INVAL; a target beyond guest-physical addresses is FAULT; no room for another mapping is NOMEM.
 */

import {
  type Access,
  ALL_FRAMES,
  type Announce,
  type Change,
  type Completion,
  endOf,
  type FrameRange,
  intersect,
  type Layout,
  reservedMask,
} from "@iommu-kit/iommu-core";
import type { ResolvedConfig } from "./config.js";
import type { Endpoint } from "./endpoint.js";
import {
  ATTACH,
  AttachFlag,
  DETACH,
  IommuFeature,
  MAP,
  MapFlag,
  PROBE,
  RequestStatus,
  RequestType,
  TAIL_BYTES,
  UNMAP,
} from "./spec/iommu.js";
import { VirtioDomain } from "./virtio-domain.js";
import type { Chain } from "./virtqueue.js";

/** What becomes of a request: bytes for its writable part (none: it could not be read as one), and when they may be given. */
export interface Answer {
  readonly bytes: Uint8Array;
  readonly done: Completion;
}

/** A status, and what has to complete before it may be told. */
interface Outcome {
  readonly status: RequestStatus;
  readonly done?: Completion;
}

/** What requests work on. */
export interface RequestOptions {
  readonly config: ResolvedConfig;
  readonly endpoints: ReadonlyMap<number, Endpoint>;
  /** What the driver has accepted. */
  readonly accepted: () => bigint;
}

const NO_ANSWER: Answer = { bytes: new Uint8Array(0), done: undefined };
const LAYOUTS: Readonly<Record<number, Layout>> = {
  [RequestType.ATTACH]: ATTACH,
  [RequestType.DETACH]: DETACH,
  [RequestType.MAP]: MAP,
  [RequestType.UNMAP]: UNMAP,
  [RequestType.PROBE]: PROBE,
};
const PAGE_END = 0xfff;
const MUST_BE_ZERO = { attach: reservedMask(ATTACH, 64), unmap: reservedMask(UNMAP, 64) };

const answer = (status: RequestStatus, done?: Completion): Outcome => ({ status, done });

/** The domains of the device, and what drivers do to them. */
export class Requests {
  readonly domains = new Map<number, VirtioDomain>();
  /** Told of every change; set when the unit is made. */
  announce: Announce = () => undefined;
  readonly #options: RequestOptions;
  #mappingsLeft: number;

  constructor(options: RequestOptions) {
    this.#options = options;
    this.#mappingsLeft = options.config.mappingLimit;
  }

  /** The longest request, in bytes. */
  static readonly readLimit = Math.max(...Object.values(LAYOUTS).map((structure) => structure.wordCount * 4));

  /** Carries out a request. */
  carryOut({ readable, readableLength, writableLength }: Chain): Answer {
    const [type = 0] = readable;
    const structure = this.#isAvailable(type) ? LAYOUTS[type] : undefined;
    if (structure === undefined || readableLength < structure.wordCount * 4 || writableLength < TAIL_BYTES) {
      return NO_ANSWER;
    }
    const words = new Int32Array(readable.slice(0, structure.wordCount * 4).buffer);
    if (type === RequestType.PROBE) return this.#probe(PROBE.fields.ENDPOINT.get(words, 0), writableLength);
    const { status, done } = this.#perform(type, words);
    return { bytes: Uint8Array.of(status, 0, 0, 0), done };
  }

  /** Forgets every domain. The caller announces. */
  reset(): void {
    for (const endpoint of this.#options.endpoints.values()) endpoint.domain = undefined;
    this.domains.clear();
    this.#mappingsLeft = this.#options.config.mappingLimit;
  }

  #perform(type: number, words: Int32Array): Outcome {
    switch (type) {
      case RequestType.ATTACH:
        return this.#attach(words);
      case RequestType.DETACH:
        return this.#detach(words);
      case RequestType.MAP:
        return this.#map(words);
      default:
        return this.#unmap(words);
    }
  }

  /** Requests that this driver may send; others are not recognized. */
  #isAvailable(type: number): boolean {
    if (type === RequestType.PROBE) return (this.#options.config.features & IommuFeature.PROBE) !== 0n;
    if (type === RequestType.MAP || type === RequestType.UNMAP) return this.#accepts(IommuFeature.MAP_UNMAP);
    return true;
  }

  #accepts(feature: bigint): boolean {
    return (this.#options.accepted() & feature) !== 0n;
  }

  #attach(words: Int32Array): Outcome {
    const { DOMAIN, ENDPOINT, FLAGS } = ATTACH.fields;
    const flags = FLAGS.get(words, 0);
    const known = this.#accepts(IommuFeature.BYPASS_CONFIG) ? AttachFlag.BYPASS : 0;
    if (hasBits(words, MUST_BE_ZERO.attach) || (flags & ~known) !== 0) return answer(RequestStatus.INVAL);
    const domainId = DOMAIN.get(words, 0);
    const { domainRange } = this.#options.config;
    if (domainId < domainRange.first || domainId > domainRange.last) return answer(RequestStatus.RANGE);
    const endpoint = this.#options.endpoints.get(ENDPOINT.get(words, 0));
    if (endpoint === undefined) return answer(RequestStatus.NOENT);
    const bypass = (flags & AttachFlag.BYPASS) !== 0;
    const present = this.domains.get(domainId);
    if (present !== undefined && present.bypass !== bypass) return answer(RequestStatus.INVAL);
    // What others have mapped there must not lie where this endpoint cannot have it.
    const conflict = endpoint.reserved.some((reserved) => present?.mappings.touches(reserved) === true);
    if (conflict) return answer(RequestStatus.UNSUPP);
    if (endpoint.domain?.id === domainId) return answer(RequestStatus.OK);
    if (endpoint.domain !== undefined) this.#remove(endpoint, endpoint.domain);
    const domain = present ?? new VirtioDomain(domainId, bypass);
    this.domains.set(domainId, domain);
    domain.endpoints.add(endpoint);
    endpoint.domain = domain;
    return answer(RequestStatus.OK, this.announce(everythingOf(endpoint)));
  }

  #detach(words: Int32Array): Outcome {
    const { DOMAIN, ENDPOINT } = DETACH.fields;
    const endpoint = this.#options.endpoints.get(ENDPOINT.get(words, 0));
    if (endpoint === undefined) return answer(RequestStatus.NOENT);
    const domain = this.domains.get(DOMAIN.get(words, 0));
    if (domain === undefined || endpoint.domain !== domain) return answer(RequestStatus.INVAL);
    this.#remove(endpoint, domain);
    return answer(RequestStatus.OK, this.announce(everythingOf(endpoint)));
  }

  /** A domain ends with its last endpoint. */
  #remove(endpoint: Endpoint, domain: VirtioDomain): void {
    endpoint.domain = undefined;
    domain.endpoints.delete(endpoint);
    if (domain.endpoints.size > 0) return;
    this.domains.delete(domain.id);
    this.#mappingsLeft += domain.mappings.size;
  }

  #map(words: Int32Array): Outcome {
    const { DOMAIN, START_OFFSET, START_PFN, END_OFFSET, END_PFN, TARGET_OFFSET, TARGET_PFN, FLAGS } = MAP.fields;
    const { inputRange, granulePages, targetLimit } = this.#options.config;
    const domain = this.domains.get(DOMAIN.get(words, 0));
    if (domain === undefined) return answer(RequestStatus.NOENT);
    const flags = FLAGS.get(words, 0);
    const rights = MapFlag.READ | MapFlag.WRITE;
    const known = rights | (this.#accepts(IommuFeature.MMIO) ? MapFlag.MMIO : 0);
    if (domain.bypass || (flags & ~known) !== 0) return answer(RequestStatus.INVAL);

    const firstPfn = START_PFN.get(words, 0);
    const lastPfn = END_PFN.get(words, 0);
    const gpaPfn = TARGET_PFN.get(words, 0);
    const reversed =
      lastPfn < firstPfn || (lastPfn === firstPfn && END_OFFSET.get(words, 0) <= START_OFFSET.get(words, 0));
    if (reversed) return answer(RequestStatus.INVAL);
    const whole =
      START_OFFSET.get(words, 0) === 0 && TARGET_OFFSET.get(words, 0) === 0 && END_OFFSET.get(words, 0) === PAGE_END;
    const aligned = [firstPfn, gpaPfn, lastPfn + 1].every((pfn) => pfn % granulePages === 0);
    if (!whole || !aligned) return answer(RequestStatus.RANGE);
    const range = { firstPfn, pageCount: lastPfn - firstPfn + 1 };
    if (intersect(range, inputRange).pageCount !== range.pageCount) return answer(RequestStatus.RANGE);
    if (gpaPfn + range.pageCount > targetLimit) return answer(RequestStatus.FAULT);
    const isReserved = [...domain.endpoints].some((endpoint) => endpoint.reserves(range));
    if (isReserved || domain.mappings.touches(range)) return answer(RequestStatus.INVAL);
    if (this.#mappingsLeft === 0) return answer(RequestStatus.NOMEM);

    this.#mappingsLeft -= 1;
    const access = (flags & rights) as Access;
    domain.mappings.add({ ...range, gpaPfn, access, mmio: (flags & MapFlag.MMIO) !== 0 });
    return answer(RequestStatus.OK, this.announce(rangeOf(domain, range)));
  }

  #unmap(words: Int32Array): Outcome {
    const { DOMAIN, START_OFFSET, START_PFN, END_OFFSET, END_PFN } = UNMAP.fields;
    if (hasBits(words, MUST_BE_ZERO.unmap)) return answer(RequestStatus.INVAL);
    const domain = this.domains.get(DOMAIN.get(words, 0));
    if (domain === undefined) return answer(RequestStatus.NOENT);
    const firstPfn = START_PFN.get(words, 0);
    const lastPfn = END_PFN.get(words, 0);
    const reversed =
      lastPfn < firstPfn || (lastPfn === firstPfn && END_OFFSET.get(words, 0) < START_OFFSET.get(words, 0));
    if (domain.bypass || reversed) return answer(RequestStatus.INVAL);
    // The range is in bytes; a mapping that either end cuts, if only by a byte, stays, and so does everything else.
    const cutFirst = START_OFFSET.get(words, 0) === 0 ? firstPfn : firstPfn + 1;
    const cutLast = END_OFFSET.get(words, 0) === PAGE_END ? lastPfn : lastPfn - 1;
    const first = domain.mappings.find(firstPfn);
    const last = domain.mappings.find(lastPfn);
    const isCut =
      (first !== undefined && first.firstPfn < cutFirst) || (last !== undefined && endOf(last) > cutLast + 1);
    if (isCut) return answer(RequestStatus.RANGE);

    const range = { firstPfn, pageCount: lastPfn - firstPfn + 1 };
    const removed = domain.mappings.deleteFrom(range);
    this.#mappingsLeft += removed;
    return answer(RequestStatus.OK, removed === 0 ? undefined : this.announce(rangeOf(domain, range)));
  }

  /** §5.13.6.5: properties, then zeros up to the tail. A list that is too small for `probe_size` gets none. */
  #probe(endpointId: number, writableLength: number): Answer {
    const { probeSize } = this.#options.config;
    const room = Math.min(writableLength - TAIL_BYTES, probeSize);
    const bytes = new Uint8Array(room + TAIL_BYTES);
    const endpoint = this.#options.endpoints.get(endpointId);
    let status: RequestStatus = RequestStatus.OK;
    if (endpoint === undefined) status = RequestStatus.NOENT;
    else if (room < probeSize) status = RequestStatus.INVAL;
    else bytes.set(endpoint.properties());
    bytes[room] = status;
    return { bytes, done: undefined };
  }
}

/** An endpoint sees something else. */
function everythingOf(endpoint: Endpoint): Change {
  return { range: ALL_FRAMES, concerns: ({ sourceId }) => sourceId === endpoint.id };
}

/** A range of a domain has changed. */
function rangeOf(domain: VirtioDomain, range: FrameRange): Change {
  return { range, concerns: (_requester, seen) => seen === domain };
}

function hasBits(words: Int32Array, mask: Int32Array): boolean {
  return words.some((word, i) => (word & (mask[i] ?? 0)) !== 0);
}
