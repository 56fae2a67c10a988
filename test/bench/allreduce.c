// All-reduce of f32 in plain C, to compare test/bench/allreduce.ts with: mpicc -O3 allreduce.c -o allreduce
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  MPI_Init(&argc, &argv);
  int rank;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  for (int i = 1; i < argc; i++) {
    long bytes = atol(argv[i]);
    int count = bytes / 4, calls = bytes < 1 << 20 ? 500 : bytes < 1 << 24 ? 100 : 10;
    float *values = malloc(bytes);
    for (int j = 0; j < count; j++) values[j] = 1e-6f * j;
    double best = 1e9;
    for (int call = 0; call < calls; call++) {
      MPI_Barrier(MPI_COMM_WORLD);
      double begun = MPI_Wtime();
      MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      double seconds = MPI_Wtime() - begun;
      if (seconds < best) best = seconds;
    }
    if (rank == 0) printf("%ld %.3f\n", bytes, bytes / best / 1e9);
    free(values);
  }
  MPI_Finalize();
  return 0;
}
