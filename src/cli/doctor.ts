/** `memsinks doctor`: examine the adapter that a run would use. */
import * as Effect from "effect/Effect"
import * as Doctor from "../doctor.ts"
import { DeviceError } from "../Errors.ts"
import type { DoctorOptions } from "./commands/doctor.ts"
import * as Edge from "./Edge.ts"

/** Prints the report; fails where the adapter does not compute correctly. */
export const doctor = ({ adapter, json }: DoctorOptions) =>
  Effect.gen(function*() {
    const device = yield* Edge.runtime
    const gpu = yield* device.openGpu(Edge.given({ adapter }))
    const report = yield* Doctor.doctor(gpu, yield* device.listAdapters)
    yield* Edge.print(json ? JSON.stringify(report) : Doctor.formatDoctor(report))
    if (!report.kernel.correct && report.adapter.kind !== "null") {
      return yield* new DeviceError({
        reason: "Validation",
        detail: `${report.adapter.name} does not compute correctly (${report.kernel.detail}): ` +
          "choose another with --adapter"
      })
    }
  }).pipe(Effect.scoped)
