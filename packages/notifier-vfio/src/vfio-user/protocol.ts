/**
 * The numbers of the vfio-user protocol, version 0.1, as its public specification gives them. All words are little-endian.
 */

/** Bytes of the header before every message: id, command (16 bits each), size, flags, error (32 bits each). */
export const HEADER_BYTES = 16;
/** The version that the client proposes. */
export const VERSION_MAJOR = 0;
/** The server may answer a lower one. */
export const VERSION_MINOR = 1;

/** Commands; those of DMA come from the server, all others from the client. */
export const Command = {
  VERSION: 1,
  DMA_MAP: 2,
  DMA_UNMAP: 3,
  DEVICE_GET_INFO: 4,
  DEVICE_GET_REGION_INFO: 5,
  DEVICE_GET_IRQ_INFO: 7,
  DEVICE_SET_IRQS: 8,
  REGION_READ: 9,
  REGION_WRITE: 10,
  DMA_READ: 11,
  DMA_WRITE: 12,
  DEVICE_RESET: 13,
} as const;

/** A command by its name. */
export type CommandName = keyof typeof Command;

/** Flags of the header. */
export const HeaderFlag = { TYPE: 0xf, REPLY: 1, NO_REPLY: 0x10, ERROR: 0x20 } as const;

/** Flags of DMA_UNMAP. `ALL` goes with address and size 0. */
export const UnmapFlag = { ALL: 2 } as const;

/** Flags of DEVICE_SET_IRQS: what comes with it, and what it does. */
export const IrqFlag = {
  DATA_NONE: 1,
  DATA_BOOL: 2,
  DATA_EVENTFD: 4,
  ACTION_MASK: 8,
  ACTION_UNMASK: 0x10,
  ACTION_TRIGGER: 0x20,
} as const;

/** What a peer that does not say otherwise can do. */
export const Default = {
  maxMessageFds: 1,
  maxDataTransferBytes: 0x10_0000,
  maxDmaMaps: 65_535,
  pageSizes: 4096,
} as const;

/** The error numbers that matter here. */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  ENOTTY: 25,
  ENOSPC: 28,
  ENOSYS: 38,
  EOVERFLOW: 75,
  EOPNOTSUPP: 95,
} as const;
