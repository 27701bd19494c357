#!/usr/bin/env python3
"""The bytes of an all_reduce over plain sockets, without reducing anything: what TCP on this machine allows.

    python3 tests/peers/raw_tcp.py RANKS BYTES TIMES [BYTES TIMES ...]

Every rank sends 2/n of the payload to each other rank while it receives as much. One line for each size: its bytes, and the
seconds of every measured exchange of rank 0.
"""

import multiprocessing
import socket
import sys
import threading
import time


def connected(rank: int, ports: list[int], listener: socket.socket) -> list[socket.socket]:
    peers = []
    for other in range(len(ports)):
        if other < rank:
            peer = socket.create_connection(("127.0.0.1", ports[other]))
        elif other > rank:
            peer = listener.accept()[0]
        else:
            continue
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peers.append(peer)
    return peers


def receive(peer: socket.socket, place: memoryview) -> None:
    while place:
        place = place[peer.recv_into(place, min(len(place), 256 << 10)) :]


def exchange(peers: list[socket.socket], sent: memoryview, places: list[memoryview]) -> None:
    if len(sent) <= 32 << 10:  # fits into the buffers of the system
        for peer in peers:
            peer.sendall(sent)
    else:
        senders = [threading.Thread(target=peer.sendall, args=(sent,)) for peer in peers]
        for sender in senders:
            sender.start()
    for peer, place in zip(peers, places):
        receive(peer, place)
    if len(sent) > 32 << 10:
        for sender in senders:
            sender.join()


def measure(rank: int, ports: list[int], listener: socket.socket, sizes: list[tuple[int, int]]) -> None:
    peers = connected(rank, ports, listener)
    for size, times in sizes:
        share = max(1, 2 * size // len(ports))
        sent = memoryview(bytearray(share))
        places = [memoryview(bytearray(share)) for _ in peers]
        taken = []
        for _ in range(times + times // 5):
            begin = time.perf_counter()
            exchange(peers, sent, places)
            taken.append(time.perf_counter() - begin)
        if rank == 0:
            print(size, *(f"{seconds:.9f}" for seconds in taken[times // 5 :]), flush=True)


def main() -> None:
    ranks, *numbers = [int(argument) for argument in sys.argv[1:]]
    sizes = list(zip(numbers[::2], numbers[1::2]))
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(ranks)]
    ports = [listener.getsockname()[1] for listener in listeners]
    processes = [
        multiprocessing.Process(target=measure, args=(rank, ports, listener, sizes))
        for rank, listener in enumerate(listeners)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
