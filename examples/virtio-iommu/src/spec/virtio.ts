/**
 * What all virtio devices have in common (virtio 1.3): status bits (§2.1), the parts of a split virtqueue (§2.7), the registers of virtio-mmio (§4.2.2).
 */

/** Bits of the status register (§2.1). */
export const Status = {
  ACKNOWLEDGE: 1,
  DRIVER: 2,
  DRIVER_OK: 4,
  FEATURES_OK: 8,
  NEEDS_RESET: 64,
  FAILED: 128,
} as const;

/** Feature bits of every device (§6). */
export const Feature = { INDIRECT_DESC: 1n << 28n, VERSION_1: 1n << 32n } as const;

/** Flags of a descriptor (§2.7.5). */
export const Descriptor = { byteLength: 16, NEXT: 1, WRITE: 2, INDIRECT: 4 } as const;

/** The available ring's flag by which a driver does without interrupts (§2.7.6). */
export const NO_INTERRUPT = 1;

/** Offsets of the register block (§4.2.2). */
export const Register = {
  MAGIC: 0x000,
  VERSION: 0x004,
  DEVICE_ID: 0x008,
  VENDOR_ID: 0x00c,
  DEVICE_FEATURES: 0x010,
  DEVICE_FEATURES_SEL: 0x014,
  DRIVER_FEATURES: 0x020,
  DRIVER_FEATURES_SEL: 0x024,
  QUEUE_SEL: 0x030,
  QUEUE_SIZE_MAX: 0x034,
  QUEUE_SIZE: 0x038,
  QUEUE_READY: 0x044,
  QUEUE_NOTIFY: 0x050,
  INTERRUPT_STATUS: 0x060,
  INTERRUPT_ACK: 0x064,
  STATUS: 0x070,
  QUEUE_DESC: 0x080,
  QUEUE_DRIVER: 0x090,
  QUEUE_DEVICE: 0x0a0,
  CONFIG_GENERATION: 0x0fc,
  CONFIG: 0x100,
} as const;

/** `"virt"`, little-endian. */
export const MAGIC = 0x7472_6976;

/** Bits of the interrupt status: a buffer was used, the configuration changed. */
export const Interrupt = { USED_BUFFER: 1, CONFIGURATION: 2 } as const;
