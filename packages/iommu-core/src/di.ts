/**
 * Dependency injection with tsyringe: the tokens of a machine, and one registration. The classes themselves need none of it (design D3).
 *
 * One child container for each machine: what is resolved there is one instance, however often, and another machine has its own. `container` is exported again because
 * reflect-metadata must be loaded before tsyringe, as it is here.
 *
 * @packageDocumentation
 */

import "reflect-metadata";
import { container, type DependencyContainer, type InjectionToken, instancePerContainerCachingFactory } from "tsyringe";
import type { Backend } from "./backend.js";
import { IommuError } from "./errors.js";
import { BackendIommu, type BackendIommuOptions, type Iommu } from "./iommu.js";
import { type GuestMemory, type MsiSink, type Scheduler, timerScheduler } from "./ports.js";

/** tsyringe, loaded after reflect-metadata. */
export { container, type DependencyContainer, type InjectionToken };

/** A token of this package: the same for every copy of it, and `resolve` knows its type. */
const token = <T>(name: string): InjectionToken<T> => Symbol.for(`@iommu-kit/iommu-core/${name}`);

/** Guest memory. The host registers it. */
export const GUEST_MEMORY: InjectionToken<GuestMemory> = token<GuestMemory>("GuestMemory");

/** Where message-signalled interrupts go. The host registers it, for units that need it. */
export const MSI_SINK: InjectionToken<MsiSink> = token<MsiSink>("MsiSink");

/** Defers work. The host may register it. Default: `timerScheduler`. */
export const SCHEDULER: InjectionToken<Scheduler> = token<Scheduler>("Scheduler");

/** The remapping architecture that `registerBackendIommu` puts a unit on. */
export const BACKEND: InjectionToken<Backend> = token<Backend>("Backend");

/** The machine's unit. Registered by `registerBackendIommu`, or by a package that brings a unit of its own. */
export const IOMMU: InjectionToken<Iommu> = token<Iommu>("Iommu");

/** A container for one machine: what is registered in `parent` is seen in it, and made anew for it. */
export function createMachineContainer(parent: DependencyContainer = container): DependencyContainer {
  return parent.createChildContainer();
}

/** Registers `make` so that each container which resolves the token gets one instance of its own, the same every time. */
export function registerPerContainer<T>(
  into: DependencyContainer,
  what: InjectionToken<T>,
  make: (from: DependencyContainer) => T,
): void {
  into.register(what, { useFactory: instancePerContainerCachingFactory(make) });
}

/**
 * Resolves what a host has to register.
 * @throws {IommuError} `bad-option` if it has not been registered.
 */
export function resolveRequired<T>(from: DependencyContainer, what: InjectionToken<T>, name: string): T {
  if (from.isRegistered(what, true)) return from.resolve(what);
  throw new IommuError("bad-option", `expected ${name} to be registered, got nothing`, {
    hint: `container.register(${name}, { useValue: ... }) before it is first resolved`,
  });
}

/** Registers `IOMMU`: a unit on `BACKEND` and `GUEST_MEMORY`, made once for each container that resolves it. */
export function registerBackendIommu(
  into: DependencyContainer,
  options: Pick<BackendIommuOptions, "regions" | "limits"> = {},
): void {
  registerPerContainer(into, IOMMU, (from) => {
    const backend = resolveRequired(from, BACKEND, "BACKEND");
    const memory = resolveRequired(from, GUEST_MEMORY, "GUEST_MEMORY");
    const scheduler = from.isRegistered(SCHEDULER, true) ? from.resolve(SCHEDULER) : timerScheduler;
    return new BackendIommu({ ...options, backend, memory, scheduler });
  });
}
