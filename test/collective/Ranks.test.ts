import { describe, expect, it } from "vitest"
import { ranksOf } from "../../src/collective/Ranks.ts"

describe("ranks by the environment", () => {
  it("are one where nobody says anything", () => {
    expect(ranksOf({})).toEqual({ rank: 0, size: 1, localRank: 0 })
    expect(ranksOf({ LOCAL_RANK: "3" })).toEqual({ rank: 0, size: 1, localRank: 0 })
    expect(ranksOf({ RANK: "", WORLD_SIZE: "" })).toEqual({ rank: 0, size: 1, localRank: 0 })
  })

  it.each([
    ["torchrun", { RANK: "5", WORLD_SIZE: "8", LOCAL_RANK: "1" }, "RANK"],
    [
      "Open MPI",
      { OMPI_COMM_WORLD_RANK: "5", OMPI_COMM_WORLD_SIZE: "8", OMPI_COMM_WORLD_LOCAL_RANK: "1", PMIX_RANK: "5" },
      "OMPI"
    ],
    ["MPICH", { PMI_RANK: "5", PMI_SIZE: "8", MPI_LOCALRANKID: "1" }, "PMI"],
    ["srun with PMIx", { PMIX_RANK: "5", SLURM_STEP_NUM_TASKS: "8", SLURM_LOCALID: "1" }, "PMIX"],
    ["srun", { SLURM_PROCID: "5", SLURM_STEP_NUM_TASKS: "8", SLURM_NTASKS: "8", SLURM_LOCALID: "1" }, "SLURM"],
    [
      "mpirun in a job of Slurm, which started its daemons",
      { OMPI_COMM_WORLD_RANK: "5", OMPI_COMM_WORLD_SIZE: "8", OMPI_COMM_WORLD_LOCAL_RANK: "1", SLURM_PROCID: "1",
        SLURM_STEP_NUM_TASKS: "2", SLURM_LOCALID: "0" },
      "OMPI"
    ],
    [
      "mpirun with its ranks told under other names, too",
      { RANK: "5", WORLD_SIZE: "8", LOCAL_RANK: "1", OMPI_COMM_WORLD_RANK: "5", OMPI_COMM_WORLD_SIZE: "8" },
      "OMPI"
    ]
  ])("are read as %s says them", (_, environment, launcher) => {
    expect(ranksOf(environment)).toEqual({ rank: 5, size: 8, localRank: 1, launcher })
  })

  it("are no step in a batch script of Slurm, which is one process", () => {
    expect(ranksOf({ SLURM_PROCID: "0", SLURM_NTASKS: "8", SLURM_LOCALID: "0" }).size).toBe(1)
  })

  it.each([
    [{ RANK: "one", WORLD_SIZE: "2" }, /RANK must be a whole number from 0, got "one"/],
    [{ RANK: "-1", WORLD_SIZE: "2" }, /RANK must be a whole number from 0, got "-1"/],
    [{ RANK: "0", WORLD_SIZE: "0" }, /WORLD_SIZE must be a whole number from 1, got "0"/],
    [{ RANK: "0", WORLD_SIZE: "1.5" }, /WORLD_SIZE must be/],
    [{ RANK: "2", WORLD_SIZE: "2" }, /RANK is 2, but WORLD_SIZE is 2: ranks count from 0/],
    [{ RANK: "1" }, /RANK is 1, but WORLD_SIZE is not set/],
    [{ WORLD_SIZE: "2" }, /WORLD_SIZE is 2, but RANK is not set/],
    [{ OMPI_COMM_WORLD_RANK: "1" }, /OMPI_COMM_WORLD_SIZE is not set/],
    [{ RANK: "0", WORLD_SIZE: "2", LOCAL_RANK: "1" }, /LOCAL_RANK is 1, but RANK is 0/],
    [
      { RANK: "0", WORLD_SIZE: "2", OMPI_COMM_WORLD_RANK: "1", OMPI_COMM_WORLD_SIZE: "4" },
      /OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE say rank 1 of 4, but RANK and WORLD_SIZE say rank 0 of 2/
    ]
  ])("refuse %j", (environment, message) => {
    expect(() => ranksOf(environment)).toThrow(message)
  })
})
