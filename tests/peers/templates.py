"""Renders real chat templates beside transformers: every template with every kind of conversation.

    python3 tests/peers/templates.py fetch DIRECTORY          # the packages, by pip, and their templates
    python3 tests/peers/templates.py compare DIRECTORY --ours dist/bin/mdt-host --report report.json

A row counts as equal if the token ids are those of transformers, and for a template with `{% generation %}` also the
mask. Where this project makes a sequence of each answer, each is compared with transformers' rendering of the
conversation up to that answer. `templates.sha256` lists the templates that the figures in README.md are of.
"""

import argparse
import collections
import concurrent.futures
import copy
import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile

HERE = pathlib.Path(__file__).parent
LIST = HERE / "templates.sha256"
# Where each package has its templates.
PACKAGES = {
    "llama-cpp-python": r".*/vendor/llama\.cpp/models/templates/(.+)\.jinja",
    "axolotl": r"axolotl/utils/chat_templates/templates/(.+)\.jinja",
    "trl": r"trl/chat_templates/(.+)\.jinja",
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place & a time, such as “now”.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "A place."},
                "days": {"type": "integer", "description": "Days ahead.", "default": 1},
                "unit": {"type": "string", "enum": ["°C", "K"], "description": "The unit."},
            },
            "required": ["place"],
        },
    },
}
TIME = {
    "type": "function",
    "function": {"name": "get_time", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **others):
    return {"role": "assistant", "content": content, **others}


def tool(number, name, content):
    return {"role": "tool", "tool_call_id": f"call{number:05}", "name": name, "content": content}


def call(number, name, arguments):
    return {"id": f"call{number:05}", "type": "function", "function": {"name": name, "arguments": arguments}}


TWO = [user("What is the capital of France?"), assistant("The capital is Paris.")]
FOUR = [*TWO, user("And of Italy?"), assistant("That is Rome.")]
SYSTEM = {"role": "system", "content": "Answer in one sentence."}
ASKED = [user("Is it warm in Paris?")]
PARIS = {"place": "Paris", "days": 2, "unit": "°C"}
ANSWERED = [tool(1, "get_weather", '{"celsius": 21.5}'), assistant("It has 21.5 °C.")]


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


CONVERSATIONS = {
    "plain": {"messages": TWO},
    "turns": {"messages": [*FOUR, user("And of Spain?"), assistant("Madrid.")]},
    "system": {"messages": [SYSTEM, *FOUR]},
    "developer": {"messages": [{"role": "developer", "content": "Answer in one sentence."}, *TWO]},
    "unicode": {"messages": [user("Say ‘good morning’: 3 < 4 && \"x\" 😀"), assistant("Καλημέρα!\n\n  ¿Qué? 👍🏽\t日本語 ")]},
    "white_space": {"messages": [user("  indented\n\n"), assistant("\n a\n\n\nb \n")]},
    "empty_answer": {"messages": [*TWO, user("Say nothing."), assistant("")]},
    "no_answer": {"messages": [*TWO, user("Thanks.")]},
    "tools_unused": {"messages": TWO, "tools": [TIME]},
    "tool_call": {"messages": [*ASKED, assistant(None, tool_calls=[call(1, "get_weather", PARIS)]), *ANSWERED], "tools": [WEATHER, TIME]},
    "tool_call_text": {
        "messages": [*ASKED, assistant("", tool_calls=[call(1, "get_weather", json.dumps(PARIS, ensure_ascii=False))]), *ANSWERED],
        "tools": [WEATHER],
    },
    "tool_call_with_content": {
        "messages": [SYSTEM, *ASKED, assistant("I look it up.", tool_calls=[call(1, "get_weather", PARIS)]), *ANSWERED],
        "tools": [WEATHER],
    },
    "two_calls": {
        "messages": [
            *ASKED,
            assistant(None, tool_calls=[call(1, "get_weather", PARIS), call(2, "get_time", {})]),
            tool(1, "get_weather", "21.5"),
            tool(2, "get_time", "12:30"),
            assistant("It is 12:30 and warm."),
            user("Thanks."),
            assistant("You are welcome."),
        ],
        "tools": [WEATHER, TIME],
    },
    "reasoning": {"messages": [TWO[0], assistant("Paris.", reasoning_content="It is Paris.")]},
    "reasoning_turns": {
        "messages": [
            TWO[0],
            assistant("Paris.", reasoning_content="It is Paris."),
            user("And of Italy?"),
            assistant("Rome.", reasoning_content="It is Rome."),
        ]
    },
    "reasoning_in_content": {"messages": [*TWO, user("And of Italy?"), assistant("<think>\nIt is Rome.\n</think>\n\nRome.")]},
    "reasoning_and_tools": {
        "messages": [
            *ASKED,
            assistant("", reasoning_content="I look it up.", tool_calls=[call(1, "get_weather", PARIS)]),
            tool(1, "get_weather", "21.5"),
            assistant("It is warm.", reasoning_content="21.5 is warm."),
        ],
        "tools": [WEATHER],
    },
    "no_thinking": {"messages": FOUR, "chat_template_kwargs": {"enable_thinking": False}},
    "parts": {"messages": [{"role": "user", "content": parts("What is the capital of France?")}, assistant(parts("Paris."))]},
    "several_parts": {"messages": [{"role": "user", "content": parts("France:", " its capital?")}, assistant("Paris.")]},
}

# What tokenizers have as special tokens, as templates write them.
SPECIAL = re.compile(
    r"<[|｜][^<>|｜\s]{1,40}[|｜]>|<\|[a-z_]{1,20}>|<[a-z_]{1,20}\|>|</?s>|<(?:start|end)_of_(?:turn|utterance|image)>|<(?:bos|eos|pad|unk)>"
    r"|<SPECIAL_\d+>|<sep>|<(?:begin|beginning|end)_of_(?:sentence|document)>"
    r"|\[/?[A-Z]+(?:_[A-Z]+)*\]|<extra_id_\d+>|<\|[^<>|]{1,40}\|>|\[\|[a-z]+\|\]|<\]~!b\[>|\]~b\]|\[e~\[|</?_[a-z]+>|<｜[^<>]{1,30}｜>|<[A-Z]{3}>|<seed:[a-z]+>"
)
ENDS = [
    "<|im_end|>", "<|eot_id|>", "<|eot|>", "<end_of_turn>", "<turn|>", "<|END_OF_TURN_TOKEN|>", "<|return|>", "<｜end▁of▁sentence｜>",
    "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<|user|>", "[e~[", "[|endofturn|]", "<seed:eos>", "<|eom|>", "<|hy_eos|>",
]


def tokenizer_directory(directory, template, shown=""):
    """A model's directory with this template and one token for each byte, and those that the template names or shows."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    found = [token for token in dict.fromkeys(SPECIAL.findall(template + shown)) if "'" not in token]
    special = list(dict.fromkeys(["<s>", "</s>", *found]))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    eos = next((token for token in ENDS if token in found and "eos_token" not in template), "</s>")
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": eos, "tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {"clean_up_tokenization_spaces": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text(template)
    model = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 16,
        "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    }
    (directory / "config.json").write_text(json.dumps(model))


# ---- transformers ----------------------------------------------------------------------------------------------------


def without_null(messages):
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


class Theirs:
    """What transformers makes of a template."""

    def __init__(self, directory, date):
        from transformers import PreTrainedTokenizerFast
        from transformers.utils import chat_template_utils

        class FixedDate(chat_template_utils.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(*date, tzinfo=tz)

        chat_template_utils.datetime = FixedDate
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
        self.marks = re.search(r"\{%-?\+?\s*generation", self.tokenizer.chat_template) is not None

    def all_text(self):
        """All conversations that it renders, as one text."""
        texts = []
        for row in CONVERSATIONS.values():
            try:
                texts.append(self.text(row))
            except Exception:
                pass
        return "".join(texts)

    def text(self, row, turns=None, prompt=False):
        arguments = {"tools": copy.deepcopy(row.get("tools")), **row.get("chat_template_kwargs", {})}
        messages = copy.deepcopy(row["messages"][:turns])
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **arguments)

    def changes(self, row):
        """What its rendering of this row is not that it is of another."""
        text = self.text(row)
        answers = [turn for turn, message in enumerate(row["messages"]) if message["role"] == "assistant"]
        if answers and answers[-1] and text == self.text(row, prompt=True):
            given = self.text(row, answers[-1], True)
            if given[-20:] and text.endswith(given[-20:]):
                return "opens another answer behind the last one"
        parsed = copy.deepcopy(row)
        for message in parsed["messages"]:
            for asked in message.get("tool_calls") or []:
                if isinstance(asked["function"]["arguments"], str):
                    asked["function"]["arguments"] = json.loads(asked["function"]["arguments"])
        try:
            if parsed != row and self.text(parsed) != text:
                return "shows the arguments of a call otherwise if they come as text"
        except Exception:
            pass
        return None

    def render(self, row, turns=None, prompt=False):
        """The text and, where the template marks answers, the mask; or the reason for none."""
        messages = copy.deepcopy(row["messages"][:turns])
        arguments = {"tools": copy.deepcopy(row.get("tools")), **row.get("chat_template_kwargs", {})}
        if self.marks and not prompt:
            both = self.tokenizer.apply_chat_template(
                messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, **arguments
            )
            return both["input_ids"], both["assistant_masks"]
        return self.tokenizer(self.text(row, turns, prompt), add_special_tokens=False)["input_ids"], None


def words(value):
    """All texts that the model should see of a message."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, part in value.items() if key not in ("type", "id") for text in words(part)]
    if isinstance(value, (list, tuple)):
        return [text for part in value for text in words(part)]
    return []


def unfaithful(row, text):
    """Why a rendering is not faithful; None if it is: something is lost, or Python's own form of a value is shown."""
    if "'type': 'text'" in text or "[{'" in text or "{'type': " in text:
        return "shows Python's form of a value"
    if '{\\"place\\"' in text:
        return "quotes the arguments of a call twice"
    if "&#34;" in text:
        return "escapes text for HTML"
    shown = text.replace("\\u00b0", "°")
    for message in row["messages"]:
        content = message.get("content")
        for part in words(content if isinstance(content, (str, list)) else []):
            part = part.split("</think>")[-1].strip()
            if part not in shown and json.dumps(part, ensure_ascii=False)[1:-1] not in shown:
                return f"leaves out the content of a turn ({message['role']})"
        for asked in message.get("tool_calls") or []:
            if asked["function"]["name"] not in shown or ("Paris" in str(asked) and shown.count("Paris") < 2):
                return "leaves out a call"
    for given in row.get("tools") or []:
        if given["function"]["description"][:12] not in shown:
            return "leaves out the tools"
    return None


# ---- ours ------------------------------------------------------------------------------------------------------------


def ours(program, directory, rows):
    """For each row the sequences (ids, mask) of `data preview`, or the reason for which it is refused."""
    results = {}
    left = dict(rows)
    while left:
        names = list(left)
        data = directory / "rows.jsonl"
        data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in left.values()))
        command = [*program, "data", "preview", "--json", "--rows", "1000", "--set", f"model.path={directory}"]
        command += ["--set", f"data.train={data}", "--set", "model.init=random", "--set", "trainer.max_seq_len=100000"]
        command += ["--set", "compute.threads=1", "--set", "trainer.batch_size=1"]
        run = subprocess.run(command, capture_output=True, text=True, cwd=directory)
        if run.returncode:
            if "anything to train" in run.stderr:
                return results | {name: [] for name in names}
            number = re.search(r"^ *(?:at:? .*\brow|at:? line) (\d+)", run.stderr, re.M)
            if number is None:
                return results | {name: run.stderr.strip() for name in names}
            name = names[int(number[1]) - 1]
            results[name] = run.stderr.strip()
            del left[name]
            continue
        for name in names:
            results[name] = []
        for line in run.stdout.splitlines():
            shown = json.loads(line)
            if "row" in shown:
                results[names[shown["row"] - 1]].append((shown["tokens"], [int(mark) for mark in shown["supervised"]]))
        break
    return results


def reason(stderr):
    """An error in few words, without names of files and numbers."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    text = " | ".join(lines)
    text = re.sub(r"/\S+", "…", text)
    return text[:400]


# ---- comparison ------------------------------------------------------------------------------------------------------


def compare_template(job):
    name, template, program = job
    with tempfile.TemporaryDirectory() as place:
        directory = pathlib.Path(place)
        tokenizer_directory(directory, template)
        tokenizer_directory(directory, template, Theirs(directory, (2024, 7, 26)).all_text())
        theirs = Theirs(directory, (2024, 7, 26))
        rendered = ours(program, directory, CONVERSATIONS)
        outcomes = {}
        for kind, row in CONVERSATIONS.items():
            outcomes[kind] = compare_row(theirs, row, rendered[kind])
        return name, outcomes


def compare_row(theirs, row, made):
    try:
        ids, mask = theirs.render(row)
    except Exception as error:
        kind = "refused by both" if isinstance(made, str) else "only rendered here"
        return kind, f"transformers: {type(error).__name__}: {str(error)[:200]}"
    text = theirs.tokenizer.decode(ids)
    lost = unfaithful(row, text) or theirs.changes(row)
    if isinstance(made, str):
        return ("refused, and not faithful in transformers" if lost else "refused"), (lost or "") + " | " + reason(made)
    if not made:
        return ("nothing to train" if not any(m["role"] == "assistant" for m in row["messages"]) else "dropped"), lost or ""
    answers = [turn for turn, message in enumerate(row["messages"]) if message["role"] == "assistant"]
    expected = [(ids, mask)]
    if len(made) > 1 or made[0][0] != ids:
        try:
            expected = [theirs.render(row, turn + 1) for turn in answers][-len(made):]
        except Exception as error:
            return "different", f"per turn: {error}"
    if [ids for ids, _ in expected] != [ids for ids, _ in made]:
        ended = len(expected) == len(made) and all(
            own == ids or own[: len(ids)] == ids and own[-1] in theirs.tokenizer.added_tokens_decoder and len(own) <= len(ids) + 2
            for (ids, _), (own, _) in zip(expected, made)
        )
        if ended:
            return "equal, and ended by the token that the template leaves out", ""
        if lost:
            return "different, and not faithful in transformers", lost
        return "different", "\n".join(
            f"theirs: {theirs.tokenizer.decode(a)!r}\nours:   {theirs.tokenizer.decode(b)!r}"
            for (a, _), (b, _) in zip(expected, made)
        )
    if theirs.marks:
        for (ids, mask), (_, own) in zip(expected, made):
            # A sequence of one answer trains what is marked of it; nothing predicts a first token.
            same = own[1:] == mask[1:] if len(made) == 1 else all(mark or not trained for mark, trained in zip(mask, own))
            if not same:
                return "another mask", f"theirs: {shown(theirs, ids, mask)}\nours:   {shown(theirs, ids, own)}"
    return ("equal" if len(made) == 1 and made[0][0] == ids else "equal per turn"), lost or ""


def shown(theirs, ids, mask):
    text, previous = "", 0
    for token, mark in zip(ids, mask):
        text += ("⟦" if mark > previous else "⟧" if mark < previous else "") + theirs.tokenizer.decode([token])
        previous = mark
    return repr(text + ("⟧" if previous else ""))


def templates(directory):
    return {str(path.relative_to(directory))[: -len(".jinja")]: path.read_text() for path in sorted(directory.rglob("*.jinja"))}


def compare(arguments):
    found = templates(arguments.directory)
    if arguments.only:
        found = {name: text for name, text in found.items() if re.search(arguments.only, name)}
    jobs = [(name, text, arguments.ours.split()) for name, text in found.items()]
    counts, listed = collections.Counter(), {}
    with concurrent.futures.ProcessPoolExecutor(arguments.processes) as pool:
        for name, outcomes in pool.map(compare_template, jobs):
            for kind, (outcome, why) in outcomes.items():
                counts[outcome] += 1
                listed.setdefault(outcome, []).append((name, kind, why))
    for outcome, count in counts.most_common():
        print(f"{count:6}  {outcome}")
    ok = sum(count for outcome, count in counts.items() if outcome.startswith("equal"))
    faithful = ok + counts["different"] + counts["refused"] + counts["another mask"] + counts["dropped"]
    print(f"{len(found)} templates × {len(CONVERSATIONS)} conversations; faithful in transformers: {faithful}, equal {100 * ok / max(faithful, 1):.2f} %")
    for outcome in ("different", "another mask", "refused", "dropped"):
        for name, kind, why in listed.get(outcome, []):
            print(f"{outcome}: {name}: {kind}: {why[:300]}")
    if arguments.report:
        arguments.report.write_text(json.dumps(listed, indent=1, ensure_ascii=False))


# ---- the templates ---------------------------------------------------------------------------------------------------


def fetch(arguments):
    """Downloads the packages and takes the templates out; nothing of them is run but what pip does."""
    packages = arguments.directory / "packages"
    for name in PACKAGES:
        kind = ["--no-binary", name] if name == "llama-cpp-python" else []
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", *kind, "-d", packages, name], check=True)
    for package in sorted(packages.iterdir()):
        unpack(package, arguments.directory)
    check(arguments.directory)


def unpack(package, directory):
    if package.name.endswith(".whl"):
        archive = zipfile.ZipFile(package)
        files = ((name, lambda name=name: archive.read(name)) for name in archive.namelist())
    else:
        archive = tarfile.open(package)
        files = ((m.name, lambda m=m: archive.extractfile(m).read()) for m in archive.getmembers() if m.isfile())
    for name, read in files:
        for source, pattern in PACKAGES.items():
            if match := re.fullmatch(pattern, name):
                place = directory / source / f"{match[1].replace('/', '_')}.jinja"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(read())


def check(directory):
    """Compares the templates with the list, or writes it."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(directory)}\n" for path in sorted(directory.rglob("*.jinja"))
    ]
    if not LIST.exists():
        LIST.write_text("".join(lines))
    changed = set(LIST.read_text().splitlines(True)) ^ set(lines)
    print(f"{len(lines)} templates, {len(changed)} lines differ from {LIST.name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("fetch", fetch), ("compare", compare)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("directory", type=pathlib.Path)
        if name == "compare":
            command.add_argument("--ours", required=True)
            command.add_argument("--only", help="templates whose names match")
            command.add_argument("--report", type=pathlib.Path)
            command.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
