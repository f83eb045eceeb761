/**
 * The invalidation queue: position, state, error by name, and the descriptors that are still to be fetched.
 */

import { describeFields, type FieldText, type Layout, PAGE_BYTES } from "@iommu-kit/iommu-core";
import * as descriptors from "../spec/descriptors.js";
import { QueueErrorText } from "../spec/encoding-texts.js";
import { descriptorType, DescriptorType, queueBytes } from "../spec/invalidation.js";
import { PageGroupResponse, PageGroupResponseText } from "../spec/page-request.js";
import { FSTS } from "../spec/registers-event.js";
import { IQA, IQERCD, IQH, IQT } from "../spec/registers-invalidation.js";
import type { StructureText } from "../spec/tables.js";
import type { Unit } from "../unit.js";
import { hexGpa } from "./hex-text.js";

/** One descriptor in memory. */
export interface DescriptorInspection {
  /** From the start of the queue. */
  readonly offsetBytes: number;
  /** Such as `IOTLB invalidate`; `unknown type 12`; `unreadable`. */
  readonly title: string;
  /** Every field that the type has, with its value and meaning. */
  readonly fields: readonly FieldText[];
}

/** The queue. */
export interface QueueInspection {
  /** QIE, as commanded. */
  readonly enabled: boolean;
  /** Where it lies. */
  readonly baseGpa: string;
  /** Of the whole queue. */
  readonly sizeBytes: number;
  /** 16 or 32. */
  readonly descriptorBytes: number;
  /** Where the next descriptor is fetched. */
  readonly headBytes: number;
  /** Where the guest writes the next descriptor. */
  readonly tailBytes: number;
  /** `running`: nothing to do; `waiting`: for notifiers or the next slice; `stopped`: by an error. */
  readonly state: "off" | "running" | "waiting" | "stopped";
  /** The wait descriptor in flight. */
  readonly wait: DescriptorInspection | null;
  /** Errors that software has not cleared, by name. */
  readonly errors: readonly string[];
  /** The next descriptors from the head on. */
  readonly pending: readonly DescriptorInspection[];
}

const KNOWN = new Map<number, readonly [Layout, StructureText]>([
  [DescriptorType.CONTEXT_CACHE, [descriptors.ContextCacheDescriptor, descriptors.ContextCacheDescriptorText]],
  [DescriptorType.IOTLB, [descriptors.IotlbDescriptor, descriptors.IotlbDescriptorText]],
  [DescriptorType.DEVICE_TLB, [descriptors.DeviceTlbDescriptor, descriptors.DeviceTlbDescriptorText]],
  [
    DescriptorType.INTERRUPT_ENTRY_CACHE,
    [descriptors.InterruptEntryCacheDescriptor, descriptors.InterruptEntryCacheDescriptorText],
  ],
  [DescriptorType.WAIT, [descriptors.WaitDescriptor, descriptors.WaitDescriptorText]],
  [DescriptorType.PASID_IOTLB, [descriptors.PasidIotlbDescriptor, descriptors.PasidIotlbDescriptorText]],
  [DescriptorType.PASID_CACHE, [descriptors.PasidCacheDescriptor, descriptors.PasidCacheDescriptorText]],
  [DescriptorType.PASID_DEVICE_TLB, [descriptors.PasidDeviceTlbDescriptor, descriptors.PasidDeviceTlbDescriptorText]],
  [DescriptorType.PAGE_GROUP_RESPONSE, [PageGroupResponse, PageGroupResponseText]],
]);

/** Looks at the queue. */
export function inspectQueue(unit: Unit, most: number): QueueInspection {
  const { file, queue, config } = unit;
  const wide = file.get("IQA", IQA.fields.DW) === 1;
  const step = wide ? 32 : 16;
  const sizeBytes = queueBytes(file.get("IQA", IQA.fields.QS));
  const headBytes = file.get("IQH", IQH.fields.QH) * 16;
  const tailBytes = file.get("IQT", IQT.fields.QT) * 16;
  const basePfn = file.get("IQA", IQA.fields.IQA) % 2 ** (config.hostAddressWidth - 12);
  const enabled = unit.command.state.QIE === 1;
  const errors = errorsOf(unit);
  const place = { basePfn, headBytes, tailBytes, sizeBytes, step };
  return {
    enabled,
    baseGpa: hexGpa(basePfn),
    sizeBytes,
    descriptorBytes: step,
    headBytes,
    tailBytes,
    state: enabled ? stateOf(queue.suspended, errors) : "off",
    wait: queue.waiting === undefined ? null : describe((headBytes + sizeBytes - step) % sizeBytes, queue.waiting),
    errors,
    pending: enabled ? upcoming(unit, place, most) : [],
  };
}

interface Place {
  readonly basePfn: number;
  readonly headBytes: number;
  readonly tailBytes: number;
  readonly sizeBytes: number;
  readonly step: number;
}

/** The descriptors between head and tail. None if the tail is nowhere. */
function upcoming({ memory }: Unit, place: Place, most: number): DescriptorInspection[] {
  const { basePfn, headBytes, tailBytes, sizeBytes, step } = place;
  const found: DescriptorInspection[] = [];
  if (tailBytes % step !== 0 || tailBytes >= sizeBytes) return found;
  for (let at = headBytes; at !== tailBytes && found.length < most; at = (at + step) % sizeBytes) {
    const words = new Int32Array(step / 4);
    found.push(memory.fetch(basePfn * PAGE_BYTES + at, words) ? describe(at, words) : unreadable(at));
  }
  return found;
}

function stateOf(suspended: boolean, errors: readonly string[]): QueueInspection["state"] {
  if (errors.some((error) => !error.startsWith("ICE"))) return "stopped";
  return suspended ? "waiting" : "running";
}

function errorsOf({ file }: Unit): string[] {
  const errors: string[] = [];
  const sourceId = (field: typeof IQERCD.fields.ITESID): string =>
    file.get("IQERCD", field).toString(16).padStart(4, "0");
  const { IQEI, ITESID, ICESID } = IQERCD.fields;
  if (file.get("FSTS", FSTS.fields.IQE) === 1)
    errors.push(`IQE: ${QueueErrorText[file.get("IQERCD", IQEI)] ?? "undefined"}`);
  if (file.get("FSTS", FSTS.fields.ITE) === 1) errors.push(`ITE: source-id ${sourceId(ITESID)} did not answer in time`);
  if (file.get("FSTS", FSTS.fields.ICE) === 1) errors.push(`ICE: source-id ${sourceId(ICESID)} answered unasked`);
  return errors;
}

function describe(offsetBytes: number, words: Int32Array): DescriptorInspection {
  const type = descriptorType(words, 0);
  const known = KNOWN.get(type);
  if (known === undefined) return { offsetBytes, title: `unknown type ${type}`, fields: [] };
  const [layout, text] = known;
  const whole = new Int32Array(8);
  whole.set(words);
  return { offsetBytes, title: text.title, fields: describeFields(layout, whole, 0, text) };
}

function unreadable(offsetBytes: number): DescriptorInspection {
  return { offsetBytes, title: "unreadable", fields: [] };
}
