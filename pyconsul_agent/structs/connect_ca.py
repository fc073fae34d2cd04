"""The certificate authority of Connect: roots, configuration, the state of the built-in provider, certificates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyconsul_agent.structs.base import GoTime, struct, wire
from pyconsul_agent.structs.requests import QueryMeta, WriteRequest


@struct
class CARoot:
    """Consul's `CARoot`."""

    id: str = wire("ID", default="")
    name: str = wire("Name", default="")
    serial_number: int = wire("SerialNumber", default=0)
    signing_key_id: str = wire("SigningKeyID", default="")
    external_trust_domain: str = wire("ExternalTrustDomain", default="")
    not_before: GoTime = wire("NotBefore", default=GoTime())
    not_after: GoTime = wire("NotAfter", default=GoTime())
    root_cert: str = wire("RootCert", default="")
    intermediate_certs: tuple[str, ...] | None = wire("IntermediateCerts", default=None)
    signing_cert: str = wire("SigningCert", default="", json_omit=True)
    signing_key: str = wire("SigningKey", default="", json_omit=True)
    active: bool = wire("Active", default=False)
    rotated_out_at: GoTime = wire("RotatedOutAt", default=GoTime(), json_hidden=True)
    private_key_type: str = wire("PrivateKeyType", default="")
    private_key_bits: int = wire("PrivateKeyBits", default=0)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class CAConfiguration:
    """Consul's `CAConfiguration`."""

    cluster_id: str = wire("ClusterID", default="", json_hidden=True)
    provider: str = wire("Provider", default="")
    config: Mapping[str, Any] | None = wire("Config", default=None)
    state: Mapping[str, str] | None = wire("State", default=None)
    force_without_cross_signing: bool = wire("ForceWithoutCrossSigning", default=False)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class CAConsulProviderState:
    """Consul's `CAConsulProviderState`."""

    id: str = wire("ID", default="")
    private_key: str = wire("PrivateKey", default="")
    root_cert: str = wire("RootCert", default="")
    intermediate_cert: str = wire("IntermediateCert", default="")
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class CARequest(WriteRequest):
    """Consul's `CARequest`."""

    op: str = wire("Op", default="")
    datacenter: str = wire("Datacenter", default="")
    index: int = wire("Index", default=0)
    roots: tuple[CARoot, ...] | None = wire("Roots", default=None)
    config: CAConfiguration | None = wire("Config", default=None)
    provider_state: CAConsulProviderState | None = wire("ProviderState", default=None)


@struct
class CALeafRequest(WriteRequest):
    """Consul's `CALeafRequest`."""

    op: str = wire("Op", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class CASignRequest(WriteRequest):
    """Consul's `CASignRequest`."""

    datacenter: str = wire("Datacenter", default="")
    csr: str = wire("CSR", default="")


@struct
class IndexedCARoots(QueryMeta):
    """Consul's `IndexedCARoots`."""

    active_root_id: str = wire("ActiveRootID", default="")
    trust_domain: str = wire("TrustDomain", default="")
    roots: tuple[CARoot, ...] | None = wire("Roots", default=None)


@struct
class IssuedCert:
    """Consul's `IssuedCert`."""

    serial_number: str = wire("SerialNumber", default="")
    cert_pem: str = wire("CertPEM", default="")
    private_key_pem: str = wire("PrivateKeyPEM", default="", json_omit=True)
    service: str = wire("Service", default="", json_omit=True)
    service_uri: str = wire("ServiceURI", default="", json_omit=True)
    agent: str = wire("Agent", default="", json_omit=True)
    agent_uri: str = wire("AgentURI", default="", json_omit=True)
    valid_after: GoTime = wire("ValidAfter", default=GoTime())
    valid_before: GoTime = wire("ValidBefore", default=GoTime())
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class SignedResponse:
    """Consul's `SignedResponse`."""

    issued_cert: IssuedCert = wire("IssuedCert", default=IssuedCert())
    connect_ca_roots: IndexedCARoots = wire("ConnectCARoots", default=IndexedCARoots())
    manual_ca_roots: tuple[str, ...] | None = wire("ManualCARoots", default=None)
    gossip_key: str = wire("GossipKey", default="")
    verify_server_hostname: bool = wire("VerifyServerHostname", default=False)
