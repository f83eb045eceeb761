/**
 * What each requester sees, by the tables as they are now, and what its notifiers hold.
 */

import { type Attachment, type Domain, notifierName, type Requester } from "@iommu-kit/iommu-core";
import { faultName } from "../fault/fault-name.js";
import { faultMeaning } from "../spec/fault-texts.js";
import type { Unit } from "../unit.js";
import { type MappingLimits, type Mappings, mappingsOf, mappingsOfTree } from "./mappings.js";
import { type EntryInspection, structuresOf } from "./structures.js";

export type { EntryInspection } from "./structures.js";

/** A notifier. */
export interface NotifierInspection {
  /** As it calls itself. */
  readonly name: string;
  /** What it is told. */
  readonly kind: "map" | "unmap" | "device-tlb";
  /** Of its attachment. */
  readonly state: string;
  /** First frame of the range that it was attached for. */
  readonly firstPfn: number;
  /** Frames of that range. */
  readonly pageCount: number;
  /** MAP notifiers only. */
  readonly heldPages: number;
  /** Frames that it did not take. */
  readonly refusedPages: number;
  /** Why it failed. */
  readonly failure: string | null;
}

/** An address space that the host has asked for. */
export interface DeviceInspection {
  /** `"00:03.0"`, or `"00:03.0 pasid 5"`. */
  readonly device: string;
  /** Bus, device and function in 16 bits. */
  readonly sourceId: number;
  /** `null`: its requests without PASID. */
  readonly pasid: number | null;
  /** `bypass`: input is output. `table`: see `mappings`. `blocked`: every request is refused. */
  readonly kind: "table" | "bypass" | "blocked";
  /** The domain for people. */
  readonly domain: string;
  /** Why every request is refused: `"LCT.2: The context-entry is not present"`. */
  readonly refusal: string | null;
  /** The entries that lead to its tables, from the root on. */
  readonly structures: readonly EntryInspection[];
  /** What its tables map now, the first ranges. */
  readonly mappings: Mappings;
  /** In the order in which they were attached. */
  readonly notifiers: readonly NotifierInspection[];
  /** Zero-copy leases out now. */
  readonly leases: number;
}

/** What MAP notifiers of a domain have been told. */
export interface ViewInspection {
  /** Its label. */
  readonly domain: string;
  /** Notifiers that follow it, by name. */
  readonly members: readonly string[];
  /** Frames that are announced. */
  readonly pageCount: number;
  /** Entries of the tree: superpages count once. */
  readonly slotCount: number;
  /** What the host spends on it, roughly. */
  readonly byteLength: number;
  /** It has outgrown a limit and holds nothing. */
  readonly overBudget: boolean;
  /** What was announced, the first ranges. */
  readonly mappings: Mappings;
}

/** How much to show. */
export interface DeviceLimits extends MappingLimits {
  readonly items: number;
}

/** The address spaces of a unit. */
export function inspectDevices(unit: Unit, limits: DeviceLimits): DeviceInspection[] {
  const { root, memory } = unit;
  const { bindings, domains } = unit.freshLookups();
  const domainOf = (requester: Requester): Domain =>
    root.enabled ? domains.of(bindings.of(requester), requester.pasid !== undefined) : domains.untranslated;
  return unit.iommu.addressSpaces.slice(0, limits.items).map((space) => {
    const domain = domainOf(space);
    const reason = domain.kind === "blocked" ? bindings.of(space).reason : 0;
    return {
      device: space.label,
      sourceId: space.sourceId,
      pasid: space.pasid ?? null,
      kind: domain.kind,
      domain: domain.label,
      refusal: reason === 0 ? null : `${faultName(reason)}: ${faultMeaning(reason)}`,
      structures: root.enabled ? structuresOf(memory, root, space) : [],
      mappings: mappingsOf(domain, limits),
      notifiers: space.attachments.map(inspectNotifier),
      leases: space.leases.size,
    };
  });
}

/** The views of a unit. */
export function inspectViews(unit: Unit, limits: DeviceLimits): ViewInspection[] {
  return [...unit.iommu.hub.views].slice(0, limits.items).map(({ domain, tree, members, overBudget }) => ({
    domain: domain.label,
    members: [...members].map(({ delivery }) => notifierName(delivery.notifier)),
    pageCount: tree.pageCount,
    slotCount: tree.slotCount,
    byteLength: tree.byteLength,
    overBudget,
    mappings: mappingsOfTree(tree, limits),
  }));
}

function inspectNotifier({ notifier, state, range, heldPages, refusedPages, failure }: Attachment): NotifierInspection {
  return {
    name: notifierName(notifier),
    kind: notifier.kind,
    state,
    firstPfn: range.firstPfn,
    pageCount: range.pageCount,
    heldPages,
    refusedPages,
    failure: failure?.message ?? null,
  };
}
