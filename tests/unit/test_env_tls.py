"""Whom we trust as a TLS client: what Go accepts, whatever the Python."""

import asyncio
import datetime
import ipaddress
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pyconsul_agent.agent.checks.http import AiohttpChecks
from pyconsul_agent.agent.checks.http2 import tls_context
from pyconsul_agent.agent.watch_post import AiohttpPoster
from pyconsul_agent.cli.http_api import _tls
from pyconsul_agent.env.base import serve_streams
from pyconsul_agent.env.real import real_env
from pyconsul_agent.env.tls import client_context, http_context
from pyconsul_agent.structs.catalog import CheckType
from pyconsul_agent.watch.handler import HTTP
from tests.builders import run_async

LOCAL = "127.0.0.1"


class Authorities:
    """Files: `root`, `middle` signed by it, and `server`, signed by `middle` as a short openssl command does it."""

    def __init__(self, folder):
        self.root, self.middle, self.server = (str(folder / name) for name in ("root.pem", "middle.pem", "server.pem"))
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
        authority = x509.BasicConstraints(ca=True, path_length=None)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOCAL))])
        root = certificate("root", keys[0], "root", keys[0], authority)
        middle = certificate("middle", keys[1], "root", keys[0], authority)
        server = certificate("server", keys[2], "middle", keys[1], address)
        for path, pem in ((self.root, root), (self.middle, middle), (self.server, private(keys[2]) + server + middle)):
            with open(path, "wb") as file:
                file.write(pem)


def certificate(name, key, issuer, issuer_key, extension):
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(extension, critical=True)
        .sign(issuer_key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def private(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Authorities(tmp_path_factory.mktemp("tls"))


def shake_hands(client, files, name=LOCAL):
    """Both sides in memory; raises what the client has against the server."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.server)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(back, there, server_hostname=name)
    theirs = server.wrap_bio(there, back, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ours.version() is not None


@pytest.mark.parametrize("anchor", ["root", "middle"])
def test_an_authority_without_key_identifiers_and_an_intermediate_one_are_trusted(files, anchor):
    shake_hands(client_context(getattr(files, anchor)), files)


def test_other_authorities_and_names_are_refused(files, tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError, match="signature failure"):
        shake_hands(client_context(Authorities(tmp_path).root), files)
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        shake_hands(client_context(files.root), files, "127.0.0.2")


@pytest.mark.parametrize("anchor", ["root", "middle"])
def test_the_command_line_trusts_as_go_does(files, anchor):
    given = {"ca-file": getattr(files, anchor)}
    shake_hands(_tls(lambda name, _: given.get(name, ""), verify=True), files)


@pytest.mark.parametrize("anchor", ["root", "middle"])
def test_checks_and_watches_trust_as_go_does(files, anchor, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", getattr(files, anchor))
    http_context.cache_clear()
    shake_hands(tls_context(CheckType()), files)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.server)

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await writer.drain()
        await reader.read()
        writer.close()

    class Secured:
        def __init__(self, net):
            self._net = net

        async def listen(self, factory, host, port):
            return await self._net.listen(factory, host, port, tls=server)

    async def test():
        env = real_env()
        checks, poster = AiohttpChecks(), AiohttpPoster()
        listener = await serve_streams(Secured(env.net), answer, LOCAL, 0)
        url = f"https://{LOCAL}:{listener.local[1]}/"
        try:
            async with asyncio.timeout(10):
                result = await checks.request(CheckType(http=url), timeout_s=5, output_bytes_max=100)
                assert (result.status, result.output[-2:]) == ("passing", "hi"), result.output
                assert await poster.post(HTTP(url), [], b"{}") == (200, b"hi")
        finally:
            await checks.close()
            await poster.close()
            await listener.close()
            await env.blocking.close()
            http_context.cache_clear()

    run_async(test())
