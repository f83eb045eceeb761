/**
 * An inspection as text, for a terminal or a log.
 */

import type { FieldText } from "@iommu-kit/iommu-core";
import type { DeviceInspection, NotifierInspection, ViewInspection } from "./devices.js";
import type { FaultInspection } from "./faults.js";
import { hexBytes, hexGpa } from "./hex-text.js";
import type { Inspection } from "./inspect.js";
import type { Mappings } from "./mappings.js";
import type { QueueInspection } from "./queue.js";
import type { RegisterInspection } from "./registers.js";

/** Lines of text without a final line break. */
export function formatInspection(inspection: Inspection): string {
  const { summary, registers, devices, views, queue, faults, caches, pageRequests, protectedRegions } = inspection;
  return [
    summary,
    "",
    "Devices",
    ...(devices.length === 0 ? ["  none"] : devices.flatMap(formatDevice)),
    ...(views.length === 0 ? [] : ["", "Announced to MAP notifiers", ...views.flatMap(formatView)]),
    "",
    "Faults",
    ...(faults.length === 0 ? ["  none"] : faults.map(formatFault)),
    "",
    ...formatQueue(queue),
    ...(pageRequests === 0 ? [] : ["", `Page requests without response: ${pageRequests}`]),
    ...protectedRegions.map(({ firstPfn, pageCount }) => `Protected: ${hexBytes(firstPfn, pageCount)}`),
    "",
    "Caches",
    ...Object.entries(caches).map(([name, { entries, hits, misses }]) => {
      const counts = hits === undefined ? "" : `, ${hits} hits, ${misses ?? 0} misses`;
      return `  ${name}: ${entries} entries${counts}`;
    }),
    "",
    "Registers",
    ...registers.flatMap(formatRegister),
  ].join("\n");
}

function formatDevice(device: DeviceInspection): string[] {
  const { kind, domain, refusal, structures, mappings, notifiers, leases } = device;
  return [
    `  ${device.device}  ${kind}, ${refusal ?? domain}`,
    ...structures.map(({ title, gpa, readable, fields }) => {
      return `    ${title} at ${gpa}: ${readable ? formatFields(fields) : "unreadable"}`;
    }),
    ...formatMappings(mappings, "    "),
    ...notifiers.map(formatNotifier),
    ...(leases === 0 ? [] : [`    ${leases} leases`]),
  ];
}

function formatNotifier({ name, kind, state, heldPages, refusedPages, failure }: NotifierInspection): string {
  const holds =
    kind === "map" ? `, holds ${heldPages} pages${refusedPages === 0 ? "" : `, refused ${refusedPages}`}` : "";
  return `    notifier ${name} (${kind}): ${state}${holds}${failure === null ? "" : `: ${failure}`}`;
}

function formatView({ domain, members, pageCount, byteLength, overBudget, mappings }: ViewInspection): string[] {
  const budget = overBudget ? ", over budget" : "";
  return [
    `  ${domain}: ${pageCount} pages, ${byteLength} bytes of tree${budget}; ${members.join(", ")}`,
    ...formatMappings(mappings, "    "),
  ];
}

function formatMappings({ ranges, truncated }: Mappings, indent: string): string[] {
  const lines = ranges.map(({ iovaPfn, pageCount, gpaPfn, access }) => {
    return `${indent}${hexBytes(iovaPfn, pageCount)} -> ${hexGpa(gpaPfn)} ${access}`;
  });
  return truncated ? [...lines, `${indent}...`] : lines;
}

function formatFault({ index, pending, sourceId, pasid, names, meaning, request, where }: FaultInspection): string {
  const who = pasid === null ? sourceId : `${sourceId} pasid ${pasid}`;
  return `  ${index}${pending ? "" : " (cleared)"}: ${who}, ${request} at ${where}: ${names}: ${meaning}`;
}

function formatQueue(queue: QueueInspection): string[] {
  const { state, baseGpa, headBytes, tailBytes, sizeBytes, descriptorBytes, wait, errors, pending } = queue;
  const place = `${descriptorBytes * 8} bits wide at ${baseGpa}, head ${headBytes}, tail ${tailBytes} of ${sizeBytes}`;
  return [
    `Invalidation queue: ${state}${state === "off" ? "" : `, ${place}`}`,
    ...errors.map((error) => `  ${error}`),
    ...(wait === null ? [] : [`  in flight: ${wait.title} ${formatFields(wait.fields)}`]),
    ...pending.map(({ offsetBytes, title, fields }) => `  ${offsetBytes}: ${title} ${formatFields(fields)}`),
  ];
}

function formatRegister({ name, offsetBytes, value, fields }: RegisterInspection): string[] {
  const head = `  ${offsetBytes.toString(16).padStart(3, "0")} ${name} ${value}`;
  return [head, ...fields.filter((field) => field.value !== 0).map(formatField)];
}

function formatField({ name, bits, value, meaning }: FieldText): string {
  return `      ${name} [${bits}] = ${hexNumber(value)}  ${meaning}`;
}

/** Those that are not 0, in one line. */
function formatFields(fields: readonly FieldText[]): string {
  const set = fields.filter(({ value }) => value !== 0);
  return set.length === 0 ? "all 0" : set.map(({ name, value }) => `${name}=${hexNumber(value)}`).join(" ");
}

function hexNumber(value: number): string {
  return value < 10 ? String(value) : `0x${value.toString(16)}`;
}
