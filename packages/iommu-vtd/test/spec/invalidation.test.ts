// The invalidation queue's language: types, reserved bits, ranges.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  ContextCacheDescriptor,
  DeviceTlbDescriptor,
  InterruptEntryCacheDescriptor,
  IotlbDescriptor,
  PasidIotlbDescriptor,
  WaitDescriptor,
} from "../../src/spec/descriptors.js";
import { TableMode } from "../../src/spec/encodings.js";
import {
  descriptorReserved,
  DescriptorType,
  descriptorType,
  deviceTlbRange,
  ignoredFunctionBits,
  largestDescriptorType,
  maskedRange,
  queueBytes,
  waitStatusGpa,
} from "../../src/spec/invalidation.js";
import { PageGroupResponse } from "../../src/spec/page-request.js";
import { ECAP } from "../../src/spec/registers-capability.js";
import { expectBits } from "./bit-ranges.js";

describe("descriptors", () => {
  it("look as a driver writes them", () => {
    expect([...ContextCacheDescriptor.pack({ TYPE: 1, G: 3, DID: 5, SID: 0x18, FM: 1 })]).toEqual([
      0x0005_0031, 0x0001_0018, 0, 0,
    ]);
    expect([...IotlbDescriptor.pack({ TYPE: 2, G: 3, DW: 1, DR: 1, DID: 7, AM: 9, IH: 1, ADDR: 0x1_2345 })]).toEqual([
      0x0007_00f2, 0, 0x1234_5049, 0,
    ]);
    expect([...InterruptEntryCacheDescriptor.pack({ TYPE: 4, G: 1, IM: 2, IIDX: 0x1f })]).toEqual([
      0x1000_0014, 0x1f, 0, 0,
    ]);
    expect([...WaitDescriptor.pack({ TYPE: 5, IF: 1, SW: 1, DATA: 2, SADDR: 0x1234_5678 / 4 })]).toEqual([
      0x35, 2, 0x1234_5678, 0,
    ]);
    expect([...DeviceTlbDescriptor.pack({ TYPE: 3, MIP: 4, SID: 0x100, S: 1, ADDR: 2 ** 51 - 1 })]).toEqual([
      0x0004_0003,
      0x100,
      0xffff_f001 | 0,
      0x7fff_ffff,
    ]);
    expect([...PasidIotlbDescriptor.pack({ TYPE: 6, G: 2, DID: 3, PASID: 0xfffff })]).toEqual([
      0x0003_0026, 0xfffff, 0, 0, 0, 0, 0, 0,
    ]);
    expect([...PageGroupResponse.pack({ TYPE: 9, PP: 1, RC: 1, RID: 0x18, PASID: 1, PRGI: 511 })]).toEqual([
      0x0018_1019, 1, 0xff8, 0, 0, 0, 0, 0,
    ]);
  });

  it("have their type in bits 11:9 above 3:0", () => {
    expect(descriptorType(Int32Array.of(0xf5ff_f1f5), 0)).toBe(5);
    expect(descriptorType(Int32Array.of(0, 0x0203), 1)).toBe(0x13);
    expect(descriptorType(Int32Array.of(-1), 0)).toBe(0x7f);
  });

  it("are allowed by the table mode and the width of the queue", () => {
    expect(largestDescriptorType(TableMode.LEGACY, false)).toBe(5);
    expect(largestDescriptorType(TableMode.LEGACY, true)).toBe(5);
    expect(largestDescriptorType(TableMode.SCALABLE, true)).toBe(10);
    expect(largestDescriptorType(TableMode.ABORT, true)).toBe(10);
    for (const mode of [TableMode.SCALABLE, TableMode.ABORT, 2]) expect(largestDescriptorType(mode, false)).toBe(0);
    expect(largestDescriptorType(2, true)).toBe(0);
  });
});

describe("reserved bits of descriptors", () => {
  const everything = descriptorReserved(ECAP.pack({ QI: 1, DT: 1, DIT: 1, PRS: 1, PDS: 1 }));
  const basic = descriptorReserved(ECAP.pack({ QI: 1 }));

  it.each<[keyof typeof DescriptorType, string]>([
    ["CONTEXT_CACHE", "8:6 15:12 255:50"],
    ["IOTLB", "8 15:12 63:32 75:71 255:128"],
    ["DEVICE_TLB", "8:4 31:21 51:48 75:65 255:128"],
    ["INTERRUPT_ENTRY_CACHE", "8:5 26:12 255:48"],
    ["WAIT", "8 31:12 65:64 255:128"],
    ["PASID_IOTLB", "8:6 15:12 63:52 75:71 255:128"],
    ["PASID_CACHE", "8:6 15:12 255:52"],
    ["PASID_DEVICE_TLB", "74:65 255:128"],
    ["PAGE_GROUP_RESPONSE", "8:6 63:52 65:64 127:76"],
  ])("%s", (name, ranges) => {
    expectBits(everything[DescriptorType[name]], ranges);
  });

  it("include the fields of absent capabilities", () => {
    expectBits(basic[DescriptorType.WAIT], "8:7 31:12 65:64 255:128");
    const withoutPfsid = descriptorReserved(ECAP.pack({ QI: 1, DT: 1 }));
    expectBits(withoutPfsid[DescriptorType.DEVICE_TLB], "8:4 15:12 31:21 63:48 75:65 255:128");
    expectBits(withoutPfsid[DescriptorType.PASID_DEVICE_TLB], "15:12 63:52 74:65 255:128");
  });

  it("do not exist for types that the unit does not know", () => {
    const { DEVICE_TLB, PASID_DEVICE_TLB, PAGE_GROUP_RESPONSE, HOST_PERMISSION } = DescriptorType;
    for (const type of [0, DEVICE_TLB, PASID_DEVICE_TLB, PAGE_GROUP_RESPONSE, HOST_PERMISSION, 11, 127]) {
      expect(basic[type]).toBeUndefined();
    }
    expect(everything[HOST_PERMISSION]).toBeUndefined();
  });
});

describe("ranges", () => {
  it("ignore the address bits under the mask", () => {
    expect(maskedRange(0x12345, 0)).toEqual({ firstPfn: 0x12345, pageCount: 1 });
    expect(maskedRange(0x12345, 9)).toEqual({ firstPfn: 0x12200, pageCount: 512 });
    expect(maskedRange(0x12345, 63)).toEqual({ firstPfn: 0, pageCount: 2 ** 52 });
  });

  it("stay aligned, within 2^52 frames, and contain the named frame, whatever the guest writes", () => {
    fc.assert(
      fc.property(fc.nat(2 ** 30), fc.nat(2 ** 22 - 1), fc.nat(63), fc.nat(1), (low, high, am, s) => {
        const pfn = high * 2 ** 30 + (low % 2 ** 30);
        for (const { firstPfn, pageCount } of [maskedRange(pfn, am), deviceTlbRange(pfn, s)]) {
          expect(firstPfn % pageCount).toBe(0);
          expect(firstPfn + pageCount).toBeLessThanOrEqual(2 ** 52);
          expect(pfn >= firstPfn && pfn < firstPfn + pageCount).toBe(true);
        }
      }),
    );
  });

  it("of device TLBs grow with the trailing ones of the address", () => {
    expect(deviceTlbRange(0x12345, 0)).toEqual({ firstPfn: 0x12345, pageCount: 1 });
    expect(deviceTlbRange(0x12344, 1)).toEqual({ firstPfn: 0x12344, pageCount: 2 });
    expect(deviceTlbRange(0x12345, 1)).toEqual({ firstPfn: 0x12344, pageCount: 4 });
    expect(deviceTlbRange(0x120ff, 1)).toEqual({ firstPfn: 0x12000, pageCount: 512 });
  });

  it("of device TLBs are everything for 51 ones and more", () => {
    expect(deviceTlbRange(2 ** 51 - 1, 1)).toEqual({ firstPfn: 0, pageCount: 2 ** 52 });
    expect(deviceTlbRange(2 ** 52 - 1, 1)).toEqual({ firstPfn: 0, pageCount: 2 ** 52 });
  });
});

describe("queue details", () => {
  it("sizes the queue in pages", () => {
    expect([0, 3, 7].map(queueBytes)).toEqual([4096, 32768, 524288]);
  });

  it("ignores status address bits beyond the host's", () => {
    const wait = WaitDescriptor.pack({ SADDR: 2 ** 50 - 1 });
    expect(waitStatusGpa(wait, 0, 39)).toBe(2 ** 39 - 4);
    expect(waitStatusGpa(wait, 0, 52)).toBe(2 ** 52 - 4);
    expect(waitStatusGpa(WaitDescriptor.pack({ SADDR: 0x400 }), 0, 39)).toBe(0x1000);
  });

  it("excludes function bits from the top", () => {
    expect([0, 1, 2, 3].map(ignoredFunctionBits)).toEqual([0, 0b100, 0b110, 0b111]);
  });
});
