/**
 * A MAP notifier whose far side is QEMU's short list of ranges: a consumer with few entries, no rights, and one atomic step.
 */
import { Access, type Completion, type MapAnswer, type MapNotifier } from "@iommu-kit/iommu-core";
import { MOST_RANGES, type QemuRemote, type RemoteRange } from "./qemu-remote.js";

/** See the file's header. */
export class RemoteMemory implements MapNotifier {
  readonly kind = "map";
  readonly name = "QEMU's memory list";
  /** The list has room for a few blocks as they were announced; cutting one would need more. */
  readonly granularity = "block";
  /** Lists sent so far. */
  lists: (readonly RemoteRange[])[] = [];
  readonly #remote: QemuRemote;
  readonly #fd: number;
  readonly #blocks = new Map<number, { readonly pageCount: number; readonly gpaPfn: number }>();
  #changed = false;

  /** @param fd The file that guest memory lies in, from guest-physical address 0 on. */
  constructor(remote: QemuRemote, fd: number) {
    this.#remote = remote;
    this.#fd = fd;
  }

  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer {
    if (access !== Access.readWrite) return "unsupported";
    if (this.#blocks.size >= MOST_RANGES) return "full";
    this.#blocks.set(iovaPfn, { pageCount, gpaPfn });
    this.#changed = true;
    return undefined;
  }

  replace(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer {
    this.unmap(iovaPfn);
    return this.map(iovaPfn, pageCount, gpaPfn, access);
  }

  unmap(iovaPfn: number): void {
    this.#blocks.delete(iovaPfn);
    this.#changed = true;
  }

  /** All events of one invalidation reach the remote as one list: it never sees half of it. */
  commit(): Completion {
    if (!this.#changed) return undefined;
    this.#changed = false;
    const ranges = [...this.#blocks].map(([iovaPfn, { pageCount, gpaPfn }]) => ({
      iova: iovaPfn * 4096,
      byteLength: pageCount * 4096,
      fd: this.#fd,
      offsetBytes: gpaPfn * 4096,
    }));
    this.lists.push(ranges);
    return this.#remote.setMemory(ranges);
  }
}
