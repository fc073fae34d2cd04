"""DiscoveryChain.* and ConnectCA.*: who can be reached how, and whom to trust.

Without `connect.enabled` every method answers that it is disabled, as in the original. No CA is made by this version:
with it, the CA's rows are those that a Consul server left, and nothing can be signed.
"""

from __future__ import annotations

from dataclasses import replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.seams import Endpoint, Where
from pyconsul_agent.state import config_entry, connect_ca
from pyconsul_agent.state.discovery_chain import Evaluation
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs import methods_mesh as methods
from pyconsul_agent.structs.connect_ca import (
    CAConfiguration,
    CARequest,
    CARoot,
    CASignRequest,
    IndexedCARoots,
    IssuedCert,
)
from pyconsul_agent.structs.discovery_chain import DiscoveryChainRequest, DiscoveryChainResponse
from pyconsul_agent.structs.methods import Empty
from pyconsul_agent.structs.requests import DCSpecificRequest

CONNECT_DISABLED = "Connect must be enabled in order to use this endpoint"
NO_CA_CONFIG = "no cluster ca config setup"
NO_PROVIDER = "CA is uninitialized: provider is nil"


def trust_domain(cluster_id: str) -> str:
    """The domain of a cluster's identities."""
    return f"{cluster_id}.consul".lower()


class DiscoveryChains:
    """Reads only."""

    def __init__(self, store: Store, blocking: Blocking, *, datacenter: str, connect_enabled: bool) -> None:
        self._store = store
        self._blocking = blocking
        self._datacenter = datacenter
        self._connect_enabled = connect_enabled

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [Endpoint(methods.DISCOVERY_CHAIN_GET, Where.FORWARD, self.get)]

    async def get(self, request: DiscoveryChainRequest) -> DiscoveryChainResponse:
        """The compiled chain of a service."""
        if not self._connect_enabled:
            raise RPCError(CONNECT_DISABLED)
        if not request.name:
            raise RPCError("Must provide service name")

        def query(watch: WatchSet) -> DiscoveryChainResponse:
            _, config = connect_ca.config(self._store, watch)
            if config is None:
                raise RPCError(NO_CA_CONFIG)
            asked = Evaluation(
                service=request.name,
                datacenter=request.evaluate_in_datacenter or self._datacenter,
                trust_domain=trust_domain(config.cluster_id),
                mesh_gateway=request.override_mesh_gateway.mode,
                protocol=request.override_protocol,
                connect_timeout=request.override_connect_timeout,
            )
            try:
                index, chain = config_entry.discovery_chain(self._store, watch, asked)
            except RPCError as error:
                raise RPCError(f"failed to compile discovery chain: {error}") from None
            return DiscoveryChainResponse(index=index, chain=chain)

        return await self._blocking.run(request, query)


class ConnectCA:
    """Reads of the CA's rows."""

    def __init__(self, store: Store, blocking: Blocking, *, connect_enabled: bool) -> None:
        self._store = store
        self._blocking = blocking
        self._connect_enabled = connect_enabled

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [
            Endpoint(methods.CONNECT_CA_ROOTS, Where.FORWARD, self.roots),
            Endpoint(methods.CONNECT_CA_CONFIGURATION_GET, Where.FORWARD, self.configuration),
            Endpoint(methods.CONNECT_CA_CONFIGURATION_SET, Where.FORWARD, self.set_configuration, write=True),
            Endpoint(methods.CONNECT_CA_SIGN, Where.FORWARD, self.sign, write=True),
            Endpoint(methods.CONNECT_CA_SIGN_INTERMEDIATE, Where.FORWARD, self.sign_intermediate, write=True),
        ]

    def _refuse_disabled(self) -> None:
        if not self._connect_enabled:
            raise RPCError(CONNECT_DISABLED)

    async def roots(self, request: DCSpecificRequest) -> IndexedCARoots:
        """The roots, without their keys."""
        self._refuse_disabled()

        def query(watch: WatchSet) -> IndexedCARoots:
            index, rows = connect_ca.roots(self._store, watch)
            changed, config = connect_ca.config(self._store, watch)
            return IndexedCARoots(
                index=max(index, changed),
                trust_domain=trust_domain(config.cluster_id) if config is not None else "",
                active_root_id=next((row.id for row in rows if row.active), ""),
                roots=tuple(map(_public, rows)) or None,
            )

        return await self._blocking.run(request, query)

    async def configuration(self, request: DCSpecificRequest) -> CAConfiguration:
        """The CA's configuration."""
        self._refuse_disabled()
        _, config = connect_ca.config(self._store, WatchSet())
        if config is None:
            raise RPCError(NO_CA_CONFIG)
        return config

    async def set_configuration(self, request: CARequest) -> Empty:
        """Not possible: there is no provider that could take it over."""
        self._refuse_disabled()
        raise RPCError(NO_PROVIDER)

    async def sign(self, request: CASignRequest) -> IssuedCert:
        """Not possible: there is no provider that could sign."""
        self._refuse_disabled()
        raise RPCError(NO_PROVIDER)

    async def sign_intermediate(self, request: CASignRequest) -> str:
        """Not possible: there is no provider that could sign."""
        self._refuse_disabled()
        raise RPCError(NO_PROVIDER)


def _public(root: CARoot) -> CARoot:
    """A root as everybody may see it."""
    return replace(root, signing_cert="", signing_key="", rotated_out_at=CARoot().rotated_out_at)
