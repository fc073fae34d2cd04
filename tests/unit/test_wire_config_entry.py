"""Structs that carry config entries: their own form on the wire, and what is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.base import Float32
from pyconsul_agent.structs.config_entry import MeshConfigEntry, ProxyConfigEntry, ServiceConfigEntry
from pyconsul_agent.structs.config_requests import (
    ConfigEntryRequest,
    ConfigEntryResponse,
    IndexedConfigEntries,
    IndexedGenericConfigEntries,
    ServiceConfigResponse,
)
from pyconsul_agent.structs.config_routing import ServiceSplit, ServiceSplitterConfigEntry
from pyconsul_agent.wire.msgpack import decode, encode, pack, unpack

FORMS = (
    ConfigEntryRequest,
    ConfigEntryResponse,
    IndexedConfigEntries,
    IndexedGenericConfigEntries,
    ServiceConfigResponse,
    ProxyConfigEntry,
)
SPLITTER = ServiceSplitterConfigEntry(
    kind="service-splitter", name="web", splits=(ServiceSplit(weight=Float32(90.5), service_subset="v1"),)
)
ENTRIES = (ServiceConfigEntry(kind="service-defaults", name="web"), ProxyConfigEntry(name="global"), SPLITTER)


def test_a_request_is_one_string_with_kind_and_map() -> None:
    data = encode(ConfigEntryRequest(op="upsert", datacenter="dc1", entry=ENTRIES[0]))
    assert unpack(data).startswith(pack("service-defaults") + b"\x84\xaaDatacenter")


def test_every_kind_comes_back_as_it_went() -> None:
    for entry in (*ENTRIES, MeshConfigEntry()):
        request = ConfigEntryRequest(op="upsert-cas", entry=entry)
        assert decode(ConfigEntryRequest, encode(request)) == request
        response = ConfigEntryResponse(index=7, entry=entry)
        assert decode(ConfigEntryResponse, encode(response)) == response


def test_lists_of_one_kind_and_of_any_kind_come_back() -> None:
    one = IndexedConfigEntries(kind="service-splitter", entries=(SPLITTER, SPLITTER))
    assert decode(IndexedConfigEntries, encode(one)) == one
    mixed = IndexedGenericConfigEntries(index=3, entries=ENTRIES)
    assert decode(IndexedGenericConfigEntries, encode(mixed)) == mixed


def test_a_weight_takes_four_bytes() -> None:
    assert bytes.fromhex("ca42b50000") in encode(SPLITTER)


def test_an_unknown_kind_is_refused_unless_nothing_of_it_comes() -> None:
    with pytest.raises(DecodeError, match="invalid config entry kind: api-gateway"):
        decode(ConfigEntryRequest, pack(pack("api-gateway") + pack({"Entry": {"Name": "x"}})))
    assert decode(IndexedConfigEntries, pack(pack(1) + pack("bogus") + pack({"Entries": [None]}))).entries == (None,)


@pytest.mark.parametrize(
    "inside",
    [b"", pack("service-defaults"), pack("service-defaults") + pack(3), pack(-1), b"\xdf\xff\xff\xff\xff", b"\xc1"],
)
def test_a_cut_or_foreign_inside_is_refused(inside: bytes) -> None:
    for form in FORMS[:4]:
        with pytest.raises(DecodeError):
            decode(form, pack(inside))


@settings(deadline=None)
@given(st.binary(max_size=64), st.sampled_from(FORMS), st.booleans())
def test_any_bytes_decode_or_are_refused(data: bytes, form: type, wrapped: bool) -> None:
    with contextlib.suppress(DecodeError):
        decode(form, pack(data) if wrapped else data)
