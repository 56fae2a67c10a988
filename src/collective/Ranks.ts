/** Which of several processes this is, as whoever started them says it: torchrun, `memsinks launch`, MPI, Slurm. */
import { CollectiveError } from "../Errors.ts"

/** A process among those that train one model together. */
export interface Ranks {
  /** From 0, below `size`. */
  readonly rank: number
  /** How many processes there are. */
  readonly size: number
  /** Which of its machine's processes this is, from 0. */
  readonly localRank: number
  /** Who said so: `RANK`, `OMPI`, `PMI`, `PMIX` or `SLURM`; undefined where nobody did, and the process is alone. */
  readonly launcher?: Launcher["name"]
}

export type Environment = Readonly<Record<string, string | undefined>>

/** How a launcher tells ranks of who they are: the variables that may hold it, the first that is set counts. */
interface Launcher {
  readonly name: "RANK" | "OMPI" | "PMI" | "PMIX" | "SLURM"
  readonly rank: ReadonlyArray<string>
  readonly size: ReadonlyArray<string>
  readonly localRank: ReadonlyArray<string>
}

/** The first that says something counts: where Slurm starts an MPI's daemons, MPI's ranks are those that count. */
const launchers: ReadonlyArray<Launcher> = [
  {
    name: "OMPI",
    rank: ["OMPI_COMM_WORLD_RANK"],
    size: ["OMPI_COMM_WORLD_SIZE"],
    localRank: ["OMPI_COMM_WORLD_LOCAL_RANK"]
  },
  { name: "PMI", rank: ["PMI_RANK"], size: ["PMI_SIZE"], localRank: ["MPI_LOCALRANKID", "PMI_LOCAL_RANK"] },
  { name: "RANK", rank: ["RANK"], size: ["WORLD_SIZE"], localRank: ["LOCAL_RANK"] },
  // PMIx tells a process no size; Slurm, which starts ranks by it, does
  {
    name: "PMIX",
    rank: ["PMIX_RANK"],
    size: ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"],
    localRank: ["PMIX_LOCAL_RANK", "SLURM_LOCALID"]
  },
  // a batch script has SLURM_PROCID and SLURM_NTASKS, too; what srun starts is a step
  { name: "SLURM", rank: ["SLURM_PROCID"], size: ["SLURM_STEP_NUM_TASKS"], localRank: ["SLURM_LOCALID"] }
]

const setup = (detail: string): CollectiveError => new CollectiveError({ reason: "Setup", detail })

/** The value of the first variable that is set. */
const read = (environment: Environment, keys: ReadonlyArray<string>, least: number): Said | undefined => {
  const key = keys.find((one) => (environment[one]?.trim() ?? "") !== "")
  if (key === undefined) return undefined
  const text = environment[key]!.trim()
  const value = Number(text)
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < least) {
    throw setup(`${key} must be a whole number from ${least}, got ${JSON.stringify(text)}: the launcher sets it; ` +
      "unset it to run one process")
  }
  return { key, value }
}

interface Said {
  readonly key: string
  readonly value: number
}

const readLauncher = (environment: Environment, launcher: Launcher): Ranks | undefined => {
  const rank = read(environment, launcher.rank, 0)
  const size = read(environment, launcher.size, 1)
  if (rank === undefined && (size === undefined || launcher.name !== "RANK")) return undefined
  if (rank === undefined || size === undefined) {
    const [given, missing] = rank === undefined ? [size!, launcher.rank[0]!] : [rank, launcher.size[0]!]
    // PMIX_RANK alone is also what other tools of a cluster leave behind
    if (launcher.name === "PMIX" || launcher.name === "SLURM") return undefined
    throw setup(`${given.key} is ${given.value}, but ${missing} is not set: a launcher sets both; unset ${given.key} ` +
      "to run one process")
  }
  if (rank.value >= size.value) {
    throw setup(`${rank.key} is ${rank.value}, but ${size.key} is ${size.value}: ranks count from 0`)
  }
  const local = read(environment, launcher.localRank, 0) ?? read(environment, ["LOCAL_RANK"], 0)
  if (local !== undefined && local.value > rank.value) {
    throw setup(`${local.key} is ${local.value}, but ${rank.key} is ${rank.value}: a machine's ranks are among all`)
  }
  return { rank: rank.value, size: size.value, localRank: local?.value ?? rank.value, launcher: launcher.name }
}

const variablesOf = (name: Ranks["launcher"]): string => {
  const { rank, size } = launchers.find((one) => one.name === name)!
  return `${rank[0]} and ${size[0]}`
}

/**
 * Which rank a process is by its environment; alone where it says nothing.
 *
 * Throws CollectiveError Setup where variables are no numbers, are missing, or contradict each other.
 */
export const ranksOf = (environment: Environment): Ranks => {
  const all = launchers.map((launcher) => readLauncher(environment, launcher)).filter((one) => one !== undefined)
  const [first] = all
  if (first === undefined) return { rank: 0, size: 1, localRank: 0 }
  // Slurm's variables speak of an MPI's daemons where an MPI says something of its own
  const other = all.find((one) =>
    one.launcher !== "SLURM" && one.launcher !== "PMIX" && (one.rank !== first.rank || one.size !== first.size)
  )
  if (other !== undefined) {
    throw setup(
      `${variablesOf(first.launcher)} say rank ${first.rank} of ${first.size}, but ${
        variablesOf(other.launcher)
      } say ` +
        `rank ${other.rank} of ${other.size}: a process has one launcher; unset the variables of the other`
    )
  }
  return first
}
