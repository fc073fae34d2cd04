"""A bridge with a namespace for each server; cuts by nft; links that are slow, lossy and out of order.

The clients are where the bridge is, at CLIENT_IP, and no fault touches what goes between them and a server. Delay,
jitter, loss and reordering are netem's words, but the kernels of many small machines lack netem, so packets from a
server to the others can be led through TUN devices and this process instead. That costs nothing while no fault asks.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SUBNET = "10.77.0"
CLIENT_IP = f"{SUBNET}.254"
BRIDGE = "br0"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MTU = 1500
QUEUE_MAX = 2_000
"""Packets under way on a slow link; more are lost, as in any router."""


def run(*words: str, given: str | None = None) -> None:
    """A command that must succeed. Raises OSError with what it said."""
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


@dataclass(frozen=True, slots=True)
class Slowness:
    """Of every packet that a server sends to another."""

    delay_s: float
    jitter_s: float
    loss: float
    reorder: float
    """The share of packets that skip the delay."""

    def __str__(self) -> str:
        return (
            f"{self.delay_s * 1000:.0f} ms +-{self.jitter_s * 1000:.0f}, loss {self.loss * 100:.0f} %,"
            f" reorder {self.reorder * 100:.0f} %"
        )


class Net:
    """The cables of `count` servers, numbered from 1."""

    def __init__(self, count: int, rng: random.Random) -> None:
        self.ips = {number: f"{SUBNET}.{number}" for number in range(1, count + 1)}
        self._random = rng
        self._devices: dict[int, int] = {}
        self._slow: dict[int, Slowness] = {}
        self._under_way = 0
        self.relayed = 0

    def up(self) -> None:
        """Make it all. Raises OSError."""
        os.makedirs("/run/netns", exist_ok=True)
        run("mount", "-t", "tmpfs", "none", "/run/netns")  # of this run alone: outside, names stay free
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{CLIENT_IP}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        for number, ip in self.ips.items():
            name = self.name(number)
            run("ip", "netns", "add", name)
            run("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", f"v{number}", "master", BRIDGE, "up")
            self._devices[number] = open_tun(f"slow{number}")
            run("ip", "link", "set", f"slow{number}", "netns", name)
            for words in (
                ("address", "add", f"{ip}/24", "dev", "eth0"),
                ("link", "set", "lo", "up"),
                ("link", "set", "eth0", "up"),
                ("link", "set", f"slow{number}", "mtu", str(MTU), "up"),
            ):
                run("ip", "-n", name, *words)
            # What comes back from a slow link comes in at another door than its answers leave by.
            for which in ("all", f"slow{number}", "eth0"):
                run(*self.enter(number), "sh", "-c", f"echo 0 > /proc/sys/net/ipv4/conf/{which}/rp_filter")
        loop = asyncio.get_running_loop()
        for number, device in self._devices.items():
            loop.add_reader(device, self._relay, number)

    def close(self) -> None:
        """The kernel removes the rest when this process ends."""
        loop = asyncio.get_running_loop()
        for device in self._devices.values():
            loop.remove_reader(device)
            os.close(device)
        self._devices.clear()

    @staticmethod
    def name(number: int) -> str:
        """Of a server's namespace."""
        return f"s{number}"

    def enter(self, number: int) -> tuple[str, ...]:
        """What goes before a command that is to run beside a server. It is replaced by the command: same process id."""
        return ("nsenter", f"--net=/run/netns/{self.name(number)}")

    # --- cuts -------------------------------------------------------------------------------------------------------

    def cut(self, number: int, others: Iterable[int], *, incoming: bool, outgoing: bool) -> None:
        """A server no longer hears (`incoming`) or reaches (`outgoing`) these others; connections stay, packets go."""
        peers = ", ".join(self.ips[other] for other in others)
        rules = ["table ip cut {"]
        if incoming:
            rules.append(f"chain in {{ type filter hook input priority 0; ip saddr {{ {peers} }} drop; }}")
        if outgoing:
            rules.append(f"chain out {{ type filter hook output priority 0; ip daddr {{ {peers} }} drop; }}")
        run(*self.enter(number), "nft", "-f", "-", given="\n".join([*rules, "}"]))

    def heal(self, number: int) -> None:
        """Undo `cut` and `slow`. Idempotent."""
        run(*self.enter(number), "nft", "flush", "ruleset")
        if self._slow.pop(number, None) is not None:
            for other in self._others(number):
                run("ip", "-n", self.name(number), "route", "del", f"{self.ips[other]}/32")

    # --- slow links -------------------------------------------------------------------------------------------------

    def slow(self, number: int, slowness: Slowness) -> None:
        """From now on, until `heal`: what this server sends to the others."""
        self._slow[number] = slowness
        for other in self._others(number):
            run(
                "ip", "-n", self.name(number), "route", "replace", f"{self.ips[other]}/32",
                "dev", f"slow{number}", "src", self.ips[number],
            )  # fmt: skip

    def _others(self, number: int) -> Sequence[int]:
        return [other for other in self.ips if other != number]

    def _relay(self, number: int) -> None:
        """Packets from a server's slow link. Fate is decided here, once per packet."""
        loop = asyncio.get_running_loop()
        for _ in range(64):
            try:
                packet = os.read(self._devices[number], MTU + 64)
            except BlockingIOError:
                return
            slowness = self._slow.get(number)
            target = packet[19] if len(packet) >= 20 and packet[0] >> 4 == 4 else 0
            if target not in self._devices or slowness is None or self._under_way >= QUEUE_MAX:
                continue
            self.relayed += 1
            if self._random.random() < slowness.loss:
                continue
            delay = max(0.0, self._random.gauss(slowness.delay_s, slowness.jitter_s))
            if self._random.random() < slowness.reorder:
                delay = 0.0
            self._under_way += 1
            loop.call_later(delay, self._deliver, target, packet)

    def _deliver(self, target: int, packet: bytes) -> None:
        self._under_way -= 1
        device = self._devices.get(target)
        if device is None:
            return
        try:
            os.write(device, packet)
        except BlockingIOError:
            return  # a full queue loses packets
        except OSError as error:
            print(f"relay: {error}", flush=True)


def open_tun(name: str) -> int:
    """A TUN device, as a descriptor that does not block. Raises OSError."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    except BaseException:
        os.close(device)
        raise
    return device
