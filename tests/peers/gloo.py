#!/usr/bin/env python3
"""`all_reduce` of f32 by Gloo through torch.distributed, measured as `mdt-host bench all-reduce` measures ours:

    python3 tests/peers/gloo.py [RANKS...]
"""

import multiprocessing
import os
import socket
import sys
import time

import torch
import torch.distributed as dist

# Payloads in bytes, each with the number of times that it is reduced.
SIZES = [(1 << 10, 500), (64 << 10, 500), (1 << 20, 200), (16 << 20, 40), (64 << 20, 15), (256 << 20, 5)]


def measure(rank: int, world_size: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    for size, times in SIZES:
        taken = []
        for _ in range(times + times // 5):
            # The sum grows; fresh ones each time, so that it stays finite.
            buffer = torch.ones(size // 4)
            begin = time.perf_counter()
            dist.all_reduce(buffer)
            taken.append(time.perf_counter() - begin)
        taken = sorted(taken[times // 5 :])  # the first ones warm up
        if rank == 0:
            median = taken[len(taken) // 2]
            bandwidth = size / median * 2 * (world_size - 1) / world_size / 1e9
            print(f"{world_size:>5} {size:>10} {median * 1e3:>9.3f} ms {bandwidth:>12.2f} GB/s", flush=True)
    dist.destroy_process_group()


def main() -> None:
    print("ranks      bytes       median     bus bandwidth")
    for world_size in [int(argument) for argument in sys.argv[1:]] or [2, 4]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = [multiprocessing.Process(target=measure, args=(rank, world_size, port)) for rank in range(world_size)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()


if __name__ == "__main__":
    main()
