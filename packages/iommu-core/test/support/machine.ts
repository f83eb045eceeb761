import {
  type AddressSpace,
  BackendIommu,
  type FrameRange,
  type IommuEvents,
  type Limits,
  sourceId,
} from "../../src/index.js";
import { FakeMemory, ManualScheduler, SimpleBackend, SimpleDomain, type Run } from "../../src/testing/index.js";

export interface MachineOptions {
  readonly memory?: FakeMemory;
  readonly regions?: readonly FrameRange[];
  readonly limits?: Partial<Limits>;
}

/** A unit on the reference backend, with two devices and one table that both see. */
export class Machine {
  readonly memory: FakeMemory;
  readonly scheduler = new ManualScheduler();
  readonly backend = new SimpleBackend();
  readonly unit: BackendIommu;
  readonly tables = new SimpleDomain("tables");
  readonly nic = sourceId(0, 3, 0);
  readonly disk = sourceId(0, 4, 0);

  constructor(options: MachineOptions = {}) {
    this.memory = options.memory ?? new FakeMemory();
    const { regions, limits = {} } = options;
    this.unit = new BackendIommu({
      backend: this.backend,
      memory: this.memory,
      scheduler: this.scheduler,
      limits,
      ...(regions === undefined ? {} : { regions }),
    });
    void this.backend.assign(this.nic, this.tables);
    void this.backend.assign(this.disk, this.tables);
  }

  get nicSpace(): AddressSpace {
    return this.unit.addressSpace(this.nic);
  }

  get diskSpace(): AddressSpace {
    return this.unit.addressSpace(this.disk);
  }

  /** The guest invalidates a range of the shared tables. */
  invalidate(firstPfn = 0, pageCount = 2 ** 52): void | Promise<void> {
    return this.backend.invalidate(this.tables, { firstPfn, pageCount });
  }

  /** What happens from now on, in short form. */
  watch(...names: readonly (keyof IommuEvents)[]): string[] {
    const seen: string[] = [];
    for (const name of names) {
      this.unit.events.on(name, (event: object) => {
        const text: string[] = [name];
        for (const [key, value] of Object.entries(event))
          if (typeof value !== "object") text.push(`${key}=${String(value)}`);
        seen.push(text.join(" "));
      });
    }
    return seen;
  }
}

export function run(iovaPfn: number, pageCount: number, gpaPfn: number, access: 1 | 2 | 3 = 3): Run {
  return { iovaPfn, pageCount, gpaPfn, access };
}

export function range(firstPfn: number, pageCount: number): FrameRange {
  return { firstPfn, pageCount };
}
