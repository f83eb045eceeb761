/**
 * Guest RAM on shared memory: one range from 0 on. What the unit, the guest's driver and the other process all see.
 */
import { BufferMemory } from "@iommu-kit/iommu-core";

/** See the file's header. */
export class SharedGuestMemory extends BufferMemory {
  readonly bytes: Uint8Array;
  readonly view: DataView;

  constructor(bytes: Uint8Array) {
    super([{ firstPfn: 0, bytes }]);
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
}
