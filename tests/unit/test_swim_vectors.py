"""The executable scenarios recorded from memberlist 0.3.1, replayed."""

from pyconsul_agent.swim.broadcast import QUEUE_MAX, TransmitLimitedQueue
from pyconsul_agent.swim.config import LAN, LOCAL, WAN
from pyconsul_agent.swim.suspicion import Suspicion
from pyconsul_agent.swim.timing import (
    NANOSECONDS,
)

# --- scenarios ------------------------------------------------------------------------------------------------


# --- queue ----------------------------------------------------------------------------------------------------


def test_tickets_end_when_sent_out_replaced_or_pruned():
    queue = TransmitLimitedQueue(1)
    queue.queue(b"sent", ticket=1)
    queue.get(2, 100, 1)
    queue.queue(b"first", name="a", ticket=2)
    queue.queue(b"second", name="a", ticket=3)
    assert queue.take_finished() == [1, 2]
    queue.prune(0)
    assert queue.take_finished() == [3]
    assert queue.take_finished() == []


def test_the_queue_is_bounded():
    queue = TransmitLimitedQueue(4)
    for number in range(QUEUE_MAX + 5):
        queue.queue(number.to_bytes(4, "big"))
    assert len(queue) == QUEUE_MAX


# --- formulas -------------------------------------------------------------------------------------------------


def test_a_confirmation_counts_once_per_suspector():
    suspicion = Suspicion("a", 2, NANOSECONDS, 6 * NANOSECONDS, 0.0)
    assert not suspicion.confirm("a")
    assert suspicion.confirm("b")
    assert not suspicion.confirm("b")
    assert suspicion.confirm("c")
    assert not suspicion.confirm("d")


def test_profiles_hold_the_numbers_of_the_protocol_page():
    rows = [
        ("stream_timeout_s", 10, 30, 1), ("indirect_checks", 3, 3, 1), ("retransmit_mult", 4, 4, 2),
        ("suspicion_mult", 4, 6, 3), ("suspicion_max_timeout_mult", 6, 6, 6), ("push_pull_interval_s", 30, 60, 15),
        ("probe_timeout_s", 0.5, 3, 0.2), ("probe_interval_s", 1, 5, 1), ("awareness_max_multiplier", 8, 8, 8),
        ("gossip_nodes", 3, 3, 3), ("gossip_interval_s", 0.2, 0.5, 0.1), ("gossip_to_the_dead_s", 30, 60, 15),
        ("packet_bytes_max", 1400, 1400, 1400), ("dead_node_reclaim_s", 30, 30, 30),
    ]  # fmt: skip
    for field, lan, wan, local in rows:
        assert (getattr(LAN, field), getattr(WAN, field), getattr(LOCAL, field)) == (lan, wan, local), field
    assert LAN.versions == bytes((1, 5, 2, 2, 5, 4))
