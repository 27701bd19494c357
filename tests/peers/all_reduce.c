/* MPI_Allreduce of float32, measured as `mdt-host bench all-reduce` measures ours. collectives.py builds and runs it:

       mpicc -O2 -o all_reduce all_reduce.c
       mpirun -n 2 --mca pml ob1 --mca btl tcp,self ./all_reduce BYTES TIMES [BYTES TIMES ...]

   One line for each size: its bytes, and the seconds of every measured call of rank 0. */

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    int rank;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (int argument = 1; argument + 1 < argc; argument += 2) {
        const size_t bytes = strtoull(argv[argument], NULL, 10), count = bytes / sizeof(float);
        const int times = atoi(argv[argument + 1]), first = times / 5;
        float *buffer = malloc(bytes);
        if (rank == 0) printf("%zu", bytes);
        for (int time = 0; time < times + first; time++) {
            /* The sum grows; fresh ones each time, so that it stays finite. */
            for (size_t i = 0; i < count; i++) buffer[i] = 1.0f;
            const double begin = MPI_Wtime();
            MPI_Allreduce(MPI_IN_PLACE, buffer, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
            const double taken = MPI_Wtime() - begin;
            if (rank == 0 && time >= first) printf(" %.9f", taken);
        }
        if (rank == 0) printf("\n"), fflush(stdout);
        free(buffer);
    }
    MPI_Finalize();
    return 0;
}
