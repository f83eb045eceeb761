/**
 * Dependency injection with tsyringe: tokens and one registration. The classes themselves need none of it.
 *
 * Register in the child container of a machine: everything resolved there is one instance, and another machine has its
 * own. `container` is exported again because reflect-metadata must be loaded before tsyringe, as it is here.
 *
 * @packageDocumentation
 */

import "reflect-metadata";
import { container, type DependencyContainer, type InjectionToken, instancePerContainerCachingFactory } from "tsyringe";
import type { DmaContainer } from "./container.js";
import { MemoryContainer } from "./memory-container.js";
import type { ContainerProfile } from "./profiles/profile.js";
import { type1v2 } from "./profiles/type1v2.js";
import type { VfioNotifierOptions } from "./options.js";
import { VfioNotifier } from "./vfio-notifier.js";

/** tsyringe, loaded after reflect-metadata. */
export { container, type DependencyContainer, type InjectionToken };

const token = <T>(name: string): InjectionToken<T> => Symbol.for(`@iommu-kit/notifier-vfio/${name}`);

/** The far side of the notifier. Register your own before it is first resolved; else it is an in-memory container. */
export const DMA_CONTAINER: InjectionToken<DmaContainer> = token<DmaContainer>("DmaContainer");

/** The notifier. */
export const VFIO_NOTIFIER: InjectionToken<VfioNotifier> = token<VfioNotifier>("VfioNotifier");

/** How to register: the options of the notifier, and the rules of the in-memory container that is used for want of another. */
export interface RegisterVfioOptions extends VfioNotifierOptions {
  /** Default: `type1v2`. Without effect where `DMA_CONTAINER` is registered. */
  readonly profile?: ContainerProfile;
}

/** Registers `VFIO_NOTIFIER`, and `DMA_CONTAINER` unless it is registered already; each is made once per container. */
export function registerVfioNotifier(into: DependencyContainer, options: RegisterVfioOptions = {}): void {
  if (!into.isRegistered(DMA_CONTAINER, true)) {
    const make = (): DmaContainer => new MemoryContainer(options.profile ?? type1v2);
    into.register(DMA_CONTAINER, { useFactory: instancePerContainerCachingFactory(make) });
  }
  const make = (from: DependencyContainer): VfioNotifier => new VfioNotifier(from.resolve(DMA_CONTAINER), options);
  into.register(VFIO_NOTIFIER, { useFactory: instancePerContainerCachingFactory(make) });
}
