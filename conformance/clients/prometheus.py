"""Debian's Prometheus: finds what is registered with us, scrapes it, and notices what goes.

It is Debian 11's (2.24): Debian 12's is built without the discovery of Consul services.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from conformance.agents import HTTP_PORT, Agent
from conformance.clients.installs import debian11
from conformance.clients.scenario import Scenario

ADDRESS = "127.0.21.4"
PORT = 9090
FOLLOW_S = 20.0
"""It asks for targets each second, and hands changes on at most each five."""

CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
- job_name: found
  consul_sd_configs: [{{server: '{agent}', refresh_interval: 1s, node_meta: {{rack: r1}}}}]
  relabel_configs:
  - {{source_labels: [__meta_consul_service], regex: web, action: keep}}
  - {{source_labels: [__meta_consul_service_id], target_label: id}}
- job_name: tagged
  consul_sd_configs: [{{server: '{agent}', refresh_interval: 1s, services: [web], tags: [blue]}}]
- job_name: agent
  metrics_path: /v1/agent/metrics
  params: {{format: [prometheus]}}
  static_configs: [{{targets: ['{agent}']}}]
"""
METRICS = "/v1/agent/metrics"
TELEMETRY = 'telemetry { prometheus_retention_time = "1m", disable_hostname = true }'
"""Without a retention time an agent has no metrics in Prometheus' form; with its host's name in them, other names."""


class Target(BaseHTTPRequestHandler):
    """Something to scrape."""

    def do_GET(self) -> None:
        body = f"# TYPE shown gauge\nshown {self.server.server_address[1]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """Quiet."""


@contextmanager
def target() -> Iterator[int]:
    """The port of a target, until the end of the block."""
    with ThreadingHTTPServer((ADDRESS, 0), Target) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()


def ask(path: str, **arguments: str) -> Any:
    """The `data` of an answer of Prometheus' API; None without an answer."""
    try:
        with urlopen(f"http://{ADDRESS}:{PORT}/api/v1/{path}?{urlencode(arguments)}", timeout=5) as reply:
            return json.load(reply)["data"]
    except (OSError, HTTPException, ValueError):
        return None


def targets(job: str) -> dict[str, dict[str, str]]:
    """Labels before relabeling of the healthy targets of a job, by service id."""
    found = (ask("targets", state="active") or {"activeTargets": []})["activeTargets"]
    rows = [row for row in found if row["scrapePool"] == job and row["health"] == "up"]
    return {row["discoveredLabels"].get("__meta_consul_service_id", ""): row["discoveredLabels"] for row in rows}


def values(query: str) -> dict[str, float]:
    """The values of an instant query by the label `id`."""
    answer = ask("query", query=query) or {"result": []}
    return {row["metric"].get("id", ""): float(row["value"][1]) for row in answer["result"]}


def register(agent: Agent, number: int, port: int, *tags: str) -> None:
    """A service with metadata."""
    body = {"ID": f"web{number}", "Name": "web", "Port": port, "Tags": tags, "Meta": {"team": f"t{number}"}}
    answer = agent.request("PUT", "/v1/agent/service/register", body)
    assert answer.status == 200, answer


def run(scenario: Scenario) -> None:
    """Start it beside an agent and follow what it sees."""
    binary = debian11("prometheus", "usr/bin/prometheus")
    with scenario.agent(ADDRESS, "-node-meta=rack:r1", "-hcl", TELEMETRY) as agent, target() as one, target() as two:
        register(agent, 1, one, "blue", "v1")
        register(agent, 2, two, "green")
        with tempfile.TemporaryDirectory(prefix="prometheus-") as folder:
            config = Path(folder) / "prometheus.yml"
            config.write_text(CONFIG.format(agent=f"{ADDRESS}:{HTTP_PORT}"))
            log = (Path(folder) / "log").open("wb")
            process = subprocess.Popen(
                [binary, f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
                 f"--web.listen-address={ADDRESS}:{PORT}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                follow(scenario, agent, one, two)
            finally:
                process.terminate()
                process.wait()
                log.close()
                if scenario.checks.failed:
                    print(Path(log.name).read_text(errors="replace")[-3000:])


def follow(scenario: Scenario, agent: Agent, one: int, two: int) -> None:
    """The steps."""
    found = scenario.until("both services are found", lambda: len(targets("found")) == 2 and targets("found"), FOLLOW_S)
    labels = (found or {}).get("web1", {})
    for label, wanted in {
        "__address__": f"{ADDRESS}:{one}",
        "__meta_consul_address": ADDRESS,
        "__meta_consul_dc": "dc1",
        "__meta_consul_health": "passing",
        "__meta_consul_metadata_rack": "r1",
        "__meta_consul_node": scenario.name,
        "__meta_consul_service": "web",
        "__meta_consul_service_metadata_team": "t1",
        "__meta_consul_service_port": str(one),
        "__meta_consul_tagged_address_lan": ADDRESS,
        "__meta_consul_tags": ",blue,v1,",
    }.items():
        scenario.note(f"label {label}", labels.get(label) == wanted, labels)
    wanted = {"web1": float(one), "web2": float(two)}
    scenario.until("both are scraped", lambda: values('shown{job="found"}') == wanted, FOLLOW_S)
    scenario.until("one has the tag that is asked for", lambda: list(targets("tagged")) == ["web1"], FOLLOW_S)
    register(agent, 2, two, "green", "blue")
    scenario.until("the other gets it", lambda: set(targets("tagged")) == {"web1", "web2"}, FOLLOW_S)
    agent.put("/v1/agent/service/deregister/web1")
    scenario.until("one has gone", lambda: list(targets("found")) == ["web2"], FOLLOW_S)
    scenario.until("it is scraped no more", lambda: "web1" not in values('up{job="found"}'), FOLLOW_S)
    if scenario.checks.serves(agent, METRICS):
        scenario.until("our own metrics are scraped", lambda: values('up{job="agent"}') == {"": 1.0}, FOLLOW_S)
        size = 'consul_runtime_alloc_bytes{job="agent"}'
        scenario.until("they have Consul's names", lambda: values(size).get("", 0) > 0, FOLLOW_S)
