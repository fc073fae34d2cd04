"""A stranger on the gossip ports of a running agent: sends any bytes, pings, and reads what comes back."""

from __future__ import annotations

import os
import socket
import time

from pyconsul_agent.runtime.gossip_cipher import GossipSeal
from pyconsul_agent.swim.keyring import Keyring
from pyconsul_agent.wire.gossip import Ack, Ping, decode_message, encode_message
from pyconsul_agent.wire.gossip_packet import open_packet_body

LAN_PORT = 8301
ANSWER_S = 3.0
SILENCE_S = 0.25
"""How long nothing must come. An answer takes a millisecond."""


class Stranger:
    """A UDP socket and a count of pings; with a key it speaks and reads encryption."""

    def __init__(self, address: str, key: bytes | None = None) -> None:
        self.socket = socket.socket(type=socket.SOCK_DGRAM)
        self.socket.bind((address, 0))
        self.seal = GossipSeal(None if key is None else Keyring((key,)), os.urandom)
        self.number = 0

    def close(self) -> None:
        self.socket.close()

    def send(self, to: str, packet: bytes) -> None:
        """As it is."""
        self.socket.sendto(packet, (to, LAN_PORT))

    def datagrams(self, seconds: float) -> list[bytes]:
        """Whatever comes within that time."""
        end, found = time.monotonic() + seconds, []
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                found.append(self.socket.recv(65536))
            except TimeoutError:
                break
        return found

    def ping(self, node: str) -> tuple[int, bytes]:
        """(sequence number, message) of a ping that wants its answer here."""
        self.number += 1
        host, port = self.socket.getsockname()
        return self.number, encode_message(Ping(self.number, node, socket.inet_aton(host), port, "stranger"))

    def is_answered(self, to: str, node: str) -> bool:
        """Whether the agent answers a ping, read with the stranger's key."""
        number, message = self.ping(node)
        self.send(to, self.seal.packet(message))
        return self.hears_ack(number)

    def hears_ack(self, number: int, seconds: float = ANSWER_S) -> bool:
        """Whether the ack of that number comes."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                return False
            for body in open_packet_body(self.seal.unpack(data)).messages:
                message = decode_message(body)
                if isinstance(message, Ack) and message.sequence_number == number:
                    return True
        return False


def exchange(to: str, data: bytes, *, finish: bool = True, timeout_s: float = 3.0) -> bytes:
    """What is answered to bytes on a stream until the agent closes it. Raises TimeoutError when it does not."""
    answer = b""
    with socket.create_connection((to, LAN_PORT), timeout=timeout_s) as connection:
        try:
            connection.sendall(data)
            if finish:
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            return answer
    return answer
