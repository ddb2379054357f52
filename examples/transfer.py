"""A file transfer with progress, by sendfile.

    python examples/transfer.py receive --into /tmp
    python examples/transfer.py send FILE

First goes a line of JSON with the name and the size; when the receiver has said "go",
the file and its SHA-256. The sender closes when the receiver has said "ok": over SMC-R
a close() can cut off what the peer has not made room for (docs/kernel.md).
"""

import argparse
import contextlib
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import BinaryIO

import smcsock

CHUNK = 1 << 20  # bytes; how often there is progress to see


def show_progress(name: str, done: int, size: int, started: float) -> None:
    """Overwrites a line of standard error; ``started`` is a time.monotonic()."""
    rate = done / max(time.monotonic() - started, 1e-6) / 1e6
    end = "\n" if done == size else ""
    print(f"\r{name} {done / size:4.0%} {rate:8.1f} MB/s", end=end, file=sys.stderr, flush=True)


def expect(answers: BinaryIO, word: str) -> None:
    """Reads the receiver's answer; ConnectionError if it is another one."""
    answer = answers.readline().decode().strip()
    if answer != word:
        raise ConnectionError(answer or "the receiver has gone")


def send(path: Path, host: str, port: int) -> None:
    """Sends one file and waits for the receiver to confirm it."""
    with (
        path.open("rb") as file,
        smcsock.create_connection((host, port)) as sock,
        sock.makefile("rb") as answers,
    ):
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.file_digest(file, "sha256")
        print(f"{path.name}: {size} bytes over {sock.smc_info().mode}", flush=True)
        sock.sendall(json.dumps({"name": path.name, "size": size}).encode() + b"\n")
        expect(answers, "go")
        started = time.monotonic()
        for offset in range(0, size, CHUNK):
            sent = sock.sendfile(file, offset, CHUNK)
            if sent < min(CHUNK, size - offset):
                raise OSError(f"{path.name} has become shorter")
            show_progress(path.name, offset + sent, size, started)
        sock.sendall(digest.digest())
        expect(answers, "ok")


def receive_one(conn: smcsock.socket, stream: BinaryIO, directory: Path) -> Path:
    """Receives one file; ValueError if it is not what was sent."""
    header = json.loads(stream.readline(65536))
    size = int(header["size"])
    path = directory / Path(header["name"]).name  # never outside of the directory
    digest = hashlib.sha256()
    started = time.monotonic()
    with path.open("xb") as file:
        try:
            conn.sendall(b"go\n")
            while file.tell() < size:
                if not (data := stream.read(min(CHUNK, size - file.tell()))):
                    raise ValueError(f"{path.name} ended after {file.tell()} of {size} bytes")
                file.write(data)
                digest.update(data)
                show_progress(path.name, file.tell(), size, started)
            if stream.read(digest.digest_size) != digest.digest():
                raise ValueError(f"{path.name} arrived damaged")
        except BaseException:
            path.unlink()  # a part of it would be in the way of the next attempt
            raise
    return path


def receive(directory: Path, host: str, port: int) -> None:
    """Receives files, one after the other, until Ctrl-C."""
    with smcsock.create_server((host, port)) as listener:
        print("listening on", *listener.getsockname(), flush=True)
        while True:
            conn, _ = listener.accept()
            with conn, conn.makefile("rb") as stream:
                try:
                    path = receive_one(conn, stream, directory)
                    conn.sendall(b"ok\n")
                    print(f"{path} over {conn.smc_info().mode}", flush=True)
                except (OSError, ValueError, TypeError, KeyError) as error:
                    print(f"failed: {error}", flush=True)
                    with contextlib.suppress(OSError):
                        conn.sendall(f"{error}\n".encode())


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description="A file transfer over SMC.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7002)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("receive").add_argument("--into", type=Path, default=Path())
    commands.add_parser("send").add_argument("file", type=Path)
    options = parser.parse_args()
    try:
        if options.command == "send":
            send(options.file, options.host, options.port)
        else:
            receive(options.into, options.host, options.port)
    except KeyboardInterrupt:
        pass
    except OSError as error:
        sys.exit(f"transfer: {error}")


if __name__ == "__main__":
    main()
