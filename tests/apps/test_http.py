"""The standard library's HTTP: http.server, http.client, urllib."""

import http.client
import ssl
import urllib.request
from urllib.parse import urlsplit

import pytest

from apps.support import http_server, recipe
from smcsock import Mode

CLIENT = "http.client, urllib and xmlrpc"


def ask(connection: http.client.HTTPConnection) -> str:
    connection.request("GET", "/")
    return connection.getresponse().read().decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_client_and_server(host: str, mode: Mode) -> None:
    with http_server(host) as url:
        connection = recipe(CLIENT).SMCConnection(urlsplit(url).netloc)
        assert ask(connection) == mode
        assert connection.sock.smc_info().mode is mode
        connection.close()


def test_tls(mode: Mode, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    with http_server(tls=server_tls) as url:
        connection = recipe(CLIENT).SMCSConnection(urlsplit(url).netloc, context=client_tls)
        assert ask(connection) == mode
        connection.close()


def test_urllib(mode: Mode) -> None:
    opener = urllib.request.build_opener(recipe(CLIENT).SMCHandler)
    with http_server() as url, opener.open(url) as response:
        assert response.read().decode() == mode


def test_server_for_smc_only_refuses_tcp(smc_mode: Mode) -> None:
    with http_server(is_smc_only=True) as url:
        netloc = urlsplit(url).netloc
        over_tcp = http.client.HTTPConnection(netloc)
        over_tcp.connect()
        with pytest.raises(ConnectionError):  # RemoteDisconnected is one
            ask(over_tcp)
        over_tcp.close()
        over_smc = recipe(CLIENT).SMCConnection(netloc)
        assert ask(over_smc) == smc_mode
        over_smc.close()
