/**
 * Every error code, provoked as a host would, and the page that lists them.
 */

import { type AddressSpace, BackendIommu, BufferMemory, IommuError, parseSourceId } from "@iommu-kit/iommu-core";
import {
  FakeMemory,
  ManualScheduler,
  RecordingFlushNotifier,
  RecordingNotifier,
  SimpleBackend,
} from "@iommu-kit/iommu-core/testing";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { restore } from "@iommu-kit/iommu-vtd/snapshot";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { MemoryContainer, shadow, usableRangesOf, VfioNotifier } from "@iommu-kit/notifier-vfio";
import { VfioUserClient, type VfioUserTransport } from "@iommu-kit/notifier-vfio/vfio-user";
import { describe, expect, it } from "vitest";
import { errorCodes, errorSites, errorsPage } from "./errors-page.js";

const NIC = "00:03.0";

function device(guest = new GuestDriver({ cachingMode: true })): AddressSpace {
  guest.context(NIC, { did: 1 });
  guest.start();
  return guest.device(NIC);
}

function unitOn(backend = new SimpleBackend()): BackendIommu {
  return new BackendIommu({ backend, memory: new FakeMemory(), scheduler: new ManualScheduler() });
}

/** The error with which a notifier on a device is cut off. */
async function failureOf(unmap: () => Promise<void>): Promise<IommuError> {
  const guest = new GuestDriver();
  const space = device(guest);
  const failed = new Promise<IommuError>((resolve) => space.events.on("failed", ({ error }) => resolve(error)));
  space.attach({ kind: "unmap", unmap });
  guest.scheduler.advance(1e9);
  return failed;
}

/** What provokes each code, and the words that its message has to have. */
const WAYS: Readonly<Record<string, readonly [RegExp, () => unknown]>> = {
  "bad-source-id": [/expected bus 0-255.*got 0\/32\/0.*sourceId/, () => parseSourceId("00:20.0")],
  "bad-range": [
    /expected whole frames/,
    () => device().attach(new RecordingFlushNotifier(), { range: { firstPfn: 0.5, pageCount: 1 } }),
  ],
  "bad-option": [/expected an aperture of 32 to 64 address bits, got 20 .*39 or 48/, () => usableRangesOf(20)],
  "caching-mode-required": [
    /expected a unit with caching mode, got one without .*cachingMode: true/,
    () => device(new GuestDriver()).attach(new RecordingNotifier()),
  ],
  "not-supported": [
    /expected a unit with device TLBs, got one without .*deviceTlb: true/,
    () => {
      const guest = new GuestDriver();
      return guest.unit.ats(guest.device(NIC));
    },
  ],
  "notifier-contract": [
    /expected contract 1, got 2 .*version/,
    () => device().attach(Object.assign(new RecordingFlushNotifier(), { contract: 2 as 1 })),
  ],
  "backend-contract": [
    /expected contract 1, got 2 .*version/,
    () => unitOn(Object.assign(new SimpleBackend(), { contract: 2 as 1 })),
  ],
  "notifier-failed": [
    /expected an answer, got an exception .*replayed/,
    async () => {
      throw await failureOf(() => expect.fail("broken"));
    },
  ],
  "notifier-timeout": [
    /expected an answer within \d+ ms, got none .*consumerDeadlineMilliseconds/,
    async () => {
      throw await failureOf(() => new Promise(() => undefined));
    },
  ],
  "already-attached": [
    /expected one that is not attached to 00:03\.0, got one that is .*detach/,
    () => {
      const [space, notifier] = [device(), new RecordingNotifier()];
      space.attach(notifier);
      space.attach(notifier);
    },
  ],
  "different-view": [
    /expected what 00:03\.0 sees.*got 00:04\.0 .*notifier of its own/,
    () => {
      const guest = new GuestDriver({ cachingMode: true });
      const [space, notifier] = [device(guest), new RecordingNotifier()];
      guest.context("00:04.0", { did: 2 });
      space.attach(notifier);
      guest.device("00:04.0").attach(notifier);
    },
  ],
  "reentrant-call": [
    /expected attach outside of callbacks and listeners.*queueMicrotask/,
    () => {
      const space = device();
      let error: unknown;
      const unmap = (): void => {
        try {
          space.attach(new RecordingFlushNotifier());
        } catch (caught) {
          error = caught;
        }
      };
      space.attach({ kind: "unmap", unmap });
      throw error;
    },
  ],
  unplugged: [
    /expected a device, got one that is unplugged .*new address space/,
    () => {
      const space = device();
      void space.unplug();
      space.attach(new RecordingFlushNotifier());
    },
  ],
  destroyed: [
    /expected a connection, got its end/,
    async () => {
      const transport: VfioUserTransport = {
        sendsFds: false,
        pendingBytes: 0,
        send: () => transport.onClose?.(undefined),
        close: () => undefined,
        onBytes: undefined,
        onClose: undefined,
      };
      await new VfioUserClient({ transport, space: device() }).connect();
    },
  ],
  "bad-snapshot": [/expected an object, got null .*same options/, () => restore(new GuestDriver().unit, null)],
};

async function provoked(way: () => unknown): Promise<unknown> {
  try {
    await way();
  } catch (error) {
    return error;
  }
  return undefined;
}

describe("every error code", () => {
  it("has a way to provoke it here, and a place that makes it", () => {
    expect(Object.keys(WAYS).toSorted()).toEqual([...errorCodes().keys()].toSorted());
    expect([...new Set(errorSites().map(({ code }) => code))].toSorted()).toEqual([...errorCodes().keys()].toSorted());
  });

  for (const [code, [words, way]] of Object.entries(WAYS)) {
    it(`${code} says what was expected, what was got, and the fix`, async () => {
      const error = await provoked(way);
      expect(error).toBeInstanceOf(IommuError);
      const { code: got, message, hint } = error as IommuError;
      expect(got).toBe(code);
      expect(message).toMatch(words);
      expect(message).toContain(`(${hint})`);
      expect(hint.length).toBeGreaterThan(10);
    });
  }
});

describe("in plain JavaScript", () => {
  const memory = new FakeMemory();

  it.each<[new (...args: never[]) => unknown, readonly unknown[], RegExp]>([
    [VtdIommu, [], /^VtdIommu: expected an object, got undefined \(call new VtdIommu\(\{ memory, msi \}\)\)/],
    [VtdIommu, [{}], /^VtdIommu: expected an object, got undefined .*\{ memory, msi \}/],
    [VtdIommu, [{ memory }], /^VtdIommu: expected a function for msi, got undefined .*\{ memory, msi: /],
    [BackendIommu, [], /^BackendIommu: expected an object, got undefined .*\{ backend, memory \}/],
    [BackendIommu, [{ memory }], /^BackendIommu: expected an object, got undefined/],
    [VfioNotifier, [], /^VfioNotifier: expected an object, got undefined .*new VfioNotifier\(container\)/],
    [MemoryContainer, ["type1"], /^MemoryContainer: expected an object, got type1 .*\(type1v2\)/],
    [BufferMemory, [], /^BufferMemory: expected an object, got undefined .*firstPfn: 0, bytes/],
  ])("a constructor without what it needs says how to call it: %s", (made, args, expected) => {
    const make = (): unknown => Reflect.construct(made, args) as unknown;
    expect(make).toThrow(expected);
    expect(make).toThrow(expect.objectContaining({ code: "bad-option" }) as Error);
  });

  it("undefined for an option is the same as leaving it out", () => {
    const given = { memory, msi: () => undefined };
    const left = { scalableMode: undefined, superpages: undefined, iotlbEntries: undefined } as object;
    expect(new VtdIommu({ ...given, ...left }).config).toEqual(new VtdIommu(given).config);
    const limits = { entriesPerSlice: undefined } as object;
    const unit = new BackendIommu({ backend: new SimpleBackend(), memory: new FakeMemory(), limits });
    expect(unit.limits).toEqual(unitOn().limits);
    const named = { name: undefined, coalescing: undefined, largestBlock: undefined } as object;
    expect(new VfioNotifier(new MemoryContainer(shadow), named).name).toBe("vfio");
  });
});

describe("docs/errors.md", () => {
  it("lists every code and every message", async () => {
    await expect(errorsPage()).toMatchFileSnapshot("../../../../docs/errors.md");
  });
});

describe("every message", () => {
  it("says what was expected and what was got, unless its words come from a rule", () => {
    const sites = errorSites();
    expect(sites.length).toBeGreaterThan(50);
    const vague = sites.filter(({ message, hint }) => !/expected.*got/.test(message) || hint === "");
    expect(vague.map(({ file }) => file)).toEqual(["acpi/build-dmar.ts"]);
  });
});
