"""From a registration at one client agent until DNS at another knows of it.

    scripts/bench visibility [--rounds 3] [--services 40] [--against REV]

A server and two client agents of each make. A service with a new name is registered at the first client's
/v1/agent/service/register; DNS at the second is asked for it every millisecond. Counted is from before the request is
sent to the first answer that has it, which includes a commit on the server's disk. The median must be 20 ms at most.
"""

from __future__ import annotations

import http.client
import json
import socket
import statistics
import struct
import time

from scripts.benches.frame import CONSUL, HTTP_PORT, OURS, Busy, Make, Server, fleet, makes, parser, spread

DNS_PORT = 8600
LIMIT_S = 0.020
GIVE_UP_S = 10.0
PAUSE_S = 0.001
REPLY_S = 0.5


def question(number: int, name: str) -> bytes:
    """A query for the addresses of a service."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in f"{name}.service.consul".split("."))
    return struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)


def visible_after(register: http.client.HTTPConnection, sock: socket.socket, name: str) -> float:
    """Register a service; seconds until DNS has it. Raises TimeoutError."""
    body = json.dumps({"Name": name, "Port": 80})
    began = time.perf_counter()
    register.request("PUT", "/v1/agent/service/register", body)
    answer = register.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
    number = 0
    while time.perf_counter() - began < GIVE_UP_S:
        number += 1
        sock.send(question(number, name))
        try:
            reply = sock.recv(4096)
        except TimeoutError:
            continue
        if struct.unpack_from(">H", reply)[0] == number and struct.unpack_from(">H", reply, 6)[0] > 0:
            return time.perf_counter() - began
        time.sleep(PAUSE_S)
    raise TimeoutError(f"{name} did not appear")


def main(arguments: list[str]) -> int:
    """Measure each make in turn; the exit code is 1 when our median is over the limit."""
    options = parser(__doc__, rounds=3, seconds=0)
    options.add_argument("--services", type=int, default=40)
    chosen = options.parse_args(arguments)
    seen: dict[str, list[list[float]]] = {}
    with makes(chosen) as found, fleet(chosen) as agents:
        sets: list[tuple[Make, list[Server]]] = []
        for make in found:
            (server,) = agents.cluster(make)
            sets.append((make, [server, agents.client(make, [server]), agents.client(make, [server])]))

        def measure(make: Make, members: list[Server], number: int) -> None:
            _, first, second = members
            register = http.client.HTTPConnection(first.address, HTTP_PORT, timeout=10)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(REPLY_S)
                sock.connect((second.address, DNS_PORT))
                times = [visible_after(register, sock, f"vis-{number}-{each}") for each in range(chosen.services)]
            register.close()
            if number:
                seen.setdefault(make.label, []).append(sorted(times))

        busy, own = Busy(), sum(each.cpu_s() for _, members in sets for each in members) + time.process_time()
        for number in range(chosen.rounds + 1):  # the first round does not count
            for make, members in sets if number % 2 else sets[::-1]:
                measure(make, members, number)
        used = sum(each.cpu_s() for _, members in sets for each in members) + time.process_time() - own
        others = busy.others(used)
    for label, rounds in seen.items():
        every, middles = (
            sorted(each for one in rounds for each in one),
            [statistics.median(one) * 1e3 for one in rounds],
        )
        print(f"visibility {label:<8} median {statistics.median(every) * 1e3:7.1f} ms (rounds "
              f"{spread(middles)}), p90 {every[len(every) * 9 // 10] * 1e3:.1f} "
              f"ms, worst {every[-1] * 1e3:.1f} ms of {len(every)}", flush=True)  # fmt: skip
    ours = statistics.median(each for one in seen[OURS] for each in one)
    if CONSUL in seen:
        ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(seen[OURS], seen[CONSUL], strict=True)]
        print(f"visibility ours/consul: {spread(ratios)}")
    kept = ours <= LIMIT_S
    print(f"visibility: limit {LIMIT_S * 1e3:.0f} ms {'kept' if kept else 'missed'}; others used "
          f"{others * 100:.0f}% of the machine")  # fmt: skip
    return int(not kept)
