#!/usr/bin/env python3
"""Which ways to divide a job among ranks have the bits of one process: every backend, 1 to 4 ranks, with and without sharded
optimizer states, overlap and several connections, on the same global batch.

    python3 tests/peers/same_bits.py --ours dist/bin/mdt-host [--updates 50] [--json FILE]

One process makes N micro-batches in every update, N ranks make one each. Compared with it are the losses and gradient norms of
all updates as they are printed, to the last digit (they are doubles), the trained weights, and the optimizer's states, in which
every gradient is. `=` is every bit; else the largest relative distance of a loss, and of a weight. A backend that is not installed
is left out and named: `mpi` needs `cargo xtask dist --with mpi` and mpirun.
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from array import array
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures/training"

VARIANTS = {
    "plain": {},
    "sharded": {"comm.shard_optimizer": "true"},
    "no overlap": {"comm.overlap": "false"},
    "sharded, no overlap": {"comm.shard_optimizer": "true", "comm.overlap": "false"},
    "4 connections": {"comm.connections": 4},
}
# The backend, its keys, and the numbers of ranks.
BACKENDS = {
    "grpc, shared memory": ({"comm.use": "grpc"}, [1, 2, 3, 4]),
    "grpc, TCP": ({"comm.use": "grpc", "comm.shared_memory": "off"}, [2, 3, 4]),
    "mpi": ({"comm.use": "mpi"}, [2, 3, 4]),
    "mlx": ({"comm.use": "mlx"}, [2, 3, 4]),
    "mlx, exact": ({"comm.use": "mlx", "comm.exact": "true"}, [3, 4]),
}


def write_job(directory: Path) -> None:
    """Layers so wide that gradients are several buckets of a megabyte."""
    model = directory / "model"
    shutil.copytree(FIXTURES / "model", model)
    config = json.loads((model / "config.json").read_text())
    config["intermediate_size"] = 4000
    (model / "config.json").write_text(json.dumps(config))
    rows = (FIXTURES / "train.jsonl").read_text().splitlines()[:30]
    (directory / "rows.jsonl").write_text("\n".join(rows))


def ended(arguments, work: Path, output: Path, ranks: int, micro_batches: int, keys: dict) -> None:
    settings = {
        "output_dir": output, "model.path": work / "model", "model.init": "random", "data.train": work / "rows.jsonl",
        "data.shuffle": "true", "trainer.batch_size": 2, "trainer.gradient_accumulation_steps": micro_batches,
        "trainer.max_steps": arguments.updates, "compute.threads": 1, "comm.bucket_mb": 1, **keys,
    }
    options = ["--config", str(FIXTURES / "job.toml")] + [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    program = [arguments.ours]
    if ranks > 1 and keys["comm.use"] == "mpi":
        program = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), *program]
    elif ranks > 1:
        program += ["launch", "-n", str(ranks)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MDT_")}
    done = subprocess.run(program + options, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        sys.exit(f"{' '.join(program + options)} ended with {done.returncode}:\n{done.stderr[-3000:]}")


class Result:
    """What a job has made."""

    def __init__(self, output: Path, updates: int):
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        self.losses = [line["loss"] for line in lines]
        self.norms = [line["grad_norm"] for line in lines]
        checkpoint = output / f"checkpoints/step-{updates:06}"
        self.weights = tensors(checkpoint / "model.safetensors")
        self.states = (checkpoint / "optimizer.safetensors").read_bytes()

    def compared(self, other: "Result") -> str:
        if (self.losses, self.norms, self.weights, self.states) == (other.losses, other.norms, other.weights, other.states):
            return "="
        loss = max(abs(a - b) / abs(b) for a, b in zip(self.losses, other.losses, strict=True))
        own, theirs = array("f", self.weights), array("f", other.weights)
        largest = max(map(abs, theirs))
        weight = max(abs(a - b) for a, b in zip(own, theirs, strict=True)) / largest
        return f"{loss:.0e}, {weight:.0e}"


def tensors(path: Path) -> bytes:
    """The numbers of a file, without its header."""
    content = path.read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    return content[8 + header :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", default="dist/bin/mdt-host")
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--only", nargs="+", help="names of backends")
    parser.add_argument("--json", help="a file for the table")
    arguments = parser.parse_args()
    arguments.ours = str(Path(arguments.ours).resolve())
    listed = subprocess.run([arguments.ours, "plugin", "list"], cwd=ROOT, capture_output=True, text=True).stdout
    has_mpi = any("mpi" in line.split() for line in listed.splitlines()) and shutil.which("mpirun")
    rows, alone = [], {}
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        write_job(work)

        def result(ranks: int, micro_batches: int, keys: dict) -> Result:
            output = work / "out"
            shutil.rmtree(output, ignore_errors=True)
            ended(arguments, work, output, ranks, micro_batches, keys)
            return Result(output, arguments.updates)

        print(f"{'':24}" + "".join(f"{name:>22}" for name in VARIANTS))
        for backend, (keys, sizes) in BACKENDS.items():
            if arguments.only and backend not in arguments.only:
                continue
            if backend == "mpi" and not has_mpi:
                print("mpi: the plugin or mpirun is not there")
                continue
            for ranks in sizes:
                if ranks not in alone:
                    alone[ranks] = result(1, ranks, {"comm.use": "local"})
                cells = {}
                for variant, further in VARIANTS.items():
                    if "comm.connections" in further and backend != "grpc, TCP":
                        continue
                    cells[variant] = result(ranks, 1, keys | further).compared(alone[ranks])
                print(f"{backend + ', ' + str(ranks):24}" + "".join(f"{cells.get(name, '-'):>22}" for name in VARIANTS), flush=True)
                rows.append({"backend": backend, "ranks": ranks, "same": cells})
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
