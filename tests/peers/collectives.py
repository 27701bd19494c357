#!/usr/bin/env python3
"""`all_reduce` between processes of this machine, beside the peers: ours, Gloo, Open MPI over TCP and over shared memory,
and plain sockets, in turns, in one sitting.

    python3 tests/peers/collectives.py --ours "dist/bin/mdt-host" [--ranks 2 4] [--rounds 3] [--bytes N ...] [--json FILE]

Every round starts each contender anew. The table has the median over rounds of each round's median in ms, the spread over
rounds, and how many times as fast as each peer ours is. Needs PyTorch, `mpicc` and `mpirun`; a peer that is missing is left
out and named.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent

# Payloads in bytes, each with the number of times that it is reduced in a round.
SIZES = {1 << 10: 300, 64 << 10: 200, 1 << 20: 60, 16 << 20: 10, 64 << 20: 5, 256 << 20: 3}


def medians_of_lines(output: str) -> dict[int, float]:
    """Bytes and then seconds, a line for each size."""
    lines = [line.split() for line in output.splitlines() if line.strip()]
    return {int(size): statistics.median(map(float, seconds)) for size, *seconds in lines}


def ran(command: list[str], limit_s: int = 300) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def by_lines(command: list[str], sizes: dict[int, int]) -> dict[int, float]:
    return medians_of_lines(ran(command + [str(number) for pair in sizes.items() for number in pair]))


def by_ours(command: list[str], ranks: int, sizes: dict[int, int]) -> dict[int, float]:
    medians = {}
    for size, times in sizes.items():
        arguments = ["bench", "all-reduce", "-n", str(ranks), "--bytes", str(size), "--times", str(times), "--json"]
        figures = json.loads(ran(command + arguments))
        medians |= {figure["bytes"]: figure["s_median"] for figure in figures["sizes"]}
    return medians


def contenders(ours: list[list[str]], program: str) -> dict:
    mpirun = ["mpirun", "--oversubscribe", "--mca", "pml", "ob1", "--bind-to", "none"]
    if os.geteuid() == 0:
        mpirun.append("--allow-run-as-root")
    python = sys.executable
    known = {f"ours{index or ''}": lambda n, s, c=command: by_ours(c, n, s) for index, command in enumerate(ours)}
    try:
        import torch.distributed  # noqa: F401

        known["gloo"] = lambda n, s: by_lines([python, str(HERE / "gloo.py"), str(n)], s)
    except ImportError:
        print("no PyTorch: without Gloo", file=sys.stderr)
    if shutil.which("mpicc") and shutil.which("mpirun"):
        ran(["mpicc", "-O2", "-o", program, str(HERE / "all_reduce.c")])
        for name, transport in [("mpi tcp", "tcp,self"), ("mpi shared", "vader,self")]:
            known[name] = lambda n, s, t=transport: by_lines(mpirun + ["--mca", "btl", t, "-n", str(n), program], s)
    else:
        print("no mpicc: without Open MPI", file=sys.stderr)
    known["raw tcp"] = lambda n, s: by_lines([python, str(HERE / "raw_tcp.py"), str(n)], s)
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", action="append", help="the program with its options; several are ours, ours1, ...")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bytes", type=int, nargs="+", help="payloads instead of 1 KiB to 256 MiB")
    parser.add_argument("--only", nargs="+", help="names of contenders")
    parser.add_argument("--json", help="a file for all figures")
    arguments = parser.parse_args()
    ours = [shlex.split(command) for command in arguments.ours or ["dist/bin/mdt-host"]]
    sizes = {size: SIZES.get(size, max(3, min(300, (1 << 28) // size))) for size in arguments.bytes or SIZES}
    figures = []
    with tempfile.TemporaryDirectory() as directory:
        known = contenders(ours, os.path.join(directory, "all_reduce"))
        known = {name: run for name, run in known.items() if not arguments.only or name in arguments.only}
        for ranks in arguments.ranks:
            rounds = {name: [] for name in known}
            for number in range(arguments.rounds):
                load = os.getloadavg()[0]
                print(f"{ranks} ranks, round {number + 1}, load average {load:.2f}", file=sys.stderr)
                for name, run in known.items():
                    rounds[name].append(run(ranks, sizes))
            print(f"\n{ranks} ranks: ms, median of rounds (least to most){'':4}ours against")
            for size in sizes:
                times = {name: [each[size] * 1e3 for each in all_rounds] for name, all_rounds in rounds.items()}
                middle = {name: statistics.median(each) for name, each in times.items()}
                cells = [f"{name} {middle[name]:.3f} ({min(each):.3f} to {max(each):.3f})" for name, each in times.items()]
                ratios = [f"{name} {each / middle['ours']:.2f}x" for name, each in middle.items() if name != "ours" and "ours" in middle]
                print(f"{size:>10} B  " + "  ".join(cells) + "   |  " + "  ".join(ratios), flush=True)
                figures.append({"ranks": ranks, "bytes": size, "ms": times})
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
