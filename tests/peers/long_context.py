#!/usr/bin/env python3
"""Speed and peak memory of updates on rows of several lengths: this project beside PyTorch + transformers.

    python3 tests/peers/long_context.py --ours "dist/bin/mdt-host --config tests/peers/job.toml"

The model of peers.py, f32. Every update has the same number of tokens, in many short rows or one long one; layers keep what
lies inside of them, or are computed again for gradients (PyTorch: gradient checkpointing). Each measurement is a process of its
own; the contenders take turns. The first update of a process is not counted.
"""

import argparse
import json
import os
import shlex
import statistics
import sys

from peers import HERE, run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="the program and its configuration")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192, 32768])
    parser.add_argument("--tokens", type=int, default=32768, help="tokens of an update")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1, help="counted updates of each process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", choices=["mdt-host", "pytorch"], help="leaves one out")
    arguments = parser.parse_args()

    answers = {}
    for _ in range(arguments.rounds):
        for length in arguments.lengths:
            for again in [False, True]:
                for name in ["mdt-host", "pytorch"]:
                    if name != arguments.without:
                        answer = measure(name, arguments, length, again)
                        answers.setdefault((length, again, name), []).append(answer)
                        print(length, "again" if again else "kept", name, json.dumps(answer), file=sys.stderr)
    print(f"{'length':>7} {'layers':>7} {'':9}{'tokens/s':>10}{'peak MiB':>10}")
    for (length, again, name), given in answers.items():
        speed = statistics.median(answer["tokens_per_s"] for answer in given)
        peak = max(answer["peak_memory_bytes"] for answer in given) / 2**20
        print(f"{length:7} {'again' if again else 'kept':>7} {name:9}{speed:10.0f}{peak:10.0f}")


def measure(name, arguments, length, again):
    rows, threads = max(1, arguments.tokens // length), arguments.threads
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), BATCH=str(rows), LENGTH=str(length))
    if name == "pytorch":
        environment["CHECKPOINT"] = "1" if again else ""
        return run(name, [sys.executable, HERE / "pytorch_step.py", str(arguments.steps)], environment)
    keys = [
        f"trainer.batch_size={rows}",
        f"trainer.checkpoint_activations={'all' if again else 'none'}",
        f"compute.threads={threads}",
    ]
    command = shlex.split(arguments.ours) + [part for key in keys for part in ("--set", key)]
    command += ["bench", "train", "--json", "--tokens", str(length), "--steps", str(arguments.steps)]
    return run(name, command, environment)


if __name__ == "__main__":
    main()
