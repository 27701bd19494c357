"""A network between two hosts, as far as programs can tell: two network namespaces of this machine and a link between them.

A link that is only slow is a pair of veth devices with `tc tbf`. One that delays, loses, reorders or swallows packets is a pair
of TUN devices, between which a process of this script passes packets on, as not every kernel has netem. Linux, as root.

Run as a program this file takes the place of ssh: `mdt-host launch --ssh "python3 network.py PREFIX" --hostfile …` with hosts
`host0` and `host1` starts ranks in the namespaces of the network with that prefix.
"""

import ctypes
import fcntl
import heapq
import multiprocessing
import os
import random
import select
import struct
import subprocess
import sys
import time

ADDRESSES = ["10.77.0.1", "10.77.0.2"]

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000

# What waits for a slow link at most; more is dropped, as a switch does.
QUEUE_S = 0.3
# How much later a packet comes that others overtake.
OVERTAKEN_S = 0.005


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Network:
    """Rate in Mbit/s in each direction, delay of each direction, shares of packets that are lost and overtaken."""

    def __init__(self, rate_mbit: float | None = None, delay_ms: float = 0, loss: float = 0, reorder: float = 0, relay: bool = False):
        self.prefix = f"mdt{os.getpid()}"
        self.namespaces = [f"{self.prefix}-{host}" for host in range(2)]
        self.relay = None
        for namespace in self.namespaces:
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        devices = [f"{self.prefix}{end}" for end in "ab"]
        if relay or delay_ms or loss or reorder:
            tunnels = [tunnel(device) for device in devices]
            for device, namespace in zip(devices, self.namespaces):
                ip("link", "set", device, "netns", namespace)
            rate = (rate_mbit or 0) * 1e6 / 8
            self.settings = multiprocessing.Array("d", [rate, delay_ms / 1e3, loss, reorder, 0])
            self.relay = multiprocessing.Process(target=pass_on, args=(tunnels, self.settings), daemon=True)
        else:
            ip("link", "add", devices[0], "type", "veth", "peer", "name", devices[1])
            for device, namespace in zip(devices, self.namespaces):
                ip("link", "set", device, "netns", namespace)
                if rate_mbit:
                    shaped = f"qdisc add dev {device} root tbf rate {rate_mbit}mbit burst 128kb latency {QUEUE_S * 1e3:.0f}ms"
                    self.inside(namespace, "tc", *shaped.split())
        for device, namespace, address in zip(devices, self.namespaces, ADDRESSES):
            ip("-n", namespace, "address", "add", f"{address}/24", "dev", device)
            ip("-n", namespace, "link", "set", device, "up")
        self.devices = devices
        if self.relay:
            self.relay.start()
            for descriptor in tunnels:
                os.close(descriptor)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self.relay:
            self.relay.kill()
            self.relay.join()
        for namespace in self.namespaces:
            ip("netns", "del", namespace)

    def inside(self, namespace: str, *command: str) -> str:
        return subprocess.run(["ip", "netns", "exec", namespace, *command], check=True, capture_output=True, text=True).stdout

    def cut(self, is_cut: bool = True) -> None:
        """Swallows every packet without a word, or no longer. Only where packets are passed on."""
        self.settings[4] = is_cut

    def bytes_sent(self) -> int:
        """What both hosts have sent to each other so far, with the headers of IP and TCP."""
        total = 0
        for namespace, device in zip(self.namespaces, self.devices):
            for line in self.inside(namespace, "cat", "/proc/net/dev").splitlines():
                if line.strip().startswith(f"{device}:"):
                    total += int(line.split(":")[1].split()[8])
        return total


def tunnel(device: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


def pass_on(tunnels: list[int], settings) -> None:
    """Passes packets on between two TUN devices, for ever."""
    ctypes.CDLL(None).prctl(1, 9)  # ends with the process that has started it
    poller = select.epoll()
    for descriptor in tunnels:
        poller.register(descriptor, select.EPOLLIN)
    free = [0.0, 0.0]  # when each direction has sent what waits
    under_way, number = [], 0
    while True:
        wait = under_way[0][0] - time.monotonic() if under_way else -1
        events = poller.poll(max(0, wait) if under_way else None)
        rate, delay, loss, reorder, is_cut = settings[:]
        for descriptor, _ in events:
            direction = tunnels.index(descriptor)
            for _ in range(64):
                try:
                    packet = os.read(descriptor, 65536)
                except BlockingIOError:
                    break
                now = time.monotonic()
                if is_cut or random.random() < loss or free[direction] - now > QUEUE_S:
                    continue
                free[direction] = max(now, free[direction]) + (len(packet) / rate if rate else 0)
                due = free[direction] + delay + (OVERTAKEN_S if random.random() < reorder else 0)
                number += 1
                heapq.heappush(under_way, (due, number, direction, packet))
        now = time.monotonic()
        while under_way and under_way[0][0] <= now:
            _, _, direction, packet = heapq.heappop(under_way)
            try:
                os.write(tunnels[1 - direction], packet)
            except OSError:
                pass  # the other device's queue is full


def as_ssh(prefix: str, arguments: list[str]) -> None:
    if "-G" in arguments:
        print("hostname", ADDRESSES[int(arguments[-1][-1])])
        return
    host, command = arguments[arguments.index("--") + 1 :]
    os.execvp("ip", ["ip", "netns", "exec", f"{prefix}-{host[-1]}", "sh", "-c", command])


if __name__ == "__main__":
    as_ssh(sys.argv[1], sys.argv[2:])
