"""A chat: an asyncio server, and a client for the terminal.

    python examples/chat.py serve
    python examples/chat.py join Ada      # in as many terminals as you like

What you type goes to everybody else. The server greets with the mode of the
connection, so that everybody sees whether it is SMC.
"""

import argparse
import asyncio
import contextlib
import sys

from smcsock import aio

Writers = set[asyncio.StreamWriter]


def tell(everybody: Writers, line: str) -> None:
    """Sends a line to all; who does not read fast enough gets it later."""
    for writer in everybody:
        writer.write(f"{line}\n".encode())


async def take_part(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, everybody: Writers
) -> None:
    """The server's part in one connection: the first line is the name."""
    name = "somebody"
    everybody.add(writer)
    try:
        mode = aio.smc_info(writer).mode
        name = (await reader.readline()).decode().strip() or name
        writer.write(f"Welcome, {name}: you are here over {mode}\n".encode())
        tell(everybody - {writer}, f"* {name} is here, over {mode}")
        while line := await reader.readline():
            tell(everybody - {writer}, f"{name}: {line.decode().strip()}")
    except (ConnectionError, ValueError):
        pass  # gone without a goodbye; a line too long, or no UTF-8
    finally:
        everybody.discard(writer)
        tell(everybody, f"* {name} has left")
        writer.close()


async def serve(host: str, port: int) -> None:
    """Serves until Ctrl-C."""
    everybody: Writers = set()
    server = await aio.start_server(lambda r, w: take_part(r, w, everybody), host, port)
    async with server:
        print("listening on", *server.sockets[0].getsockname()[:2], flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            # From Python 3.12 on a server that closes waits for its connections to end,
            # and serve_forever() would leave no chance to end them.
            leaving = everybody.copy()
            everybody.clear()
            for writer in leaving:
                writer.transport.abort()
            await asyncio.gather(
                *(writer.wait_closed() for writer in leaving), return_exceptions=True
            )


async def join(host: str, port: int, name: str) -> None:
    """Sends the lines of standard input and prints those of the others."""
    reader, writer = await aio.open_connection(host, port)
    terminal = asyncio.StreamReader()
    stdin, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(terminal), sys.stdin
    )

    async def talk() -> None:
        with contextlib.suppress(ConnectionError):  # the reader sees that, too
            writer.write(f"{name}\n".encode())
            while line := await terminal.readline():
                writer.write(line)
                await writer.drain()
            writer.write_eof()

    talking = asyncio.create_task(talk())
    try:
        while line := await reader.readline():
            print(line.decode(), end="", flush=True)
    finally:  # Ctrl-C, too
        talking.cancel()
        stdin.close()
        writer.close()


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description="A chat over SMC.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7001)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve")
    commands.add_parser("join").add_argument("name")
    options = parser.parse_args()
    try:
        if options.command == "serve":
            asyncio.run(serve(options.host, options.port))
        else:
            asyncio.run(join(options.host, options.port, options.name))
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:  # a line too long; standard input that is a file
        sys.exit(f"chat: {error}")


if __name__ == "__main__":
    main()
