/// <reference types="@webgpu/types" preserve="true" />
/**
 * memsinks: pretraining of Llama-style language models with memorization sinks, on WebGPU.
 *
 * Services, configurations and errors are classes of their own; pure modules are namespaces. The Device comes from
 * `memsinks/node` or `memsinks/deno`, whole experiments from `memsinks/pipelines/pretrain` and its like.
 */
export { type Batch, IGNORE, parseId, toId } from "./Batch.ts"
export { Checkpoints, type FileSystemOptions, type HostTensor, loadFolder, loadModel, type Saved, type SavedModel,
  saveModel, type Snapshot } from "./checkpoints/Checkpoints.ts"
export { exportModel, type ExportOptions, type ExportReport, type ExportSinks, prune } from "./checkpoints/Export.ts"
export { importModel, type ImportOptions, type ImportReport, type InitialModel, loadInitial,
  withSinks } from "./checkpoints/Import.ts"
export { type OpenCheckpoint, openCheckpoint } from "./checkpoints/OpenCheckpoint.ts"
export { quantized } from "./checkpoints/Quantize.ts"
export { decodeConfig } from "./Config.ts"
export * as Identity from "./data/identity/Identity.ts"
export * as Names from "./data/identity/Names.ts"
export { documentsOf, type TokenArray } from "./data/Pieces.ts"
export * as Source from "./data/Source.ts"
export { DataConfig, type DataConfigInput } from "./data/stream/DataConfig.ts"
export { batchOf, type Cursor, type DataReport, DataStream, type RepeatedGroup, type Row, type Split,
  type TokenDocuments } from "./data/stream/DataStream.ts"
export * as Goldfish from "./data/stream/Goldfish.ts"
export { formatIdentityReport, type IdentityReport, identityReport,
  type IdentityReportOptions } from "./data/stream/IdentityReport.ts"
export { rowsOf } from "./data/stream/Packing.ts"
export * as Synthetic from "./data/stream/Synthetic.ts"
export * as Timetable from "./data/stream/Timetable.ts"
export { type DocumentSource, tokenize, TokenizeConfig, type TokenizeEvent, type TokenizeInput, type TokenizeOptions,
  type TokenizeReport } from "./data/tokens/Tokenize.ts"
export * as Tokenizer from "./data/tokens/Tokenizer.ts"
export * as TokenShards from "./data/tokens/TokenShards.ts"
export { CheckpointError, DataError, DeviceError, Diverged, KernelError } from "./Errors.ts"
export { type Counters, Device, type DeviceService, type Limits, type Prepared } from "./gpu/Device.ts"
export * as Kernel from "./gpu/Kernel.ts"
export * as Program from "./gpu/Program.ts"
export * as Tensor from "./gpu/Tensor.ts"
export { decompose, type DecomposedLogits, type Decomposition, type DecompositionOptions,
  type LogitPart } from "./inside/Decomposition.ts"
export * as Gradients from "./inside/Gradients.ts"
export { type NeuronGates, neuronGates, type NeuronGatesShape } from "./inside/NeuronGates.ts"
export { type NeuronContents, type SinkContents, sinkContents,
  type SinkContentsOptions } from "./inside/SinkContents.ts"
export * as Extraction from "./measures/Extraction.ts"
export * as Membership from "./measures/Membership.ts"
export * as Metrics from "./measures/Metrics.ts"
export * as Retention from "./measures/Retention.ts"
export * as Statistics from "./measures/Statistics.ts"
export * as TextMetrics from "./measures/TextMetrics.ts"
export * as Theory from "./measures/Theory.ts"
export * as TokenRecords from "./measures/TokenRecords.ts"
export * as Traces from "./measures/Traces.ts"
export * as Decode from "./model/Decode.ts"
export * as Generate from "./model/Generate.ts"
export { Model, type ModelOptions, type ModelService, type RecordColumns, type Scores } from "./model/Model.ts"
export { ModelConfig, type Preset, presets } from "./model/ModelConfig.ts"
export { type CompiledPass, type PassShape } from "./model/Pass.ts"
export * as Localizers from "./removal/localizers/index.ts"
export * as Relearn from "./removal/Relearn.ts"
export * as Unlearners from "./removal/unlearners/index.ts"
export { type CheckpointInfo, inspectCheckpoint, type TensorInfo } from "./runs/Inspect.ts"
export * as Otlp from "./runs/Otlp.ts"
export * as Prometheus from "./runs/Prometheus.ts"
export * as RunLock from "./runs/RunLock.ts"
export * as RunMetrics from "./runs/RunMetrics.ts"
export * as RunRecord from "./runs/RunRecord.ts"
export * as Runs from "./runs/Runs.ts"
export * as TensorBoard from "./runs/TensorBoard.ts"
export * as Calibration from "./scoring/Calibration.ts"
export { type RecordOptions, recordRows } from "./scoring/Record.ts"
export * as Sink from "./Sink.ts"
export { SinkConfig, type SinkMode } from "./Sink.ts"
export * as MemoryPlan from "./train/MemoryPlan.ts"
export { learningRateAt, OptimizerConfig } from "./train/Optimizer.ts"
export { type Observer, type SplitScore, TrainConfig, Trainer, type TrainerOptions, type TrainError,
  type TrainerService } from "./train/Trainer.ts"
export * as TrainEvent from "./train/TrainEvent.ts"
export { makeTuner, type Tuner, type TunerOptions, type TunerTargets } from "./train/Tuner.ts"
