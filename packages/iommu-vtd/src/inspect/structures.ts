/**
 * The structures in memory that say how a requester is translated: root entry, context entry, and in scalable mode PASID-directory and PASID-table entry, as far as they lead.
 */

import {
  describeFields,
  type FieldText,
  type GuestMemory,
  type Layout,
  PAGE_BYTES,
  type Requester,
} from "@iommu-kit/iommu-core";
import {
  ContextEntry,
  ContextEntryText,
  ScalableContextEntry,
  ScalableContextEntryText,
} from "../spec/context-entry.js";
import { TableMode } from "../spec/encodings.js";
import { PasidDirectoryEntry, PasidDirectoryEntryText, PasidEntry, PasidEntryText } from "../spec/pasid.js";
import { RootEntry, RootEntryText, ScalableRootEntry, ScalableRootEntryText } from "../spec/root-entry.js";
import type { StructureText } from "../spec/tables.js";
import type { RootPointer } from "../translate/root-pointer.js";

/** A structure where it lies in guest memory. */
export interface EntryInspection {
  /** Such as `context-entry`. */
  readonly title: string;
  /** Of the specification. */
  readonly section: string;
  /** Byte address, hexadecimal. */
  readonly gpa: string;
  /** `false`: there is no memory at its place. */
  readonly readable: boolean;
  /** Empty if it cannot be read. */
  readonly fields: readonly FieldText[];
}

/** The structures on a requester's way, up to the first that is unreadable or not present. */
export function structuresOf(memory: GuestMemory, root: RootPointer, requester: Requester): EntryInspection[] {
  const path = new Path(memory);
  const { sourceId, pasid } = requester;
  const bus = sourceId >> 8;
  const deviceFunction = sourceId & 0xff;
  if (root.mode === TableMode.LEGACY) {
    const rootEntry = path.read(RootEntry, RootEntryText, root.rootPfn * PAGE_BYTES + bus * 16);
    if (rootEntry === undefined || RootEntry.fields.P.get(rootEntry, 0) === 0) return path.entries;
    path.read(
      ContextEntry,
      ContextEntryText,
      RootEntry.fields.CTP.get(rootEntry, 0) * PAGE_BYTES + deviceFunction * 16,
    );
    return path.entries;
  }
  if (root.mode !== TableMode.SCALABLE) return path.entries;
  const rootEntry = path.read(ScalableRootEntry, ScalableRootEntryText, root.rootPfn * PAGE_BYTES + bus * 16);
  const { LP, LCTP, UP, UCTP } = ScalableRootEntry.fields;
  const [present, pointer] = deviceFunction < 128 ? [LP, LCTP] : [UP, UCTP];
  if (rootEntry === undefined || present.get(rootEntry, 0) === 0) return path.entries;
  const contextGpa = pointer.get(rootEntry, 0) * PAGE_BYTES + (deviceFunction % 128) * 32;
  const context = path.read(ScalableContextEntry, ScalableContextEntryText, contextGpa);
  if (context === undefined || ScalableContextEntry.fields.P.get(context, 0) === 0) return path.entries;
  const { PASIDDIRPTR, RID_PASID } = ScalableContextEntry.fields;
  const used = pasid ?? RID_PASID.get(context, 0);
  const directoryGpa = PASIDDIRPTR.get(context, 0) * PAGE_BYTES + Math.floor(used / 64) * 8;
  const directory = path.read(PasidDirectoryEntry, PasidDirectoryEntryText, directoryGpa);
  if (directory === undefined || PasidDirectoryEntry.fields.P.get(directory, 0) === 0) return path.entries;
  const tablePfn = PasidDirectoryEntry.fields.SMPTBLPTR.get(directory, 0);
  path.read(PasidEntry, PasidEntryText, tablePfn * PAGE_BYTES + (used % 64) * 64);
  return path.entries;
}

class Path {
  readonly entries: EntryInspection[] = [];
  readonly #memory: GuestMemory;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Reads and notes a structure. `undefined` if it is not in memory. */
  read(layout: Layout, text: StructureText, gpa: number): Int32Array | undefined {
    const words = new Int32Array(layout.wordCount);
    const readable = this.#memory.fetch(gpa, words);
    const { title, section } = text;
    const fields = readable ? describeFields(layout, words, 0, text) : [];
    this.entries.push({ title, section, gpa: `0x${gpa.toString(16)}`, readable, fields });
    return readable ? words : undefined;
  }
}
