/**
 * Watches how full a container is, so that the host hears of it before a map is refused.
 *
 * Each level is reported once on the way up, and once on the way down when a twentieth of the limit below it has been
 * reached: a guest that maps and unmaps at a level does not cause an event each time.
 */
import { IommuError } from "@iommu-kit/iommu-core";

/** The fill of a container crossed a level. */
export interface PressureEvent {
  /** The level, as a part of the limit: 0.8 for 80 %. */
  readonly level: number;
  /** True on the way up. */
  readonly rising: boolean;
  /** Entries that the container holds. */
  readonly entriesHeld: number;
  /** Entries that it can hold. */
  readonly entryLimit: number;
}

/** How far below a level its way down is reported, as a part of the limit. */
const HYSTERESIS = 0.05;

/** Counts the entries of one container against its limit. */
export class EntryPressure {
  readonly #levels: readonly number[];
  readonly #report: (event: PressureEvent) => void;
  /** Levels reached, counted from the lowest. */
  #reached = 0;

  /** @throws {IommuError} `bad-option` unless the levels ascend within (0, 1]. */
  constructor(levels: readonly number[], report: (event: PressureEvent) => void) {
    for (const [index, level] of levels.entries()) {
      if (level > (levels[index - 1] ?? 0) && level <= 1) continue;
      throw new IommuError(
        "bad-option",
        `pressureLevels: expected ascending parts of the limit in (0, 1], got ${levels.join(", ")}`,
        {
          hint: "for example [0.8, 0.95]",
        },
      );
    }
    this.#levels = levels;
    this.#report = report;
  }

  /** Call after entries were added or removed. */
  update(entriesHeld: number, entryLimit: number): void {
    for (
      let level = this.#levels[this.#reached];
      level !== undefined && entriesHeld >= level * entryLimit;
      level = this.#levels[this.#reached]
    ) {
      this.#reached += 1;
      this.#report({ level, rising: true, entriesHeld, entryLimit });
    }
    for (
      let level = this.#levels[this.#reached - 1];
      level !== undefined && entriesHeld < (level - HYSTERESIS) * entryLimit;
      level = this.#levels[this.#reached - 1]
    ) {
      this.#reached -= 1;
      this.#report({ level, rising: false, entriesHeld, entryLimit });
    }
  }
}
