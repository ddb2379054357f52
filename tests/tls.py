"""TLS contexts for the tests; tests/data/make_tls made the certificates."""

import ssl
from pathlib import Path

CERTIFICATES = Path(__file__).with_name("data") / "tls"


def server_context(name: str = "localhost", client_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=CERTIFICATES / "ca.pem")
    context.load_cert_chain(CERTIFICATES / f"{name}.pem")
    context.verify_mode = ssl.CERT_REQUIRED if client_certificate else ssl.CERT_NONE
    return context


def client_context(certificate: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")
    if certificate is not None:
        context.load_cert_chain(CERTIFICATES / f"{certificate}.pem")
    return context
