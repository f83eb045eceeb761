/**
 * The ACPI DMAR table: what firmware tells an operating system about the remapping units of a machine.
 *
 * Optional part of the package (subpath `./acpi`): nothing in the unit itself needs it. Describe the machine as a
 * `DmarTable`, hand the bytes of `buildDmar` to the guest's firmware; `decodeDmar` reads any table back.
 *
 * @packageDocumentation
 */

export { buildDmar } from "./build-dmar.js";
export { decodeDmar } from "./decode-dmar.js";
export type { DecodedDmar, SkippedStructure } from "./decode-dmar.js";
export { checkDmar } from "./dmar-rules.js";
export type { DmarMachine, MemoryRange } from "./dmar-rules.js";
export type { DmarProblem, DmarProblemCode } from "./dmar-problems.js";
export { completeDmar } from "./dmar-table.js";
export type {
  AtsRootPorts,
  BridgeScope,
  Complete,
  CompleteDmarTable,
  DeviceProperties,
  DeviceScope,
  DmarOem,
  DmarTable,
  EndpointScope,
  HpetScope,
  IntegratedAtcs,
  IoApicScope,
  NamespaceDevice,
  NamespaceDeviceScope,
  PropertyScope,
  RemappingUnit,
  ReservedRegion,
  SidpProperty,
  UnitAffinity,
} from "./dmar-table.js";
