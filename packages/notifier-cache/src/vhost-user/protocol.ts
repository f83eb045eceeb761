/**
 * Numbers of the vhost-user protocol, as far as a front-end with an IOMMU needs them: requests, feature bits, IOTLB message types.
 *
 * Names follow the protocol's. A message is a header of three little-endian words (request, flags, payload bytes) and a payload.
 */

/** Requests of the front-end. */
export const FrontEndRequest = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  SET_MEM_TABLE: 5,
  SET_LOG_BASE: 6,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  GET_VRING_BASE: 11,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  SET_BACKEND_REQ_FD: 21,
  IOTLB_MSG: 22,
} as const;

/** Requests of the back-end, on the channel that SET_BACKEND_REQ_FD handed over. */
export const BackEndRequest = { IOTLB_MSG: 1, CONFIG_CHANGE: 2 } as const;

/** Type of an IOTLB message. MISS and ACCESS_FAIL come from the back-end, the others go to it. */
export const IotlbType = { MISS: 1, UPDATE: 2, INVALIDATE: 3, ACCESS_FAIL: 4 } as const;

/** Bits of the virtio feature word that matter here. */
export const Feature = {
  /** The back-end logs the pages that it writes. */
  LOG_ALL: 1n << 26n,
  /** Protocol features exist. */
  PROTOCOL_FEATURES: 1n << 30n,
  VERSION_1: 1n << 32n,
  /** Addresses are IOVAs: the back-end translates through its IOTLB. */
  ACCESS_PLATFORM: 1n << 33n,
} as const;

/** Bits of the protocol feature word. */
export const ProtocolFeature = {
  /** Several queues: GET_QUEUE_NUM. */
  MQ: 1n << 0n,
  /** The dirty log is a file descriptor. */
  LOG_SHMFD: 1n << 1n,
  /** Every request can ask to be acknowledged. */
  REPLY_ACK: 1n << 3n,
  /** The back-end has requests of its own. */
  BACKEND_REQ: 1n << 5n,
} as const;

/** Bits of the header's second word. */
export const HeaderFlag = { VERSION: 1, VERSION_MASK: 3, REPLY: 4, NEED_REPLY: 8 } as const;

/** Bytes of a message header. */
export const HEADER_BYTES = 12;
/** Largest payload that either side sends. */
export const LARGEST_PAYLOAD_BYTES = 4096;
/** Memory regions in a table. */
export const MOST_REGIONS = 8;
/** In the payload of SET_VRING_KICK, _CALL and _ERR: no file descriptor comes with the message. */
export const NO_FILE_DESCRIPTOR = 0x100;
