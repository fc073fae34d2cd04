"""HTTP handlers of watches by aiohttp's client, which is imported when the first of them is called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyconsul_agent.env.tls import http_context
from pyconsul_agent.errors import NetError
from pyconsul_agent.watch.handler import HTTP, OUTPUT_BYTES_MAX

if TYPE_CHECKING:
    import aiohttp


class AiohttpPoster:
    """A client without keep-alive; proxies from the environment are honored."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, to: HTTP, headers: Sequence[tuple[str, str]], body: bytes) -> tuple[int, bytes]:
        """(status, the first OUTPUT_BYTES_MAX bytes of the answer). Raises NetError."""
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), trust_env=True)
        try:
            async with self._session.request(
                to.method,
                to.url,
                data=body,
                headers=list(headers),
                timeout=aiohttp.ClientTimeout(total=to.timeout_s),
                ssl=not to.skip_verify and http_context(),
            ) as response:
                head = bytearray()
                async for chunk in response.content.iter_any():
                    head += chunk[: OUTPUT_BYTES_MAX - len(head)]
                    if len(head) >= OUTPUT_BYTES_MAX:
                        break
                return response.status, bytes(head)
        except TimeoutError:
            raise NetError(f'{to.method.title()} "{to.url}": context deadline exceeded') from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NetError(f'{to.method.title()} "{to.url}": {error}') from error
