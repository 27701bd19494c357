"""Packing beside TRL: `packing.py --ours dist/bin/mdt-host --data gsm8k_train.jsonl [--rounds 3]`.

The Llama of `examples/gsm8k` (3.8 M parameters, f32, 2 threads) is trained for some updates on rows `question`, `answer`, with
and without packing, by this project and by TRL's `SFTTrainer`, each run in a process of its own, in turns. Packed, a
micro-batch has 2 rows of up to 512 tokens; not packed, 8 rows of one document, which are about as many tokens.

`--leak` changes the first document of a packed row and looks at the logits of the second one, as TRL's collator gives the
row to the model.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LENGTH = 512
ROWS = {True: 2, False: 8}


def make_model(data, directory):
    import torch
    import transformers

    subprocess.run([sys.executable, ROOT / "examples/gsm8k/make_model.py", data, directory], check=True)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig.from_pretrained(directory)).save_pretrained(directory)


def ours(program, options, packed):
    output = tempfile.mkdtemp()
    keys = {
        "output_dir": output, "model.path": options.model, "data.train": options.data,
        "data.fields": '{ prompt = "question", completion = "answer" }', "trainer.batch_size": ROWS[packed],
        "trainer.max_seq_len": LENGTH, "trainer.max_steps": options.steps, "compute.threads": 2,
        "trainer.packing": "best_fit" if packed else "none",
    }
    keys = [argument for key, value in keys.items() for argument in ("--set", f"{key}={value}")]
    preview = subprocess.run([program, "data", "preview", "--rows", "0", "--json", *keys], check=True, capture_output=True)
    padding = json.loads(preview.stdout.splitlines()[-1])["totals"]["padding_share"]
    subprocess.run([program, *keys], check=True, capture_output=True)
    lines = [json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines()]
    # The first update is not counted: first allocations.
    lines = [line for line in lines if "loss" in line][1:]
    return {
        "supervised_tokens_per_s": sum(line["supervised_tokens"] for line in lines) / sum(line["step_s"] for line in lines),
        "padding_share": padding,
    }


def trainer(options, packed):
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(2)
    rows = [json.loads(line) for line in open(options.data, encoding="utf-8")]
    rows = Dataset.from_list([{"prompt": row["question"], "completion": row["answer"]} for row in rows])
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=ROWS[packed], max_steps=options.steps, max_length=LENGTH,
        packing=packed, completion_only_loss=True, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
        save_strategy="no", logging_strategy="no", learning_rate=1e-4, lr_scheduler_type="cosine", seed=0,
    )
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    return SFTTrainer(
        model=model, args=config, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(options.model)
    )


def with_trl(options, packed):
    from transformers import TrainerCallback

    made = trainer(options, packed)
    counted = {"supervised": [], "tokens": 0, "places": 0, "step_s": []}
    inner = made.data_collator

    def collate(examples):
        batch = inner(examples)
        counted["supervised"].append(int((batch["labels"] != -100).sum()))
        if "attention_mask" in batch:
            counted["tokens"] += int(batch["attention_mask"].sum())
        else:
            counted["tokens"] += sum(len(example["input_ids"]) for example in examples)
        counted["places"] += batch["input_ids"].numel()
        return batch

    class Times(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.begin = time.perf_counter()

        def on_step_end(self, *_, **__):
            counted["step_s"].append(time.perf_counter() - self.begin)

    made.data_collator = collate
    made.add_callback(Times())
    made.train()
    steps = len(counted["step_s"])
    return {
        "supervised_tokens_per_s": sum(counted["supervised"][1:steps]) / sum(counted["step_s"][1:]),
        "padding_share": 1 - counted["tokens"] / counted["places"],
    }


def leak(options):
    import torch

    made = trainer(options, True)
    row = next(row for row in made.train_dataset if len(row["seq_lengths"]) > 1)
    first = row["seq_lengths"][0]
    collated = made.data_collator([row, row])
    given = {key: value for key, value in collated.items() if key != "labels"}
    print("given to the model:", {key: getattr(value, "shape", value) for key, value in given.items()})
    model = made.model.eval()

    def logits(change):
        ids = given["input_ids"].clone()
        if change:
            ids[:, 1:3] = (ids[:, 1:3] + 17) % 1000 + 10
        with torch.no_grad():
            return model(**{**given, "input_ids": ids}).logits[0]

    before, after = logits(False), logits(True)
    rest = slice(first, first + row["seq_lengths"][1])
    moved = (before[rest] - after[rest]).norm() / before[rest].norm()
    alone = model(input_ids=torch.tensor([row["input_ids"][rest]])).logits[0]
    apart = (before[rest] - alone).norm() / alone.norm()
    print(f"attention: {model.config._attn_implementation}; of the second document, after a change in the first:")
    print(f"logits move by {moved:.1e}; beside those of the document alone they are {apart:.1e} apart")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours")
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="outputs/packing-model")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", choices=["packed", "plain"])
    parser.add_argument("--leak", action="store_true")
    options = parser.parse_args()
    if options.contender:
        return print("\n" + json.dumps(with_trl(options, options.contender == "packed")))
    if not (Path(options.model) / "model.safetensors").exists():
        make_model(options.data, options.model)
    if options.leak:
        return leak(options)
    results = {}
    for number in range(options.rounds):
        for packed in (True, False):
            name = "packed" if packed else "plain"
            print(f"round {number + 1}, {name}; load average {os.getloadavg()[0]:.1f}", file=sys.stderr)
            results.setdefault(f"ours, {name}", []).append(ours(options.ours, options, packed))
            command = [sys.executable, __file__, *sys.argv[1:], "--contender", name]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results.setdefault(f"TRL, {name}", []).append(json.loads(output.strip().splitlines()[-1]))
    for name, rounds in results.items():
        speeds = sorted(result["supervised_tokens_per_s"] for result in rounds)
        padding = 100 * rounds[0]["padding_share"]
        print(f"{name:14} {statistics.median(speeds):7.0f} supervised tokens/s ({speeds[0]:.0f} to {speeds[-1]:.0f}); padding {padding:.1f} %")


main()
