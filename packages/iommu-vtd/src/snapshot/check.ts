/**
 * Whether data is a snapshot that a unit can take up. Nothing is changed here; whatever passes can be applied without a further check.
 */

import { IommuError } from "@iommu-kit/iommu-core";
import { descriptorType, DescriptorType } from "../spec/invalidation.js";
import type { Unit } from "../unit.js";
import { checksumOf, identityOf, SNAPSHOT_VERSION, type VtdSnapshot } from "./save.js";

/** @throws {IommuError} `bad-snapshot`. */
export function checkSnapshot(unit: Unit, snapshot: unknown): asserts snapshot is VtdSnapshot {
  if (!isObject(snapshot)) throw refusal("an object", snapshot === null ? "null" : typeof snapshot);
  if (snapshot["format"] !== "iommu-kit/vtd") throw refusal('format "iommu-kit/vtd"', String(snapshot["format"]));
  if (snapshot["version"] !== SNAPSHOT_VERSION)
    throw refusal(`version ${SNAPSHOT_VERSION}`, String(snapshot["version"]));
  const { identity } = snapshot;
  const own = identityOf(unit);
  if (!isWords(identity) || identity.length !== own.length || own.some((word, index) => identity[index] !== word)) {
    throw refusal(
      `a unit with VER, CAP, ECAP and width ${own.join(" ")}`,
      Array.isArray(identity) ? identity.join(" ") : typeof identity,
    );
  }
  if (!areRegisters(unit, snapshot["registers"])) throw refusal("registers as [word, value]", "something else");
  if (!arePointers(snapshot["root"], snapshot["interrupts"]) || !areLevels(snapshot["command"]))
    throw refusal("root, interrupts and command", "something else");
  const { nextFault, waiting } = snapshot;
  if (!isWithin(nextFault, unit.config.faultRecords))
    throw refusal(`nextFault below ${unit.config.faultRecords}`, String(nextFault));
  if (waiting !== null && !isWait(waiting)) throw refusal("waiting: null or a wait descriptor", typeof waiting);
  const whole = snapshot as unknown as VtdSnapshot;
  const { root, interrupts, command } = whole;
  const agree = root.enabled === (command.TE === 1) && interrupts.enabled === (command.IRE === 1);
  if (!agree || interrupts.compatibility !== (command.CFI === 1))
    throw refusal("pointers in step with the commands", "others");
  if (whole.checksum !== checksumOf(whole)) throw refusal(`checksum ${checksumOf(whole)}`, String(whole.checksum));
}

/** The error for a snapshot that is not taken. */
export function refusal(expected: string, got: string): IommuError {
  return new IommuError("bad-snapshot", `expected ${expected}, got ${got}`, {
    hint: "restore into a unit with the same options, from a snapshot of this version",
  });
}

/** [word, value], ascending, and with the unit's own capabilities where these stand. */
function areRegisters({ file, config }: Unit, registers: unknown): boolean {
  if (!Array.isArray(registers)) return false;
  const words = new Int32Array(file.words.length);
  let last = -1;
  for (const entry of registers as readonly unknown[]) {
    if (!isWords(entry) || entry.length !== 2) return false;
    const [word = -1, value = 0] = entry;
    if (word <= last || word >= words.length || value !== (value | 0)) return false;
    words[word] = value;
    last = word;
  }
  const { cap, ecap } = config.capabilities;
  const holds = (name: "VER" | "CAP" | "ECAP", own: Int32Array): boolean =>
    own.every((value, index) => words[file.wordOf(name) + index] === value);
  return holds("VER", config.ver) && holds("CAP", cap) && holds("ECAP", ecap);
}

function arePointers(root: unknown, interrupts: unknown): boolean {
  const remapping = {
    enabled: "boolean",
    entryCount: "number",
    extended: "boolean",
    tablePfn: "number",
    compatibility: "boolean",
  } as const;
  return has(root, { enabled: "boolean", mode: "number", rootPfn: "number" }) && has(interrupts, remapping);
}

function areLevels(command: unknown): boolean {
  const levels = ["TE", "QIE", "IRE", "CFI"];
  if (!isObject(command) || typeof command["latching"] !== "boolean") return false;
  return levels.every((level) => command[level] === 0 || command[level] === 1);
}

function isWait(value: unknown): boolean {
  if (!isWords(value) || (value.length !== 4 && value.length !== 8)) return false;
  return descriptorType(Int32Array.from(value), 0) === DescriptorType.WAIT;
}

/** Frames are below 2^52. */
function has(value: unknown, shape: Readonly<Record<string, "number" | "boolean">>): boolean {
  if (!isObject(value)) return false;
  return Object.entries(shape).every(
    ([key, type]) => typeof value[key] === type && (type === "boolean" || isWithin(value[key], 2 ** 52)),
  );
}

function isWithin(value: unknown, limit: number): boolean {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value < limit;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

function isWords(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((word) => Number.isSafeInteger(word));
}
