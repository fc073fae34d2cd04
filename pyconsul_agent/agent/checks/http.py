"""HTTP checks by aiohttp's client. aiohttp is imported when the first such check runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyconsul_agent.agent.checks.runners import Result
from pyconsul_agent.agent.checks.status import CRITICAL, http_status
from pyconsul_agent.env.tls import http_context
from pyconsul_agent.structs.catalog import CheckType

if TYPE_CHECKING:
    import aiohttp

REDIRECTS_MAX = 10
READ_CHUNK = 16 * 1024


class AiohttpChecks:
    """A client without keep-alive, proxies from the environment honored."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(self, check: CheckType, *, timeout_s: float, output_bytes_max: int) -> Result:
        """One request and what it says of the check."""
        import aiohttp

        if self._session is None:
            connector = aiohttp.TCPConnector(force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=True, auto_decompress=False)
        method = check.method or "GET"
        headers: list[tuple[str, str]] = [
            (name, value) for name, values in (check.header or {}).items() for value in values or ()
        ]
        given = {name.lower() for name, _ in headers}
        for name, value in (("User-Agent", "Consul Health Check"), ("Accept", "text/plain, text/*, */*")):
            if name.lower() not in given:
                headers.append((name, value))
        try:
            async with self._session.request(
                method,
                check.http,
                data=check.body.encode() or None,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=not check.disable_redirects,
                max_redirects=REDIRECTS_MAX,
                ssl=not check.tls_skip_verify and http_context(),
                server_hostname=check.tls_server_name or None,
            ) as response:
                tail = bytearray()
                async for chunk in response.content.iter_chunked(READ_CHUNK):
                    tail += chunk
                    if len(tail) > 2 * output_bytes_max:
                        del tail[:-output_bytes_max]
                body = bytes(tail[-output_bytes_max:]).decode("utf-8", "replace")
                text = f"HTTP {method} {check.http}: {response.status} {response.reason} Output: {body}"
                return Result(http_status(response.status), text)
        except TimeoutError:
            return Result(CRITICAL, f'{method.title()} "{check.http}": context deadline exceeded')
        except aiohttp.ClientConnectorDNSError as error:
            return Result(CRITICAL, f'{method.title()} "{check.http}": dial tcp: lookup {error.host}: no such host')
        except aiohttp.ClientConnectorError as error:
            reason = (error.os_error.strerror or str(error)).lower()
            if error.os_error.errno is not None:  # asyncio's own words instead of the system's
                reason = os.strerror(error.os_error.errno).lower()
            where = f"{error.host}:{error.port}"
            return Result(CRITICAL, f'{method.title()} "{check.http}": dial tcp {where}: connect: {reason}')
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Result(CRITICAL, f'{method.title()} "{check.http}": {str(error) or type(error).__name__}')
