#!/usr/bin/env python3
"""Every fault that a job promises to survive, done to three ranks on two hosts (network namespaces), one after the other:

    sudo python3 tests/peers/faults.py --ours dist/bin/mdt-host [--rows NAME ...] [--json FILE]

Ranks 0 and 1 run on one host, rank 2 on the other. For each row the ranks are started one by one, the fault is done while they
meet (rank 1 does not come) or train, and the table says for every rank that was not the fault's victim how long it took to its
error, its status and its words; which updates were lost; and whether the same command, started again, ended with the bits of
a job without a fault. The same fault is then done to a job of `launch --max-restarts 3` over the same hosts, which must end by itself with
those bits, or at once where a restart cures nothing. Ends with 1 where a promise did not hold.
"""

import argparse
import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from network import ADDRESSES, Network

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FIXTURES = ROOT / "tests/fixtures/training"

HOST_OF = [0, 0, 1]
SAVE_STEPS = 20
# Updates that are made before a fault in training.
BEFORE = 70
MEASURED = ["tokens_per_s", "step_s", "data_wait_s", "peak_memory_bytes", "eval_s"]
# Longer than any promise.
PATIENCE_S = 60

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207


class Job:
    """A job in a directory of its own."""

    def __init__(self, ours: str, network: Network, steps: int):
        self.ours, self.network = ours, network
        self.directory = Path(tempfile.mkdtemp(prefix="mdt-faults-"))
        self.output = self.directory / "out"
        rows = (FIXTURES / "train.jsonl").read_text().splitlines()[:30]
        (self.directory / "train.jsonl").write_text("\n".join(rows))
        keys = {
            "output_dir": self.output,
            "data.train": self.directory / "train.jsonl",
            "data.shuffle": "true",
            "trainer.batch_size": 2,
            "trainer.gradient_accumulation_steps": 1,
            "trainer.max_steps": steps,
            "checkpoint.save_steps": SAVE_STEPS,
            "compute.threads": 1,
            "comm.use": "grpc",
            "comm.world_size": 3,
            "comm.address": ADDRESSES[0],
            "comm.port": 50051,
            "comm.insecure": "true",
            "comm.connect_timeout_s": 20,
            "comm.timeout_s": 8,
        }
        self.arguments = ["--config", str(FIXTURES / "job.toml")]
        self.set(**keys)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("MDT_")}
        self.environment |= {"MDT_JOB_TOKEN": "a secret of all ranks, of 32 characters or more", "XDG_DATA_HOME": str(self.directory)}
        self.further = {rank: [] for rank in range(3)}

    def set(self, **keys) -> None:
        for key, value in keys.items():
            self.arguments += ["--set", f"{key}={value}"]

    def start(self, rank: int) -> "Process":
        namespace = self.network.namespaces[HOST_OF[rank]]
        command = [self.ours, *self.arguments, "--set", f"comm.rank={rank}", *self.further[rank]]
        return Process(["ip", "netns", "exec", namespace, *command], self.environment)

    def launch(self) -> "Process":
        hosts = self.directory / "hosts"
        hosts.write_text("host0 slots=2\nhost1 slots=1\n")
        ssh = f"{sys.executable} {HERE / 'network.py'} {self.network.prefix}"
        command = [self.ours, "launch", "--hostfile", str(hosts), "--ssh", ssh, "--env", "XDG_DATA_HOME", "--max-restarts", "3"]
        environment = {name: value for name, value in self.environment.items() if name != "MDT_JOB_TOKEN"}
        return Process([*command, *self.arguments], environment)

    def process_of(self, rank: int) -> int | None:
        """The process of a rank that `launch` has started."""
        marks = [f"output_dir={self.output}", f"comm.rank={rank}"]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().decode().split("\0")
                except OSError:
                    continue
                if "run" in words and all(mark in words for mark in marks):
                    return int(entry.name)
        return None

    def updates(self) -> int:
        try:
            return (self.output / "metrics.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0

    def saved(self) -> int:
        whole = [path.parent.name for path in self.output.glob("checkpoints/step-*/manifest.json")]
        return max((int(name.split("-")[1]) for name in whole), default=0)

    def result(self) -> str | None:
        """A digest of the final weights and of all numbers of all updates."""
        weights = self.output / "final/model.safetensors"
        if not weights.exists():
            return None
        digest = hashlib.sha256(weights.read_bytes())
        for line in (self.output / "metrics.jsonl").read_text().splitlines():
            numbers = {key: value for key, value in json.loads(line).items() if key not in MEASURED}
            digest.update(json.dumps(numbers, sort_keys=True).encode())
        return digest.hexdigest()[:12]

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


class Process:
    """A process with what it says, and when."""

    def __init__(self, command: list[str], environment: dict[str, str]):
        self.child = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[tuple[float, str]] = []
        self.ended = None
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        for line in self.child.stderr:
            self.lines.append((time.monotonic(), line.rstrip()))
        self.child.wait()
        self.ended = time.monotonic()

    def wait(self, limit_s: float) -> bool:
        begin = time.monotonic()
        while self.ended is None and time.monotonic() - begin < limit_s:
            time.sleep(0.005)
        return self.ended is not None

    def error(self) -> tuple[float, str] | None:
        """When its error came and its first sentence."""
        for index, (when, line) in enumerate(self.lines):
            if line.startswith("error:"):
                said = [line.removeprefix("error:").strip()]
                for _, further in self.lines[index + 1 :]:
                    if not further.startswith("       "):
                        break
                    said.append(further.strip())
                return when, " ".join(said)
        return None

    def says(self, text: str) -> bool:
        return any(text in line for _, line in list(self.lines))

    def kill(self) -> None:
        if self.ended is None:
            self.child.kill()
            self.wait(5)


def until(condition, limit_s: float = PATIENCE_S) -> bool:
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > limit_s:
            return False
        time.sleep(0.005)
    return True


def hang(process: int) -> None:
    """Stops the thread that computes and no other: a trainer that does not come back, in a process that lives. From a process of
    its own, as what is traced is let go when its tracer ends."""
    tasks = [task for task in Path(f"/proc/{process}/task").iterdir() if (task / "comm").read_text().strip() == "compute"]
    thread = int(tasks[0].name)
    if os.fork() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(1, 9)
        for request in [PTRACE_SEIZE, PTRACE_INTERRUPT]:
            libc.ptrace(request, ctypes.c_long(thread), ctypes.c_void_p(0), ctypes.c_void_p(0))
        while Path(f"/proc/{process}/task/{thread}").exists():
            try:
                os.waitpid(thread, 0x40000000 | os.WNOHANG)
            except ChildProcessError:
                pass
            time.sleep(0.05)
        os._exit(0)


class Fault:
    """What is done. `victim` is the rank that it is done to; of the others an error is expected."""

    def __init__(self, name: str, do, victim: int | None = 2, statuses: set[int] = frozenset({5}), within_s: float = 1, **more):
        self.name, self.do, self.victim, self.statuses, self.within_s = name, do, victim, statuses, within_s
        self.heal = more.get("heal", lambda job, process: None)
        # Words that every survivor says.
        self.names = more.get("names", f"rank {victim}")
        # Whether it can be done to a rank that waits for another one.
        self.while_meeting = more.get("while_meeting", True)
        # Whether the victim itself must end with an error, too.
        self.victim_ends = more.get("victim_ends", False)
        self.restarts = more.get("restarts", True)


def signalled(name: str):
    return lambda job, process: os.kill(process, getattr(signal, f"SIG{name}"))


def fill_disk(job: Job, _) -> None:
    with open(job.output / "ballast", "wb") as ballast:
        try:
            while True:
                ballast.write(bytes(1 << 16))
                ballast.flush()
        except OSError:
            pass


FAULTS = [
    Fault("SIGKILL", signalled("KILL")),
    Fault("SIGKILL of the coordinator", signalled("KILL"), victim=0),
    Fault("SIGSTOP", signalled("STOP"), within_s=5, heal=lambda job, process: os.kill(process, signal.SIGKILL)),
    Fault("SIGSTOP of the coordinator", signalled("STOP"), victim=0, within_s=5, heal=lambda job, process: os.kill(process, signal.SIGKILL)),
    Fault("SIGCONT after the deadline", signalled("STOP"), within_s=5, heal=signalled("CONT"), victim_ends=True),
    Fault("trainer stuck", lambda job, process: hang(process), within_s=11, while_meeting=False, heal=lambda job, process: os.kill(process, signal.SIGKILL)),
    Fault("black hole", lambda job, process: job.network.cut(), within_s=10, heal=lambda job, process: job.network.cut(False), victim_ends=True),
    Fault("disk full at rank 0", fill_disk, victim=0, statuses={5, 7}, within_s=PATIENCE_S, victim_ends=True, restarts=False,
          heal=lambda job, process: os.remove(job.output / "ballast")),
]


def fresh(job: Job) -> None:
    """With an output directory of a few megabytes, so that it can be filled."""
    job.output.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", job.output], check=True)


def examine(arguments, network: Network, fault: Fault, meeting: bool, expected: str) -> dict:
    """Does the fault to ranks that were started one by one, and starts them again."""
    row = {"fault": fault.name, "while": "meeting" if meeting else "training"}
    job = Job(arguments.ours, network, arguments.steps)
    if fault.do is fill_disk:
        fresh(job)
    try:
        come = [0, 2] if meeting else [0, 1, 2]
        ranks = {rank: job.start(rank) for rank in come}
        if meeting:
            ready = until(lambda: ranks[0].says("waiting"))
            time.sleep(2)
        else:
            ready = until(lambda: job.updates() >= BEFORE or any(rank.ended for rank in ranks.values()))
        if not ready or any(rank.ended for rank in ranks.values()):
            raise RuntimeError("\n".join(line for rank in ranks.values() for _, line in rank.lines))
        pid = ranks[fault.victim].child.pid
        begin = time.monotonic()
        fault.do(job, pid)
        at_fault = job.updates()
        if meeting and fault.do is fill_disk:
            ranks[1] = job.start(1)
        survivors = [rank for rank in ranks if rank != fault.victim]
        row["survivors"] = {}
        for rank in survivors + ([fault.victim] if fault.victim_ends and fault.name != "SIGCONT after the deadline" else []):
            ranks[rank].wait(PATIENCE_S)
            row["survivors"][rank] = said(ranks[rank], begin)
        if fault.name.startswith("SIGCONT"):
            time.sleep(1)
        fault.heal(job, pid)
        if fault.victim_ends:
            ranks[fault.victim].wait(PATIENCE_S)
            row["survivors"].setdefault(fault.victim, said(ranks[fault.victim], time.monotonic()))
        for process in ranks.values():
            process.kill()
        row["updates"], row["saved"] = at_fault, job.saved()
        row["lost"] = max(0, job.updates() - row["saved"])
        again = [job.start(rank) for rank in range(3)]
        ended = [process.wait(PATIENCE_S) and process.child.returncode for process in again]
        row["again"] = ended == [0, 0, 0] and job.result() == expected
        if not row["again"]:
            row["again_said"] = [process.error() for process in again]
        row["holds"] = row["again"] and all(
            told["s"] is not None
            and (told["s"] <= fault.within_s or rank == fault.victim)
            and told["status"] in fault.statuses
            and (fault.names in told["said"] or rank == fault.victim)
            for rank, told in row["survivors"].items()
        )
        [process.kill() for process in again]
    finally:
        network.cut(False)
        subprocess.run(["umount", "-q", job.output], capture_output=True)
        job.remove()
    return row


def said(process: Process, begin: float) -> dict:
    error = process.error()
    status = process.child.returncode if process.ended else None
    return {"s": error and round(error[0] - begin, 2), "status": status, "said": error[1] if error else ""}


def launched(arguments, network: Network, fault: Fault, expected: str) -> dict:
    """Does the fault to a job of `launch --max-restarts`."""
    job = Job(arguments.ours, network, arguments.steps)
    if fault.do is fill_disk:
        fresh(job)
    launcher = job.launch()
    try:
        if not until(lambda: job.updates() >= BEFORE or launcher.ended):
            raise RuntimeError("the launched job came nowhere")
        pid = job.process_of(fault.victim)
        begin = time.monotonic()
        fault.do(job, pid)
        until(lambda: launcher.says("restart  1 of 3") or launcher.ended)
        noticed = time.monotonic() - begin
        try:
            fault.heal(job, pid)
        except (ProcessLookupError, FileNotFoundError):
            pass  # the launcher has ended it
        launcher.wait(2 * PATIENCE_S)
        status = launcher.child.returncode if launcher.ended else None
        carried = status == 0 and job.result() == expected
        error = launcher.error()
        return {"s": round(noticed, 2), "status": status, "carried": carried, "said": error[1] if error else "", "left": left(job),
                "output": [] if carried or not fault.restarts else [line for _, line in launcher.lines[-25:]]}
    finally:
        launcher.kill()
        network.cut(False)
        for rank in range(3):
            if process := job.process_of(rank):
                os.kill(process, signal.SIGKILL)
        subprocess.run(["umount", "-q", job.output], capture_output=True)
        job.remove()


def left(job: Job) -> list[int]:
    """Ranks that stay behind."""
    until(lambda: not any(job.process_of(rank) for rank in range(3)), 15)
    return [rank for rank in range(3) if job.process_of(rank)]


def launcher_killed(arguments, network: Network, meeting: bool, expected: str) -> dict:
    """Kills the launcher: the ranks save and end by themselves, and the same command goes on."""
    job = Job(arguments.ours, network, arguments.steps)
    launcher = job.launch()
    try:
        reached = (lambda: launcher.says("waiting")) if meeting else (lambda: job.updates() >= BEFORE)
        until(lambda: reached() or launcher.ended)
        begin = time.monotonic()
        os.kill(launcher.child.pid, signal.SIGKILL)
        behind = left(job)
        took, saved, made = time.monotonic() - begin, job.saved(), job.updates()
        again = job.launch()
        again.wait(PATIENCE_S)
        carried = again.ended is not None and again.child.returncode == 0 and job.result() == expected
        again.kill()
        row = {"fault": "launcher killed", "while": "meeting" if meeting else "training", "survivors": {}, "updates": made, "saved": saved}
        return row | {"lost": made - saved, "again": carried, "gone_s": round(took, 2), "holds": carried and not behind and made == saved}
    finally:
        job.remove()


def disagreeing(arguments, network: Network, what: str) -> dict:
    """One rank has another configuration, or another build of a plugin."""
    job = Job(arguments.ours, network, arguments.steps)
    try:
        if what == "configuration":
            job.further[2] = ["--set", "optimizer.learning_rate=0.25"]
            names, statuses = "optimizer.learning_rate", {2}
        else:
            beside = [Path(arguments.ours).parents[1] / "plugins", Path(arguments.ours).parent]
            library = next(place / "libmdt_optim.so" for place in beside if (place / "libmdt_optim.so").exists())
            content = bytearray(library.read_bytes())
            place = content.index(b'"sources":"') + len(b'"sources":"')
            content[place] = ord("1") if content[place] == ord("0") else ord("0")
            (job.directory / "plugins").mkdir()
            (job.directory / "plugins" / library.name).write_bytes(content)
            job.further[2] = ["--plugin-dir", str(job.directory / "plugins")]
            names, statuses = "optimizer/adamw", {3}
        begin = time.monotonic()
        ranks = [job.start(rank) for rank in range(3)]
        for process in ranks:
            process.wait(PATIENCE_S)
        told = {rank: said(process, begin) for rank, process in enumerate(ranks)}
        holds = all(names in each["said"] and each["status"] in statuses for each in told.values()) and job.updates() == 0
        return {"fault": f"another {what} at rank 2", "while": "meeting", "survivors": told, "updates": 0, "saved": 0, "lost": 0, "holds": holds}
    finally:
        job.remove()


def disturbed(arguments, name: str, expected: str, **link) -> dict:
    """A bad network is no fault: the job ends with the same bits."""
    with Network(relay=True, **link) as network:
        job = Job(arguments.ours, network, arguments.steps)
        try:
            begin = time.monotonic()
            ranks = [job.start(rank) for rank in range(3)]
            ended = [process.wait(4 * PATIENCE_S) and process.child.returncode for process in ranks]
            took = time.monotonic() - begin
            same = ended == [0, 0, 0] and job.result() == expected
            row = {"fault": name, "while": "both", "survivors": {}, "updates": job.updates(), "saved": job.saved(), "lost": 0}
            row |= {"job_s": round(took, 1), "again": same, "holds": same}
            if not same:
                row["survivors"] = {rank: said(process, begin) for rank, process in enumerate(ranks)}
            [process.kill() for process in ranks]
            return row
        finally:
            job.remove()


def undisturbed(arguments, network: Network) -> str:
    job = Job(arguments.ours, network, arguments.steps)
    begin = time.monotonic()
    ranks = [job.start(rank) for rank in range(3)]
    for process in ranks:
        if not process.wait(2 * PATIENCE_S) or process.child.returncode:
            sys.exit("the job does not run even without a fault:\n" + "\n".join(line for _, line in process.lines))
    print(f"without a fault: {time.monotonic() - begin:.1f} s, {job.result()}\n", file=sys.stderr)
    result = job.result()
    job.remove()
    return result


def tell(row: dict) -> None:
    print(f"{'ok  ' if row['holds'] else 'FAIL'} {row['fault']}, while {row['while']}", flush=True)
    for rank, told in row["survivors"].items():
        print(f"       rank {rank}: {told['s']} s, status {told['status']}: {told['said']}")
    words = [f"{row['lost']} updates to make again ({row['updates']} at the fault, {row['saved']} saved)"] if row["updates"] else []
    words += [f"whole job {row['job_s']} s"] if "job_s" in row else []
    words += [f"all ranks gone after {row['gone_s']} s"] if "gone_s" in row else []
    words += [f"same bits: {'yes' if row['again'] else 'NO ' + str(row.get('again_said', ''))}"] if "again" in row else []
    print(f"       {'; '.join(words)}")
    if restarted := row.get("restarted"):
        end = "ended by itself with the same bits" if restarted["carried"] else f"ended with status {restarted['status']}: {restarted['said']}"
        print(f"       launch --max-restarts: noticed after {restarted['s']} s; {end}", *restarted["output"], sep="\n         ", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", default="dist/bin/mdt-host")
    parser.add_argument("--steps", type=int, default=200, help="updates of a job")
    parser.add_argument("--rows", nargs="+", help="only rows whose names begin so")
    parser.add_argument("--json", help="a file for the table")
    arguments = parser.parse_args()
    arguments.ours = str(Path(arguments.ours).resolve())
    wanted = lambda name: not arguments.rows or any(name.startswith(row) for row in arguments.rows)
    rows = []

    def note(row: dict) -> None:
        tell(row)
        rows.append(row)

    with Network(relay=True) as network:
        expected = undisturbed(arguments, network)
        for fault in FAULTS:
            if wanted(fault.name):
                row = examine(arguments, network, fault, False, expected)
                row["restarted"] = launched(arguments, network, fault, expected)
                row["holds"] &= row["restarted"]["carried"] == fault.restarts and not row["restarted"]["left"]
                note(row)
                if fault.while_meeting:
                    note(examine(arguments, network, fault, True, expected))
        if wanted("launcher killed"):
            note(launcher_killed(arguments, network, False, expected))
            note(launcher_killed(arguments, network, True, expected))
        for what in ["configuration", "plugin"]:
            if wanted(f"another {what}"):
                note(disagreeing(arguments, network, what))
    links = {
        "1 % loss": {"loss": 0.01},
        "50 ms delay": {"delay_ms": 50},
        "10 Mbit/s": {"rate_mbit": 10},
        "reordering": {"reorder": 0.1},
    }
    for name, link in links.items():
        if wanted(name):
            note(disturbed(arguments, name, expected, **link))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))
    broken = [f"{row['fault']} ({row['while']})" for row in rows if not row["holds"]]
    print(f"\n{len(rows) - len(broken)} of {len(rows)} rows hold" + (f"; not: {', '.join(broken)}" if broken else ""))
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
