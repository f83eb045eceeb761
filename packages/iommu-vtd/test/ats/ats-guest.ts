/**
 * A guest with devices that have TLBs: one second-stage domain in legacy mode, PASIDs in scalable mode.
 */

import type { DeviceTlbNotifier, FrameRange, Completion } from "@iommu-kit/iommu-core";
import { AnswerQueue, type AnswerMode } from "@iommu-kit/iommu-core/testing";
import { GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import type { DeviceAts } from "@iommu-kit/iommu-vtd";
import { DescriptorType } from "../../src/spec/invalidation.js";
import { DeviceTlbDescriptor, PasidDeviceTlbDescriptor } from "../../src/spec/descriptors.js";

/** Everything that ATS and page requests can have. */
const SCALABLE: GuestOptions = {
  scalableMode: true,
  firstStage: "5-level",
  nested: true,
  pasidWidth: 20,
  requestPasid: true,
  supervisorRequests: true,
  deviceTlb: true,
  pageRequests: true,
  faultRecords: 8,
};

/** The device of these tests. */
export const NIC = "00:03.0";

/** A guest in legacy mode whose device may use ATS in domain 1. */
export function legacyGuest(options: GuestOptions = {}): { readonly guest: GuestDriver; readonly ats: DeviceAts } {
  const guest = new GuestDriver({ deviceTlb: true, faultRecords: 8, ...options });
  guest.context(NIC, { did: 1, fields: { TT: 1 } });
  guest.start();
  return { guest, ats: guest.unit.ats(guest.device(NIC)) };
}

/** A guest in scalable mode whose device may use ATS, PASIDs and page requests. */
export function scalableGuest(options: GuestOptions = {}): GuestDriver {
  const guest = new GuestDriver({ ...SCALABLE, ...options });
  guest.scalableContext(NIC, { pasids: true, fields: { DTE: 1, PRE: 1 } });
  guest.pasid(NIC, 0, { did: 1, type: "second-stage" });
  guest.start("scalable");
  return guest;
}

/** A device's TLB that writes down what it is told to drop. */
export class RecordingTlb implements DeviceTlbNotifier {
  readonly kind = "device-tlb";
  readonly dropped: FrameRange[] = [];
  readonly answers: AnswerQueue;
  revoked = false;

  constructor(mode: AnswerMode = "sync") {
    this.answers = new AnswerQueue(mode);
  }

  invalidate(firstPfn: number, pageCount: number): Completion {
    this.dropped.push({ firstPfn, pageCount });
    return this.answers.give(undefined);
  }

  revoke(): void {
    this.revoked = true;
  }

  /** What was to be dropped since the last call. */
  take(): FrameRange[] {
    return this.dropped.splice(0);
  }
}

/** Type 3. */
export function deviceTlb(sourceId: number, addrPfn: number, s = 0): Int32Array {
  return DeviceTlbDescriptor.pack({ TYPE: DescriptorType.DEVICE_TLB, SID: sourceId, ADDR: addrPfn, S: s });
}

/** Type 8; `pasid` "every" sets GI. */
export function pasidDeviceTlb(sourceId: number, pasid: number | "every", addrPfn: number, s = 0): Int32Array {
  return PasidDeviceTlbDescriptor.pack({
    TYPE: DescriptorType.PASID_DEVICE_TLB,
    SID: sourceId,
    PASID: pasid === "every" ? 0 : pasid,
    GI: pasid === "every" ? 1 : 0,
    ADDR: addrPfn,
    S: s,
  });
}
