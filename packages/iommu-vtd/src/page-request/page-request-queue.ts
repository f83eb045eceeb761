/**
 * Page requests of devices: the queue to the guest, and the guest's responses back (§7.4, §7.6, §7.8).
 *
 * A request is checked like a translation, then written to the queue, or, when that is full, answered in the guest's place: the last of a group gets Success and tries again.
 * Before a request is queued, cached translations of its page are dropped (§6.5.3.1 of implicit invalidation), so that what the guest maps is seen without an invalidation.
 * For the same reason MAP notifiers of the requester hear of a group's pages when the response is Success, and before the device does: first-stage entries become present unannounced.
 */

import {
  type AddressSpace,
  type Completion,
  FRAME_LIMIT,
  CompletionGroup,
  type GuestMemory,
  IommuError,
  PAGE_BYTES,
  type Requester,
  whenDone,
} from "@iommu-kit/iommu-core";
import type { EventMessage } from "../fault/event-message.js";
import type { Invalidator } from "../invalidate/invalidator.js";
import type { RegisterFile } from "../registers/register-file.js";
import { AddressType, TableMode } from "../spec/encodings.js";
import { FaultReason, isQualified } from "../spec/fault-reasons.js";
import { PAGE_REQUEST_TYPE, PageGroupResponse, PageRequest, ResponseCode } from "../spec/page-request.js";
import { FaultRequestType, PQA, PQH, PQT, PRS } from "../spec/registers-event.js";
import { type Binding, refusedBinding } from "../translate/binding.js";
import type { Bindings } from "../translate/bindings.js";
import type { RootPointer } from "../translate/root-pointer.js";
import type { Translator } from "../translate/translate.js";
import { PageGroup } from "./page-group.js";

/** What a device asks for. */
export interface PageRequestOptions {
  /** Input frame, 0 to 2^52 - 1. */
  readonly iovaPfn: number;
  /** Default: true unless it is for writing. */
  readonly read?: boolean;
  /** Default false. */
  readonly write?: boolean;
  /** Execute, with read and a PASID. Default: as the address space. */
  readonly execute?: boolean;
  /** Group index, 0 to 511. Default 0. */
  readonly group?: number;
  /** Last of its group: the response is for this request. Default true. */
  readonly last?: boolean;
}

/**
 * `success`: try again, the page may be there. `invalid`: it never will. `failure`: stop asking. `queued`: accepted, but not the last of its group, which
 * alone is answered by the guest. `dropped`: not the last of a group, and not accepted.
 */
export type PageResponse = "success" | "invalid" | "failure" | "dropped" | "queued";

/** What the queue works with. */
export interface PageRequestParts {
  readonly memory: GuestMemory;
  readonly file: RegisterFile;
  readonly root: RootPointer;
  readonly bindings: Bindings;
  readonly translator: Translator;
  readonly invalidator: Invalidator;
  readonly event: EventMessage;
  readonly enabled: boolean;
}

const ENTRY_BYTES = 32;
const GROUPS = 512;
const { PPR, PRO } = PRS.fields;

/** The page requests of all devices of one unit. A promise of a request settles with the response to its group, at a reset, or when the device is unplugged. */
export class PageRequestQueue {
  readonly #parts: PageRequestParts;
  /** Groups that wait for a response, or for their last request. Bounded by 512 indexes for each requester. */
  readonly #groups = new Map<string, PageGroup>();
  readonly #words = new Int32Array(PageRequest.wordCount);
  readonly #bytes = new Uint8Array(this.#words.buffer);

  constructor(parts: PageRequestParts) {
    this.#parts = parts;
  }

  /** Groups without a response yet. */
  get waiting(): number {
    let waiting = 0;
    for (const group of this.#groups.values()) if (group.state === "waiting") waiting += 1;
    return waiting;
  }

  /**
   * A page request. Resolves with `queued` for a request that is not the last of its group.
   * @throws {IommuError} at once: `bad-range` for a frame beyond the 64-bit space, `bad-option` for a request for neither reading nor writing, or with a group beyond 511.
   */
  request(space: AddressSpace, options: PageRequestOptions): Promise<PageResponse> {
    const last = options.last !== false;
    checkRequest(options);
    const binding = this.#check(space);
    if (binding.kind === "refused") {
      this.#record({ ...requesterOf(space), execute: executes(space, options) }, binding, options.iovaPfn);
      return Promise.resolve(last ? "invalid" : "dropped");
    }
    if (!this.#takeRoom()) return Promise.resolve(last ? "success" : "dropped");
    void this.#dropCached(binding, options.iovaPfn);
    const { write = false, read = !write } = options;
    // There before the guest hears of the request: it may respond at once.
    const group = this.#groupOf(space, options.group ?? 0);
    group.add(options.iovaPfn);
    const response = last ? group.response() : Promise.resolve<PageResponse>("queued");
    this.#enqueue(space, { ...options, read, write }, last);
    return response;
  }

  /** A stop marker: queued if there is room, never answered. One that finds no room leaves no trace. Without a PASID there is none. */
  stopMarker(space: AddressSpace): void {
    if (space.pasid === undefined) return;
    const binding = this.#check(space);
    if (binding.kind === "refused") this.#record({ ...requesterOf(space), execute: false }, binding, 0);
    else if (this.#hasRoom()) this.#enqueue(space, { iovaPfn: 0, read: false }, true);
  }

  /** A page group response from the guest (type 9). Unknown groups are the device's to discard. Done when notifiers have heard of the pages. */
  respond(words: Int32Array): Completion {
    const { PP, RC, RID, PASID, PRGI } = PageGroupResponse.fields;
    const pasid = PP.get(words, 0) === 1 ? PASID.get(words, 0) : undefined;
    const code = RC.get(words, 0);
    const response =
      code === ResponseCode.SUCCESS ? "success" : code === ResponseCode.INVALID_REQUEST ? "invalid" : "failure";
    const key = groupKey(RID.get(words, 0), pasid, PRGI.get(words, 0));
    const group = this.#groups.get(key);
    if (group?.state !== "waiting") return undefined;
    group.state = "answered";
    const told = response === "success" ? this.#announce(group) : undefined;
    whenDone(told, () => {
      // Else the unit was reset meanwhile, or the device gave up, and it has been told.
      if (this.#groups.get(key) !== group) return;
      this.#groups.delete(key);
      group.settle(response);
    });
    return told;
  }

  /** Software wrote PRS. */
  statusWritten(): void {
    const { file, event } = this.#parts;
    if (file.get("PRS", PPR) === 0 && file.get("PRS", PRO) === 0) event.serviced();
  }

  /** Every waiting device is told to stop: the unit was reset. */
  reset(): void {
    for (const group of this.#groups.values()) group.settle("failure");
    this.#groups.clear();
  }

  /** A device that waits is told to stop: it is gone, and a response that comes later finds nobody. */
  unplugged(gone: Requester): void {
    for (const [key, group] of this.#groups) {
      if (group.requester !== gone) continue;
      this.#groups.delete(key);
      group.settle("failure");
    }
  }

  /** How the requested page would be translated, or why the request is refused. */
  #check(requester: Requester): Binding {
    const { root, bindings } = this.#parts;
    if (!this.#listens || root.mode === TableMode.LEGACY) return refusedBinding(FaultReason.RTA_3);
    const mode = bindings.refusalOfMode();
    if (mode !== 0) return refusedBinding(mode);
    const context = bindings.contextOf(requester.sourceId);
    if (context.reason === 0 && !context.pageRequests) return refusedBinding(FaultReason.SCT_8, context.faultsDisabled);
    return bindings.ofPageRequest(requester);
  }

  /** A unit without page requests, or with translation off, does not know the message and records nothing. */
  get #listens(): boolean {
    return this.#parts.enabled && this.#parts.root.enabled;
  }

  #record(requester: Requester, { reason, faultsDisabled }: Binding, iovaPfn: number): void {
    if (!this.#listens || (faultsDisabled && isQualified(reason))) return;
    const { translator } = this.#parts;
    translator.record(requester, reason, iovaPfn, FaultRequestType.PAGE_REQUEST, AddressType.UNTRANSLATED);
  }

  #hasRoom(): boolean {
    const { file } = this.#parts;
    if (file.get("PRS", PRO) === 1) return false;
    const entries = this.#entryCount();
    const tail = file.get("PQT", PQT.fields.PQT) % entries;
    return (tail + 1) % entries !== file.get("PQH", PQH.fields.PQH) % entries;
  }

  /** Room for one more; a full queue sets PRO and, if nothing was pending, raises the event. */
  #takeRoom(): boolean {
    const { file, event } = this.#parts;
    if (this.#hasRoom()) return true;
    if (file.get("PRS", PRO) === 1) return false;
    const quiet = file.get("PRS", PPR) === 0;
    file.set("PRS", PRO, 1);
    if (quiet) event.raise();
    return false;
  }

  #enqueue(space: AddressSpace, options: PageRequestOptions, last: boolean): void {
    const { file, memory, event } = this.#parts;
    const marker = options.read !== true && options.write !== true;
    this.#words.set(
      PageRequest.pack({
        TYPE: PAGE_REQUEST_TYPE,
        PP: space.pasid === undefined ? 0 : 1,
        RID: space.sourceId,
        PASID: space.pasid ?? 0,
        EXR: executes(space, options) ? 1 : 0,
        PMR: space.privileged ? 1 : 0,
        RDR: options.read === true ? 1 : 0,
        WRR: options.write === true ? 1 : 0,
        LPIG: last ? 1 : 0,
        PRGI: marker ? 0 : (options.group ?? 0),
        ADDR: options.iovaPfn,
      }),
    );
    const tail = file.get("PQT", PQT.fields.PQT) % this.#entryCount();
    // The entry is written before the tail shows it. A queue outside memory is the guest's loss: it reads what it finds there.
    memory.write(file.get("PQA", PQA.fields.PQA) * PAGE_BYTES + tail * ENTRY_BYTES, this.#bytes);
    file.set("PQT", PQT.fields.PQT, (tail + 1) % this.#entryCount());
    const quiet = file.get("PRS", PPR) === 0 && file.get("PRS", PRO) === 0;
    file.set("PRS", PPR, 1);
    if (quiet) event.raise();
  }

  #entryCount(): number {
    return 2 ** (this.#parts.file.get("PQA", PQA.fields.PQS) + 7);
  }

  /** Implicit invalidation on an accepted request, by the type of the PASID entry. */
  #dropCached(binding: Binding, iovaPfn: number): Completion {
    const { invalidator } = this.#parts;
    const page = { firstPfn: iovaPfn, pageCount: 1 };
    if (binding.kind === "first-stage")
      return invalidator.translationsOfPasidPages(binding.domainId, binding.pasid, page);
    if (binding.kind === "nested") return invalidator.translationsOfDomain(binding.domainId);
    return invalidator.translationsOfPages(binding.domainId, page);
  }

  /** The group that a request belongs to. A device that uses an index again before its response has given up on the first one. */
  #groupOf(requester: Requester, index: number): PageGroup {
    const key = groupKey(requester.sourceId, requester.pasid, index);
    const known = this.#groups.get(key);
    if (known?.state === "open") return known;
    known?.settle("failure");
    const group = new PageGroup(requester);
    this.#groups.set(key, group);
    return group;
  }

  #announce({ requester, pages }: PageGroup): Completion {
    const group = new CompletionGroup();
    for (const range of pages) group.add(this.#parts.invalidator.pagesOfRequester(requester, range));
    return group.take();
  }
}

function checkRequest({ iovaPfn, read, write, group = 0 }: PageRequestOptions): void {
  if (!(Number.isInteger(iovaPfn) && iovaPfn >= 0 && iovaPfn < FRAME_LIMIT)) {
    throw new IommuError("bad-range", `page request: expected iovaPfn as a frame in [0, 2^52), got ${iovaPfn}`, {
      hint: "give the number of the 4 KiB frame, not a byte address",
    });
  }
  if (read === false && write !== true) {
    throw new IommuError("bad-option", "page request: expected read or write, got neither", {
      hint: "a request for neither is a stop marker: use stopMarker()",
    });
  }
  if (Number.isInteger(group) && group >= 0 && group < GROUPS) return;
  throw new IommuError("bad-option", `page request: expected a group of 0 to ${GROUPS - 1}, got ${group}`, {
    hint: "reuse a group index once its response has come",
  });
}

/** Execute is asked for with a PASID and for reading only (§7.4.1.1). */
function executes(
  space: AddressSpace,
  { execute = space.execute, write, read = write !== true }: PageRequestOptions,
): boolean {
  return space.pasid !== undefined && read && execute;
}

function requesterOf({ sourceId, pasid, privileged, execute, key }: Requester): Requester {
  return { sourceId, pasid, privileged, execute, key };
}

function groupKey(sourceId: number, pasid: number | undefined, group: number): string {
  return `${sourceId}/${pasid ?? "-"}/${group}`;
}
