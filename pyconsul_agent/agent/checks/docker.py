"""Checks in a container: a command run by the Docker Engine, over its HTTP API. aiohttp is imported when needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pyconsul_agent.agent.checks.runners import Probe, Result
from pyconsul_agent.agent.checks.status import CRITICAL, script_status, with_capture_note
from pyconsul_agent.structs.base import seconds
from pyconsul_agent.structs.catalog import CheckType

if TYPE_CHECKING:
    import aiohttp

HOST_DEFAULT = "unix:///var/run/docker.sock"
READ_CHUNK = 16 * 1024
ERROR_BYTES_MAX = 512
ANSWER_BYTES_MAX = 256 * 1024


class DockerFailed(Exception):
    """The Engine refused; the text is the check's output."""


class Docker:
    """The Engine at `DOCKER_HOST`. Sessions live as long as one run of a check."""

    def __init__(self, host: str = "") -> None:
        self._host = host or HOST_DEFAULT

    def probe(self, check: CheckType, *, output_bytes_max: int) -> Probe:
        """Run the check's command in its container; the exit code is the status."""

        async def probe() -> Result:
            import aiohttp

            try:
                async with self._session(check) as session:
                    return await self._run(session, check, output_bytes_max)
            except DockerFailed as error:
                return Result(CRITICAL, str(error))
            except TimeoutError:
                return Result(CRITICAL, "context deadline exceeded")
            except (aiohttp.ClientError, OSError, ValueError) as error:
                return Result(CRITICAL, f"create exec failed for container {check.docker_container_id}: {error}")

        return probe

    def _session(self, check: CheckType) -> aiohttp.ClientSession:
        import aiohttp

        scheme, _, rest = self._host.partition("://")
        limit = aiohttp.ClientTimeout(total=seconds(check.timeout) or None)
        if scheme == "unix":
            return aiohttp.ClientSession("http://docker", connector=aiohttp.UnixConnector(rest), timeout=limit)
        if scheme not in ("tcp", "http"):
            raise DockerFailed(f"unable to parse docker host `{self._host}`")
        return aiohttp.ClientSession(f"http://{rest}", timeout=limit)

    async def _run(self, session: aiohttp.ClientSession, check: CheckType, limit: int) -> Result:
        container = check.docker_container_id
        name = quote(container, safe="")
        wanted = {
            "AttachStdin": False,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
            "Cmd": list(check.script_args or ()),
        }
        async with session.post(f"/containers/{name}/exec", json=wanted) as answer:
            if answer.status == 404:
                raise DockerFailed(f"create exec failed for unknown container {container}")
            await _expect(answer, 201, f"create exec failed for container {container}")
            run = quote(str((await _json(answer)).get("Id", "")), safe="")
        async with session.post(f"/exec/{run}/start", json={"Detach": False, "Tty": True}) as answer:
            await _expect(answer, 200, f"start exec failed for container {container}")
            tail, total = await _tail(answer, limit)
        async with session.get(f"/exec/{run}/json") as answer:
            await _expect(answer, 200, f"inspect exec failed for container {container}")
            code = (await _json(answer)).get("ExitCode")
        output = with_capture_note(tail, total, limit)
        return Result(script_status(code if isinstance(code, int) else -1), output)


async def _expect(answer: aiohttp.ClientResponse, status: int, words: str) -> None:
    if answer.status != status:
        text = (await answer.content.read(ERROR_BYTES_MAX)).decode("utf-8", "replace")
        raise DockerFailed(f"{words} with status {answer.status}: {text}")


async def _json(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    import json

    data = bytearray()
    async for chunk in answer.content.iter_chunked(READ_CHUNK):
        data += chunk
        if len(data) > ANSWER_BYTES_MAX:
            raise ValueError("answer too long")
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError("answer is no object")
    return value


async def _tail(answer: aiohttp.ClientResponse, limit: int) -> tuple[bytes, int]:
    """The last bytes of what the command printed, and how many there were."""
    tail, total = bytearray(), 0
    async for chunk in answer.content.iter_chunked(READ_CHUNK):
        total += len(chunk)
        tail += chunk
        if len(tail) > 2 * limit:
            del tail[:-limit]
    return bytes(tail[-limit:]), total
