"""What service-intentions must be: precedence, order and fields of their sources. Texts are the original's.

`legacy` writes come from the API that names intentions by ID; they must carry an ID and times, the others must not.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state.problems import (
    META_KEY_MAX,
    META_PAIRS_MAX,
    META_VALUE_MAX,
    meta_problems,
    methods_problem,
    several,
)
from pyconsul_agent.structs.base import GoTime
from pyconsul_agent.structs.config_kinds import SERVICE_INTENTIONS, WILDCARD
from pyconsul_agent.structs.intention import (
    Intention,
    IntentionHTTPPermission,
    IntentionPermission,
    ServiceIntentionsConfigEntry,
    SourceIntention,
)
from pyconsul_agent.wire.gotypes import quote

ACTIONS = ("allow", "deny")
CONSUL = "consul"
NAMESPACE = "default"


def precedence(destination: str, source: str) -> int:
    """The more exact the names, the higher; the destination counts more."""
    return (6 if destination == WILDCARD else 9) - (1 if source == WILDCARD else 0)


def normalized_intentions(entry: ServiceIntentionsConfigEntry, *, legacy: bool = False) -> ServiceIntentionsConfigEntry:
    """Kind, types and precedences filled in, sources sorted by precedence."""
    sources = entry.sources
    if sources is not None:
        done = [_normalized_source(entry.name, source, legacy) for source in sources]
        sources = tuple(sorted(done, key=lambda source: -source.precedence))
    return replace(entry, kind=SERVICE_INTENTIONS, sources=sources)


def _normalized_source(destination: str, source: SourceIntention, legacy: bool) -> SourceIntention:
    source = replace(
        source,
        type=source.type or CONSUL,
        precedence=precedence(destination, source.name),
        permissions=None if source.permissions is None else tuple(map(_upper_methods, source.permissions)),
    )
    if legacy:
        return replace(source, legacy_meta={} if source.legacy_meta is None else source.legacy_meta)
    return replace(source, legacy_id="", legacy_create_time=None, legacy_update_time=None)


def _upper_methods(permission: IntentionPermission) -> IntentionPermission:
    if permission.http is None or not permission.http.methods:
        return permission
    methods = tuple(method.upper() for method in permission.http.methods)
    return replace(permission, http=replace(permission.http, methods=methods))


def validate_intentions(entry: ServiceIntentionsConfigEntry, *, legacy: bool = False) -> None:
    """Raises RPCError unless a normalized entry can be used."""
    if not entry.name:
        raise RPCError("Name is required")
    if (problem := _wildcard_problem(entry.name)) is not None:
        raise RPCError(problem)
    if legacy and entry.meta:
        raise RPCError("Meta must be omitted for legacy intention writes")
    if not legacy and (problems := meta_problems(entry.meta)):
        raise several(problems)
    if not entry.sources:
        raise RPCError("At least one source is required")
    seen = set()
    for place, source in enumerate(entry.sources):
        problem = _source_problem(entry, source, legacy)
        if problem is not None:
            raise RPCError(f"Sources[{place}].{problem}")
        if source.name in seen:
            raise RPCError(f"Sources[{place}] defines {quote(source.name)} more than once")
        seen.add(source.name)


def _wildcard_problem(name: str) -> str | None:
    if name != WILDCARD and WILDCARD in name:
        return "Name: wildcard character '*' cannot be used with partial values"
    return None


def _source_problem(entry: ServiceIntentionsConfigEntry, source: SourceIntention, legacy: bool) -> str | None:
    if not source.name:
        return "Name is required"
    if (problem := _wildcard_problem(source.name)) is not None:
        return problem
    if len(source.description.encode("utf-8", "surrogateescape")) > META_VALUE_MAX:
        return f"Description exceeds maximum length {META_VALUE_MAX}"
    problem = _legacy_problem(source) if legacy else _not_legacy_problem(source)
    if problem is not None:
        return problem
    if (legacy or not source.permissions) and source.action not in ACTIONS:
        return "Action must be set to 'allow' or 'deny'"
    if source.permissions and source.action:
        return "Action must be omitted if Permissions are specified"
    if source.permissions and entry.name == WILDCARD:
        return "Permissions cannot be specified on intentions with wildcarded destinations"
    if source.type != CONSUL:
        return "Type must be set to 'consul'"
    for place, permission in enumerate(source.permissions or ()):
        if (problem := _permission_problem(permission)) is not None:
            return f"Permissions[{place}].{problem}"
    return None


def _legacy_problem(source: SourceIntention) -> str | None:
    meta = source.legacy_meta or {}
    if len(meta) > META_PAIRS_MAX:
        return f"Meta exceeds maximum element count {META_PAIRS_MAX}"
    for key, value in sorted(meta.items()):
        if len(key.encode("utf-8", "surrogateescape")) > META_KEY_MAX:
            return f"Meta key {quote(key)} exceeds maximum length {META_KEY_MAX}"
        if len(value.encode("utf-8", "surrogateescape")) > META_VALUE_MAX:
            return f"Meta value for key {quote(key)} exceeds maximum length {META_VALUE_MAX}"
    if source.legacy_create_time is None:
        return "LegacyCreateTime must be set"
    if source.legacy_update_time is None:
        return "LegacyUpdateTime must be set"
    return None if source.legacy_id else "LegacyID must be set"


def _not_legacy_problem(source: SourceIntention) -> str | None:
    for name, given in (
        ("LegacyMeta", bool(source.legacy_meta)),
        ("LegacyCreateTime", source.legacy_create_time is not None),
        ("LegacyUpdateTime", source.legacy_update_time is not None),
        ("LegacyID", bool(source.legacy_id)),
    ):
        if given:
            return f"{name} must be omitted"
    return None


def _permission_problem(permission: IntentionPermission) -> str | None:
    if permission.action not in ACTIONS:
        return "Action must be set to 'allow' or 'deny'"
    http = permission.http
    if http is None:
        return "HTTP is required"
    for name, path in (("PathExact", http.path_exact), ("PathPrefix", http.path_prefix)):
        if path and not path.startswith("/"):
            return f"HTTP.{name} doesn't start with '/': {quote(path)}"
    paths = sum(map(bool, (http.path_exact, http.path_prefix, http.path_regex)))
    if paths > 1:
        return "HTTP should only contain at most one of PathExact, PathPrefix, or PathRegex"
    problem = _header_problem(http) or methods_problem("HTTP.Methods", http.methods)
    if problem is not None:
        return problem
    return None if paths or http.header or http.methods else "HTTP should not be empty"


def _header_problem(http: IntentionHTTPPermission) -> str | None:
    for place, header in enumerate(http.header or ()):
        if not header.name:
            return f"HTTP.Header[{place}] missing required Name field"
        if sum(map(bool, (header.present, header.exact, header.regex, header.prefix, header.suffix))) != 1:
            return f"HTTP.Header[{place}] should only contain one of Present, Exact, Prefix, Suffix, or Regex"
    return None


# --- as rows of the old API ---------------------------------------------------------------------------------------


def intention_of(entry: ServiceIntentionsConfigEntry, source: SourceIntention) -> Intention:
    """A source of an entry as the old API shows it."""
    row = Intention(
        id=source.legacy_id,
        description=source.description,
        source_ns=NAMESPACE,
        source_name=source.name,
        destination_ns=NAMESPACE,
        destination_name=entry.name,
        source_type=source.type,
        action=source.action,
        permissions=source.permissions,
        meta=source.legacy_meta if source.legacy_id else entry.meta,
        precedence=source.precedence,
        created_at=source.legacy_create_time or GoTime(),
        updated_at=source.legacy_update_time or GoTime(),
        create_index=entry.create_index,
        modify_index=entry.modify_index,
    )
    return replace(row, hash=intention_hash(row)) if source.legacy_id else row


def moved_to_entries(rows: Iterable[Intention]) -> list[ServiceIntentionsConfigEntry]:
    """Rows of the old table as config entries, normalized: one for each destination, by name."""
    sources: dict[str, list[SourceIntention]] = {}
    for row in rows:
        sources.setdefault(row.destination_name, []).append(_source_of(row))
    return [
        normalized_intentions(ServiceIntentionsConfigEntry(name=name, sources=tuple(found)), legacy=True)
        for name, found in sorted(sources.items())
    ]


def _source_of(row: Intention) -> SourceIntention:
    return SourceIntention(
        name=row.source_name,
        action=row.action,
        legacy_id=row.id,
        type=row.source_type,
        description=row.description,
        legacy_meta=row.meta,
        legacy_create_time=None if row.created_at.is_zero else row.created_at,
        legacy_update_time=None if row.updated_at.is_zero else row.updated_at,
    )


def intention_hash(row: Intention) -> bytes:
    """The sum by which replication sees that an intention changed."""
    total = hashlib.blake2b(digest_size=32)
    names = (row.source_ns, row.source_name, row.destination_ns, row.destination_name)
    for text in (row.id, row.description, *names, row.source_type, row.action):
        total.update(text.encode("utf-8", "surrogateescape"))
    total.update(struct.pack("<Q", row.precedence & 0xFFFF_FFFF_FFFF_FFFF))
    for key, value in sorted((row.meta or {}).items()):
        total.update((key + value).encode("utf-8", "surrogateescape"))
    return total.digest()


def by_precedence(row: Intention) -> tuple[int, str, str, str, str]:
    """Sorting key: precedence first, then the names."""
    return -row.precedence, row.source_ns, row.source_name, row.destination_ns, row.destination_name
