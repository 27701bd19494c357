#!/usr/bin/env python3
"""Estimated beside measured peak memory, for several methods and shapes.

    python3 tests/peers/memory.py --program dist/bin/mdt-host [--plugins DIR-with-dpo] [--only NAME ...] [--large]

Each job is estimated by `mdt-host doctor`, and then trained for some updates in a process of its own: the peak of that process, the
writing of its model included, is compared with the estimate. Models have random weights, rows are of random length: the peak is reached once
rows of several lengths have come, which takes some updates. `--large` adds a model of
1.24 billion parameters, whose weights are written first (2.5 GB). Peaks hardly depend on what else the machine does, if memory
does not run out.

The last column is the largest distance of all jobs; the exit status is 1 where one is beyond 10 %.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TOKENIZER = ROOT / "examples/demo/model"
#          hidden, layers, heads, of keys, intermediate, vocabulary
SHAPES = {
    "5M": (256, 4, 8, 4, 768, 8192),
    "97M": (768, 12, 12, 12, 2048, 16000),
    "1.24B": (2048, 16, 32, 8, 8192, 128256),
}
BFLOAT16 = {"compute.dtype": "bfloat16"}
LORA = {"model.adapter": "lora"}
QLORA = {**LORA, "model.quantize": "{ bits = 4, group_size = 64 }"}
AGAIN = {"trainer.checkpoint_activations": "all"}
LONG = {"trainer.batch_size": 1, "trainer.max_seq_len": 8192, "data.train": "long.jsonl"}

# name: shape, keys
JOBS = {
    "all weights, f32": ("97M", {}),
    "all weights, bf16": ("97M", BFLOAT16),
    "all weights, bf16 products": ("97M", {"compute.matmul": "bfloat16"}),
    "all weights, f32, again": ("97M", AGAIN),
    "LoRA, f32": ("97M", LORA),
    "LoRA, bf16": ("97M", {**LORA, **BFLOAT16}),
    "LoRA, bf16, again": ("97M", {**LORA, **BFLOAT16, **AGAIN}),
    "LoRA, bf16, again, 8 rows": ("97M", {**LORA, **BFLOAT16, **AGAIN, "trainer.batch_size": 8}),
    "DoRA, f32": ("97M", {"model.adapter": "dora"}),
    "QLoRA, f32": ("97M", QLORA),
    "QLoRA, bf16": ("97M", {**QLORA, **BFLOAT16}),
    "DPO with its reference": ("5M", {"trainer": "dpo", "data.format": "columns", "data.train": "pairs.jsonl"}),
    "accumulated": ("5M", {"trainer.gradient_accumulation_steps": 4}),
    "packed": ("5M", {"trainer.packing": "best_fit", "trainer.max_seq_len": 1024}),
    "a row of 8,192": ("5M", LONG),
    "a row of 8,192, again": ("5M", {**LONG, **AGAIN}),
    "a row of 8,192, bf16, again": ("5M", {**LONG, **AGAIN, **BFLOAT16}),
}
LARGE = {
    "1.24 B, LoRA, bf16": ("1.24B", {**LORA, **BFLOAT16, "trainer.batch_size": 1}),
    "1.24 B, QLoRA, f32": ("1.24B", {**QLORA, "trainer.batch_size": 1}),
    "1.24 B, QLoRA, bf16": ("1.24B", {**QLORA, **BFLOAT16, "trainer.batch_size": 1}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="dist/bin/mdt-host")
    parser.add_argument("--plugins", help="a directory with the trainer of examples/dpo; without, its job is left out")
    parser.add_argument("--only", nargs="+", help="jobs whose names contain one of these")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--steps", type=int, default=24, help="updates of each job")
    parser.add_argument("--work", type=Path, help="where models and rows are kept; by default a temporary directory")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of all jobs")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    write_rows(work)
    jobs = {**JOBS, **(LARGE if arguments.large else {})}
    worst = 0.0
    print(f"{'':30}{'estimated':>10}{'measured':>10}{'distance':>10}   MiB")
    for name, (shape, keys) in jobs.items():
        is_left_out = keys.get("trainer") == "dpo" and not arguments.plugins
        if is_left_out or (arguments.only and not any(part in name for part in arguments.only)):
            continue
        options = [part for key in arguments.set for part in ("--set", key)]
        if arguments.plugins:
            options += ["--plugin-dir", arguments.plugins]
        estimated, measured, parts = measure(arguments, work, shape, keys, options)
        distance = estimated / measured - 1
        worst = max(worst, abs(distance))
        print(f"{name:30}{estimated / 2**20:10.0f}{measured / 2**20:10.0f}{100 * distance:+9.1f} %   {parts}", flush=True)
    print(f"the largest distance is {100 * worst:.1f} %")
    return worst > 0.1


def measure(arguments, work, shape, keys, options):
    with tempfile.TemporaryDirectory() as output:
        settings = {
            "output_dir": output, "model.path": model(arguments, work, shape), "trainer.batch_size": 4,
            "trainer.max_seq_len": 256, "trainer.max_steps": arguments.steps, "checkpoint.save_steps": 0, "optimizer": "adamw",
            "compute.threads": 2, "data.train": "rows.jsonl",
        }
        if shape != "1.24B":
            settings["model.init"] = "random"
        settings.update(keys)
        settings["data.train"] = work / settings["data.train"]
        options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")] + options
        report = json.loads(run(arguments.program, "doctor", "--json", *options))
        facts = next(check for check in report["checks"] if check["name"] == "memory")["findings"][0]["facts"]
        measured = peak_of(arguments.program, *options)
    parts = {name.removesuffix("_bytes"): round(value / 2**20) for name, value in facts.items() if name.endswith("_bytes") and value}
    parts = {name: parts[name] for name in parts if name not in ("peak", "available", "needed")}
    return facts["peak_bytes"], measured, json.dumps(parts)


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    check(done.returncode, command, done.stdout + done.stderr)
    return done.stdout


def peak_of(*command):
    """The most bytes that a process had in memory at a time."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([str(part) for part in command], stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        check(process.returncode, command, said.read())
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def check(status, command, said):
    if status != 0:
        sys.exit(f"status {status}: {' '.join(map(str, command))}\n{said[-4000:]}")


def model(arguments, work, shape):
    """A directory with the config of a model of this shape, its tokenizer, and its weights where it is large."""
    hidden, layers, heads, of_keys, intermediate, vocabulary = SHAPES[shape]
    directory = work / shape
    directory.mkdir(exist_ok=True)
    config = json.loads((ROOT / "tests/peers/model/config.json").read_text())
    config.update(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=of_keys,
        intermediate_size=intermediate, vocab_size=vocabulary, head_dim=hidden // heads, max_position_embeddings=8192,
    )
    if shape == "1.24B":
        config["torch_dtype"] = "bfloat16"
    (directory / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (directory / file).write_bytes((TOKENIZER / file).read_bytes())
    if shape == "1.24B" and not (directory / "model.safetensors").exists():
        write_weights(directory / "model.safetensors", hidden, layers, heads, of_keys, intermediate, vocabulary)
    return directory


def write_weights(path, hidden, layers, heads, of_keys, intermediate, vocabulary):
    """Random bfloat16 weights: a block of numbers repeated, since only their size matters here."""
    width = hidden // heads * of_keys
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        of_layer = {
            "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (width, hidden), "self_attn.v_proj": (width, hidden),
            "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (intermediate, hidden), "mlp.up_proj": (intermediate, hidden),
            "mlp.down_proj": (hidden, intermediate), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        }
        shapes.update({f"model.layers.{layer}.{name}.weight": shape for name, shape in of_layer.items()})
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    # The upper halves of float32 numbers between 1/128 and 1/32, of both signs.
    numbers = bytes(byte for _ in range(1 << 15) for byte in (random.randrange(256), random.choice((0x3C, 0xBC))))
    head = json.dumps(header).encode()
    with open(path.with_suffix(".part"), "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        while end > 0:
            file.write(numbers[: min(end, len(numbers))])
            end -= len(numbers)
    os.replace(path.with_suffix(".part"), path)


def write_rows(work):
    random.seed(1)
    words = [f"{'abcdefghij'[number % 10]}{number}" for number in range(1000)]

    def text(least, most):
        return " ".join(random.choices(words, k=random.randint(least, most)))

    rows = [{"prompt": text(1, 5), "completion": text(2, 60)} for _ in range(200)]
    pairs = [{"prompt": text(1, 5), "chosen": text(2, 40), "rejected": text(2, 40)} for _ in range(100)]
    long = [{"text": text(4000, 4000)} for _ in range(6)]
    for name, lines in (("rows", rows), ("pairs", pairs), ("long", long)):
        (work / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
