"""Generation beside transformers and mlx-lm: `generation.py --ours dist/bin/mdt-host [--rounds 3]`.

One prompt is answered greedily by the same Llama of random weights (110 M parameters, f32), each contender in its own
process, in turns. Measured are the tokens of the prompt until the first token of the answer, and the tokens after that.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIXTURE = Path(__file__).parent.parent / "fixtures/training/model"
CONFIG = dict(
    hidden_size=768, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=4, intermediate_size=2048,
    vocab_size=32000, max_position_embeddings=40960, rms_norm_eps=1e-5, tie_word_embeddings=True,
)


def make_model(directory):
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(FIXTURE / name, directory)


def ours(program, model, prompt, answer, batch):
    prompts = [argument for _ in range(batch) for argument in ("--prompt", prompt)]
    command = [program, "generate", "--model", model, *prompts, "--batch-size", str(batch)]
    output = subprocess.run([*command, "--max-tokens", str(answer), "--json", "--set", "compute.threads=2"], check=True, capture_output=True).stdout
    figures = json.loads(output)
    return {
        "prompt_tokens_per_s": figures["prompt_tokens"] / figures["prompt_s"],
        "answer_tokens_per_s": figures["later_tokens"] / figures["later_s"],
        "first": figures["rows"][0]["answer"][:40],
    }


def rendered(model, prompt):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False)
    return tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"]


def with_transformers(model, prompt, answer, batch):
    import torch
    import transformers

    torch.set_num_threads(2)
    tokenizer, ids = rendered(model, prompt)
    llama = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    given = torch.tensor([ids] * batch)

    def seconds(count):
        begin = time.perf_counter()
        drawn = llama.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=count, min_new_tokens=count, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )
        return time.perf_counter() - begin, drawn

    seconds(2)
    first, _ = seconds(1)
    whole, drawn = seconds(answer)
    return {
        "prompt_tokens_per_s": len(ids) * batch / first,
        "answer_tokens_per_s": (answer - 1) * batch / (whole - first),
        "first": tokenizer.decode(drawn[0, len(ids) :])[:40],
    }


def with_mlx_lm(model, prompt, answer, _batch):
    import mlx_lm

    llama, tokenizer = mlx_lm.load(model)
    _, ids = rendered(model, prompt)
    text = ""
    for part in mlx_lm.stream_generate(llama, tokenizer, ids, max_tokens=answer):
        text += part.text
    return {
        "prompt_tokens_per_s": part.prompt_tps,
        "answer_tokens_per_s": part.generation_tps,
        "first": text[:40],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours")
    parser.add_argument("--model", help="where the model is, or is made")
    parser.add_argument("--prompt", type=int, default=256, help="characters, which are the tokens of this tokenizer")
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-mlx-lm", action="store_true")
    parser.add_argument("--contender", choices=["transformers", "mlx-lm"])
    options = parser.parse_args()
    prompt = ("shout the quick brown fox jumps over lazy dogs " * 2000)[: options.prompt]
    if options.contender:
        run = with_transformers if options.contender == "transformers" else with_mlx_lm
        return print("\n" + json.dumps(run(options.model, prompt, options.answer, options.batch)))
    model = options.model or tempfile.mkdtemp()
    if not (Path(model) / "config.json").exists():
        make_model(model)
    contenders = ["ours", "transformers"] + ([] if options.without_mlx_lm or options.batch > 1 else ["mlx-lm"])
    results = {name: [] for name in contenders}
    for number in range(options.rounds):
        for name in contenders:
            if name == "mlx-lm" and number > 0:
                continue  # its wheel for Linux multiplies matrices with reference BLAS
            print(f"round {number + 1}, {name}; load average {os.getloadavg()[0]:.1f}", file=sys.stderr)
            if name == "ours":
                result = ours(options.ours, model, prompt, options.answer, options.batch)
            else:
                command = [sys.executable, __file__, *sys.argv[1:], "--model", model, "--contender", name]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                result = json.loads(output.strip().splitlines()[-1])
            results[name].append(result)
    for name, rounds in results.items():
        for what in ("prompt_tokens_per_s", "answer_tokens_per_s"):
            values = sorted(round(result[what], 1) for result in rounds)
            print(f"{name:13} {what:20} {statistics.median(values):8.1f} ({values[0]} to {values[-1]})")
        print(f"{name:13} {rounds[0]['first']!r}")


main()
