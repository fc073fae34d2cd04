"""The documentation agrees with the code: references resolve, examples decode, the reference pages are current."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyconsul_agent.wire import gossip, gossip_packet, gotime, lzw, msgpack, netrpc, raft, serf
from pyconsul_agent.wire.gossip_stream import decode_stream
from pyconsul_agent.wire.yamux import Session

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
SOURCES = sorted([*(ROOT / "pyconsul_agent").rglob("*.py"), *(ROOT / "tests").rglob("*.py")])

REFERENCE = re.compile(
    r"\bdocs/(?P<page>[a-z0-9_/-]+(?:\.md)?)(?:#(?P<anchor>[a-z0-9-]+))?"
    r"(?P<numbers>`?(?:,|,? sections?)?\s+\d+(?:\.\d+)?(?:(?:,| and| to)+\s+\d+(?:\.\d+)?)*)?"
)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^```hex-(?P<codec>[a-z]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@functools.cache
def anchors(path):
    """What a link to a page may name: its headings as GitHub spells them, its explicit ids, its section numbers."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = set(re.findall(r'<a id="([^"]+)">', text))
    for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-"))
        number = re.match(r"(\d+(?:\.\d+)?)\.? ", heading)
        if number:
            found.add(number[1])
    return found


def references():
    """(where, page, anchor or number) of every mention of a page in the code."""
    for source in SOURCES:
        # A mention may be broken over two lines of a docstring or comment.
        text = re.sub(r"\s*\n\s*(?:# )?", " ", source.read_text()).replace("docs/protocol/ ", "docs/protocol/")
        for match in REFERENCE.finditer(text):
            before = text[max(0, match.start() - 40) : match.start()]
            if re.search(r"https?://\S*$", before):
                continue
            wanted = [match["anchor"]] if match["anchor"] else re.findall(r"\d+(?:\.\d+)?", match["numbers"] or "")
            yield str(source.relative_to(ROOT)), match["page"], wanted


def test_every_page_and_section_that_the_code_mentions_exists():
    wrong = []
    for where, page, wanted in references():
        if where == "tests/unit/test_docs.py" or page in ("", "protocol/"):
            continue
        path = DOCS / page
        if path.is_dir():
            continue
        if not path.is_file():
            wrong.append(f"{where}: docs/{page} does not exist")
            continue
        wrong += [f"{where}: docs/{page} has no {name}" for name in wanted if name not in anchors(path)]
    assert not wrong, "\n".join(wrong)


def test_references_are_found_at_all():
    found = {(page, *wanted) for _, page, wanted in references()}
    assert ("protocol/gossip.md", "7.1", "7.3", "7.7") in found
    assert ("protocol/rpc.md", "yamux") in found


def test_every_relative_link_of_the_pages_resolves():
    wrong = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for match in LINK.finditer(text):
            target, _, anchor = match["target"].partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            path = (page.parent / target).resolve() if target else page
            if not path.exists():
                wrong.append(f"{page.relative_to(ROOT)}: {target} does not exist")
            elif anchor and anchor not in anchors(path):
                wrong.append(f"{page.relative_to(ROOT)}: {target or page.name} has no #{anchor}")
    assert not wrong, "\n".join(wrong)


def raft_request(data):
    decoder = raft.RequestDecoder()
    decoder.feed(data)
    assert decoder.next() is not None
    assert not decoder.pending


def netrpc_request(data):
    reader = netrpc.MessageReader(netrpc.RequestHeader)
    reader.feed(data)
    assert reader.next() is not None
    assert not reader.in_message


def netrpc_response(data):
    reader = netrpc.MessageReader(netrpc.ResponseHeader)
    reader.feed(data)
    assert reader.next() is not None
    assert not reader.in_message


def yamux(data):
    session = Session(is_client=False, now=0.0)
    session.receive(data, 0.0)
    assert session.ended is None
    assert session.take_events()


def packet(data):
    body = gossip_packet.open_packet_body(data)
    assert body.messages
    for message in body.messages:
        gossip.decode_message(message)


def dns(data):
    import dnslib

    assert dnslib.DNSRecord.parse(data).pack() is not None


CODECS = {
    "packet": packet,
    "stream": decode_stream,
    "serf": serf.decode,
    "tags": serf.decode_tags,
    "consulevent": serf.decode_consul_event,
    "lzw": lambda data: lzw.decompress(data, 1 << 16),
    "raftrequest": raft_request,
    "configuration": raft.decode_configuration,
    "chunk": raft.decode_chunk_info,
    "request": netrpc_request,
    "response": netrpc_response,
    "yamux": yamux,
    "msgpack": msgpack.unpack,
    "time": gotime.decode_time,
    "dns": dns,
}


def examples():
    for page in PAGES:
        for match in FENCE.finditer(page.read_text()):
            # Text after two blanks explains; only the hex before it counts.
            lines = [re.split(r"  ", line)[0] for line in match["text"].splitlines()]
            data = "".join(re.sub(r"[^0-9a-f]", "", line) for line in lines)
            yield pytest.param(match["codec"], data, id=f"{page.stem}-{match['codec']}-{data[:12]}")


@pytest.mark.parametrize(("codec", "data"), list(examples()))
def test_hex_examples_decode(codec, data):
    assert data
    CODECS[codec](bytes.fromhex(data))


def test_reference_pages_are_current():
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts/reference"), "--check"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
