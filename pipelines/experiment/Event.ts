/** What an experiment tells while it runs. */
export type { ProgressEvent as Event } from "../../src/terminal/Progress.ts"
