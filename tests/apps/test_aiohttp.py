"""aiohttp, client and server, with asyncio's loop and with uvloop's."""

import ssl
from typing import Any

import pytest

from apps.support import LOOPS, application, http_server, mode_of, recipe, run_on
from smcsock import Mode

aiohttp = application("aiohttp")
web = application("aiohttp.web", "aiohttp")


async def answer_mode(request: Any) -> Any:
    return web.Response(text=str(mode_of(request.transport.get_extra_info("socket"))))


@pytest.mark.parametrize("loop", LOOPS)
def test_client_and_server(loop: str, mode: Mode) -> None:
    names = recipe("aiohttp")

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/", answer_mode)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = await names.smc_site(runner, "127.0.0.1", 0)
            async with aiohttp.ClientSession(connector=names.smc_connector()) as session:
                for _ in range(2):
                    async with session.get(site.name) as response:
                        assert await response.text() == mode
        finally:
            await runner.cleanup()

    run_on(loop, main())


def test_tls_and_ipv6(mode: Mode, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        connector = recipe("aiohttp").smc_connector(ssl=client_tls)
        async with aiohttp.ClientSession(connector=connector) as session:
            with http_server("::1", tls=server_tls) as url:
                async with session.get(url) as response:
                    assert await response.text() == mode

    run_on("asyncio", main())


def ask(port: int, timeout: float) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession(
            connector=recipe("aiohttp").smc_connector(),
            timeout=aiohttp.ClientTimeout(sock_connect=timeout),
        ) as session:
            await session.get(f"http://127.0.0.1:{port}/")

    run_on("asyncio", main())


def test_refusal_is_an_error_of_the_library(unused_port: int) -> None:
    with pytest.raises(aiohttp.ClientConnectorError, match=r"refused|Connect call failed"):
        ask(unused_port, 60)


def test_timeout_is_an_error_of_the_library(silent_port: int) -> None:
    with pytest.raises(aiohttp.ConnectionTimeoutError):
        ask(silent_port, 0.2)
