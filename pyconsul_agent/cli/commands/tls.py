"""`tls ca create` and `tls cert create`: an authority for agents' certificates, and certificates of it."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag

SERIAL_BITS = 128
NAMES_MAX = 10_000
SERVER_WARNING = """==> WARNING: Server Certificates grants authority to become a
    server and access all state in the cluster including root keys
    and all ACL tokens. Do not distribute them to production hosts
    that are not server nodes. Store them as securely as CA keys."""


class _Refused(Exception):
    """The certificate cannot be made."""


# --- ca ------------------------------------------------------------------------------------------------------------


def run_ca_create(context: Context, arguments: Sequence[str]) -> int:
    """Make an authority in the present folder."""
    domain = context.text("domain")
    certificate, key = f"{domain}-agent-ca.pem", f"{domain}-agent-ca-key.pem"
    for name in (certificate, key):
        if os.path.lexists(name):
            return context.complain(f"{name} already exists.")
    constraints = _texts(context, "additional-name-constraint")
    if constraints and not context.on("name-constraint"):
        return context.complain("-additional-name-constraint requires -name-constraint")
    permitted = [*constraints, domain, "localhost"] if context.on("name-constraint") else []
    try:
        pem, key_pem = _authority(context, permitted)
    except (_Refused, ValueError) as error:
        return context.complain(str(error))
    try:
        _save(context, certificate, pem, 0o644)
        _save(context, key, key_pem, 0o600)
    except OSError as error:
        return context.complain(f"open {error.filename}: {(error.strerror or '').lower()}")
    return 0


def _authority(context: Context, permitted: Sequence[str]) -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    serial = secrets.randbits(SERIAL_BITS) | 1
    key = ec.generate_private_key(ec.SECP256R1())
    identity = _key_id(key.public_key())
    subject = _subject(context.text("common-name") or f"Consul Agent CA {serial}")
    begin, end = _validity(context.number("days"))
    builder = (
        x509.CertificateBuilder()
        .serial_number(serial)
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(identity), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(identity, None, None), critical=False)
    )
    if context.text("cluster-id"):
        uri = x509.UniformResourceIdentifier(f"spiffe://{context.text('cluster-id')}.{context.text('domain')}")
        builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    if permitted:
        names = [x509.DNSName(name) for name in permitted]
        builder = builder.add_extension(
            x509.NameConstraints(permitted_subtrees=names, excluded_subtrees=None), critical=True
        )
    certificate = builder.sign(key, hashes.SHA256())
    return _pem(certificate), _key_pem(key)


# --- cert ----------------------------------------------------------------------------------------------------------


def run_cert_create(context: Context, arguments: Sequence[str]) -> int:
    """Make a certificate of the authority in the present folder."""
    for flag, what in (("ca", "the ca"), ("key", "the key")):
        if not context.text(flag):
            return context.complain(f"Please provide {what}")
    kinds = [kind for kind in ("server", "client", "cli") if context.on(kind)]
    if len(kinds) != 1:
        return context.complain("Please provide either -server, -client, or -cli")
    kind, domain = kinds[0], context.text("domain")
    if context.text("node") and kind != "server":
        return context.complain("-node requires -server")
    certificate, key = _free_names(f"{context.text('dc')}-{kind}-{domain}")
    if not certificate:
        return context.complain("Could not find a filename that doesn't already exist")
    ca_name = context.text("ca").replace("#DOMAIN#", domain, 1)
    ca_key_name = context.text("key").replace("#DOMAIN#", domain, 1)
    try:
        what = "CA"
        ca = Path(ca_name).read_bytes()
        what = "CA key"
        ca_key = Path(ca_key_name).read_bytes()
    except OSError as error:
        return context.complain(f"Error reading {what}: open {error.filename}: {(error.strerror or '').lower()}")
    if kind == "server":
        context.say(SERVER_WARNING)
    context.say(f"==> Using {ca_name} and {ca_key_name}")
    try:
        pem, key_pem = _certificate(context, kind, ca, ca_key)
    except (_Refused, ValueError) as error:
        return context.complain(str(error))
    try:
        _save(context, certificate, pem, 0o644)
        _save(context, key, key_pem, 0o600)
    except OSError as error:
        return context.complain(f"open {error.filename}: {(error.strerror or '').lower()}")
    return 0


def _certificate(context: Context, kind: str, ca: bytes, ca_key: bytes) -> tuple[bytes, bytes]:
    """Raises _Refused."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    try:
        parent, signer = x509.load_pem_x509_certificate(ca), load_pem_private_key(ca_key, None)
    except (ValueError, TypeError):
        raise _Refused("failed to parse root certificate or its key") from None
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise _Refused("unknown PEM block type for signing key")
    if signer.public_key() != parent.public_key():
        raise _Refused("the key is not that of the CA")
    name = f"{kind}.{context.text('dc')}.{context.text('domain')}"
    key = ec.generate_private_key(ec.SECP256R1())
    begin, end = _validity(context.number("days"))
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        x509.CertificateBuilder()
        .serial_number(secrets.randbits(SERIAL_BITS) | 1)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(parent.subject)
        .public_key(key.public_key())
        .not_valid_before(begin)
        .not_valid_after(min(end, parent.not_valid_after_utc))
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(_key_id(key.public_key())), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(_key_id(signer.public_key()), None, None), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(context, kind, name)), critical=False)
    )
    if kind != "cli":
        ordered = usages if kind == "server" else usages[::-1]
        builder = builder.add_extension(x509.ExtendedKeyUsage(ordered), critical=False)
    return _pem(builder.sign(signer, hashes.SHA256())), _key_pem(key)


def _names(context: Context, kind: str, name: str) -> list[Any]:
    """The certificate's other names. Raises _Refused."""
    from cryptography import x509

    if kind == "cli":
        return [x509.DNSName(name), x509.DNSName("localhost")]
    dns = [text.strip() for text in _texts(context, "additional-dnsname") if text]
    if context.text("node"):
        dns.append(f"{context.text('node')}.{name}")
    try:
        addresses = [ipaddress.ip_address(t.strip()) for t in _texts(context, "additional-ipaddress") if t]
        return [
            *(x509.DNSName(each) for each in [*dns, name, "localhost"]),
            *(x509.IPAddress(each) for each in [*addresses, ipaddress.ip_address("127.0.0.1")]),
        ]
    except ValueError:
        raise _Refused("failed to parse certificate") from None


def _free_names(prefix: str) -> tuple[str, str]:
    for number in range(NAMES_MAX + 1):
        certificate, key = f"{prefix}-{number}.pem", f"{prefix}-{number}-key.pem"
        if not os.path.lexists(certificate) and not os.path.lexists(key):
            return certificate, key
    return "", ""


# --- both ----------------------------------------------------------------------------------------------------------


def _texts(context: Context, flag: str) -> list[str]:
    value = context.values[flag]
    return value if isinstance(value, list) else []


def _subject(common_name: str) -> Any:
    """An authority's name, as Consul's own ones have it."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    parts = (
        (NameOID.COUNTRY_NAME, "US"), (NameOID.STATE_OR_PROVINCE_NAME, "CA"), (NameOID.LOCALITY_NAME, "San Francisco"),
        (NameOID.STREET_ADDRESS, "101 Second Street"), (NameOID.POSTAL_CODE, "94105"),
        (NameOID.ORGANIZATION_NAME, "HashiCorp Inc."), (NameOID.COMMON_NAME, common_name),
    )  # fmt: skip
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts])


def _validity(days: int) -> tuple[datetime.datetime, datetime.datetime]:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    try:
        return now, now + datetime.timedelta(days=days)
    except OverflowError:
        raise _Refused(f"{days} days are more than a certificate can name") from None


def _key_usage(*, ca: bool) -> Any:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=not ca, data_encipherment=False,
        key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _key_id(public_key: Any) -> bytes:
    """The digest of the whole public key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _pem(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return bytes(certificate.public_bytes(Encoding.PEM))


def _key_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))


def _save(context: Context, name: str, data: bytes, mode: int) -> None:
    """A new file: what is there already is never overwritten, and a key is at no time readable by others."""
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    context.say(f"==> Saved {name}")


CA_CREATE = Command(
    "consul tls ca create [options]",
    "Makes an authority for agents' certificates: two files in the present folder.",
    run_ca_create,
    (
        Flag("additional-name-constraint", "strings", "Further domain that the authority may sign for; needs "
             "-name-constraint. May be given several times."),
        Flag("cluster-id", "string", "Id of the cluster, put into the certificate."),
        Flag("common-name", "string", "Common name; unset, a name with the serial number."),
        Flag("days", "int", "How long it is valid.", 1825),
        Flag("domain", "string", "Domain of the cluster.", "consul"),
        Flag("name-constraint", "bool", "The authority may sign only for the domain, localhost and further ones."),
    ),
)  # fmt: skip
CERT_CREATE = Command(
    "consul tls cert create [options]",
    "Makes a certificate for an agent or the command line: two files in the present folder.",
    run_cert_create,
    (
        Flag("additional-dnsname", "strings", "Further DNS name. May be given several times."),
        Flag("additional-ipaddress", "strings", "Further address. May be given several times."),
        Flag("ca", "string", "File of the authority.", "#DOMAIN#-agent-ca.pem"),
        Flag("cli", "bool", "A certificate for the command line."),
        Flag("client", "bool", "A certificate for a client."),
        Flag("days", "int", "How long it is valid.", 365),
        Flag("dc", "string", "Datacenter in the name.", "dc1"),
        Flag("domain", "string", "Domain in the name.", "consul"),
        Flag("key", "string", "File of the authority's key.", "#DOMAIN#-agent-ca-key.pem"),
        Flag("node", "string", "A server's node name, as a further name."),
        Flag("server", "bool", "A certificate for a server."),
    ),
)
