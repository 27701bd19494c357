"""Conversations of a reasoning model beside TRL: tokens, what is trained of them, and the loss, on the same weights.

    python3 tests/peers/turns.py --ours dist/bin/mdt-host [--template qwen3]

- `per turn`, the default: a row with several answers, beside TRL's rows that were split beforehand, a prompt and a completion
  for each answer. TRL trains the white space behind an end of turn, too; that is compared apart.
- `tokenizer.training_template`: TRL's training template beside the model's own, which generation keeps, beside TRL with
  `assistant_only_loss`. The whole conversation is one sequence; generation with the model's own template would drop the
  reasoning of earlier turns, and training does not.
- `tokenizer.chat_template`: the same template in the place of the model's.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import torch
import trl
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import templates
from templates import CONVERSATIONS

# In each of them the template shows an answer otherwise once others follow.
KINDS = ["turns", "system", "tool_call_with_content", "reasoning_turns", "reasoning_in_content"]


def model_directory(directory, template):
    """A model of random weights with this template."""
    templates.tokenizer_directory(directory, template)
    size = json.loads((directory / "config.json").read_text())["vocab_size"]
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=8192, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    ))
    model.save_pretrained(directory)
    return model


def theirs(directory, rows, **options):
    """The ids and labels of each sequence, as TRL's trainer prepares them."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    with tempfile.TemporaryDirectory() as place:
        arguments = trl.SFTConfig(output_dir=place, max_length=None, report_to=[], use_cpu=True, bf16=False, **options)
        model = LlamaForCausalLM.from_pretrained(directory)
        trainer = trl.SFTTrainer(model, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        prepared = trainer.train_dataset
        return [trainer.data_collator([prepared[number]]) for number in range(len(prepared))]


def ours(program, directory, rows, *settings):
    """The ids and marks of each sequence, and the held-out loss of all."""
    data = directory / "rows.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    common = ["--set", f"model.path={directory}", "--set", f"data.train={data}", "--set", f"data.eval={data}"]
    common += ["--set", "trainer.max_seq_len=8192", "--set", "trainer.batch_size=1", *settings]
    preview = subprocess.run([*program, "data", "preview", "--json", "--rows", "1000", *common], capture_output=True, text=True)
    assert preview.returncode == 0, preview.stderr
    shown = [json.loads(line) for line in preview.stdout.splitlines()]
    evaluated = subprocess.run([*program, "evaluate", "--json", *common], capture_output=True, text=True)
    assert evaluated.returncode == 0, evaluated.stderr
    loss = json.loads(evaluated.stdout)["loss"]
    return [(row["tokens"], row["supervised"]) for row in shown if "row" in row], loss


def mean_loss(model, sequences):
    """The mean of the losses of all trained tokens."""
    total, count = 0.0, 0
    with torch.no_grad():
        for ids, labels in sequences:
            logits = model(torch.tensor([ids])).logits[0, :-1]
            targets = torch.tensor(labels[1:])
            total += torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum").item()
            count += int((targets != -100).sum())
    return total / count


def labels(sequence):
    return [token if mark else -100 for token, mark in zip(*sequence)]


def compare(name, model, made, loss, batches, white):
    expected = [(batch["input_ids"][0].tolist(), batch["labels"][0].tolist()) for batch in batches]
    assert [ids for ids, _ in expected] == [ids for ids, _ in made], f"{name}: other tokens"
    own = [(ids, labels((ids, marks))) for ids, marks in made]
    more = sum(a != -100 and b == -100 for (_, x), (_, y) in zip(expected, own) for a, b in zip(x, y))
    fewer = sum(a == -100 and b != -100 for (_, x), (_, y) in zip(expected, own) for a, b in zip(x, y))
    only_white = all(
        ids[place] in white
        for (ids, x), (_, y) in zip(expected, own)
        for place, (a, b) in enumerate(zip(x, y))
        if a != -100 and b == -100
    )
    without = mean_loss(model, own)
    print(
        f"{name}: {len(made)} sequences, {sum(map(len, (ids for ids, _ in made)))} tokens, all equal; of those trained by TRL "
        f"{more} are not trained here ({'white space behind an end of turn' if only_white else 'OTHERS'}), {fewer} more are; "
        f"loss {loss:.6f}, PyTorch on the same tokens {without:.6f}, on TRL's {mean_loss(model, expected):.6f}"
    )
    assert only_white and fewer == 0 and abs(loss - without) < 1e-4 * without, name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--template", default="qwen3")
    arguments = parser.parse_args()
    program = arguments.ours.split()
    place = pathlib.Path(trl.__file__).parent / "chat_templates"
    plain, twin = [(place / f"{arguments.template}{suffix}.jinja") for suffix in ("", "_training")]
    rows = [{"messages": templates.without_null(CONVERSATIONS[kind]["messages"]), "tools": CONVERSATIONS[kind].get("tools")} for kind in KINDS]
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        model = model_directory(directory, plain.read_text())
        tokenizer = AutoTokenizer.from_pretrained(directory)
        white = {number for text, number in tokenizer.get_vocab().items() if text in ("Ċ", "Ġ")}
        split = [
            {"prompt": row["messages"][:turn], "completion": row["messages"][turn : turn + 1], "tools": json.dumps(row["tools"]) if row["tools"] else None}
            for row in rows
            for turn, message in enumerate(row["messages"])
            if message["role"] == "assistant"
        ]
        made, loss = ours(program, directory, rows, "--set", "trainer.turns=all")
        compare("per turn", model, made, loss, theirs(directory, split, completion_only_loss=True), white)
        if twin.exists():
            whole_rows = [{**row, "tools": json.dumps(row["tools"]) if row["tools"] else None} for row in rows]
            expected = theirs(directory, whole_rows, assistant_only_loss=True)
            for key in ("tokenizer.training_template", "tokenizer.chat_template"):
                made, loss = ours(program, directory, rows, "--set", f"{key}={twin}")
                compare(key, model, made, loss, expected, white)


if __name__ == "__main__":
    main()
