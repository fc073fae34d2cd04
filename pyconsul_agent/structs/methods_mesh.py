"""The RPC methods of config entries, the discovery chain, intentions, the CA and federation states.

Apart from `methods` so that only those who serve or call them pay for their types. Source: Consul 1.10.11, measured.
"""

from __future__ import annotations

from typing import Any

from pyconsul_agent.structs.config_requests import (
    ConfigEntryListAllRequest,
    ConfigEntryQuery,
    ConfigEntryRequest,
    ConfigEntryResponse,
    IndexedConfigEntries,
    IndexedGenericConfigEntries,
    ServiceConfigRequest,
    ServiceConfigResponse,
)
from pyconsul_agent.structs.connect_ca import (
    CAConfiguration,
    CARequest,
    CASignRequest,
    IndexedCARoots,
    IssuedCert,
)
from pyconsul_agent.structs.discovery_chain import DiscoveryChainRequest, DiscoveryChainResponse
from pyconsul_agent.structs.federation import (
    DatacenterIndexedCheckServiceNodes,
    FederationStateQuery,
    FederationStateRequest,
    FederationStateResponse,
    IndexedFederationStates,
)
from pyconsul_agent.structs.intention_requests import (
    IndexedIntentionMatches,
    IndexedIntentions,
    IntentionListRequest,
    IntentionQueryCheckResponse,
    IntentionQueryRequest,
    IntentionRequest,
)
from pyconsul_agent.structs.methods import Empty, Method
from pyconsul_agent.structs.requests import DCSpecificRequest, ServiceSpecificRequest
from pyconsul_agent.structs.topology import IndexedServiceTopology

CONFIG_ENTRY_APPLY = Method("ConfigEntry.Apply", ConfigEntryRequest, bool)
CONFIG_ENTRY_DELETE = Method("ConfigEntry.Delete", ConfigEntryRequest, Empty)
CONFIG_ENTRY_GET = Method("ConfigEntry.Get", ConfigEntryQuery, ConfigEntryResponse)
CONFIG_ENTRY_LIST = Method("ConfigEntry.List", ConfigEntryQuery, IndexedConfigEntries)
CONFIG_ENTRY_LIST_ALL = Method("ConfigEntry.ListAll", ConfigEntryListAllRequest, IndexedGenericConfigEntries)
CONFIG_ENTRY_RESOLVE_SERVICE_CONFIG = Method(
    "ConfigEntry.ResolveServiceConfig", ServiceConfigRequest, ServiceConfigResponse
)
CONNECT_CA_CONFIGURATION_GET = Method("ConnectCA.ConfigurationGet", DCSpecificRequest, CAConfiguration)
CONNECT_CA_CONFIGURATION_SET = Method("ConnectCA.ConfigurationSet", CARequest, Empty)
CONNECT_CA_ROOTS = Method("ConnectCA.Roots", DCSpecificRequest, IndexedCARoots)
CONNECT_CA_SIGN = Method("ConnectCA.Sign", CASignRequest, IssuedCert)
CONNECT_CA_SIGN_INTERMEDIATE = Method("ConnectCA.SignIntermediate", CASignRequest, str)
DISCOVERY_CHAIN_GET = Method("DiscoveryChain.Get", DiscoveryChainRequest, DiscoveryChainResponse)
FEDERATION_STATE_APPLY = Method("FederationState.Apply", FederationStateRequest, bool)
FEDERATION_STATE_GET = Method("FederationState.Get", FederationStateQuery, FederationStateResponse)
FEDERATION_STATE_LIST = Method("FederationState.List", DCSpecificRequest, IndexedFederationStates)
FEDERATION_STATE_LIST_MESH_GATEWAYS = Method(
    "FederationState.ListMeshGateways", DCSpecificRequest, DatacenterIndexedCheckServiceNodes
)
INTENTION_APPLY = Method("Intention.Apply", IntentionRequest, str)
INTENTION_CHECK = Method("Intention.Check", IntentionQueryRequest, IntentionQueryCheckResponse)
INTENTION_GET = Method("Intention.Get", IntentionQueryRequest, IndexedIntentions)
INTENTION_LIST = Method("Intention.List", IntentionListRequest, IndexedIntentions)
INTENTION_MATCH = Method("Intention.Match", IntentionQueryRequest, IndexedIntentionMatches)
INTERNAL_GATEWAY_INTENTIONS = Method("Internal.GatewayIntentions", IntentionQueryRequest, IndexedIntentions)
INTERNAL_SERVICE_TOPOLOGY = Method("Internal.ServiceTopology", ServiceSpecificRequest, IndexedServiceTopology)


METHODS: dict[str, Method[Any, Any]] = {
    value.name: value for value in list(globals().values()) if isinstance(value, Method)
}
