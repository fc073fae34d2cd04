"""Merging decoded configuration sources. Pure: blocks in, block out; knows no key but `service` and `check`.

Scalars replace, lists append, blocks merge key by key; `service` and `check` become further elements of their lists
(Consul 1.10.11).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyconsul_agent.config.options import Raw

_SINGULAR = {"service": "services", "check": "checks"}


def merge(sources: Iterable[Raw]) -> dict[str, Any]:
    """One block out of many; later ones win."""
    result: dict[str, Any] = {}
    for source in sources:
        _merge_into(result, _without_singulars(source))
    return result


def _without_singulars(source: Raw) -> dict[str, Any]:
    """`source` with `service` and `check` moved to the ends of `services` and `checks`."""
    plural = {key: value for key, value in source.items() if key not in _SINGULAR}
    for one, many in _SINGULAR.items():
        if one in source:
            value = source[one]
            plural[many] = [*_as_list(plural.get(many, [])), *_as_list(value)]
    return plural


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _merge_into(result: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        before = result.get(key)
        if isinstance(value, Mapping):
            block: dict[str, Any] = dict(before) if isinstance(before, Mapping) else {}
            _merge_into(block, value)
            result[key] = block
        elif isinstance(value, list | tuple):
            result[key] = [*(before if isinstance(before, list) else []), *value]
        else:
            result[key] = value
