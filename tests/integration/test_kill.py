"""kill -9 and SIGSTOP of any one server at any time: no acknowledged write is lost, and all servers agree."""

from __future__ import annotations

import pytest

from tests.integration.torture import Cluster, Torture, check

pytestmark = pytest.mark.slow


def test_no_acknowledged_write_is_lost_when_servers_are_killed_and_paused(tmp_path):
    torture = Torture(tmp_path, seed=20260723, faults=5, first_ip=31)
    try:
        history = torture.run()
        final = torture.settle()
    finally:
        torture.close()
    assert sum(entry.ok for entry in history) > 200
    assert check(history, final) == [], torture.log
    torture.cluster.assert_clean()


def test_three_servers_killed_together_come_back_with_every_acknowledged_write(tmp_path):
    cluster = Cluster(tmp_path, first_ip=35)
    try:
        cluster.start()
        written = [number for number in range(200) if cluster.agents[number % 3].put(f"/v1/kv/all/{number}", b"v")]
        for agent in cluster.agents:
            agent.kill()
        for agent in cluster.agents:
            agent.start()
        states = cluster.settled("all")
    finally:
        cluster.close()
    assert len(written) == 200
    assert all(len(state) == 200 for state in states)
    assert states[0] == states[1] == states[2]
    cluster.assert_clean()
