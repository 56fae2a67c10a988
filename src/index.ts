/// <reference types="@webgpu/types" preserve="true" />
/**
 * memsinks: pretraining of Llama-style language models with memorization sinks, on WebGPU.
 *
 * Services, configurations and errors are classes of their own; pure modules are namespaces. The Device comes from
 * `memsinks/node` or `memsinks/deno`, whole experiments from `memsinks/pipelines/*`.
 */
export { type Batch, IGNORE, toId } from "./Batch.ts"
export {
  Checkpoints,
  type FileSystemOptions,
  type HostTensor,
  loadFolder,
  loadModel,
  type Saved,
  type SavedModel,
  saveModel,
  type Snapshot
} from "./Checkpoints.ts"
export { decodeConfig } from "./Config.ts"
export { DataConfig, type DataConfigInput } from "./DataConfig.ts"
export {
  batchOf,
  type Cursor,
  type DataReport,
  DataStream,
  type RepeatedGroup,
  type Row,
  type Split,
  type TokenDocuments
} from "./DataStream.ts"
export * as Decode from "./Decode.ts"
export { CheckpointError, DataError, DeviceError, Diverged, KernelError } from "./Errors.ts"
export { exportModel, type ExportOptions, type ExportReport, type ExportSinks, prune } from "./Export.ts"
export * as Generate from "./Generate.ts"
export { type Counters, Device, type DeviceService, type Limits, type Prepared } from "./gpu/Device.ts"
export * as Kernel from "./gpu/Kernel.ts"
export * as Program from "./gpu/Program.ts"
export * as Tensor from "./gpu/Tensor.ts"
export * as Extraction from "./Extraction.ts"
export * as Goldfish from "./Goldfish.ts"
export * as Identity from "./Identity.ts"
export {
  formatIdentityReport,
  type IdentityReport,
  identityReport,
  type IdentityReportOptions
} from "./IdentityReport.ts"
export { importModel, type ImportOptions, type ImportReport, type InitialModel, loadInitial, withSinks } from "./Import.ts"
export {
  type CompiledPass,
  Model,
  type ModelOptions,
  type ModelService,
  type PassShape,
  type RecordColumns,
  type Scores
} from "./Model.ts"
export * as MemoryPlan from "./MemoryPlan.ts"
export * as Membership from "./Membership.ts"
export * as Metrics from "./Metrics.ts"
export { ModelConfig, type Preset, presets } from "./ModelConfig.ts"
export { openCheckpoint, type OpenCheckpoint } from "./OpenCheckpoint.ts"
export { type CheckpointInfo, inspectCheckpoint, type TensorInfo } from "./Inspect.ts"
export { learningRateAt, OptimizerConfig } from "./Optimizer.ts"
export * as Otlp from "./Otlp.ts"
export * as Prometheus from "./Prometheus.ts"
export { recordRows, type RecordOptions } from "./Record.ts"
export * as RunLock from "./RunLock.ts"
export * as RunMetrics from "./RunMetrics.ts"
export * as RunRecord from "./RunRecord.ts"
export * as Runs from "./Runs.ts"
export * as Sink from "./Sink.ts"
export { SinkConfig, type SinkMode } from "./Sink.ts"
export * as Statistics from "./Statistics.ts"
export * as Source from "./Source.ts"
export {
  type DocumentSource,
  tokenize,
  TokenizeConfig,
  type TokenizeEvent,
  type TokenizeInput,
  type TokenizeOptions,
  type TokenizeReport
} from "./Tokenize.ts"
export * as TensorBoard from "./TensorBoard.ts"
export * as Synthetic from "./Synthetic.ts"
export * as TextMetrics from "./TextMetrics.ts"
export * as Theory from "./Theory.ts"
export * as Tokenizer from "./Tokenizer.ts"
export * as TokenRecords from "./TokenRecords.ts"
export * as TokenShards from "./TokenShards.ts"
export { type SplitScore, TrainConfig, type TrainError, Trainer, type TrainerService } from "./Trainer.ts"
export * as TrainEvent from "./TrainEvent.ts"
