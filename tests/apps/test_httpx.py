"""httpx and its httpcore, synchronous, on asyncio and on trio."""

import asyncio
import ssl

import pytest

from apps.support import application, http_server, recipe
from smcsock import Mode

httpx = application("httpx")
anyio = application("anyio")


def test_client(mode: Mode) -> None:
    transport = recipe("httpx").smc_transport()
    with http_server() as url, httpx.Client(transport=transport) as client:
        assert [client.get(url).text for _ in range(2)] == [mode] * 2


def test_client_with_tls(
    mode: Mode, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    transport = recipe("httpx").smc_transport(verify=client_tls)
    with http_server(tls=server_tls) as url, httpx.Client(transport=transport) as client:
        assert client.get(url, timeout=30).text == mode


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_client(
    backend: str, mode: Mode, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    if backend == "trio":
        application("trio")
    names = recipe("httpx")

    async def main() -> None:
        transport = names.async_smc_transport(verify=client_tls)
        with http_server() as url, http_server(tls=server_tls) as tls_url:
            async with httpx.AsyncClient(transport=transport, timeout=30) as client:
                assert (await client.get(url)).text == mode
                assert (await client.get(tls_url)).text == mode

    anyio.run(main, backend=backend)


def ask(url: str, is_async: bool) -> None:
    """Asks a server that does not answer."""
    names = recipe("httpx")
    timeout = httpx.Timeout(60, connect=0.2)
    if not is_async:
        with httpx.Client(transport=names.smc_transport(), timeout=timeout) as client:
            client.get(url)
        return

    async def main() -> None:
        transport = names.async_smc_transport()
        async with httpx.AsyncClient(transport=transport, timeout=timeout) as client:
            await client.get(url)

    asyncio.run(main())


@pytest.mark.parametrize("is_async", [False, True])
def test_refusal_is_an_error_of_the_library(unused_port: int, is_async: bool) -> None:
    with pytest.raises(httpx.ConnectError, match="refused"):
        ask(f"http://127.0.0.1:{unused_port}/", is_async)


@pytest.mark.parametrize("is_async", [False, True])
def test_timeout_is_an_error_of_the_library(silent_port: int, is_async: bool) -> None:
    with pytest.raises(httpx.ConnectTimeout):
        ask(f"http://127.0.0.1:{silent_port}/", is_async)
