/**
 * The VFIO container calls of a kernel, in bytes, flag words and buffers, on top of a `MemoryContainer`. What is checked
 * here and not in the container is what the interface of the package leaves to its implementers: flags, buffer sizes,
 * and what the size field of an argument holds afterwards.
 */
import type { Access } from "@iommu-kit/iommu-core";
import type { ContainerRefusal, MemoryContainer } from "@iommu-kit/notifier-vfio";

/** Value of the flag of MAP_DMA that no kernel knows yet. */
export const UNKNOWN_FLAG = 1 << 5;

const ERRNO: Readonly<Record<ContainerRefusal, string>> = {
  exists: "EEXIST",
  invalid: "EINVAL",
  overflow: "EOVERFLOW",
  "no-entry": "ENOENT",
  "no-space": "ENOSPC",
  denied: "EACCES",
  unsupported: "ENOTTY",
  "bad-target": "EFAULT",
  gone: "ENODEV",
};

export interface UnmapReply {
  readonly errno: string;
  /** The size field of the argument after the call. */
  readonly size: bigint;
  readonly bitmap: Uint8Array;
}

export class KernelShim {
  readonly #container: MemoryContainer;

  constructor(container: MemoryContainer) {
    this.#container = container;
  }

  /** VFIO_IOMMU_MAP_DMA; flag bits 0 read, 1 write. */
  map(iova: bigint, size: bigint, vaddr: bigint, flags: number): string {
    if ((flags & ~3) !== 0) return "EINVAL";
    const answer = this.#container.map(frames(iova), frames(size), frames(vaddr), flags as Access);
    return answer.ok ? "ok" : ERRNO[answer.cause];
  }

  /** VFIO_IOMMU_UNMAP_DMA. */
  unmap(iova: bigint, size: bigint): { errno: string; size: bigint } {
    const answer = this.#container.unmap(frames(iova), frames(size));
    if (!answer.ok) return { errno: ERRNO[answer.cause], size };
    return { errno: "ok", size: BigInt(answer.removedPageCount) * 4096n };
  }

  /** The same with VFIO_DMA_UNMAP_FLAG_ALL. */
  unmapAll(iova: bigint, size: bigint): { errno: string; size: bigint } {
    if (iova !== 0n || size !== 0n) return { errno: "EINVAL", size };
    const answer = this.#container.unmapAll();
    return answer.ok
      ? { errno: "ok", size: BigInt(answer.removedPageCount) * 4096n }
      : { errno: ERRNO[answer.cause], size };
  }

  /** VFIO_IOMMU_DIRTY_PAGES with the start or the stop flag. */
  dirty(what: "start" | "stop"): string {
    const answer = this.#container.dirtyLog[what]();
    if (answer instanceof Promise) throw new Error("expected an answer at once");
    return answer.ok ? "ok" : ERRNO[answer.cause];
  }

  /** VFIO_IOMMU_DIRTY_PAGES with the get-bitmap flag. A kernel first says whether it offers the call at all. */
  getBitmap(iova: bigint, size: bigint, pageBytes: number, bitmapBytes: number): { errno: string; bitmap: Uint8Array } {
    const bitmap = new Uint8Array(bitmapBytes);
    const { log, pageBytes: offered } = this.#container.profile.dirty;
    if (log === "denied" || log === "unsupported") return { errno: ERRNO[log], bitmap };
    if (pageBytes !== offered || bitmapBytes < wordsFor(size) * 8) return { errno: "EINVAL", bitmap };
    const answer = this.#container.dirtyLog.read(frames(iova), frames(size), bitmap);
    if (answer instanceof Promise) throw new Error("expected an answer at once");
    return { errno: answer.ok ? "ok" : ERRNO[answer.cause], bitmap };
  }

  /** VFIO_IOMMU_UNMAP_DMA with VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP. */
  unmapWithBitmap(iova: bigint, size: bigint, pageBytes: number, bitmapBytes: number): UnmapReply {
    const bitmap = new Uint8Array(bitmapBytes);
    const log = this.#container.dirtyLog;
    const shapeless = pageBytes !== this.#container.profile.dirty.pageBytes || bitmapBytes < wordsFor(size) * 8;
    if (log.unmapAndRead === undefined || shapeless) return { errno: "EINVAL", size, bitmap };
    const answer = log.unmapAndRead(frames(iova), frames(size), bitmap);
    if (answer instanceof Promise) throw new Error("expected an answer at once");
    if (!answer.ok) return { errno: ERRNO[answer.cause], size, bitmap };
    return { errno: "ok", size: BigInt(answer.removedPageCount) * 4096n, bitmap };
  }
}

/** Bytes as frames; what is not a whole frame becomes a fraction of one. */
function frames(bytes: bigint): number {
  return Number(bytes / 4096n) + Number(bytes % 4096n) / 4096;
}

/** 64-bit words of a bitmap with one bit for each 4 KiB page. */
function wordsFor(size: bigint): number {
  return Number((size / 4096n + 63n) / 64n);
}
