/**
 * The judges of one run, and how they hear of what happens: created before the unit, begun when it is there.
 */

import type { AttachedIommu } from "../adapter/attach-iommu.js";
import type { DmaObserver } from "../adapter/device-dma.js";
import { ContainerJudge } from "./container-judge.js";
import { FreshWalk } from "./fresh-walk.js";
import { ShadowJudge } from "./shadow-judge.js";

interface Bench {
  readonly walk: FreshWalk;
  readonly shadow: ShadowJudge;
  readonly container: ContainerJudge;
}

/** Pass `onDma` and `onRegisterWrite` to the adapter, then call `begin`. */
export class Judges {
  #bench: Bench | undefined;

  /** To be asked before each DMA. */
  readonly onDma: DmaObserver = (sourceId, address, byteLength) => {
    this.#bench?.shadow.observer(sourceId, address, byteLength);
    this.#bench?.container.observer(sourceId, address, byteLength);
  };

  /** To be told of each register write before the unit is. */
  readonly onRegisterWrite = (offsetBytes: number, value: number): void => {
    this.#bench?.walk.onRegisterWrite(offsetBytes, value);
  };

  /**
   * Gives every function of the bus a shadow, also those that do no DMA (the driver's dump has all of them), and the devices that do a container.
   * @throws {IommuError} `caching-mode-required`.
   */
  begin(attached: AttachedIommu): void {
    const walk = new FreshWalk(attached.memory);
    const bench: Bench = { walk, shadow: new ShadowJudge(walk), container: new ContainerJudge(walk) };
    this.#bench = bench;
    const own = attached.pluggedFunctions.map((sourceId) => attached.unit.iommu.addressSpace(sourceId));
    for (const sourceId of attached.pciFunctions) bench.shadow.follow(attached.unit.iommu.addressSpace(sourceId));
    for (const space of [...attached.devices.map((device) => device.space), ...own]) bench.container.follow(space);
  }

  /** Guest memory was restored, and the unit is about to be: judge what follows by the tables that it had. */
  assume(root: { readonly enabled: boolean; readonly rootPfn: number }): void {
    this.#bench?.walk.assume(root);
  }

  /** Of the shadows. */
  get shadow(): ShadowJudge | undefined {
    return this.#bench?.shadow;
  }

  /** Of the containers. */
  get container(): ContainerJudge | undefined {
    return this.#bench?.container;
  }
}
