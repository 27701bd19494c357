#!/usr/bin/env python3
"""Makes the demo's instruction data and its tokenizer. Deterministic, standard library only:

    python3 examples/demo/make_data.py

Writes train.jsonl, heldout.jsonl and model/tokenizer.json beside this file. Nothing is downloaded: ten families of
small instructions are written out from word lists and a seeded generator. No held-out prompt is in the training set.
"""

import json
import random
import re
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 20
HELDOUT_PER_FAMILY = 20
SPECIAL = ["<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"]

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NUMBERS = "one two three four five six".split()
CONSONANTS = "BCDFGHJKLMNPQRSTVWXZ"  # no vowels: letter strings never spell a word that is one token
OPPOSITES = """
hot cold, big small, up down, fast slow, light dark, happy sad, open closed, old young, wet dry, hard soft,
high low, loud quiet, long short, full empty, strong weak, early late, rich poor, near far, left right,
good bad, clean dirty, sweet sour, deep shallow, thick thin, true false, inside outside, always never,
first last
"""
COLOURS = """
banana yellow, grass green, snow white, coal black, blood red, sky blue, carrot orange, lemon yellow,
frog green, milk white, raven black, tomato red, ocean blue, pumpkin orange, leaf green, swan white,
cherry red, chocolate brown
"""
PLURALS = """
cat cats, dog dogs, box boxes, fox foxes, child children, mouse mice, foot feet, tooth teeth, goose geese,
man men, woman women, city cities, baby babies, leaf leaves, knife knives, wolf wolves, sheep sheep,
fish fish, bus buses, key keys
"""


def pairs(text):
    return [tuple(pair.split()) for pair in text.split(",")]


def letters(generator, low, high):
    return "".join(generator.choice(CONSONANTS) for _ in range(generator.randint(low, high)))


def cycle(generator, names, unit, furthest):
    """The name some places after or before another one in a cycle: days of the week, months of the year."""
    start, offset = generator.randrange(len(names)), generator.randint(1, furthest)
    sign, word = generator.choice([(1, "after"), (-1, "before")])
    distance = f"{NUMBERS[offset - 1]} {unit}{'' if offset == 1 else 's'} {word} {names[start]}"
    question = generator.choice(["What is {}?", "Name {}.", "Say {}.", "Which {unit} is {}?", "Give {}."])
    return question.format(distance, unit=unit), names[(start + sign * offset) % len(names)]


def day(generator):
    return cycle(generator, DAYS, "day", furthest=3)


def month(generator):
    return cycle(generator, MONTHS, "month", furthest=2)


def look_up(generator, table, questions):
    word, answer = generator.choice(table)
    return generator.choice(questions).format(word), answer


def opposite(generator):
    table = pairs(OPPOSITES)
    table += [(b, a) for a, b in table]
    questions = ["Opposite of {}?", "What is the opposite of {}?", "Not {}, but?", "Say the opposite of {}."]
    return look_up(generator, table, questions)


def colour(generator):
    questions = ["Colour of {}?", "What is the colour of {}?", "Which colour is {}?", "Say the colour of {}."]
    return look_up(generator, pairs(COLOURS), questions)


def plural(generator):
    questions = ["Plural of {}?", "What is the plural of {}?", "One {}, two?", "Say the plural of {}."]
    return look_up(generator, pairs(PLURALS), questions)


def compare(generator):
    a, b = generator.sample(range(10, 100), 2)
    word, pick = generator.choice([("Larger", max), ("Smaller", min)])
    return f"{word}: {a} or {b}?", str(pick(a, b))


def neighbour(generator):
    number = generator.randint(100, 998)
    word, step = generator.choice([("after", 1), ("before", -1)])
    return f"Number {word} {number}?", str(number + step)


def reverse(generator):
    word = letters(generator, 3, 5)
    return generator.choice(["Reverse {}.", "Write {} backwards."]).format(word), word[::-1]


def end_letter(generator):
    word = letters(generator, 3, 6)
    which, letter = generator.choice([("First", word[0]), ("Last", word[-1])])
    return f"{which} letter of {word}?", letter


def count(generator):
    word = letters(generator, 1, 6)
    question = generator.choice(["How many letters in {}?", "Count the letters of {}."])
    return question.format(word), NUMBERS[len(word) - 1]


# How many training rows each family gets: more where there is more to find out than to remember.
FAMILIES = {
    day: 700,
    month: 700,
    opposite: 400,
    colour: 300,
    plural: 300,
    compare: 1500,
    neighbour: 900,
    reverse: 1500,
    end_letter: 700,
    count: 300,
}


def make_rows():
    generator = random.Random(SEED)
    train, heldout = [], []
    for family, number in FAMILIES.items():
        heldout_here = draw(generator, family, HELDOUT_PER_FAMILY, excluded=set())
        train += draw(generator, family, number, excluded={prompt for prompt, _ in heldout_here}, repeat=True)
        heldout += heldout_here
    generator.shuffle(train)
    return train, heldout


def draw(generator, family, number, excluded, repeat=False):
    """Rows of one family. A training set may repeat a prompt, for some families have few; a held-out set may not."""
    rows, seen = [], set(excluded)
    while len(rows) < number:
        prompt, answer = family(generator)
        if prompt in seen:
            continue
        rows.append((prompt, answer))
        if not repeat:
            seen.add(prompt)
    return rows


def write_rows(path, rows):
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for prompt, answer in rows:
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")


PIECES = re.compile(r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+")  # ByteLevel's own split, for ASCII


def make_tokenizer(rows):
    """Byte-level BPE without merges: all 256 bytes, and each word of the data as one token (`ignore_merges`).

    Strings of consonants and numbers stay one token per character, because the model has to work on them.
    """
    pieces = Counter(piece for row in rows for text in row for piece in PIECES.findall(text))
    words = [piece for piece in pieces if len(piece) > 1 and re.search("[aeiouy]", piece)]
    bytes_ = byte_characters()
    vocabulary = SPECIAL + sorted(bytes_.values()) + sorted(w.replace(" ", "Ġ") for w in words)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, token in enumerate(SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {token: i for i, token in enumerate(vocabulary)},
            "merges": [],
        },
    }


def byte_characters():
    """The printable character that byte-level BPE (GPT-2) writes for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


if __name__ == "__main__":
    train, heldout = make_rows()
    assert not {prompt for prompt, _ in train} & {prompt for prompt, _ in heldout}
    write_rows(HERE / "train.jsonl", train)
    write_rows(HERE / "heldout.jsonl", heldout)
    tokenizer = make_tokenizer(train + heldout)
    text = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
    (HERE / "model" / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    print(f"{len(train)} training rows, {len(heldout)} held-out rows, {len(tokenizer['model']['vocab'])} tokens")
