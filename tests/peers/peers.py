#!/usr/bin/env python3
"""One full fine-tuning step of a Llama of 5, 26 or 100 M parameters: this project beside PyTorch + transformers and stock mlx-lm.

    pip install torch transformers mlx-lm            # off macOS also: pip install "mlx[cpu]"
    python3 tests/peers/peers.py --ours "dist/bin/mdt-host --config tests/peers/job.toml bench train --json"

The shapes are those of shape.py, tied, 256 tokens a row, AdamW. With --dtype bfloat16 this project computes in bfloat16, beside
PyTorch's modes of it: autocast and weights in bfloat16, as it comes and compiled (--modes).
Each contender runs in its own process, one after the other, in turns (ours, PyTorch, mlx-lm, ours, PyTorch, ...), so
that a slow minute of the machine hits all of them. The median is over the steps of all rounds.

The command of --ours, which is given the shape and the type by --set, prints, as the last line that is a JSON object, at least `tokens_per_s`, `step_s_median`,
`step_s_min`, `step_s_max` and `peak_memory_bytes`; `step_s` (each counted step's seconds) is used where it is there.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODES = {
    "float32": ["f32", "f32-compiled"],
    "bfloat16": ["autocast", "autocast-compiled", "bf16", "bf16-compiled"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", help="command of the third contender")
    parser.add_argument("--shape", choices=["5m", "26m", "100m"], default="5m")
    parser.add_argument("--dtype", choices=MODES, default="float32")
    parser.add_argument("--modes", help="PyTorch's modes (see pytorch_step.py), between commas; without it all of the type")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="counted steps of PyTorch in each round")
    parser.add_argument("--mlx-steps", type=int, default=2, help="counted steps of mlx-lm in each of its rounds")
    parser.add_argument("--mlx-rounds", type=int, default=1, help="0 leaves mlx-lm out (a step takes it half a minute)")
    parser.add_argument("--threads", type=int, help="OMP_NUM_THREADS for everyone; without it each takes its default")
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()

    python = [sys.executable]
    environment = dict(os.environ, SHAPE=arguments.shape)
    contenders = {"mdt-host": (ours(arguments) if arguments.ours else None, arguments.rounds)}
    for mode in arguments.modes.split(",") if arguments.modes else MODES[arguments.dtype]:
        contenders[f"pytorch {mode}"] = (python + [HERE / "pytorch_step.py", str(arguments.steps), mode], arguments.rounds)
    if arguments.dtype == "float32":
        contenders["mlx-lm"] = (python + [HERE / "mlx_lm_step.py", str(arguments.mlx_steps)], arguments.mlx_rounds)
    if arguments.threads:
        environment["OMP_NUM_THREADS"] = environment["OPENBLAS_NUM_THREADS"] = str(arguments.threads)

    answers = {name: [] for name in contenders}
    for turn in range(max(arguments.rounds, arguments.mlx_rounds)):
        for name, (command, rounds) in contenders.items():
            if command and turn < rounds:
                load = os.getloadavg()[0]
                answer = run(name, command, environment)
                answer["load_average_before"] = round(load, 1)
                answers[name].append(answer)
                print(f"round {turn + 1}: {name:25} {answer['tokens_per_s']:8.0f} tokens/s, load {load:.1f} before", file=sys.stderr)

    result = {
        "machine": {"system": platform.platform(), "cpus": os.cpu_count(), "threads": arguments.threads},
        "contenders": {name: summarise(given) for name, given in answers.items() if given},
    }
    print_table(result["contenders"])
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


def ours(arguments):
    """The command of this project on a model of the shape, which the process leaves behind in its temporary directory."""
    os.environ["SHAPE"] = arguments.shape
    import shape

    directory = Path(tempfile.mkdtemp()) / "model"
    shutil.copytree(HERE / "model", directory)
    config = json.loads((directory / "config.json").read_text())
    config |= {**shape.CONFIG, "head_dim": shape.HIDDEN // shape.HEADS}
    (directory / "config.json").write_text(json.dumps(config))
    keys = {"model.path": directory, "trainer.batch_size": shape.BATCH, "compute.dtype": arguments.dtype}
    return shlex.split(arguments.ours) + [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]


def run(name, command, environment):
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{name} ended with status {done.returncode}: {shlex.join(map(str, command))}\n{done.stderr[-3000:]}")
    answer = last_json(done.stdout)
    if answer is None:
        sys.exit(f"{name} printed no JSON object: {shlex.join(map(str, command))}\n{done.stdout[-3000:]}")
    return answer


def last_json(output):
    """The last JSON object of the output, on one line or spread over several."""
    decoder = json.JSONDecoder()
    last, at = None, output.find("{")
    while at != -1:
        try:
            value, end = decoder.raw_decode(output, at)
            if "step_s_median" in value:
                last = value
        except json.JSONDecodeError:
            end = at + 1
        at = output.find("{", end)
    return last


def summarise(answers):
    every_step = [second for answer in answers for second in answer.get("step_s", [answer["step_s_median"]])]
    tokens = statistics.median(answer["tokens_per_s"] * answer["step_s_median"] for answer in answers)
    median = statistics.median(every_step)
    return {
        "tokens_per_s": tokens / median,
        "step_s_median": median,
        "step_s_min": min(answer["step_s_min"] for answer in answers),
        "step_s_max": max(answer["step_s_max"] for answer in answers),
        "peak_memory_bytes": max(answer["peak_memory_bytes"] for answer in answers),
        "steps": len(every_step),
        "rounds": [{key: value for key, value in answer.items() if key != "step_s"} for answer in answers],
    }


def print_table(contenders):
    print(f"{'':26}{'tokens/s':>10}{'step s':>9}{'min':>8}{'max':>8}{'peak MiB':>10}{'steps':>7}")
    for name, row in contenders.items():
        print(
            f"{name:26}{row['tokens_per_s']:10.0f}{row['step_s_median']:9.2f}{row['step_s_min']:8.2f}"
            f"{row['step_s_max']:8.2f}{row['peak_memory_bytes'] / 2**20:10.0f}{row['steps']:7}"
        )


if __name__ == "__main__":
    main()
