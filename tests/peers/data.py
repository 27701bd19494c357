"""Data beside datasets and tokenizers: `data.py --ours dist/bin/mdt-host [--rows 200000] [--gigabytes 1] [--rounds 3]`.

Three figures, all with the tokenizer, the template and the model of `examples/demo`:

- rows per second from JSON Lines to tokens with their marks. `ours` reads, renders, tokenizes and marks (`data preview --rows 0`, without
  the time of one on a single row); `map` is `Dataset.map` of datasets with `apply_chat_template`, batched, two processes, without the
  time of loading the file; `loop` reads each line and calls `apply_chat_template`; `encode` is `tokenizers` alone, on text that is
  rendered before. In turns; the load average before each round is shown.
- seconds from the start of the program to the first line of metrics, and peak memory, for a file of this size as JSON Lines, as
  Parquet, and as an Arrow stream. The file is dropped from the page cache first where that is allowed.
- the same for a second start on rows that are all in the cache.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "examples/demo/model"


def rows(count, seed=0):
    """Conversations of the demo's kind, of one to three questions; no two are alike."""
    draw = random.Random(seed)
    known = [json.loads(line)["messages"] for line in open(ROOT / "examples/demo/train.jsonl", encoding="utf-8")]
    for number in range(count):
        turns = [turn for _ in range(draw.randint(1, 3)) for turn in draw.choice(known)]
        yield {"messages": turns, "id": number}


def keys(data, output, **more):
    values = {"output_dir": output, "data.train": data, "data.eval": "[]", "trainer.max_seq_len": 256, "checkpoint.resume": "never"} | more
    config = ["--config", str(ROOT / "examples/demo/demo.toml")]
    return config + [argument for key, value in values.items() for argument in ("--set", f"{key}={value}")]


def preview_s(program, data):
    begin = time.perf_counter()
    arguments = keys(data, tempfile.mkdtemp(), **{"data.lazy": "false", "data.cache": "false"})
    subprocess.run([program, "data", "preview", "--rows", "0", "--json", *arguments], check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - begin


def peer_s(kind, data):
    """In a process of its own, which prints the seconds."""
    run = subprocess.run([sys.executable, __file__, "--peer", kind, "--data", data], check=True, capture_output=True, text=True)
    return float(run.stdout.split()[-1])


def peer(kind, data):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    if kind == "map":
        from datasets import disable_progress_bars, load_dataset

        disable_progress_bars()
        loaded = load_dataset("json", data_files=data, split="train", cache_dir=tempfile.mkdtemp())

        def tokenize(batch):
            return dict(tokenizer.apply_chat_template(batch["messages"], return_dict=True))

        begin = time.perf_counter()
        loaded.map(tokenize, batched=True, num_proc=2, load_from_cache_file=False)
    elif kind == "loop":
        begin = time.perf_counter()
        for line in open(data, encoding="utf-8"):
            tokenizer.apply_chat_template(json.loads(line)["messages"], return_dict=True)
    else:
        texts = [tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False) for line in open(data, encoding="utf-8")]
        begin = time.perf_counter()
        for start in range(0, len(texts), 1000):
            tokenizer.backend_tokenizer.encode_batch(texts[start : start + 1000])
    print(time.perf_counter() - begin)


def tokenizing(options, directory):
    data, one = str(directory / "rows.jsonl"), str(directory / "one.jsonl")
    for path, count in [(data, options.rows), (one, 1)]:
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows(count))
    speeds = {kind: [] for kind in ("ours", "map", "loop", "encode")}
    for round in range(options.rounds):
        print(f"round {round + 1}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        for kind in speeds:
            seconds = preview_s(options.ours, data) - preview_s(options.ours, one) if kind == "ours" else peer_s(kind, data)
            speeds[kind].append(options.rows / seconds)
    return {kind: [round(statistics.median(all)), round(min(all)), round(max(all))] for kind, all in speeds.items()}


def first_update(program, arguments):
    """Seconds to the first line of metrics, and the peak of the process's memory until then."""
    output = Path(arguments[arguments.index("--set") + 1].split("=")[1])
    begin = time.perf_counter()
    process = subprocess.Popen([program, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, *[int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")], 0)
            if (output / "metrics.jsonl").stat().st_size > 0:
                break
        except (OSError, IndexError):
            pass
        time.sleep(0.01)
    seconds = time.perf_counter() - begin
    process.terminate()
    _, told = process.communicate()
    if process.returncode not in (0, 130, -15):
        sys.exit(told)
    return {"seconds": round(seconds, 2), "peak_mb": peak // 1024, "load": round(os.getloadavg()[0], 1)}


def large_files(directory, size):
    """The same rows as JSON Lines of this many bytes, as Parquet, and as an Arrow stream."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = {kind: directory / f"large.{kind}" for kind in ("jsonl", "parquet", "arrow")}
    schema = pa.schema([("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))), ("id", pa.int64())])
    written, all = 0, rows(10**9)
    with open(paths["jsonl"], "w") as lines, pq.ParquetWriter(paths["parquet"], schema) as table, pa.OSFile(
        str(paths["arrow"]), "wb"
    ) as file, pa.ipc.new_stream(file, schema) as stream:
        while written < size:
            block = [next(all) for _ in range(10_000)]
            text = "".join(json.dumps(row) + "\n" for row in block)
            written += lines.write(text)
            batch = pa.Table.from_pylist(block, schema)
            table.write_table(batch)
            stream.write_table(batch, max_chunksize=1000)
    return paths


def starts(options, directory):
    figures = {}
    for kind, path in large_files(directory, int(options.gigabytes * 1e9)).items():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        cache = tempfile.mkdtemp(dir=directory)
        more = {"data.cache": cache, "data.lazy": "true", "trainer.max_steps": 1000}
        figures[kind] = {"bytes": path.stat().st_size, "first_update": first_update(options.ours, keys(str(path), tempfile.mkdtemp(), **more))}
        figures[kind]["again"] = first_update(options.ours, keys(str(path), tempfile.mkdtemp(), **more))
        path.unlink()
    return figures


def from_the_cache(options, directory):
    data, cache = directory / "cached.jsonl", tempfile.mkdtemp(dir=directory)
    with open(data, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(options.cached))
    more = {"data.cache": cache, "data.lazy": "true", "trainer.batch_size": 256, "trainer.num_epochs": 1}
    subprocess.run([options.ours, *keys(str(data), tempfile.mkdtemp(), **more)], check=True, capture_output=True, cwd=ROOT)
    return first_update(options.ours, keys(str(data), tempfile.mkdtemp(), **more))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--cached", type=int, default=20_000, help="rows that are all in the cache")
    parser.add_argument("--only", choices=["tokenizing", "starts", "cache"])
    parser.add_argument("--peer", choices=["map", "loop", "encode"], help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        return peer(options.peer, options.data)
    options.ours = str(Path(options.ours).resolve())
    parts = {"tokenizing": tokenizing, "starts": starts, "cache": from_the_cache}
    for name, part in parts.items():
        if options.only in (None, name):
            with tempfile.TemporaryDirectory() as directory:
                print(json.dumps({name: part(options, Path(directory))}, indent=2), flush=True)


if __name__ == "__main__":
    main()
