"""Pools of three agents of ours and three real ones (Consul 1.8.7), LAN and WAN, plain and encrypted, side by side.

Run as `python -m conformance.gossip_peer [SCENARIO...]`; scenarios are the names in SCENARIOS, all without one. They
run at the same time, each on addresses of its own (127.0.39.0 to 127.0.47.255). Closes with 'N passed, N failed';
without a real Consul it is skipped, in CI it fails.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from conformance.gossip_joining import joining
from conformance.gossip_lan import KEY, lan
from conformance.gossip_serf import serf
from conformance.gossip_upgrade import upgrade, verify_matrix
from conformance.gossip_views import NamedChecks, Program
from conformance.gossip_wan import wan
from conformance.real_consul import Missing, program, real_consul, report_missing

SERF_KEY = bytes(range(32))
AT_ONCE_MAX, START_INTERVAL_S = 6, 1.5
"""They mostly wait for timers; only starting agents needs a processor. The longest come first."""
SCENARIOS: dict[str, Callable[[NamedChecks, Program], None]] = {
    "wan_key": lambda checks, real: wan(checks, real, "127.0.43", KEY),
    "wan": lambda checks, real: wan(checks, real, "127.0.42"),
    "lan_key": lambda checks, real: lan(checks, real, "127.0.41", KEY),
    "lan": lambda checks, real: lan(checks, real, "127.0.40"),
    "serf_key": lambda checks, real: serf(checks, program("serf"), "127.0.45", SERF_KEY),
    "serf": lambda checks, real: serf(checks, program("serf"), "127.0.44"),
    "joining": lambda checks, real: joining(checks, real, "127.0.39"),
    "upgrade": lambda checks, real: upgrade(checks, real, "127.0.47"),
    "verify": lambda checks, real: verify_matrix(checks, real, "127.0.46"),
}


def main(arguments: list[str]) -> int:
    """Exit code of the program."""
    unknown = [name for name in arguments if name not in SCENARIOS]
    if unknown:
        print(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    try:
        real = (real_consul(),)
    except Missing as reason:
        return report_missing("gossip_peer", reason)
    for name in [key for key in os.environ if key.startswith("CONSUL_")]:
        del os.environ[name]  # addresses and tokens of whoever calls us are not for these agents
    results = [NamedChecks(name) for name in arguments or SCENARIOS]
    with ThreadPoolExecutor(AT_ONCE_MAX) as threads:
        for checks in results:
            threads.submit(_run, checks, real)
            time.sleep(START_INTERVAL_S)
    total = NamedChecks("all")
    for what in ("passed", "failed", "skipped"):
        setattr(total, what, sum(getattr(checks, what) for checks in results))
    return total.close()


def _run(checks: NamedChecks, real: Program) -> None:
    began = time.monotonic()
    try:
        SCENARIOS[checks.scenario](checks, real)
    except Missing as reason:  # serf, for its scenarios
        if os.environ.get("CI") == "true":
            checks.note("can be run", False, reason)
        else:
            checks.skipped += 1
            print(f"skip {checks.scenario}: {reason}", flush=True)
    except Exception as error:  # counted by `cluster`, or here if there was none yet
        print(f"     {checks.scenario}: {type(error).__name__}: {error}", flush=True)
        checks.failed += not checks.failed
    checks.say(f"took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
