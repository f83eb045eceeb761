/**
 * Which values each option of a unit may have, and what it needs beside it (§11.4.2 and §11.4.3: the bits of CAP and ECAP).
 *
 * Hosts that are not type-checked are served as well: a misspelt option is refused, and so is a value of another type.
 */

import { IommuError } from "@iommu-kit/iommu-core";
import type { VtdConfig } from "./config.js";

/** What is expected, in words, and whether a value is it. */
interface Rule {
  readonly expected: string;
  readonly allows: (value: unknown) => boolean;
}

const FLAG: Rule = { expected: "true or false", allows: (value) => typeof value === "boolean" };

/** Place of a register that the host may move: 10 bits, in units of 16 bytes. */
const PLACE: Rule = {
  expected: "a multiple of 16 from 0xf0 to 0x3ff0",
  allows: (value) => isIn(value, 0xf0, 0x3ff0) && Number(value) % 16 === 0,
};

const CACHE: Rule = whole(0, 2 ** 24, "0 (off) to 2^24");

/** Longest time that a timer of the host can wait. */
const LONGEST_MILLISECONDS = 2 ** 31 - 1;

/** Every option that is no flag. */
const RULES: ReadonlyMap<string, Rule> = new Map(
  Object.entries({
    version: { expected: "{ major, minor }, 0 to 15 each", allows: isVersion },
    hostAddressWidth: whole(32, 52),
    addressWidths: listOf("39, 48 and 57", [39, 48, 57]),
    maximumGuestAddressWidth: whole(30, 57),
    superpages: listOf('"2M" and "1G"', ["2M", "1G"]),
    domainIdWidth: { expected: "4, 6 ... 16", allows: (value) => isIn(value, 4, 16) && Number(value) % 2 === 0 },
    pageSelective: { expected: "false, or log2 of a number of pages, 0 to 63", allows: orFalse(0, 63) },
    firstStage: oneOf('false, "4-level" or "5-level"', [false, "4-level", "5-level"]),
    pasidWidth: { expected: "false, or 1 to 20", allows: orFalse(1, 20) },
    protectedRegions: listOf('"low" and "high"', ["low", "high"]),
    faultRecords: whole(1, 256),
    faultRecordOffset: PLACE,
    iotlbRegisterOffset: PLACE,
    iotlbEntries: CACHE,
    contextEntries: CACHE,
    interruptEntries: CACHE,
    deviceTlbDeadlineMilliseconds: whole(1, LONGEST_MILLISECONDS),
    eventIntervalMilliseconds: whole(0, LONGEST_MILLISECONDS),
  } satisfies Partial<Record<keyof VtdConfig, Rule>>),
);

/** An option, and what has to be there if it is. */
const NEEDS: readonly (readonly [keyof VtdConfig, keyof VtdConfig])[] = [
  ["interruptRemapping", "queuedInvalidation"],
  ["deviceTlb", "queuedInvalidation"],
  ["extendedInterruptMode", "interruptRemapping"],
  ["postedInterrupts", "interruptRemapping"],
  ["scalableMode", "queuedInvalidation"],
  ["firstStage", "scalableMode"],
  ["firstStage1G", "firstStage"],
  ["nested", "firstStage"],
  ["nested", "secondStage"],
  ["secondStageFlags", "secondStage"],
  ["secondStageFlags", "pageWalkCoherency"],
  ["extendedAccessed", "firstStage"],
  ["extendedAccessed", "pageWalkCoherency"],
  ["pageWalkCoherency", "scalableMode"],
  ["pasidWidth", "scalableMode"],
  ["requestPasid", "scalableMode"],
  ["supervisorRequests", "scalableMode"],
  ["requestPrivilege", "supervisorRequests"],
  ["translatedWithPasid", "deviceTlb"],
  ["translatedWithPasid", "pasidWidth"],
  ["pageRequests", "scalableMode"],
  ["pageRequests", "deviceTlb"],
  ["pageRequestDraining", "deviceTlb"],
  ["stopMarkers", "pageRequests"],
  ["noWriteRequests", "deviceTlb"],
];

/** What a host supplies beside its decisions about the unit. */
const PARTS: ReadonlySet<string> = new Set(["memory", "msi", "scheduler", "regions", "limits"]);

/**
 * Checks the options that a host gives, and how they go together.
 * @param config The same with the defaults filled in.
 * @param names Every option there is.
 * @throws {IommuError} `bad-option`.
 */
export function checkOptions(given: VtdConfig, config: Required<VtdConfig>, names: readonly string[]): void {
  for (const [name, value] of Object.entries(given)) {
    if (PARTS.has(name)) continue;
    if (!names.includes(name)) refuse("options", `one of ${names.join(", ")}`, name);
    const { expected, allows } = RULES.get(name) ?? FLAG;
    if (!allows(value)) refuse(name, expected, value);
  }
  for (const [option, needed] of NEEDS) {
    if (config[option] !== false && config[needed] === false) lacks(option, needed);
  }
  const { superpages } = config;
  if (superpages.includes("1G") && !superpages.includes("2M")) refuse("superpages", '"2M" beside "1G"', superpages);
}

function isIn(value: unknown, low: number, high: number): boolean {
  return Number.isInteger(value) && Number(value) >= low && Number(value) <= high;
}

function whole(low: number, high: number, expected = `${low} to ${high}`): Rule {
  return { expected, allows: (value) => isIn(value, low, high) };
}

function orFalse(low: number, high: number): (value: unknown) => boolean {
  return (value) => value === false || isIn(value, low, high);
}

function oneOf(expected: string, values: readonly unknown[]): Rule {
  return { expected, allows: (value) => values.includes(value) };
}

function listOf(members: string, values: readonly unknown[]): Rule {
  return {
    expected: `a list of ${members} only`,
    allows: (value) => Array.isArray(value) && value.every((member) => values.includes(member)),
  };
}

function isVersion(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  const { major, minor } = value as { readonly major?: unknown; readonly minor?: unknown };
  return isIn(major, 0, 15) && isIn(minor, 0, 15);
}

function lacks(option: string, needed: string): never {
  throw new IommuError("bad-option", `${option}: expected ${needed} beside it, got ${needed}: false`, {
    hint: `switch ${needed} on, or leave ${option} out`,
  });
}

function refuse(option: string, expected: string, got: unknown): never {
  const plain: unknown = typeof got === "object" ? JSON.stringify(got) : got;
  throw new IommuError("bad-option", `${option}: expected ${expected}, got ${String(plain)}`, {
    hint: "leave it out for the default, or see VtdConfig for what each option means",
  });
}
