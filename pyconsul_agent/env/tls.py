"""TLS as a client: whom it trusts is the same on every Python, and what Go trusts.

From 3.13 on `ssl.create_default_context` refuses certificates that lack what RFC 5280 wants of them, such as an
identifier of the authority's key; earlier ones accept no intermediate authority as an anchor. Go does neither.
"""

from __future__ import annotations

import functools
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def client_context(cafile: str | None = None, capath: str | None = None, *, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """Trusts these authorities, or the system's without any. Raises OSError for files that cannot be loaded."""
    context = ssl.create_default_context(cafile=cafile, capath=capath)
    context.verify_flags = context.verify_flags & ~ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


@functools.cache
def http_context() -> ssl.SSLContext:
    """Trusts the system's authorities, for HTTP/1.1; the same one each time, since those fill some megabyte."""
    return client_context(alpn=["http/1.1"])
