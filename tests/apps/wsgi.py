"""A WSGI application for gunicorn: which worker answers, and the mode of its connection."""

import os
from collections.abc import Callable
from typing import Any

import smcsock


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    environ["wsgi.input"].read()
    with smcsock.fromfd(environ["gunicorn.socket"].fileno()) as sock:
        body = f"{os.getpid()} {sock.smc_info().mode}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
