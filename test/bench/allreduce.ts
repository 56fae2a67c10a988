/**
 * All-reduce of f32 by a Collective, in GB of values a second: the best of many calls, as others want the
 * processors, too, at the sizes in bytes that are given. `allreduce.c` is the same in plain C.
 *
 *     mpirun -n 2 node --import tsx test/bench/allreduce.ts 4096 1048576 4194304
 */
import process from "node:process"
import { connect } from "../../src/collective/Collective.ts"
import { ranksOf } from "../../src/collective/Ranks.ts"

const group = await connect(ranksOf(process.env), {}, process.env)
if (group.rank === 0) console.log(group.name)
for (const bytes of process.argv.slice(2).map(Number)) {
  const values = Float32Array.from({ length: bytes / 4 }, (_, i) => 1e-6 * i)
  const calls = bytes < 2 ** 20 ? 500 : bytes < 2 ** 24 ? 100 : 10
  let best = Infinity
  for (let i = 0; i < calls; i++) {
    await group.barrier()
    const begun = performance.now()
    await group.allReduce(values)
    best = Math.min(best, (performance.now() - begun) / 1000)
  }
  if (group.rank === 0) console.log(`${bytes} ${(bytes / best / 1e9).toFixed(3)}`)
}
await group.end({})
