/**
 * The DMA regions of a vfio-user server as a container.
 *
 * Maps and unmaps are messages, sent in the order of the calls without waiting; each answer is a promise that the server's own reply settles. So the guest's
 * invalidation completes when the server has let go of the region, not before. A server that is gone, or talks nonsense, is the answer `gone`.
 */

import { type Access, contains, endOf, FRAME_LIMIT, type FrameRange, IommuError } from "@iommu-kit/iommu-core";
import {
  type Answer,
  type ContainerRefusal,
  type DmaContainer,
  type MapResult,
  MAPPED,
  refused,
  type UnmapResult,
} from "../container.js";
import type { VfioUserClient } from "./client.js";
import type { Failure } from "./command-window.js";
import { packMap, packUnmap, packUnmapAll, readEmpty, readUnmapAllReply, readUnmapReply } from "./messages.js";
import { Errno } from "./protocol.js";

/** Guest memory that lies in a file which the server may map. */
export interface SharedMemory extends FrameRange {
  /** The file; stays the caller's. */
  readonly fd: number;
  /** Where the first frame lies in it. */
  readonly offsetBytes: number;
}

/** How a server reaches memory. */
export interface VfioUserContainerOptions {
  /**
   * Memory whose file goes with a map. What is not in it, or only in part, is reached by messages. Default: none. A server that has mapped a file reaches it
   * past the address space: writes are then not seen by a dirty tracker of the address space.
   */
  readonly memory?: readonly SharedMemory[];
}

/** A region that was asked for. */
interface Entry {
  readonly pageCount: number;
  /** What was there before: the very same region once more. Forgotten when the server has taken this one. */
  before: Entry | undefined;
  refused: boolean;
}

const NO_FDS: readonly number[] = [];

/**
 * What a vfio-user server may reach, as a `DmaContainer` for a `VfioNotifier`. As long-lived as its client: once that is closed every answer is `gone`. A
 * server that was given files may reach their memory even then, until its process ends.
 */
export class VfioUserContainer implements DmaContainer {
  readonly granularity = "block";
  /** As agreed on with the server. */
  readonly entryLimit: number;
  readonly #client: VfioUserClient;
  readonly #memory: readonly SharedMemory[];
  /** What the server holds, with everything that is under way done. */
  readonly #held = new Map<number, Entry>();
  /** A file was sent with some map: the server may reach memory even when the connection is over. */
  #shared = false;

  /**
   * @param client Connected.
   * @throws {IommuError} `not-supported` for files with a transport that cannot send them; `bad-option` before the client's `connect`; `destroyed` if its connection
   * has ended before.
   */
  constructor(client: VfioUserClient, options: VfioUserContainerOptions = {}) {
    this.#client = client;
    this.#memory = options.memory ?? [];
    if (this.#memory.length > 0 && !client.sendsFds) {
      throw new IommuError(
        "not-supported",
        "memory: expected a transport that sends file descriptors, got one that does not",
        {
          hint: "leave the memory out: the server then reaches it by messages",
        },
      );
    }
    this.entryLimit = client.agreed().maxDmaMaps;
  }

  /** What the server holds once it has answered all that is under way. */
  get entriesHeld(): number {
    return this.#held.size;
  }

  /**
   * Sends DMA_MAP, with the file that holds the target where there is one. Besides what the server answers: `gone` once the connection is over, `overflow`
   * beyond 2^64 bytes, `invalid` over an entry of another size at the same place, `no-space` at the entry limit.
   */
  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): Answer<MapResult> {
    if (this.#client.closed !== undefined) return refused("gone");
    if (iovaPfn + pageCount > FRAME_LIMIT || pageCount === FRAME_LIMIT) return refused("overflow");
    const before = this.#held.get(iovaPfn);
    // What begins at the same place overlaps; said here, so that what is held stays known while answers are under way.
    if (before !== undefined && before.pageCount !== pageCount) return refused("invalid");
    if (before === undefined && this.#held.size >= this.entryLimit) return refused("no-space");
    const file = this.#memory.find((memory) => contains(memory, gpaPfn) && gpaPfn + pageCount <= endOf(memory));
    const offsetBytes = file === undefined ? 0 : file.offsetBytes + (gpaPfn - file.firstPfn) * 4096;
    if (file !== undefined) this.#shared = true;
    const entry: Entry = { pageCount, before, refused: false };
    this.#held.set(iovaPfn, entry);
    const payload = packMap(iovaPfn, pageCount, access, offsetBytes);
    return this.#client.ask("DMA_MAP", payload, file === undefined ? NO_FDS : [file.fd], readEmpty).then((reply) => {
      if (reply.kind === "done") {
        entry.before = undefined;
        return MAPPED;
      }
      entry.refused = true;
      this.#takeBack(iovaPfn);
      return refused(causeOf(reply));
    });
  }

  /** Sends DMA_UNMAP for one entry, exactly as it was mapped; `no-entry` from the server for anything else, `gone` once the connection is over. */
  unmap(iovaPfn: number, pageCount: number): Answer<UnmapResult> {
    if (this.#client.closed !== undefined) return refused("gone");
    const entry = this.#held.get(iovaPfn);
    if (entry?.pageCount === pageCount) this.#held.delete(iovaPfn);
    return this.#unmap(iovaPfn, pageCount);
  }

  /**
   * Sends DMA_UNMAP of everything, and entry by entry to a server that does not know that. Once the connection is over: done, or `gone` where the server was given
   * files and so may still reach memory.
   */
  unmapAll(): Answer<UnmapResult> {
    const removedPageCount = this.#pagesHeld();
    // Without the connection nobody answers the server's requests: where no file was shared, it reaches nothing.
    if (this.#client.closed !== undefined) return this.#lost(removedPageCount);
    const entries = [...this.#held];
    this.#held.clear();
    return this.#client.ask("DMA_UNMAP", packUnmapAll(), NO_FDS, readUnmapAllReply).then((reply) => {
      if (reply.kind === "done") return { ok: true, removedPageCount };
      if (reply.kind === "gone") return this.#lost(removedPageCount);
      return this.#unmapEach(entries, removedPageCount);
    });
  }

  /** What the server has refused is not held; what was there before it may be. */
  #takeBack(iovaPfn: number): void {
    let entry = this.#held.get(iovaPfn);
    while (entry?.refused === true) entry = entry.before;
    if (entry === undefined) this.#held.delete(iovaPfn);
    else this.#held.set(iovaPfn, entry);
  }

  async #unmap(iovaPfn: number, pageCount: number): Promise<UnmapResult> {
    const request = packUnmap(iovaPfn, pageCount);
    const reply = await this.#client.ask("DMA_UNMAP", request, NO_FDS, (payload) => readUnmapReply(payload, request));
    return reply.kind === "done" ? { ok: true, removedPageCount: pageCount } : refused(causeOf(reply));
  }

  /** For a server that does not know the flag. */
  async #unmapEach(entries: readonly (readonly [number, Entry])[], removedPageCount: number): Promise<UnmapResult> {
    const answers = await Promise.all(entries.map(([iovaPfn, { pageCount }]) => this.#unmap(iovaPfn, pageCount)));
    const refusal = answers.find(({ ok }) => !ok);
    if (refusal === undefined) return { ok: true, removedPageCount };
    return this.#client.closed === undefined ? refusal : this.#lost(removedPageCount);
  }

  #lost(removedPageCount: number): UnmapResult {
    this.#held.clear();
    return this.#shared ? refused("gone") : { ok: true, removedPageCount };
  }

  #pagesHeld(): number {
    let pageCount = 0;
    for (const entry of this.#held.values()) pageCount += entry.pageCount;
    return pageCount;
  }
}

/** A refusal in the words of a container. */
function causeOf(reply: Failure): ContainerRefusal {
  return reply.kind === "gone" ? "gone" : (CAUSES.get(reply.errno) ?? "invalid");
}

const CAUSES: ReadonlyMap<number, ContainerRefusal> = new Map<number, ContainerRefusal>([
  [Errno.EPERM, "denied"],
  [Errno.ENOENT, "no-entry"],
  [Errno.ENOMEM, "no-space"],
  [Errno.EACCES, "denied"],
  [Errno.EFAULT, "bad-target"],
  [Errno.EEXIST, "exists"],
  [Errno.ENODEV, "gone"],
  [Errno.EINVAL, "invalid"],
  [Errno.ENOTTY, "unsupported"],
  [Errno.ENOSPC, "no-space"],
  [Errno.ENOSYS, "unsupported"],
  [Errno.EOVERFLOW, "overflow"],
  [Errno.EOPNOTSUPP, "unsupported"],
]);
