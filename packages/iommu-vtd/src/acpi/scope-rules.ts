/**
 * The rules of device scopes (§8.3.1): which kinds a structure takes, how paths and ids must look.
 */

import { parseDevicePath } from "./device-path.js";
import { quote } from "./dmar-problems.js";
import type { Problems } from "./dmar-problems.js";
import { DEVICE_SCOPE, MAX_PATH_PAIRS, MAX_STRUCTURE_BYTES, PATH_PAIR, STRUCTURES } from "./dmar-spec.js";
import type { ScopeType, StructureKind } from "./dmar-spec.js";
import type { DeviceScope, PropertyScope } from "./dmar-table.js";

/** A structure that has scopes. */
export interface Scoped {
  readonly segment: number;
  readonly scopes: readonly DeviceScope[];
}

/** Scope kinds that a unit which is not include-all takes. */
export const UNIT_SCOPES: readonly ScopeType[] = ["endpoint", "bridge", "io-apic", "hpet", "namespace-device"];
/** Scope kinds that an include-all unit takes: PCI devices are its own without being named (§8.3). */
export const INCLUDE_ALL_SCOPES: readonly ScopeType[] = ["io-apic", "hpet", "namespace-device"];
/** Scope kinds of a reserved region: what makes DMA of its own. */
export const REGION_SCOPES: readonly ScopeType[] = ["endpoint", "bridge", "namespace-device"];
/** Scope kinds of an ATSR: root ports. */
export const ROOT_PORT_SCOPES: readonly ScopeType[] = ["bridge"];
/** Scope kinds of a SATC. */
export const ATC_SCOPES: readonly ScopeType[] = ["endpoint"];
/** Scope kinds of a SIDP. */
export const PROPERTY_SCOPES: readonly ScopeType[] = ["endpoint", "namespace-device"];

/** Checks the kind, path and id of every scope of a structure, and that the structure fits its length field. */
export function checkScopes(
  problems: Problems,
  kind: StructureKind,
  where: string,
  group: Scoped,
  rules: { readonly allowed: readonly ScopeType[]; readonly namespaceDeviceNumbers: ReadonlySet<number> },
): void {
  let byteLength: number = STRUCTURES[kind].layout.byteLength;
  for (const [index, scope] of group.scopes.entries()) {
    const scopeWhere = `${where}.scopes[${index}]`;
    if (!rules.allowed.includes(scope.type)) {
      const hint =
        rules.allowed === INCLUDE_ALL_SCOPES
          ? "an include-all unit has every PCI device that no other unit names: do not name them"
          : `${STRUCTURES[kind].mnemonic} does not take this kind of scope`;
      const message = `expected ${rules.allowed.join(" or ")}, got ${quote(scope.type)}`;
      problems.add("scope-type", scopeWhere, message, hint);
    }
    byteLength +=
      DEVICE_SCOPE.byteLength + PATH_PAIR.byteLength * checkPath(problems, `${scopeWhere}.path`, scope.path);
    checkEnumerationId(problems, scopeWhere, scope, rules.namespaceDeviceNumbers);
  }
  if (byteLength > MAX_STRUCTURE_BYTES) {
    const message = `expected a structure of at most ${MAX_STRUCTURE_BYTES} bytes, got ${byteLength}`;
    problems.add("too-long", where, message, "name a bridge instead of each device behind it");
  }
}

/** Checks that a structure which applies only to named devices names one. */
export function checkScopeCount(problems: Problems, where: string, group: Scoped): void {
  if (group.scopes.length > 0) return;
  problems.add("scope-count", where, "expected at least one device scope, got none", "name the devices in scopes");
}

/** Checks that integrated devices sit on a root bus (one path pair) and are listed once in all groups (§8.8, §8.9). */
export function checkIntegrated(problems: Problems, where: string, group: Scoped, devices: Map<string, string>): void {
  for (const [index, scope] of group.scopes.entries()) {
    const scopeWhere = `${where}.scopes[${index}]`;
    const path = parseDevicePath(scope.path);
    if (path !== undefined && path.pairs.length !== 1) {
      const message = `expected a device on a root bus such as "00:02.0", got ${quote(scope.path)}`;
      problems.add("path", `${scopeWhere}.path`, message, "only root-complex integrated devices belong here");
    }
    const key = `${group.segment}:${scope.type}:${scope.path}`;
    problems.unique(devices, key, scopeWhere, `device ${quote(scope.path)}`, "keep the device in one entry");
  }
}

/** Checks that the properties of SIDP scopes are known ones. */
export function checkProperties(problems: Problems, where: string, scopes: readonly PropertyScope[]): void {
  const known: readonly string[] = Object.keys(DEVICE_SCOPE.fields.FLAGS.bits);
  for (const [index, scope] of scopes.entries()) {
    for (const property of scope.properties ?? []) {
      if (known.includes(property)) continue;
      const message = `expected ${known.join(", ")}, got ${quote(property)}`;
      problems.add("flags", `${where}.scopes[${index}].properties`, message, "use one of the names of SidpProperty");
    }
  }
}

/** Checks a path; returns the number of its pairs (1 when it cannot be read). */
function checkPath(problems: Problems, where: string, value: string): number {
  const path = parseDevicePath(value);
  if (path === undefined) {
    const message = `expected a path such as "00:1f.2" or "00:1c.0/00.0", got ${quote(value)}`;
    problems.add("path", where, message, "hexadecimal bus:device.function, then /device.function behind each bridge");
    return 1;
  }
  if (path.pairs.length > MAX_PATH_PAIRS) {
    const message = `expected at most ${MAX_PATH_PAIRS} steps, got ${path.pairs.length}`;
    problems.add("too-long", where, message, "start the path at a bus nearer to the device");
  }
  if (path.pairs.some((pair) => pair.device > 0x1f || pair.function > 7)) {
    const message = `expected devices 00-1f and functions 0-7, got ${quote(value)}`;
    problems.add("path", where, message, "the numbers are hexadecimal; name the function that a bridge or PF has");
  }
  return path.pairs.length;
}

function checkEnumerationId(
  problems: Problems,
  where: string,
  scope: DeviceScope,
  namespaceDeviceNumbers: ReadonlySet<number>,
): void {
  if (scope.type === "io-apic") problems.integer(`${where}.ioApicId`, scope.ioApicId, 0, 0xff);
  if (scope.type === "hpet") problems.integer(`${where}.hpetNumber`, scope.hpetNumber, 0, 0xff);
  if (scope.type === "namespace-device" && !namespaceDeviceNumbers.has(scope.deviceNumber)) {
    const message = `expected the deviceNumber of a namespace device, got ${String(scope.deviceNumber)}`;
    problems.add("no-namespace-device", `${where}.deviceNumber`, message, "add the device to namespaceDevices");
  }
}
