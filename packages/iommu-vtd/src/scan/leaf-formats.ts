/**
 * What the entries of leaf tables mean, by the rules of the walk, for the hub to decode (design D4).
 *
 * A format is an object: the hub looks at words again when it gets another one. So there is one for each set of rules, and a new one when protected memory changes.
 */

import type { EntryFormat } from "@iommu-kit/iommu-core";
import { FirstStageBits, firstStageReservedIndex } from "../spec/first-stage.js";
import { MESSAGE_WINDOW } from "../spec/interrupt.js";
import { reservedIndex } from "../spec/second-stage.js";
import { entryFrame } from "../spec/word.js";
import type { OutputFilter } from "../translate/output-filter.js";

const { PRESENT, WRITE, USER } = FirstStageBits;

// A constant of this module: engines do not fold an imported one into a loop.
const WINDOW = MESSAGE_WINDOW;

/** The rights of an entry's low word as access, 0 if it maps nothing. The frame is where the hub wants it in both stages, bits 51:12. */
type Rights = (low: number) => number;

/** The formats of one stage. */
export class LeafFormats {
  readonly #reserved: readonly [low: number, high: number];
  readonly #filter: OutputFilter;
  readonly #rightsOf: (rules: number) => Rights;
  #made: EntryFormat[] = [];
  #blocked: unknown;

  /** `reserved`: the bits of a 4 KiB leaf that must be 0. `rightsOf`: what a set of rules makes of an entry; rules are small numbers. */
  constructor(
    reserved: readonly [low: number, high: number],
    filter: OutputFilter,
    rightsOf: (rules: number) => Rights,
  ) {
    this.#reserved = reserved;
    this.#filter = filter;
    this.#rightsOf = rightsOf;
  }

  /** The format of these rules. */
  of(rules: number): EntryFormat {
    if (this.#blocked !== this.#filter.blocked) {
      this.#blocked = this.#filter.blocked;
      this.#made = [];
    }
    return (this.#made[rules] ??= this.#make(this.#rightsOf(rules)));
  }

  #make(rights: Rights): EntryFormat {
    const filter = this.#filter;
    const [reservedLow, reservedHigh] = this.#reserved;
    return {
      decode(words, count) {
        const onlyWindow = filter.protectedRegions.length === 0;
        for (let i = 0; i < count * 2; i += 2) {
          const low = words[i] ?? 0;
          const high = words[i + 1] ?? 0;
          const access = ((low & reservedLow) | (high & reservedHigh)) === 0 ? rights(low) : 0;
          // Of nearly every entry bits 31:20 say that its target is not the interrupt window: nothing of another module is asked (bench replay).
          const open = onlyWindow && low >>> 20 !== WINDOW;
          const mapped = access !== 0 && (open || !filter.blocks(entryFrame(low, high)));
          words[i] = mapped ? (low & ~3) | access : 0;
          words[i + 1] = mapped ? high : 0;
        }
      },
    };
  }
}

/** Second stage. The rules are the rights of the tables above. */
export function secondStageFormats(reserved: Int32Array, filter: OutputFilter): LeafFormats {
  const at = reservedIndex(1, 0);
  return new LeafFormats([reserved[at] ?? 0, reserved[at + 1] ?? 0], filter, (rules) => (low) => low & rules);
}

const PRIVILEGED = 8;
const WRITE_PROTECT = 16;

/** The rules of a first-stage table: USER and WRITE of the tables above, and how supervisor requests are treated. */
export function firstStageRules(rights: number, privileged: boolean, writeProtect: boolean): number {
  return (rights & (USER | WRITE)) | (privileged ? PRIVILEGED : 0) | (writeProtect ? WRITE_PROTECT : 0);
}

/** First stage. */
export function firstStageFormats(reserved: Int32Array, filter: OutputFilter): LeafFormats {
  const at = firstStageReservedIndex(1, 0);
  return new LeafFormats([reserved[at] ?? 0, reserved[at + 1] ?? 0], filter, (rules) => {
    const privileged = (rules & PRIVILEGED) !== 0;
    const needed = PRESENT | (privileged ? 0 : USER);
    const writeAnyway = privileged && (rules & WRITE_PROTECT) === 0;
    const granted = PRESENT | (rules & (USER | WRITE));
    return (low) => {
      if ((low & granted & needed) !== needed) return 0;
      return writeAnyway || (low & granted & WRITE) !== 0 ? 3 : 1;
    };
  });
}
