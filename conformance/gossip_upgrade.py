"""Encryption is brought into a running cluster: every pair of encrypt_verify_incoming/outgoing, and the way in steps.

`verify_matrix`: a pool of ours and a real agent, each with one of the four combinations, join each other or do not, as
the options say. `upgrade`: two of ours and two real agents go from plain to encrypted, one restart after the other, and
nobody is ever taken for failed.
"""

from __future__ import annotations

import asyncio
import base64
import time
from contextlib import AsyncExitStack
from itertools import product

from conformance.agents import LAN_PORT, OURS, Agent, cluster, until
from conformance.gossip_lan import KEY
from conformance.gossip_serf import QuietLog
from conformance.gossip_views import FAST, START_S, NamedChecks, Program, all_see, have_leader, never_failed, one_view
from pyconsul_agent.env.real import real_env
from pyconsul_agent.errors import NetError
from pyconsul_agent.runtime.gossip import GossipOptions, GossipPool
from pyconsul_agent.serf.consul import AgentTags, client_tags
from pyconsul_agent.swim.keyring import Keyring

COMBINATIONS = tuple(product((True, False), repeat=2))
"""(verify_incoming, verify_outgoing)."""
QUICK_S = 3.0
"""A restart that nobody notices: a suspicion alone takes longer to become a failure."""
STEPS = ((False, False), (False, True), (True, True))


def flags(incoming: bool, outgoing: bool) -> list[str]:
    """An agent's options for a combination."""
    text = f"encrypt_verify_incoming = {incoming} encrypt_verify_outgoing = {outgoing}".lower()
    return [f"-encrypt={KEY}", f"-hcl={text}"]


def word(incoming: bool, outgoing: bool) -> str:
    """A combination for the text of a step."""
    return f"in={incoming:d},out={outgoing:d}"


# --- pairs ------------------------------------------------------------------------------------------------------------


def verify_matrix(checks: NamedChecks, real: Program, net: str) -> None:
    """All sixteen pairs, asked from either side."""
    with cluster(checks) as start:
        agents = {
            pair: start(real, f"real-{pair[0]:d}{pair[1]:d}", f"{net}.{30 + number}", *flags(*pair))
            for number, pair in enumerate(COMBINATIONS)
        }
        for pair, agent in agents.items():
            checks.until(f"the real agent with {word(*pair)} runs", lambda a=agent: a.get("/v1/agent/self"), START_S)
        asyncio.run(_pairs(checks, net, agents))


async def _pairs(checks: NamedChecks, net: str, agents: dict[tuple[bool, bool], Agent]) -> None:
    env = real_env()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(env.blocking.close)
        for number, (ours, theirs) in enumerate(product(COMBINATIONS, repeat=2)):
            tags = client_tags(AgentTags(datacenter="dc1", node_id=_id(number), build="1.10.11:"))
            options = GossipOptions(
                name=f"ours-{number}", tags=tags, bind_host=f"{net}.{100 + number}", bind_port=LAN_PORT,
                keyring=Keyring((base64.b64decode(KEY),)), verify_incoming=ours[0], verify_outgoing=ours[1],
            )  # fmt: skip
            pool = GossipPool(env, QuietLog(), options)
            await pool.start()
            stack.push_async_callback(pool.stop)
            wanted = _understand(ours, theirs) and _understand(theirs, ours)
            agent = agents[theirs]
            step = f"ours with {word(*ours)} and real with {word(*theirs)} {'join' if wanted else 'cannot join'}"
            try:
                joined = await pool.join([f"{agent.address}:{LAN_PORT}"]) == 1
            except NetError:
                joined = False
            checks.equal(f"{step}, asked by us", joined, wanted)
            path = f"/v1/agent/join/{options.bind_host}"
            answer = await asyncio.to_thread(agent.request, "PUT", path)
            checks.equal(f"{step}, asked by them", answer.status == 200, wanted)


def _understand(listener: tuple[bool, bool], speaker: tuple[bool, bool]) -> bool:
    """Whether `listener` takes what `speaker` sends: it is encrypted, or need not be."""
    return speaker[1] or not listener[0]


def _id(number: int) -> str:
    return f"9f3b1c9e-0000-4000-8000-{number:012x}"


# --- the way in steps -------------------------------------------------------------------------------------------------


def upgrade(checks: NamedChecks, real: Program, net: str) -> None:
    """Plain, then a key that is neither sent nor wanted, then sent, then wanted."""
    with cluster(checks) as start:
        makes = {"ours": (OURS, 0), "real": (real, 10)}

        def agent(name: str, *more: str) -> Agent:
            program, offset = makes[name[:4]]
            kind = ["-server", "-bootstrap-expect=1"] if name == "ours1" else [f"-retry-join={net}.1"]
            address = f"{net}.{offset + int(name[4:])}"
            return start(program, name, address, *kind, "-retry-interval=1s", FAST, *more)

        slow: list[str] = []
        agents = {name: agent(name) for name in ("ours1", "ours2", "real1", "real2")}
        one_view(checks, list(agents.values()), list(agents))
        for step in STEPS:
            for name in agents:
                began = time.monotonic()
                agents[name].kill()
                agents[name] = agent(name, *flags(*step))
                until(lambda n=name: agents[n].get("/v1/agent/self"), START_S)
                if time.monotonic() - began > QUICK_S:  # on a busy machine; then the others are right
                    checks.say(f"the restart of {name} took {time.monotonic() - began:.1f} s")
                    slow.append(name)
                all_see(checks, list(agents.values()), name, "alive")
            one_view(checks, list(agents.values()), list(agents))
            have_leader(checks, list(agents.values()))
            never_failed(checks, list(agents.values()), f"on the way to {word(*step)}", slow)
