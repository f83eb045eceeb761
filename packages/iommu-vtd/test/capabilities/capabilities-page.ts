/**
 * docs/capabilities.md, made from the tables of spec/ and from what the unit itself reports.
 *
 * A capability is supported if the largest configuration sets its bit; a descriptor if the queue of that configuration takes its type; a register if it is in that unit's map;
 * a fault reason if some file outside of spec/ names it and nothing keeps it from happening.
 */

import { readdirSync, readFileSync } from "node:fs";
import type { Field, Layout } from "@iommu-kit/iommu-core";
import { resolveConfig, type VtdConfig } from "../../src/config.js";
import { faultTable } from "../../src/spec/fault-texts.js";
import { isQualified, isRecoverable } from "../../src/spec/fault-reasons.js";
import { descriptorReserved, DescriptorType } from "../../src/spec/invalidation.js";
import { CAP, CAPText, ECAP, ECAPText } from "../../src/spec/registers-capability.js";
import { registerMap } from "../../src/spec/registers.js";
import { type RegisterTable, registerTables, type StructureText, structureTables } from "../../src/spec/tables.js";
import { absentCapabilities, absentReasons, withoutEffect } from "./why-not.js";

/** Everything that an option can turn on. */
const LARGEST: VtdConfig = {
  addressWidths: [39, 48, 57],
  cachingMode: true,
  zeroLengthRead: true,
  snoopControl: true,
  writeBufferFlush: true,
  deviceTlb: true,
  extendedInterruptMode: true,
  postedInterrupts: true,
  scalableMode: true,
  firstStage: "5-level",
  firstStage1G: true,
  nested: true,
  secondStageFlags: true,
  extendedAccessed: true,
  pasidWidth: 20,
  requestPasid: true,
  requestPrivilege: true,
  supervisorRequests: true,
  translatedWithPasid: true,
  pageRequests: true,
  noWriteRequests: true,
  abortDma: true,
  protectedRegions: ["low", "high"],
  faultRecords: 8,
};

const { capabilities } = resolveConfig(LARGEST);
const NEEDS: Readonly<Record<string, string>> = { ECMDS: "CAP.ECMDS" };

/** Capability bits that no configuration sets, by register and name. */
export function missingCapabilities(): string[] {
  const missing = (register: "CAP" | "ECAP", layout: Layout, words: Int32Array): string[] =>
    Object.entries<Field>(layout.fields).flatMap(([name, field]) =>
      field.get(words, 0) === 0 ? [`${register}.${name}`] : [],
    );
  return [...missing("CAP", CAP, capabilities.cap), ...missing("ECAP", ECAP, capabilities.ecap)];
}

/** Fault reasons that no file outside of spec/ names. */
export function unusedReasons(): string[] {
  const source = new URL("../../src/", import.meta.url);
  const files = readdirSync(source, { recursive: true, encoding: "utf8" });
  const used = new Set<string>();
  for (const file of files) {
    if (!file.endsWith(".ts") || file.startsWith("spec")) continue;
    const text = readFileSync(new URL(file.replaceAll("\\", "/"), source), "utf8");
    for (const [, name = ""] of text.matchAll(/FaultReason\.([A-Z0-9_]+)/g)) used.add(name);
  }
  return faultTable().flatMap(({ name }) => (used.has(name) ? [] : [name]));
}

/** The page. */
export function capabilitiesPage(): string {
  return [
    "# Capabilities",
    "",
    "Every register, capability bit, structure, descriptor and fault reason of the architecture, and whether the unit has it. Made from the tables in",
    "`packages/iommu-vtd/src/spec` and from what the largest configuration reports; a test fails when this page is out of date. Sections are those of",
    "[spec.md](spec.md).",
    "",
    "To make it anew: `npx vitest run packages/iommu-vtd/test/capabilities --update`.",
    "",
    "## Capability register (CAP)",
    "",
    ...capabilityTable("CAP", CAP, CAPText),
    "",
    "## Extended capability register (ECAP)",
    "",
    ...capabilityTable("ECAP", ECAP, ECAPText),
    "",
    "## Registers",
    "",
    "IVA, IOTLB and FRCD lie where ECAP.IRO and CAP.FRO say; the offsets here are from there. Bits without a name are reserved.",
    "",
    ...table(
      ["offset", "register", "section", "supported", "meaning", "bits"],
      registerTables.map((register) => registerRow(register)),
    ),
    "",
    "## Invalidation descriptors",
    "",
    ...table(["type", "descriptor", "supported", "queue"], descriptorRows()),
    "",
    "## Structures in memory",
    "",
    ...table(
      ["structure", "section", "supported", "bits"],
      structureTables.map(({ layout, text }) => {
        const host = text.title.startsWith("Host permission");
        return [text.title, text.section, host ? "no: needs ECAP.HPTS" : "yes", bitsOf(layout)];
      }),
    ),
    "",
    "## Fault reasons",
    "",
    "*Qualified*: not recorded where an entry on the way has FPD = 1. *Recoverable*: not recorded when a translation request of a device meets it.",
    "",
    ...table(
      ["code", "reason", "meaning", "qualified", "recoverable", "supported"],
      faultTable().map(({ name, mnemonic, code, reason, meaning }) => [
        `${code.toString(16).padStart(2, "0")}h`,
        mnemonic,
        meaning,
        isQualified(reason) ? "yes" : "no",
        isRecoverable(reason) ? "yes" : "no",
        supported(absentReasons[name]),
      ]),
    ),
    "",
  ].join("\n");
}

function capabilityTable(register: "CAP" | "ECAP", layout: Layout, text: StructureText): string[] {
  const rows = Object.entries<Field>(layout.fields).map(([name, { hi, lo }]) => {
    const key = `${register}.${name}`;
    const note = withoutEffect[key];
    return [bitRange(hi, lo), name, text[name] ?? "", supported(absentCapabilities[key]) + (note ? `; ${note}` : "")];
  });
  return table(["bits", "name", "meaning", "supported"], rows);
}

function registerRow({ name, offsetBytes, layout, text, count, strideBytes, needs }: RegisterTable): string[] {
  const present = registerMap(capabilities.cap, capabilities.ecap).some((placed) => placed.name === name);
  const offset = offsetBytes.toString(16).padStart(3, "0");
  const several = count > 1 ? ` (${count}, every ${strideBytes} bytes)` : "";
  const lacking = present ? undefined : `reads 0, needs ${NEEDS[needs] ?? `ECAP.${needs}`}`;
  return [`${offset}h`, `${name}${several}`, text.section, supported(lacking), text.title, bitsOf(layout)];
}

function descriptorRows(): string[][] {
  const masks = descriptorReserved(capabilities.ecap);
  return Object.entries(DescriptorType).map(([name, type]) => {
    const title = name.toLowerCase().replaceAll("_", " ");
    const lacking = masks[type] === undefined ? "needs ECAP.HPTS" : undefined;
    const wide = type > DescriptorType.WAIT ? "256 bits" : "128 or 256 bits";
    return [type.toString(16).toUpperCase(), title, supported(lacking), wide];
  });
}

function supported(whyNot: string | undefined): string {
  return whyNot === undefined ? "yes" : `no: ${whyNot}`;
}

function bitsOf(layout: Layout): string {
  return Object.entries<Field>(layout.fields)
    .map(([name, { hi, lo }]) => `${name} ${bitRange(hi, lo)}`)
    .join(", ");
}

function bitRange(hi: number, lo: number): string {
  return hi === lo ? `${hi}` : `${hi}:${lo}`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  return [line(head), `|${head.map(() => "---").join("|")}|`, ...rows.map(line)];
}
