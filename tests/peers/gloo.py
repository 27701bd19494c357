#!/usr/bin/env python3
"""`all_reduce` of f32 by Gloo through torch.distributed, measured as `mdt-host bench all-reduce` measures ours:

    python3 tests/peers/gloo.py RANKS BYTES TIMES [BYTES TIMES ...]

One line for each size: its bytes, and the seconds of every measured call of rank 0.
"""

import multiprocessing
import os
import socket
import sys
import time

import torch
import torch.distributed as dist


def measure(rank: int, world_size: int, port: int, sizes: list[tuple[int, int]]) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    for size, times in sizes:
        taken = []
        for _ in range(times + times // 5):
            # The sum grows; fresh ones each time, so that it stays finite.
            buffer = torch.ones(size // 4)
            begin = time.perf_counter()
            dist.all_reduce(buffer)
            taken.append(time.perf_counter() - begin)
        if rank == 0:
            print(size, *(f"{seconds:.9f}" for seconds in taken[times // 5 :]), flush=True)
    dist.destroy_process_group()


def main() -> None:
    world_size, *numbers = [int(argument) for argument in sys.argv[1:]]
    sizes = list(zip(numbers[::2], numbers[1::2]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [(rank, world_size, port, sizes) for rank in range(world_size)]
    ranks = [multiprocessing.Process(target=measure, args=each) for each in arguments]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()


if __name__ == "__main__":
    main()
