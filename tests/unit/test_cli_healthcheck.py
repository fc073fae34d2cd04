"""`healthcheck` over real loopback sockets: any HTTP answer is health, everything else is not."""

import io
import socket
import subprocess
import sys
import threading

import pytest

from pyconsul_agent.cli.main import main


def serve_once(answer: bytes) -> tuple[str, threading.Thread]:
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"

    def serve():
        with listener, listener.accept()[0] as stream:
            stream.recv(1000)
            stream.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return address, thread


def run(*arguments: str, environ: dict[str, str] | None = None) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = main(["healthcheck", *arguments], out=out, err=err, stdin=io.BytesIO(), environ=environ or {})
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("status", [b"200 OK", b"403 Forbidden", b"500 Internal Server Error"])
def test_any_status_is_health(status):
    address, thread = serve_once(b"HTTP/1.1 " + status + b"\r\n\r\n")
    assert run(f"-http-addr={address}") == (0, f"HTTP/1.1 {status.decode()}\n", "")
    thread.join()


def test_address_comes_from_the_environment_too():
    address, thread = serve_once(b"HTTP/1.1 200 OK\r\n\r\n")
    assert run(environ={"CONSUL_HTTP_ADDR": f"http://{address}"})[0] == 0
    thread.join()


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n"])
def test_other_answers_are_not_health(answer):
    address, thread = serve_once(answer)
    assert run(f"-http-addr={address}") == (1, "", f"{address}: no HTTP answer\n")
    thread.join()


def test_nobody_listening_is_not_health():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    code, _, err = run(f"-http-addr=127.0.0.1:{port}")
    assert code == 1
    assert "refused" in err


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:x", "unix:///no/such/socket"])
def test_bad_addresses_are_one_line_of_complaint(address):
    code, _, err = run(f"-http-addr={address}")
    assert code == 1
    assert err.count("\n") == 1


def test_it_imports_nothing_heavy():
    program = (
        "import sys; from pyconsul_agent.cli.main import main; main(['healthcheck', '-http-addr=x']); "
        "print(sorted({'asyncio', 'aiohttp', 'ssl', 'http.client', 'json'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
