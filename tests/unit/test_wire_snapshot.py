import contextlib
import gzip
import hashlib
import io
import json
import random
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.vectors_raft import members_of
from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.raft import Configuration, Server, SnapshotMeta
from pyconsul_agent.wire import snapshot

META = SnapshotMeta(
    id="2-9-1",
    index=9,
    term=2,
    configuration=Configuration(servers=(Server(id="a", address="10.0.0.1:8300"),)),
    configuration_index=1,
    size=5,
)


def archive_of(members, *, tail=b"", kind=tarfile.REGTYPE):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            info.type = kind
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue()) + tail


GOOD = members_of(b"".join(snapshot.write_archive(META, [b"hel", b"lo"], 1)))


def test_meta_on_disk_carries_checksums_and_goes_both_ways():
    sums = snapshot.Checksums(crc64=(5).to_bytes(8, "big"), sha256=b"s" * 32)
    assert snapshot.decode_meta(snapshot.encode_meta(META, sums)) == (META, sums)
    assert json.loads(snapshot.encode_meta(META, sums))["CRC"] == "AAAAAAAAAAU="


def test_meta_of_version_0_takes_its_servers_from_the_peer_list():
    document = json.loads(snapshot.encode_meta(META)) | {"Version": 0, "Configuration": None}
    meta, _ = snapshot.decode_meta(json.dumps(document).encode())
    assert meta.configuration.servers == (Server(id="10.0.0.1:8300", address="10.0.0.1:8300"),)
    assert meta.configuration_index == 9


def test_crc64_is_go_s_ecma_and_continues():
    assert snapshot.crc64(b"123456789") == 0x995DC9BBDF1939FA
    assert snapshot.crc64(b"6789", snapshot.crc64(b"12345")) == 0x995DC9BBDF1939FA


def test_members_in_another_order_are_taken():
    meta, state = snapshot.read_archive(archive_of([GOOD[2], GOOD[1], GOOD[0]]))
    assert (meta, state) == (META, b"hello")


NOISE = random.Random(1).randbytes(4000)
GOOD_LONG = [GOOD[0], ("state.bin", NOISE), GOOD[2]]


def flipped(data, at):
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def sums_without(name):
    return b"".join(line + b"\n" for line in GOOD[2][1].splitlines() if not line.endswith(name))


READ = "failed to read snapshot file: "
SUMS = READ + "failed checking integrity of snapshot: "
BAD = {
    "nothing": (b"", "failed to decompress snapshot: EOF"),
    "nine bytes": (b"\x1f\x8b\x08xxxxxx", "failed to decompress snapshot: unexpected EOF"),
    "not gzip": (b"hello, world", "failed to decompress snapshot: gzip: invalid header"),
    "cut in the state": (archive_of(GOOD_LONG)[:-1500], READ + "failed to read or write snapshot data: unexpected EOF"),
    "cut before the sum of gzip": (archive_of(GOOD)[:-9], "unexpected EOF"),
    "wrong sum of gzip": (flipped(archive_of(GOOD), -6), "gzip: invalid checksum"),
    "wrong length of gzip": (flipped(archive_of(GOOD), -2), "gzip: invalid checksum"),
    "a byte after gzip": (archive_of(GOOD, tail=b"x"), "unexpected EOF"),
    "bytes after gzip": (archive_of(GOOD, tail=b"x" * 20), "gzip: invalid header"),
    "second gzip member": (archive_of(GOOD, tail=gzip.compress(b"x")), "unread uncompressed bytes remain"),
    "stranger": (archive_of([*GOOD, ("evil", b"x")]), READ + 'unexpected file "evil" in snapshot'),
    "dot dot": (archive_of([("../state.bin", b"x")]), READ + 'unexpected file "../state.bin" in snapshot'),
    "absolute": (archive_of([("/meta.json", b"x")]), READ + "unexpected file"),
    "directory": (archive_of([("meta.json", b"")], kind=tarfile.DIRTYPE), READ + "unexpected file"),
    "symbolic link": (archive_of([("state.bin", b"")], kind=tarfile.SYMTYPE), READ + "unexpected file"),
    "twice": (archive_of([GOOD[0], GOOD[0]]), READ + 'file "meta.json" twice'),
    "state changed": (
        archive_of([GOOD[0], ("state.bin", b"hellO"), GOOD[2]]), SUMS + 'hash check failed for "state.bin"',
    ),
    "meta missing": (archive_of(GOOD[1:]), SUMS + 'hash check failed for "meta.json"'),
    "state missing": (archive_of([GOOD[0], GOOD[2]]), SUMS + 'hash check failed for "state.bin"'),
    "sums missing": (archive_of(GOOD[:2]), SUMS + 'file missing for "meta.json"'),
    "one sum missing": (
        archive_of([*GOOD[:2], ("SHA256SUMS", sums_without(b"state.bin"))]), SUMS + 'file missing for "state.bin"',
    ),
    "sum of a stranger": (
        archive_of([*GOOD[:2], ("SHA256SUMS", GOOD[2][1] + b"00  x\n")]), SUMS + 'list missing hash for "x"',
    ),
    "no members": (gzip.compress(b""), SUMS + 'file missing for "meta.json"'),
    "half a header": (gzip.compress(b"x" * 100), READ + "failed reading snapshot: unexpected EOF"),
    "garbage inside": (gzip.compress(b"x" * 1024), READ + "failed reading snapshot: archive/tar: invalid tar header"),
    "huge meta": (archive_of([("meta.json", bytes(snapshot.META_BYTES_MAX + 1))]), READ + 'file "meta.json" in'),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_archive_is_refused(case):
    archive, reason = BAD[case]
    with pytest.raises(DecodeError) as raised:
        snapshot.read_archive(archive)
    assert str(raised.value).startswith(reason)
    # The same when it comes in the smallest pieces; only what zlib had not handed out yet may be told otherwise.
    reader = snapshot.ArchiveReader(lambda piece: None)
    with pytest.raises(DecodeError):
        for at in range(len(archive)):
            reader.feed(archive[at : at + 1])
        reader.finish()


@given(st.integers(min_value=0), st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_an_archive_with_one_bit_flipped_is_refused_or_means_the_same(at, bit):
    """Some bits of the heads of gzip and tar (times, flags of nobody) carry nothing."""
    good = b"".join(snapshot.write_archive(META, [b"hello"], 1))
    bad = bytearray(good)
    bad[at % len(bad)] ^= 1 << bit
    try:
        assert snapshot.read_archive(bytes(bad)) == (META, b"hello")
    except DecodeError as error:
        assert "snapshot" in str(error) or "gzip" in str(error) or str(error) == "unexpected EOF"


def test_state_over_the_limit_is_refused_before_it_is_read():
    with pytest.raises(DecodeError, match="larger than 4 bytes"):
        snapshot.read_archive(archive_of(GOOD), state_bytes_max=4)


def test_size_that_meta_does_not_admit_is_refused():
    archive = b"".join(snapshot.write_archive(META, [b"hello"], 1))
    members = dict(members_of(archive))
    meta_json = members["meta.json"].replace(b'"Size":5', b'"Size":6')
    sums = members["SHA256SUMS"].replace(
        hashlib.sha256(members["meta.json"]).hexdigest().encode(), hashlib.sha256(meta_json).hexdigest().encode()
    )
    bad = archive_of([("meta.json", meta_json), ("state.bin", b"hello"), ("SHA256SUMS", sums)])
    with pytest.raises(DecodeError, match="says 6"):
        snapshot.read_archive(bad)


def test_writer_refuses_a_state_of_another_size():
    with pytest.raises(ValueError, match="announced were 5"):
        list(snapshot.write_archive(META, [b"hell"], 1))


def test_bomb_is_inflated_in_bounded_pieces_and_refused():
    bomb = archive_of([("state.bin", bytes(8_000_000))])
    largest = 0

    def note(piece):
        nonlocal largest
        largest = max(largest, len(piece))

    reader = snapshot.ArchiveReader(note)
    reader.feed(bomb)
    assert largest <= snapshot.INFLATE_BYTES_MAX + 512
    with pytest.raises(DecodeError):
        reader.finish()


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_read_or_raise_decode_error(data, packed):
    with contextlib.suppress(DecodeError):
        snapshot.read_archive(gzip.compress(data) if packed else data)
    with contextlib.suppress(DecodeError):
        snapshot.decode_meta(data)
