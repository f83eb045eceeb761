/** What a user can do in the playground, as data: edits by the guest, invalidations, notifiers, DMA. */

import { type Access, formatAccess } from "@iommu-kit/iommu-core";
import type { NotifierKind } from "../machine/playground-device.js";

/** Granularities of invalidation (§6.5.2), from the narrowest to the widest. */
export const INVALIDATIONS = [
  "page",
  "domain",
  "global",
  "context-device",
  "context-domain",
  "context-global",
] as const;

/** One of them. */
export type Invalidation = (typeof INVALIDATIONS)[number];

/** What the device's context-entry can say. */
export const CONTEXTS = ["tables-a", "tables-b", "pass-through", "absent"] as const;

/** One of them. */
export type Context = (typeof CONTEXTS)[number];

/** One action. Frames are 4 KiB. */
export type Action =
  | {
      readonly do: "map";
      readonly iovaPfn: number;
      readonly gpaPfn: number;
      readonly pageCount: number;
      readonly access: Access;
      /** 1, or 512 for entries of 2 MiB. */
      readonly leafPages: 1 | 512;
    }
  | { readonly do: "unmap"; readonly iovaPfn: number; readonly pageCount: number }
  | { readonly do: "split"; readonly iovaPfn: number }
  | { readonly do: "invalidate"; readonly what: Invalidation; readonly iovaPfn?: number }
  | { readonly do: "context"; readonly to: Context }
  | { readonly do: "translation"; readonly on: boolean }
  | { readonly do: "re-enable" }
  | { readonly do: "attach" | "detach"; readonly kind: NotifierKind }
  | { readonly do: "dma"; readonly iovaPfn: number; readonly pageCount: number; readonly access: 1 | 2 };

/** The end of the input addresses of three levels, in frames. */
const IOVA_END_PFN = 2 ** 27;
/** The end of the memory that the playground's guest maps; its tables are behind it. */
const GPA_END_PFN = 0x20000;
/** No action touches more pages. */
const MOST_PAGES = 512;

/** What is wrong with an action, as a sentence for the user; `undefined`: nothing. */
export function problemOf(action: Action): string | undefined {
  if ("iovaPfn" in action && action.iovaPfn !== undefined) {
    const problem = frames("The IOVA page", action.iovaPfn, pagesOf(action), IOVA_END_PFN);
    if (problem !== undefined) return problem;
  }
  if (action.do === "invalidate" && action.what === "page" && action.iovaPfn === undefined)
    return "A page-selective invalidation needs a page.";
  if (action.do !== "map") return undefined;
  const { leafPages, iovaPfn, gpaPfn, pageCount } = action;
  if (iovaPfn % leafPages !== 0 || gpaPfn % leafPages !== 0 || pageCount % leafPages !== 0)
    return "A 2 MiB page needs an IOVA page, a target and a number of pages that are multiples of 0x200.";
  return frames("The target page", gpaPfn, pageCount, GPA_END_PFN);
}

/** An action as a sentence. */
export function describeAction(action: Action): string {
  switch (action.do) {
    case "map":
      return `The guest maps ${pages(action.iovaPfn, action.pageCount)} to ${hex(action.gpaPfn)}, ${formatAccess(action.access)}`;
    case "unmap":
      return `The guest unmaps ${pages(action.iovaPfn, action.pageCount)}`;
    case "split":
      return `The guest breaks the large page at ${hex(action.iovaPfn)} up into small ones`;
    case "invalidate":
      return describeInvalidation(action.what, action.iovaPfn);
    case "context":
      return `The guest's context-entry says: ${CONTEXT_TEXTS[action.to]}`;
    case "translation":
      return `The guest switches translation ${action.on ? "on" : "off"}`;
    case "re-enable":
      return "The guest switches translation off and on again";
    case "attach":
      return `${NOTIFIER_TEXTS[action.kind]} is attached`;
    case "detach":
      return `${NOTIFIER_TEXTS[action.kind]} is detached`;
    default:
      return `The device ${action.access === 2 ? "writes" : "reads"} ${pages(action.iovaPfn, action.pageCount)}`;
  }
}

/** Names for buttons and lists. */
export const INVALIDATION_TEXTS: Readonly<Record<Invalidation, string>> = {
  page: "IOTLB, page",
  domain: "IOTLB, domain",
  global: "IOTLB, global",
  "context-device": "Context, device",
  "context-domain": "Context, domain",
  "context-global": "Context, global",
};

/** Names for a list. */
export const CONTEXT_TEXTS: Readonly<Record<Context, string>> = {
  "tables-a": "tables A, domain 1",
  "tables-b": "tables B, domain 2",
  "pass-through": "pass-through, domain 3",
  absent: "not present",
};

const NOTIFIER_TEXTS: Readonly<Record<NotifierKind, string>> = {
  map: "The MAP notifier",
  unmap: "The UNMAP-only cache",
};

function describeInvalidation(what: Invalidation, iovaPfn: number | undefined): string {
  if (what === "page") return `The guest invalidates page ${hex(iovaPfn ?? 0)}`;
  const scope = { domain: "the whole domain", global: "all translations" } as const;
  if (what === "domain" || what === "global") return `The guest invalidates ${scope[what]}`;
  return `The guest invalidates the context cache: ${what.replace("context-", "")}`;
}

function pagesOf(action: Action): number {
  return "pageCount" in action ? action.pageCount : 1;
}

function frames(what: string, firstPfn: number, pageCount: number, endPfn: number): string | undefined {
  if (!Number.isInteger(firstPfn) || firstPfn < 0) return `${what} must be a hexadecimal number.`;
  if (!Number.isInteger(pageCount) || pageCount < 1 || pageCount > MOST_PAGES)
    return `The number of pages must be 1 to ${MOST_PAGES}.`;
  if (firstPfn + pageCount <= endPfn) return undefined;
  return `${what} must be below ${hex(endPfn)}${pageCount === 1 ? "" : " to its last one"}.`;
}

function pages(firstPfn: number, pageCount: number): string {
  return pageCount === 1 ? `page ${hex(firstPfn)}` : `pages ${hex(firstPfn)} to ${hex(firstPfn + pageCount - 1)}`;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
