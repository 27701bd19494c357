#!/usr/bin/env python3
"""Strangers at the ports of a job: fuzzed, idle and slow connections, floods of headers and of reset streams, while its ranks wait
for each other (at `comm.port`) and while they train (at `comm.status_port`, the only one that listens then).

    python3 tests/peers/floods.py --ours dist/bin/mdt-host [--connections 10000] [--json FILE]

For every flood the table says how many connections were made, how many the job closed by itself, the bytes that were sent to it, and
the memory of rank 0 before, at most during and after it. Ends with 1 where the job did not end with the bits of one that nobody
disturbed, a rank was kept out, or memory grew by more than 64 MiB.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures/training"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
MOST_GROWTH = 64 << 20
THREADS = 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


# GET / as HPACK has it, without Huffman codes.
HEADERS = bytes([0x82, 0x86, 0x84, 0x41, 1, 0x78])


class Count:
    def __init__(self):
        self.made = self.closed = self.refused = self.sent = 0

    def add(self, made=0, closed=0, refused=0, sent=0):
        self.made += made
        self.closed += closed
        self.refused += refused
        self.sent += sent


def connected(port: int, count: Count) -> socket.socket | None:
    try:
        stranger = socket.create_connection(("127.0.0.1", port), timeout=5)
    except OSError:
        count.add(refused=1)
        return None
    count.add(made=1)
    return stranger


def give(stranger: socket.socket, data: bytes, count: Count) -> bool:
    """Sends; says whether the other side still takes it."""
    try:
        stranger.sendall(data)
        count.add(sent=len(data))
        return True
    except OSError:
        count.add(closed=1)
        return False


def fuzzed(port: int, total: int, count: Count, draw: random.Random) -> None:
    """Random bytes, alone or behind the beginning of HTTP/2, with or without waiting for an answer."""
    for _ in range(total):
        if stranger := connected(port, count):
            with stranger:
                data = draw.randbytes(draw.choice([0, 1, 9, 48, 300, 5000]))
                if draw.random() < 0.3:
                    data = PREFACE + frame(draw.randrange(12), draw.randrange(256), draw.randrange(4), data)
                if give(stranger, data, count) and draw.random() < 0.1:
                    stranger.settimeout(0.02)
                    try:
                        while stranger.recv(4096):
                            pass
                        count.add(closed=1)
                    except TimeoutError:
                        pass
                    except OSError:
                        count.add(closed=1)


def held(port: int, total: int, count: Count, _: random.Random, first: bytes = b"", slow: bool = False) -> None:
    """Connections that say nothing more, or a byte now and then, for six seconds."""
    strangers = [stranger for _ in range(min(total, 1000) // THREADS) if (stranger := connected(port, count))]
    open_ones = [stranger for stranger in strangers if not first or give(stranger, first, count)]
    end = time.monotonic() + 6
    while time.monotonic() < end:
        time.sleep(0.5)
        if slow:
            open_ones = [stranger for stranger in open_ones if give(stranger, b"\0", count)]
    for stranger in open_ones:
        stranger.settimeout(0.001)
        try:
            while stranger.recv(4096):
                pass
            count.add(closed=1)
        except TimeoutError:
            pass
        except OSError:
            count.add(closed=1)
    for stranger in strangers:
        stranger.close()


def flooded(port: int, total: int, count: Count, _: random.Random, data) -> None:
    """Frames without an end, over and over, for six seconds."""
    end = time.monotonic() + 6
    while time.monotonic() < end:
        if not (stranger := connected(port, count)):
            time.sleep(0.05)
            continue
        with stranger:
            stream = 1
            alive = give(stranger, PREFACE, count)
            while alive and time.monotonic() < end:
                alive = give(stranger, data(stream), count)
                stream = stream + 200 if stream < 1 << 30 else 1


def headers(stream: int) -> bytes:
    """One block of headers that never ends."""
    beginning = frame(1, 0, 1, HEADERS) if stream == 1 else b""
    literal = bytes([0, 1, 0x61, 0x7F, 0x80, 0x7E]) + b"b" * 16255
    return beginning + frame(9, 0, 1, literal)


def resets(stream: int) -> bytes:
    """A hundred requests, each taken back at once."""
    return b"".join(frame(1, 4, each, HEADERS) + frame(3, 0, each, bytes(4)) for each in range(stream, stream + 200, 2))


FLOODS = {
    "fuzzed": fuzzed,
    "idle": held,
    "idle, HTTP/2": lambda *given: held(*given, first=PREFACE),
    "slow": lambda *given: held(*given, slow=True),
    "headers": lambda *given: flooded(*given, data=headers),
    "resets": lambda *given: flooded(*given, data=resets),
}


def memory(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) << 10
    return 0


def flood(name: str, port: int, total: int, process: int) -> dict:
    count, before = Count(), memory(process)
    most = before
    threads = [
        threading.Thread(target=FLOODS[name], args=(port, total // THREADS, count, random.Random(number))) for number in range(THREADS)
    ]
    begin = time.monotonic()
    [thread.start() for thread in threads]
    while any(thread.is_alive() for thread in threads):
        most = max(most, memory(process))
        time.sleep(0.05)
    took = time.monotonic() - begin
    time.sleep(0.5)
    row = {"flood": name, "s": round(took, 1), **vars(count), "before": before, "most": most, "after": memory(process)}
    row["holds"] = most - before <= MOST_GROWTH
    return row


class Job:
    def __init__(self, ours: str, steps: int):
        self.ours = ours
        self.directory = Path(tempfile.mkdtemp(prefix="mdt-floods-"))
        self.output = self.directory / "out"
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            second.bind(("127.0.0.1", 0))
            self.port, self.status_port = first.getsockname()[1], second.getsockname()[1]
        self.steps = steps
        self.ranks = {}

    def start(self, rank: int) -> subprocess.Popen:
        keys = {
            "output_dir": self.output, "trainer.batch_size": 2, "trainer.gradient_accumulation_steps": 1, "trainer.max_steps": self.steps,
            "checkpoint.save_steps": 0, "compute.threads": 1, "data.shuffle": "true", "comm.use": "grpc", "comm.world_size": 2,
            "comm.rank": rank, "comm.port": self.port, "comm.shared_memory": "off", "comm.connect_timeout_s": 120,
            "comm.status_port": self.status_port,
        }
        options = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MDT_")}
        environment["MDT_JOB_TOKEN"] = "a secret of both ranks, of 32 characters or more"
        log = open(self.directory / f"rank-{rank}", "w")
        command = [self.ours, "--config", str(FIXTURES / "job.toml"), *options]
        self.ranks[rank] = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        return self.ranks[rank]

    def updates(self) -> int:
        try:
            return (self.output / "metrics.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0

    def result(self) -> str:
        for rank, process in self.ranks.items():
            if process.wait(300):
                sys.exit(f"rank {rank} ended with {process.returncode}:\n{(self.directory / f'rank-{rank}').read_text()[-3000:]}")
        weights = (self.output / "final/model.safetensors").read_bytes()
        shutil.rmtree(self.directory)
        return hashlib.sha256(weights).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", default="dist/bin/mdt-host")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=6000, help="updates of the job that is flooded while it trains")
    parser.add_argument("--json", help="a file for the table")
    arguments = parser.parse_args()
    ours = str(Path(arguments.ours).resolve())
    rows = []

    def note(row: dict, when: str) -> None:
        rows.append(row | {"while": when})
        sizes = " / ".join(f"{row[key] / 2**20:.0f}" for key in ["before", "most", "after"])
        counts = f"{row['made']:6} connections, {row['closed']:6} closed by the job, {row['refused']:5} refused, {row['sent'] / 1e6:9.1f} MB sent"
        print(f"{'ok  ' if row['holds'] else 'FAIL'} {when:8} {row['flood']:13} {row['s']:5} s {counts}, memory {sizes} MiB", flush=True)

    for when, steps in [("meeting", 20), ("training", arguments.steps)]:
        undisturbed = Job(ours, steps)
        [undisturbed.start(rank) for rank in range(2)]
        expected = undisturbed.result()
        job = Job(ours, steps)
        first = job.start(0)
        if when == "training":
            job.start(1)
            while job.updates() < 20:
                time.sleep(0.01)
        else:
            time.sleep(2)
        for name in FLOODS:
            begin = job.updates()
            row = flood(name, job.port if when == "meeting" else job.status_port, arguments.connections, first.pid)
            if when == "training":
                row["updates_per_s"] = round((job.updates() - begin) / row["s"], 1)
                row["holds"] &= first.poll() is None or "the job ended too early: more --steps"
            note(row, when)
        if when == "meeting":
            job.start(1)
        same = job.result() == expected
        rows.append({"while": when, "holds": same})
        print(f"{'ok  ' if same else 'FAIL'} {when:8} the job ended with the bits of an undisturbed one", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))
    sys.exit(not all(row["holds"] is True for row in rows))


if __name__ == "__main__":
    main()
