/**
 * What encodings mean, for people. Apart from the encodings: the unit itself needs none of it.
 */

import { TableMode } from "./encodings.js";
import { QueueError } from "./invalidation.js";

/** Names of table modes; 2 is reserved. */
export const TableModeText: Readonly<Record<number, "legacy" | "scalable" | "abort">> = {
  [TableMode.LEGACY]: "legacy",
  [TableMode.SCALABLE]: "scalable",
  [TableMode.ABORT]: "abort",
};

/** Causes of an invalidation queue error. */
export const QueueErrorText: Readonly<Record<number, string>> = {
  [QueueError.NONE]: "no information",
  [QueueError.TAIL_BEYOND_QUEUE]: "the tail lies beyond the queue",
  [QueueError.FETCH]: "a descriptor cannot be fetched, or a status not stored",
  [QueueError.TYPE]: "the descriptor's type is invalid",
  [QueueError.RESERVED_FIELD]: "the descriptor has a reserved field set",
  [QueueError.DESCRIPTOR_WIDTH]: "the descriptor width does not fit the table mode",
  [QueueError.TAIL_ALIGNMENT]: "the tail is not aligned to the descriptors",
  [QueueError.TABLE_MODE]: "the table mode is invalid",
};
