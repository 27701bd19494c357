#!/usr/bin/env python3
"""Step times of two ranks over links of several speeds, beside torch's DistributedDataParallel on Gloo, in turns:

    sudo python3 tests/peers/links.py --ours dist/bin/mdt-host [--links NAME ...] [--rounds 2] [--json FILE]

The model of peers.py, f32, AdamW, one thread and 4 rows of 256 tokens for each rank, 5.2 M gradients in every update. Each rank runs in
a network namespace of its own (`network.py`); the last link has 50 ms in each direction, a round trip of 100. The first
step of a process is not counted. `MB` is what both ranks together send in one update, with headers, counted at the devices.
Needs root on Linux, torch and transformers.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from network import ADDRESSES, Network

HERE = Path(__file__).resolve().parent
ROWS, LENGTH, VOCABULARY = 4, 256, 8192

# The link, and the steps that are counted in each round.
LINKS = {
    "loopback": (None, 10),
    "1 Gbit/s": ({"rate_mbit": 1000}, 10),
    "100 Mbit/s": ({"rate_mbit": 100}, 5),
    "10 Mbit/s, 100 ms": ({"rate_mbit": 10, "delay_ms": 50}, 2),
}
OURS = {
    "ours": {},
    "ours, no overlap": {"comm.overlap": "false"},
    "ours, bf16": {"comm.gradient_dtype": "bfloat16"},
    "ours, TCP": {"comm.shared_memory": "off"},
}
DDP = {"DDP": [], "DDP, bf16": ["bf16"]}


def write_job(directory: Path) -> None:
    """The model with a tokenizer that has a word for each token, and rows of random words."""
    model = directory / "model"
    shutil.copytree(HERE / "model", model)
    words = {"<pad>": 0, "</s>": 1} | {f"w{token}": token for token in range(2, VOCABULARY)}
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"] = {"type": "WordLevel", "vocab": words, "unk_token": "<pad>"}
    tokenizer["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    draw = random.Random(0)
    with open(directory / "rows.jsonl", "w") as rows:
        for _ in range(400):
            text = " ".join(f"w{draw.randrange(2, VOCABULARY)}" for _ in range(LENGTH + 8))
            rows.write(json.dumps({"text": text}) + "\n")


def steps_of_ours(arguments, network: Network, hosts: list[int], keys: dict, steps: int, work: Path) -> tuple[list[float], float]:
    with tempfile.TemporaryDirectory(dir=work) as output:
        settings = {
            "output_dir": output, "model.path": work / "model", "data.train": work / "rows.jsonl", "trainer.batch_size": ROWS,
            "trainer.max_seq_len": LENGTH, "trainer.max_steps": steps, "checkpoint.save_steps": 0, "compute.threads": 1,
            "comm.use": "grpc", "comm.world_size": 2, "comm.address": address(hosts), "comm.port": 50051, "comm.insecure": "true",
            "comm.timeout_s": 120, **keys,
        }
        options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        command = [arguments.ours, "--config", str(HERE / "job.toml"), *options]
        environment = {"MDT_JOB_TOKEN": "a secret of both ranks, of 32 characters or more"}
        ranks = [start(network, host, [*command, "--set", f"comm.rank={rank}"], environment) for rank, host in enumerate(hosts)]
        metrics = Path(output) / "metrics.jsonl"
        lines = lambda: metrics.read_text().splitlines() if metrics.exists() else []
        sent = counted(ranks, network, hosts, lambda: len(lines()), steps)
        return [json.loads(line)["step_s"] for line in lines()], sent


def steps_of_ddp(network: Network, hosts: list[int], further: list[str], steps: int, work: Path) -> tuple[list[float], float]:
    printed = work / "ddp"
    printed.write_text("")
    command = [sys.executable, str(HERE / "ddp_step.py"), str(steps), *further]
    ranks = []
    for rank, host in enumerate(hosts):
        environment = {
            "RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": address(hosts), "MASTER_PORT": 29500, "BATCH": ROWS, "LENGTH": LENGTH,
            "GLOO_SOCKET_IFNAME": network.devices[host] if hosts[0] != hosts[1] else "lo", "OMP_NUM_THREADS": 1, "HF_HUB_OFFLINE": 1,
        }
        with open(printed if rank == 0 else os.devnull, "a") as output:
            ranks.append(start(network, host, command, environment, output))
    lines = lambda: printed.read_text().split()
    sent = counted(ranks, network, hosts, lambda: len(lines()), steps)
    return [float(line) for line in lines()], sent


def address(hosts: list[int]) -> str:
    return ADDRESSES[0] if hosts[0] != hosts[1] else "127.0.0.1"


def start(network: Network, host: int, command: list[str], environment: dict, output=subprocess.DEVNULL) -> subprocess.Popen:
    environment = dict(os.environ) | {name: str(value) for name, value in environment.items()}
    inside = ["ip", "netns", "exec", network.namespaces[host], *command]
    return subprocess.Popen(inside, cwd=HERE.parents[1], env=environment, stdout=output, stderr=subprocess.PIPE, text=True)


def counted(ranks: list[subprocess.Popen], network: Network, hosts: list[int], made, steps: int) -> float:
    """Waits for the end; the bytes of a step, from the end of the first one to that of the last one."""
    loopback = hosts[0] == hosts[1]
    bytes_now = lambda: loopback_bytes(network, hosts[0]) if loopback else network.bytes_sent()
    at = {}
    while any(rank.poll() is None for rank in ranks):
        done = made()
        if done in (1, steps) and done not in at:
            at[done] = bytes_now()
        if any(rank.poll() for rank in ranks):
            break
        time.sleep(0.01)
    errors = [rank.communicate()[1] for rank in ranks if not rank.poll() is None]
    if any(rank.poll() for rank in ranks):
        [rank.kill() for rank in ranks if rank.poll() is None]
        sys.exit("\n".join(errors)[-4000:])
    return (at[steps] - at[1]) / (steps - 1) if 1 in at and steps in at else float("nan")


def loopback_bytes(network: Network, host: int) -> int:
    for line in network.inside(network.namespaces[host], "cat", "/proc/net/dev").splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split(":")[1].split()[8])
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", default="dist/bin/mdt-host")
    parser.add_argument("--links", nargs="+", default=list(LINKS), help="names of links")
    parser.add_argument("--only", nargs="+", help="names of contenders")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a further key of ours")
    parser.add_argument("--json", help="a file for all figures")
    arguments = parser.parse_args()
    arguments.ours = str(Path(arguments.ours).resolve())
    further = dict(text.split("=", 1) for text in arguments.set)
    figures = []
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        write_job(work)
        for name in arguments.links:
            link, steps = LINKS[name]
            contenders = [each for each in [*OURS, *DDP] if not arguments.only or each in arguments.only]
            if link:
                contenders = [each for each in contenders if each != "ours, TCP"]  # there is no shared memory between hosts
            taken = {each: ([], []) for each in contenders}
            for turn in range(arguments.rounds):
                for each in contenders:
                    with Network(**(link or {})) as network:
                        hosts = [0, 1] if link else [0, 0]
                        if each in OURS:
                            seconds, sent = steps_of_ours(arguments, network, hosts, OURS[each] | further, steps + 1, work)
                        else:
                            seconds, sent = steps_of_ddp(network, hosts, DDP[each], steps + 1, work)
                    taken[each][0].extend(seconds[1:])
                    taken[each][1].append(sent)
                    print(f"{name}, round {turn + 1}, load {os.getloadavg()[0]:.1f}: {each} {statistics.median(seconds[1:]):.3f} s", file=sys.stderr)
            print(f"\n{name}: s per update, median (least to most), MB per update")
            for each, (seconds, sent) in taken.items():
                median = statistics.median(seconds)
                print(f"{each:18} {median:8.3f} ({min(seconds):.3f} to {max(seconds):.3f}) {statistics.median(sent) / 1e6:8.2f}", flush=True)
                figures.append({"link": name, "contender": each, "step_s": seconds, "bytes": sent})
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
