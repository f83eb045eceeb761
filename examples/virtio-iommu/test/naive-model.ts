/**
 * What the specification says of requests, as plainly as possible: bytes as bigints, mappings in a list, every question answered by going through all of it. Shares
 * no code with the device, but for the numbers of the specification.
 */

/** Statuses. */
const [OK, UNSUPP, INVAL, RANGE, NOENT, FAULT, NOMEM] = [0, 2, 4, 5, 6, 7, 8] as const;
const RESERVED_KINDS = { reserved: 0, msi: 1 } as const;

export type Request =
  | { readonly type: "attach"; readonly domain: number; readonly endpoint: number; readonly flags: number }
  | { readonly type: "detach"; readonly domain: number; readonly endpoint: number }
  | {
      readonly type: "map";
      readonly domain: number;
      readonly start: bigint;
      readonly end: bigint;
      readonly target: bigint;
      readonly flags: number;
    }
  | { readonly type: "unmap"; readonly domain: number; readonly start: bigint; readonly end: bigint }
  | { readonly type: "probe"; readonly endpoint: number }
  | { readonly type: "bypass"; readonly on: boolean };

interface ModelEndpoint {
  readonly id: number;
  readonly reserved: readonly { readonly kind: "reserved" | "msi"; readonly start: bigint; readonly end: bigint }[];
  domain: number | undefined;
}

interface ModelMapping {
  readonly start: bigint;
  readonly end: bigint;
  readonly target: bigint;
  readonly flags: number;
}

export interface ModelLimits {
  readonly domainLast: number;
  readonly inputEnd: bigint;
  readonly targetEnd: bigint;
  readonly mappings: number;
}

/** Where a page goes, or why it does not. */
export type Verdict = { readonly target: bigint; readonly rights: number } | { readonly reason: number };

export class NaiveModel {
  bypass: boolean;
  readonly #endpoints: readonly ModelEndpoint[];
  readonly #domains = new Map<number, { readonly bypass: boolean; mappings: ModelMapping[] }>();
  readonly #limits: ModelLimits;

  constructor(endpoints: readonly Omit<ModelEndpoint, "domain">[], limits: ModelLimits, bypass: boolean) {
    this.#endpoints = endpoints.map((endpoint) => ({ ...endpoint, domain: undefined }));
    this.#limits = limits;
    this.bypass = bypass;
  }

  /** The status, or what PROBE answers. */
  perform(request: Request): number {
    switch (request.type) {
      case "attach":
        return this.#attach(request);
      case "detach":
        return this.#detach(request);
      case "map":
        return this.#map(request);
      case "unmap":
        return this.#unmap(request);
      case "probe":
        return this.#find(request.endpoint) === undefined ? NOENT : OK;
      default:
        this.bypass = request.on;
        return OK;
    }
  }

  regionsOf(id: number): { subtype: number; start: bigint; end: bigint }[] {
    return (this.#find(id)?.reserved ?? []).map(({ kind, start, end }) => ({
      subtype: RESERVED_KINDS[kind],
      start,
      end,
    }));
  }

  /** What a request of an endpoint for `rights` at an address gets. */
  lookup(id: number, address: bigint, rights: number): Verdict {
    const endpoint = this.#find(id);
    if (endpoint === undefined) return { reason: 1 };
    const domain = endpoint.domain === undefined ? undefined : this.#domains.get(endpoint.domain);
    if (domain === undefined && !this.bypass) return { reason: 1 };
    if (domain === undefined || domain.bypass) {
      const reserved = endpoint.reserved.some(({ start, end }) => address >= start && address <= end);
      return reserved ? { reason: 2 } : { target: address, rights: 3 };
    }
    const mapping = domain.mappings.find(({ start, end }) => address >= start && address <= end);
    if (mapping === undefined) return { reason: 2 };
    const has = mapping.flags & 3;
    if (has === 0 || (has & rights) !== rights) return { reason: 2 };
    return { target: mapping.target + (address - mapping.start), rights: has };
  }

  #find(id: number): ModelEndpoint | undefined {
    return this.#endpoints.find((endpoint) => endpoint.id === id);
  }

  #attach({ domain: id, endpoint: endpointId, flags }: Extract<Request, { type: "attach" }>): number {
    if (flags > 1) return INVAL;
    if (id > this.#limits.domainLast) return RANGE;
    const endpoint = this.#find(endpointId);
    if (endpoint === undefined) return NOENT;
    const domain = this.#domains.get(id);
    if (domain !== undefined && domain.bypass !== (flags === 1)) return INVAL;
    if (domain?.mappings.some((mapping) => overlaps(mapping, endpoint.reserved)) === true) return UNSUPP;
    if (domain === undefined) this.#domains.set(id, { bypass: flags === 1, mappings: [] });
    const left = endpoint.domain;
    endpoint.domain = id;
    if (left !== undefined && left !== id) this.#end(left);
    return OK;
  }

  #detach({ domain: id, endpoint: endpointId }: Extract<Request, { type: "detach" }>): number {
    const endpoint = this.#find(endpointId);
    if (endpoint === undefined) return NOENT;
    if (endpoint.domain !== id) return INVAL;
    endpoint.domain = undefined;
    this.#end(id);
    return OK;
  }

  #end(id: number): void {
    if (!this.#endpoints.some((endpoint) => endpoint.domain === id)) this.#domains.delete(id);
  }

  #map({ domain: id, start, end, target, flags }: Extract<Request, { type: "map" }>): number {
    const domain = this.#domains.get(id);
    if (domain === undefined) return NOENT;
    if (domain.bypass || flags > 7 || end <= start) return INVAL;
    if (start % 4096n !== 0n || target % 4096n !== 0n || (end + 1n) % 4096n !== 0n) return RANGE;
    if (end > this.#limits.inputEnd) return RANGE;
    if (target + (end - start) > this.#limits.targetEnd) return FAULT;
    const here = this.#endpoints.filter((endpoint) => endpoint.domain === id);
    if (here.some((endpoint) => overlaps({ start, end }, endpoint.reserved))) return INVAL;
    if (overlaps({ start, end }, domain.mappings)) return INVAL;
    const all = [...this.#domains.values()].reduce((sum, { mappings }) => sum + mappings.length, 0);
    if (all >= this.#limits.mappings) return NOMEM;
    domain.mappings.push({ start, end, target, flags });
    return OK;
  }

  #unmap({ domain: id, start, end }: Extract<Request, { type: "unmap" }>): number {
    const domain = this.#domains.get(id);
    if (domain === undefined) return NOENT;
    if (domain.bypass || end < start) return INVAL;
    const affected = domain.mappings.filter((mapping) => overlaps(mapping, [{ start, end }]));
    if (affected.some((mapping) => mapping.start < start || mapping.end > end)) return RANGE;
    domain.mappings = domain.mappings.filter((mapping) => !affected.includes(mapping));
    return OK;
  }
}

interface Bytes {
  readonly start: bigint;
  readonly end: bigint;
}

function overlaps(range: Bytes, others: readonly Bytes[]): boolean {
  return others.some((other) => range.start <= other.end && other.start <= range.end);
}
