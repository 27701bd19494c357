#!/usr/bin/env python3
"""Losses in bfloat16 and in float32, of this project and of PyTorch, on the same weights and batches.

    python3 tests/peers/half_precision.py --ours dist/bin/mdt-host --data gsm8k_train.jsonl [--updates 100] [--export]

The Llama of `examples/gsm8k` (3.8 M parameters) is trained on rows `question`, `answer` in the order of the file, 8 rows per
update, by this project with `compute.dtype`, with `compute.matmul` and in float32, and by PyTorch with transformers in float32
and with weights that are rounded to bfloat16 for each forward pass. Printed are the largest and the mean distance of two
curves, relative to the second one, and this project's losses on the last 200 rows, which are not trained on.

`--export` also writes the models that are trained in bfloat16 in both types, loads them in transformers, and compares the
logits with those of `mdt-host`'s own reader: the held-out loss that each of the two computes of the files.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/fixtures"))
ROWS, HELD_OUT, LENGTH, PEAK, WARM_UP, CLIP = 8, 200, 512, 1e-3, 10, 1.0
WAYS = {"float32": {}, "dtype bfloat16": {"compute.dtype": "bfloat16"}, "matmul bfloat16": {"compute.matmul": "bfloat16"}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--export", action="store_true")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    lines = Path(options.data).read_text().splitlines(keepends=True)
    for name, part in (("train", lines[:-HELD_OUT]), ("held-out", lines[-HELD_OUT:])):
        (work / f"{name}.jsonl").write_text("".join(part))
    make_model(options.data, work / "model")

    held_out = {name: ours(options, work, name, keys) for name, keys in WAYS.items()}
    curves = {f"ours, {name}": losses(work / name) for name in WAYS}
    curves |= theirs(options, work)
    for first, second in [
        ("ours, float32", "PyTorch, float32"), ("ours, dtype bfloat16", "PyTorch, bfloat16"),
        ("ours, dtype bfloat16", "ours, float32"), ("ours, matmul bfloat16", "ours, float32"),
        ("PyTorch, bfloat16", "PyTorch, float32"), ("ours, dtype bfloat16", "PyTorch, float32"),
    ]:
        apart = [abs(a - b) / b for a, b in zip(curves[first], curves[second], strict=True)]
        print(f"{first:22} from {second:20} largest {max(apart):.1e}, mean {sum(apart) / len(apart):.1e}")
    for name, loss in held_out.items():
        print(f"held-out loss after {options.updates} updates, {name:16} {loss:.4f} ({100 * (loss / held_out['float32'] - 1):+.2f} %)")
    if options.export:
        compare_exports(options, work)


def make_model(data, directory):
    import torch
    import transformers

    subprocess.run([sys.executable, ROOT / "examples/gsm8k/make_model.py", data, directory], check=True)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig.from_pretrained(directory)).save_pretrained(directory)


def keys(work, name, further):
    given = {
        "output_dir": work / name, "model.path": work / "model", "data.train": work / "train.jsonl",
        "data.eval": work / "held-out.jsonl", "data.fields": '{ prompt = "question", completion = "answer" }',
        "data.shuffle": "false", "trainer.batch_size": ROWS, "trainer.max_seq_len": LENGTH, "trainer.max_grad_norm": CLIP,
        "optimizer.learning_rate": PEAK, "optimizer.weight_decay": 0.01, "scheduler.warmup_steps": WARM_UP,
        "compute.threads": 2, **further,
    }
    return [argument for key, value in given.items() for argument in ("--set", f"{key}={value}")]


def ours(options, work, name, further):
    """Trains; the held-out loss of the trained weights."""
    further = {**further, "trainer.max_steps": options.updates, "trainer.eval_steps": options.updates}
    subprocess.run([options.ours, *keys(work, name, further)], check=True, capture_output=True)
    return next(line["eval_loss"] for line in reversed(metrics(work / name)) if "eval_loss" in line)


def metrics(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses(output):
    return [line["loss"] for line in metrics(output) if "loss" in line]


def theirs(options, work):
    import torch
    from make.half import InBfloat16
    from make.updates import learning_rate, train, windows
    from transformers import LlamaForCausalLM

    torch.set_num_threads(2)
    command = [options.ours, "data", "preview", "--rows", str(ROWS * options.updates), "--json", *keys(work, "preview", {})]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    shown = [row for row in map(json.loads, shown) if "tokens" in row]
    encoded = [{"input_ids": row["tokens"], "supervised": row["supervised"]} for row in shown]
    curves = {}
    for name, computed in (("float32", lambda model: model), ("bfloat16", InBfloat16)):
        model = LlamaForCausalLM.from_pretrained(work / "model", dtype=torch.float32, attn_implementation="eager")
        optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
        rate = lambda update: learning_rate(update, options.updates, PEAK, "cosine", WARM_UP)
        curve = train(computed(model), optimizer, windows(encoded, ROWS, 1, options.updates), rate, CLIP)
        curves[f"PyTorch, {name}"] = [line["loss"] for line in curve]
    return curves


def compare_exports(options, work):
    import torch
    from make.updates import collate
    from transformers import AutoModelForCausalLM

    command = [options.ours, "data", "preview", "--split", "eval", "--rows", "16", "--json", *keys(work, "preview", {})]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [{"input_ids": row["tokens"], "supervised": row["supervised"]} for row in map(json.loads, shown) if "tokens" in row]
    first = work / "first.jsonl"
    first.write_text("".join((work / "held-out.jsonl").read_text().splitlines(keepends=True)[:16]))
    for dtype in ("bfloat16", "float32"):
        name = f"export {dtype}"
        further = {"compute.dtype": "bfloat16", "checkpoint.export_dtype": dtype}
        ours(options, work, name, further)
        final = work / name / "final"
        command = [options.ours, "evaluate", "--model", final, "--data", first, "--json", "--set", f"trainer.max_seq_len={LENGTH}"]
        command += ["--set", 'data.fields={ prompt = "question", completion = "answer" }']
        loss = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["loss"]
        model, report = AutoModelForCausalLM.from_pretrained(
            final, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        problems = {key: found for key, found in report.items() if found}
        ids, supervised = collate(rows)
        with torch.no_grad():
            logits = model.eval()(ids).logits[:, :-1]
        picked = supervised[:, 1:]
        theirs = torch.nn.functional.cross_entropy(logits[picked], ids[:, 1:][picked]).item()
        stored = AutoModelForCausalLM.from_pretrained(final, dtype="auto").dtype
        print(f"{name}: files of {stored}, missing or unexpected: {problems or 'none'}; loss {loss:.6f} here, {theirs:.6f} in transformers")


if __name__ == "__main__":
    main()
