#!/usr/bin/env python3
"""Makes the rows of this example: a task that the demo's model has not learned. Deterministic, standard library only:

    python3 examples/lora/make_data.py
"""

import json
import random
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONSONANTS = "BCDFGHJKLMNPQRSTVWXZ"  # those of the demo, one token each


def row(generator):
    letters = "".join(generator.choice(CONSONANTS) for _ in range(generator.randint(3, 6)))
    question = generator.choice(["First letter of {}?", "What is the first letter of {}?"]).format(letters)
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": letters[0]}]}


def make():
    generator = random.Random(31)
    rows = {}
    while len(rows) < 660:
        new = row(generator)
        rows[new["messages"][0]["content"]] = new
    rows = [json.dumps(row) + "\n" for row in rows.values()]
    (HERE / "train.jsonl").write_text("".join(rows[:600]))
    (HERE / "heldout.jsonl").write_text("".join(rows[600:]))


if __name__ == "__main__":
    make()
