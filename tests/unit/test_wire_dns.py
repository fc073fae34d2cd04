"""The DNS codec: both directions against another library, any bytes, compression and sizes."""

import contextlib
import struct

import dnslib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.dns_replies import packet
from pyconsul_agent.errors import DecodeError
from pyconsul_agent.wire import dns
from pyconsul_agent.wire.dns_trim import trim_tcp, trim_udp


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_are_a_query_a_rejection_or_dropped(data):
    result = dns.parse_query(data)
    assert result is None or isinstance(result, dns.Query) or result[2] & 0x80
    with contextlib.suppress(DecodeError):
        dns.parse_message(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 2), st.integers(0, 1))
def test_any_bytes_after_a_good_header_are_handled(data, additional, answers):
    head = struct.pack("!6H", 1, dns.RD, 1, answers, 0, additional)
    result = dns.parse_query(head + data)
    assert isinstance(result, dns.Query | bytes)


LABEL = st.binary(min_size=1, max_size=20)


@settings(max_examples=200, deadline=None)
@given(st.lists(LABEL, min_size=1, max_size=8))
def test_a_name_of_any_octets_survives_reading_and_writing(labels):
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    name, end = dns.read_name(wire, 0)
    assert end == len(wire)
    packed = dns.pack(dns.Message(0, 0, (name, 1, 1)))
    assert packed[12:-4] == wire


def test_special_octets_are_escaped_so_that_they_equal_no_catalog_name():
    name, _ = dns.read_name(b"\x05a.b c\x02\xc3\xa9\x00", 0)
    assert name == "a\\.b\\ c.\\195\\169."


@pytest.mark.parametrize(
    "wire",
    [
        b"\xc0\x00",  # to itself
        b"\xc0\x05\0\0\0\0",  # forward
        b"\x01a\xc0\x00",  # loop through a label
        b"\x40" + b"a" * 64 + b"\0",  # label type 01
        b"\x05ab",
        b"\x01",
        b"\xc0",
        b"",
        b"\x3f" + b"a" * 63 + (b"\x3f" + b"b" * 63) * 3 + b"\0",  # 257 octets
    ],
)
def test_bad_names_are_refused(wire):
    with pytest.raises(DecodeError):
        dns.read_name(wire, 0)


def test_a_pointer_that_goes_back_is_followed():
    wire = b"\x03com\x00\x01a\xc0\x00"
    assert dns.read_name(wire, 5) == ("a.com.", 9)


def test_names_are_compressed_but_targets_of_srv_are_not_and_can_be_pointed_to():
    target = "n1.node.dc1.consul."
    message = dns.Message(
        1,
        dns.QR,
        ("web.service.consul.", dns.SRV, 1),
        [dns.Record("web.service.consul.", dns.SRV, 0, (b"\0\1\0\1\x1f\x90", target))],
        [],
        [dns.Record(target, dns.A, 0, (b"\x0a\0\0\1",))],
    )
    packed = dns.pack(message)
    plain = dns.pack(message, compress=False)
    assert len(plain) - len(packed) == 18 + 18  # "web.service.consul." and the glue's owner became pointers
    assert packed.count(b"\x02n1\x04node\x03dc1\x06consul\0") == 1
    for form in (packed, plain):
        read = dnslib.DNSRecord.parse(form)
        assert str(read.rr[0].rdata.target) == target
        assert str(read.ar[0].rname) == target
        assert dns.parse_message(form) == message


def test_letter_case_must_match_for_compression():
    record = dns.Record("WEB.consul.", dns.A, 0, (b"\x0a\0\0\1",))
    packed = dns.pack(dns.Message(1, 0, ("web.consul.", 1, 1), [record]))
    assert b"\x03WEB\xc0\x10" in packed


def test_messages_of_another_library_are_read_whole():
    other = dnslib.DNSRecord.question("example.com", "MX").reply()
    for line in (
        "example.com. 60 MX 10 mail.example.com.",
        'example.com. 5 TXT "hello" "world"',
        "example.com. 7 SRV 1 2 3 sip.example.com.",
        'example.com. 7 NAPTR 1 2 "u" "sip" "!a!b!" sip.example.com.',
        "example.com. 7 SOA ns.example.com. root.example.com. 1 2 3 4 5",
        "example.com. 7 AAAA 2001:db8::1",
    ):
        other.add_answer(*dnslib.RR.fromZone(line))
    message = dns.parse_message(bytes(other.pack()))
    assert len(message.answers) == 6
    again = dnslib.DNSRecord.parse(dns.pack(message))
    assert sorted(map(str, again.rr)) == sorted(map(str, other.rr))


@pytest.mark.parametrize(
    "record",
    [
        dns.Record("a.", dns.A, 0, (b"\1\2\3",)),
        dns.Record("a.", dns.MX, 0, (b"\0",)),
        dns.Record("a.", dns.TXT, 0, (b"\x05ab",)),
        dns.Record(".", dns.OPT, 0, (b"\0\x08\0\x09\0",)),
        dns.Record(".", dns.OPT, 0, (b"\0\x08\0\x04\0\x01\x21\0",)),
        dns.Record(".", dns.OPT, 0, (b"\0\x08\0\x04\0\x07\0\0",)),
    ],
    ids=["A", "MX", "TXT", "option cut", "33 bits of IPv4", "unknown family"],
)
def test_a_bad_record_after_the_question_is_a_formerr_with_the_question(record):
    data = dns.pack(dns.Message(9, dns.RD, ("x.consul.", 1, 1), additional=[record]))
    reply = dns.parse_query(data)
    assert isinstance(reply, bytes)
    message = dns.parse_message(reply)
    assert (message.id, message.rcode, message.question) == (9, dns.FORMERR, ("x.consul.", 1, 1))


def test_host_bits_of_the_client_subnet_are_cleared():
    query = dns.parse_query(
        packet({"name": "x.", "edns": {"udp_size": 1232, "ecs": {"address": "192.0.2.255", "source": 25}}})
    )
    assert query.edns == dns.Edns(1232, (1, 25, b"\xc0\x00\x02\x80"))


@pytest.mark.parametrize("name", ["a" * 64 + ".consul.", "a..consul.", ".".join(["a" * 60] * 5) + "."])
def test_names_without_a_form_on_the_wire_cannot_be_packed(name):
    with pytest.raises(dns.CannotPack):
        dns.pack(dns.Message(0, 0, (name, 1, 1)))


def test_text_over_255_octets_cannot_be_packed():
    assert len(dns.text_data("é" * 127)[0]) == 255
    with pytest.raises(dns.CannotPack):
        dns.text_data("é" * 128)


def many(count, type_=dns.A):
    name = "web.service.consul."
    if type_ == dns.A:
        answers = [dns.Record(name, 1, 0, (struct.pack("!I", number),)) for number in range(count)]
        return dns.Message(0, dns.QR, (name, 1, 1), answers)
    targets = [f"n{number}.node.dc1.consul." for number in range(count)]
    answers = [dns.Record(name, 33, 0, (b"\0\1\0\1\0\1", target)) for target in targets]
    glue = [dns.Record(target, 1, 0, (b"\x0a\0\0\1",)) for target in targets]
    return dns.Message(0, dns.QR, (name, 33, 1), answers, [], glue)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 120), st.integers(0, 12), st.integers(0, 5000), st.booleans(), st.sampled_from([1, 33]))
def test_udp_replies_fit_what_the_client_takes(count, limit, size, has_edns, type_):
    message = many(count, type_)
    edns = dns.Edns(size) if has_edns else None
    cut = trim_udp(message, edns, answer_limit=limit, compress=True)
    largest = max(512, size if has_edns else 0)
    assert len(dns.pack(message)) <= largest or len(message.answers) <= 1
    assert cut == (len(message.answers) < count)
    if largest == 512:
        assert len(message.answers) <= min(limit, 8)
    if type_ == 33:
        owners = {record.name for record in message.additional}
        assert owners == {record.data[1] for record in message.answers}


def test_tcp_replies_have_at_most_4096_answers_and_64_kib():
    message = many(5000)
    assert trim_tcp(message, compress=True)
    assert len(dns.pack(message)) <= 65523
    srv = many(1500, 33)
    assert trim_tcp(srv, compress=True)
    assert len(srv.answers) <= 1024
    assert not trim_tcp(many(100), compress=True)
