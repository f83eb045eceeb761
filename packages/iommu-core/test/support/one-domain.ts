import type { Announce, Backend, Domain, FrameRange, MappingSink } from "../../src/index.js";

const NOTHING: Domain = { kind: "blocked", label: "nothing", holes: [], scan: () => undefined };

/** A backend that is its only domain: every device sees what `scan` says, or for the time being nothing. */
export abstract class OneDomain implements Backend, Domain {
  readonly kind = "table";
  readonly label = "guest";
  holes: readonly FrameRange[] = [];
  /** Devices see nothing for the time being. */
  blocked = false;
  #announce: Announce | undefined;

  abstract scan(part: FrameRange, sink: MappingSink): void;

  connect(announce: Announce): void {
    this.#announce = announce;
  }

  domainOf(): Domain {
    return this.blocked ? NOTHING : this;
  }

  translate(): void {
    throw new Error("no request is made here");
  }

  invalidate(part: FrameRange): void {
    void this.#announce?.({ range: part, concerns: () => true });
  }
}
