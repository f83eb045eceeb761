/**
 * Every table of this folder with its text, for documentation, inspection and tests. The unit itself does not import
 * this file, so that the texts stay out of its bundle.
 */
import type { Layout } from "@iommu-kit/iommu-core";
import * as contextEntry from "./context-entry.js";
import * as descriptors from "./descriptors.js";
import * as firstStage from "./first-stage.js";
import * as hostPermission from "./host-permission.js";
import * as interruptEntry from "./interrupt-entry.js";
import * as interrupt from "./interrupt.js";
import * as pageRequest from "./page-request.js";
import * as pasid from "./pasid.js";
import * as capability from "./registers-capability.js";
import * as command from "./registers-command.js";
import * as event from "./registers-event.js";
import * as invalidation from "./registers-invalidation.js";
import * as optional from "./registers-optional.js";
import { type Register, Registers } from "./registers.js";
import * as rootEntry from "./root-entry.js";
import * as secondStage from "./second-stage.js";

/** The name and the section of a structure, and the meaning of each field by its mnemonic. */
export type StructureText = Readonly<Record<string, string>> & { readonly title: string; readonly section: string };

/** A structure and what its fields mean. */
export interface SpecTable {
  readonly layout: Layout;
  readonly text: StructureText;
}

/** A register, or several of a kind, at its offset. */
export interface RegisterTable extends SpecTable {
  readonly name: string;
  /** Byte offset; for IVA, IOTLB and FRCD from the place that ECAP.IRO or CAP.FRO gives. */
  readonly offsetBytes: number;
  /** How many there are, and the bytes from one to the next. */
  readonly count: number;
  readonly strideBytes: number;
  /** The capability that this unit never reports and without which the register reads 0; empty if there is none. */
  readonly needs: "" | "MTS" | "PMS" | "ECMDS" | "RDTS" | "VCS";
}

/** Every structure in memory. */
export const structureTables: readonly SpecTable[] = [
  rootEntry,
  contextEntry,
  pasid,
  secondStage,
  firstStage,
  descriptors,
  pageRequest,
  hostPermission,
  interrupt,
  interruptEntry,
].flatMap((module) => tablesOf(module));

const registerTexts = new Map(
  [capability, command, event, invalidation, optional].flatMap(tablesOf).map(({ layout, text }) => [layout, text]),
);

/** Every register, first those of `Registers`, then those of features that the unit never has. */
export const registerTables: readonly RegisterTable[] = [
  ...Object.entries<Register>(Registers).map(([name, { offsetBytes, layout }]) => row(name, offsetBytes, layout)),
  row("MTRRCAP", 0x100, optional.MTRRCAP, "MTS"),
  row("MTRRDEF", 0x108, optional.MTRRDEF, "MTS"),
  row("MTRR_FIX64K_00000", 0x120, optional.MTRRFIX, "MTS"),
  row("MTRR_FIX16K_80000", 0x128, optional.MTRRFIX, "MTS"),
  row("MTRR_FIX16K_A0000", 0x130, optional.MTRRFIX, "MTS"),
  row("MTRR_FIX4K_C0000", 0x138, optional.MTRRFIX, "MTS", [8]),
  row("MTRR_PHYSBASE", 0x180, optional.MTRRPHYSBASE, "MTS", [10, 16]),
  row("MTRR_PHYSMASK", 0x188, optional.MTRRPHYSMASK, "MTS", [10, 16]),
  row("PERFCAP", 0x300, optional.PERFCAP, "PMS"),
  row("PERFCFGOFF", 0x310, optional.PERFOFF, "PMS"),
  row("PERFFRZOFF", 0x314, optional.PERFOFF, "PMS"),
  row("PERFOVFOFF", 0x318, optional.PERFOFF, "PMS"),
  row("PERFCNTROFF", 0x31c, optional.PERFOFF, "PMS"),
  row("PERFINTRSTS", 0x324, optional.PERFINTRSTS, "PMS"),
  row("PERFINTRCTL", 0x328, event.EventControl, "PMS"),
  row("PERFINTRDATA", 0x32c, event.EventData, "PMS"),
  row("PERFINTRADDR", 0x330, event.EventAddress, "PMS"),
  row("PERFINTRUADDR", 0x334, event.EventUpperAddress, "PMS"),
  row("PERFEVNTCAP", 0x380, optional.PERFEVNTCAP, "PMS", [16]),
  row("ECMD", 0x400, optional.ECMD, "ECMDS"),
  row("ECEO", 0x408, optional.ECEO, "ECMDS"),
  row("ECRSP", 0x410, optional.ECRSP, "ECMDS"),
  row("ECSTS0", 0x420, optional.ECRESERVED, "ECMDS"),
  row("ECSTS1", 0x428, optional.ECRESERVED, "ECMDS"),
  row("ECCAP0", 0x430, optional.ECRESERVED, "ECMDS", [3]),
  row("ECCAP3", 0x448, optional.ECCAP3, "ECMDS"),
  row("RDTC", 0xdc0, optional.RDTC, "RDTS"),
  row("VCMD", 0xe00, optional.VCMD, "VCS"),
  row("VCMD_EO", 0xe08, optional.VCMDEO, "VCS"),
  row("VCRSP", 0xe10, optional.VCRSP, "VCS"),
  row("VCCAP", 0xe30, optional.VCCAP, "VCS"),
];

function row(
  name: string,
  offsetBytes: number,
  layout: Layout,
  needs: RegisterTable["needs"] = "",
  [count, strideBytes = layout.wordCount * 4]: readonly [count: number, strideBytes?: number] = [1],
): RegisterTable {
  const text = registerTexts.get(layout);
  if (text === undefined) throw new RangeError(`register ${name}: expected a text for its layout, got none`);
  return { name, offsetBytes, layout, text, count, strideBytes, needs };
}

/** The layouts that a module exports, each with the text that it exports under the same name plus `Text`. */
function tablesOf(module: Readonly<Record<string, unknown>>): SpecTable[] {
  return Object.entries(module).flatMap(([name, layout]) => {
    const text = module[`${name}Text`];
    return isLayout(layout) && isText(text) ? [{ layout, text }] : [];
  });
}

function isLayout(value: unknown): value is Layout {
  return typeof value === "object" && value !== null && "wordCount" in value && "fields" in value;
}

function isText(value: unknown): value is StructureText {
  return typeof value === "object" && value !== null && "title" in value && "section" in value;
}
