/**
 * Reasons of refused requests that no architecture defines: one table for all packages, because a device sees them through the same `Translation.reason`.
 */

/** Negative, where fault reasons of architectures are positive. Backends and notifiers of others take numbers from -100 down for what is not here. */
export const LocalReason = {
  /** The address space was unplugged. */
  UNPLUGGED: -1,
  /** A cache's answer was invalidated again and again while it was being obtained. */
  ALWAYS_INVALIDATED: -2,
  /** A worker's cache is not attached, or not to this frame. */
  NOT_ATTACHED: -3,
  /** The host has cut the worker off. */
  WORKER_REVOKED: -4,
  /** The host did not answer the worker in time. */
  NO_ANSWER: -5,
  /** The backend protects the target from devices, and records nothing. */
  PROTECTED_MEMORY: -6,
} as const;
