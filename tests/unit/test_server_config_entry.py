"""ConfigEntry.Apply: what is stored just so already is not written again, if this server still leads."""

import asyncio
import random
from dataclasses import replace

import pytest

from pyconsul_agent.errors import NotLeader, RPCError
from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.config_entry import ConfigEntries
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs.config_entry import ServiceConfigEntry
from pyconsul_agent.structs.config_requests import ConfigEntryRequest
from pyconsul_agent.structs.raft import LogEntry

WEB = ServiceConfigEntry(kind="service-defaults", name="web", protocol="http")


class Proposer:
    is_leader = True

    def __init__(self, machine):
        self.machine = machine
        self.index = 10

    async def apply(self, kind, body):
        self.index += 1
        return self.machine.apply(LogEntry(index=self.index, term=2, type=0, data=bytes([kind]) + body))


class Leadership:
    is_leader = True
    leader_address = "127.0.0.1:8300"
    last_contact_s = 0.0
    lease_valid = True
    deposed = False

    async def verify(self):
        if self.deposed:
            raise NotLeader


class Site:
    def __init__(self):
        store = Store()
        self.proposer = Proposer(StateMachine(store, lambda: 0.0))
        self.leadership = Leadership()
        blocking = Blocking(store, self.leadership, random.Random(1))
        self.endpoint = ConfigEntries(store, self.proposer, blocking, connect_enabled=False)

    def write(self, entry, op="upsert"):
        before = self.proposer.index
        done = asyncio.run(self.endpoint.apply(ConfigEntryRequest(op=op, entry=entry)))
        return done, self.proposer.index - before


def test_unchanged_entry_is_not_written_again_whatever_index_it_names():
    site = Site()
    assert site.write(WEB) == (True, 1)
    assert site.write(WEB) == (True, 0)
    assert site.write(replace(WEB, modify_index=1), "upsert-cas") == (True, 0)


def test_changed_entry_is_written_and_its_index_counts():
    site = Site()
    site.write(WEB)
    other = replace(WEB, protocol="grpc")
    assert site.write(replace(other, modify_index=1), "upsert-cas") == (False, 1)
    assert site.write(replace(other, modify_index=11), "upsert-cas") == (True, 1)
    assert site.write(WEB) == (True, 1)


def test_deposed_leader_does_not_say_that_an_entry_is_stored():
    site = Site()
    site.write(WEB)
    site.leadership.deposed = True
    with pytest.raises(RPCError):
        site.write(WEB)
