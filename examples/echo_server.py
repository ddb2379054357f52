"""An echo server: one thread for each connection, SMC or not.

    python examples/echo_server.py --port 7000
    python -m smcsock echo --client 127.0.0.1 --port 7000

The standard library's code for TCP, but for the import: what is new is that the
server can tell over what it talks.
"""

import argparse
import contextlib
import threading

import smcsock


def echo(conn: smcsock.socket) -> int:
    """Sends back what comes until the peer has no more; returns how much that was."""
    total = 0
    while data := conn.recv(65536):
        conn.sendall(data)
        total += len(data)
    return total


def serve(conn: smcsock.socket, peer: str) -> None:
    """Serves one connection, says how it went and closes it."""
    with conn:
        mode = conn.smc_info().mode
        try:
            print(f"{peer} over {mode}: {echo(conn)} bytes echoed", flush=True)
        except OSError as error:
            print(f"{peer} over {mode}: {error}", flush=True)


def main() -> None:
    """Listens until Ctrl-C."""
    parser = argparse.ArgumentParser(description="An echo server over SMC.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7000, help="0 takes a free one")
    options = parser.parse_args()
    with smcsock.create_server((options.host, options.port)) as listener:
        host, port = listener.getsockname()
        print(f"listening on {host} {port}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                conn, (host, port) = listener.accept()
                threading.Thread(target=serve, args=(conn, f"{host}:{port}"), daemon=True).start()


if __name__ == "__main__":
    main()
