"""Config entries of the configuration: written by a new leader when they are not there."""

import pytest

from pyconsul_agent.errors import LeadershipLost, RPCError
from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.server.leader.entries import establish_entries
from pyconsul_agent.state import config_entry
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.config_entry import ServiceConfigEntry
from pyconsul_agent.structs.config_requests import ConfigEntryRequest
from pyconsul_agent.structs.intention import ServiceIntentionsConfigEntry, SourceIntention
from pyconsul_agent.structs.raft import EntryType, LogEntry
from pyconsul_agent.wire import msgpack
from tests.memory_net import Recorder, run

CONFIG_ENTRY = 22


def web(protocol):
    return ServiceConfigEntry(kind="service-defaults", name="web", protocol=protocol)


INTENTIONS = ServiceIntentionsConfigEntry(
    kind="service-intentions", name="web", sources=(SourceIntention(name="a", action="allow", type="consul"),)
)


class Leader:
    """Writes take effect at once; `fails` is raised instead of the next one."""

    is_leader = True

    def __init__(self):
        self.store, self.log, self.written, self.fails = Store(), Recorder(), [], None
        self.machine = StateMachine(self.store, lambda: 0.0, warn=print)

    async def apply(self, kind, body):
        if self.fails is not None:
            raise self.fails
        self.written.append((kind, msgpack.decode(ConfigEntryRequest, body)))
        index = 10 + len(self.written)
        return self.machine.apply(LogEntry(index=index, term=1, type=EntryType.COMMAND, data=bytes([kind]) + body))

    def begin(self, *entries, connect_enabled=False):
        work = establish_entries(self.store, self, self.log, entries, datacenter="dc1", connect_enabled=connect_enabled)
        run(work)

    def protocol(self):
        return config_entry.get(self.store, WatchSet(), "service-defaults", "web")[1].protocol


def test_an_absent_entry_is_written_where_nothing_is():
    leader = Leader()
    leader.begin(web("http"))
    ((kind, request),) = leader.written
    assert (kind, request.op, request.datacenter, request.entry.modify_index) == (CONFIG_ENTRY, "upsert-cas", "dc1", 0)
    assert leader.protocol() == "http"


def test_an_entry_that_is_there_stays_as_it_is():
    leader = Leader()
    leader.begin(web("http"))
    leader.begin(web("grpc"))
    assert (len(leader.written), leader.protocol()) == (1, "http")


@pytest.mark.parametrize(
    ("connect_enabled", "reason"),
    [(False, "because Connect must be enabled"), (True, "because intentions are still being migrated")],
)
def test_intentions_that_cannot_be_written_are_named_and_the_others_are_written(connect_enabled, reason):
    leader = Leader()
    leader.begin(INTENTIONS, web("http"), connect_enabled=connect_enabled)
    (text,) = leader.log.messages("error")
    assert text.startswith('Refusing to apply configuration entry "service-intentions" / "web"') and reason in text
    assert leader.protocol() == "http"


def test_a_leader_that_was_deposed_says_so_and_one_that_was_refused_goes_on():
    leader = Leader()
    leader.fails = LeadershipLost()
    leader.begin(web("http"))
    assert leader.log.messages("error") == ['Failed to apply configuration entry "service-defaults" / "web"']
    leader.is_leader = False
    with pytest.raises(RPCError):
        leader.begin(web("http"))
