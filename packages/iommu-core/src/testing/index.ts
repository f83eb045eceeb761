/**
 * `@iommu-kit/iommu-core/testing`: fakes of the ports, recorders that object, a reference backend, and the contract suites that anybody can run on their own notifier
 * or backend. Uses no test framework.
 *
 * @packageDocumentation
 */

export { FakeMemory, type FakeMemoryOptions, type MemoryCounters } from "./fake-memory.js";
export { ManualScheduler } from "./manual-scheduler.js";
export { PageTables, type PageTablesOptions } from "./page-tables.js";
export { type Run, RunList } from "./run-list.js";
export { type AnswerMode, AnswerQueue } from "./answers.js";
export {
  formatCall,
  type NotifierCall,
  RecordingNotifier,
  type RecordingNotifierOptions,
} from "./recording-notifier.js";
export { RecordingFlushNotifier, type RecordingFlushNotifierOptions } from "./recording-flush-notifier.js";
export { SimpleBackend, SimpleDomain, type SimpleDomainOptions, SimpleReason } from "./simple-backend.js";
export { type ContractCase, runCases, type Target, type TestApi } from "./contract.js";
export { describeNotifierContract, notifierContract } from "./notifier-contract.js";
export type { MakeNotifier, NotifierFixture } from "./notifier-rig.js";
export { backendContract, describeBackendContract, type MakeBackend } from "./backend-contract.js";
export type { BackendFixture, BackendGuest } from "./backend-rig.js";
