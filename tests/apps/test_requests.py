"""requests and urllib3, with the recipe for both."""

import ssl

import pytest

from apps.support import TLS, application, http_server, recipe
from smcsock import Mode

requests = application("requests")
urllib3 = application("urllib3")

TITLE = "requests and urllib3"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_requests(host: str, mode: Mode) -> None:
    with http_server(host) as url, requests.Session() as session:
        session.mount("http://", recipe(TITLE).SMCAdapter())
        assert [session.get(url, timeout=30).text for _ in range(2)] == [mode] * 2


def test_requests_with_tls(mode: Mode, server_tls: ssl.SSLContext) -> None:
    with http_server(tls=server_tls) as url, requests.Session() as session:
        session.mount("https://", recipe(TITLE).SMCAdapter())
        assert session.get(url, timeout=30, verify=str(TLS)).text == mode


def test_urllib3(mode: Mode) -> None:
    with http_server() as url, recipe(TITLE).SMCPoolManager() as pools:
        assert pools.request("GET", url).data.decode() == mode


def test_refusal_is_an_error_of_the_library(unused_port: int) -> None:
    url = f"http://127.0.0.1:{unused_port}/"
    with requests.Session() as session:
        session.mount("http://", recipe(TITLE).SMCAdapter())
        with pytest.raises(requests.ConnectionError, match="refused"):
            session.get(url)
    with (
        recipe(TITLE).SMCPoolManager(retries=False) as pools,
        pytest.raises(urllib3.exceptions.NewConnectionError, match="refused"),
    ):
        pools.request("GET", url)


def test_timeout_is_an_error_of_the_library(silent_port: int) -> None:
    url = f"http://127.0.0.1:{silent_port}/"
    with requests.Session() as session:
        session.mount("http://", recipe(TITLE).SMCAdapter())
        with pytest.raises(requests.ConnectTimeout):
            session.get(url, timeout=(0.2, 60))
    with (
        recipe(TITLE).SMCPoolManager(retries=False) as pools,
        pytest.raises(urllib3.exceptions.ConnectTimeoutError),
    ):
        pools.request("GET", url, timeout=urllib3.Timeout(connect=0.2, read=60))
