"""Real servers that webhooks are sent to, each with a way of behaving."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Receiver:
    """A server on loopback and what came to it: heads and bodies, as they came."""

    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0

    def header(self, name: str, at: int = -1) -> str:
        lines = self.heads[at].decode().split("\r\n")
        found = [line.partition(": ")[2] for line in lines if line.lower().startswith(f"{name}:")]
        return found[0]


@asynccontextmanager
async def receiving(behaviour: Behaviour, *, host: str = "127.0.0.1") -> AsyncIterator[Receiver]:
    receiver = Receiver()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        receiver.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            receiver.heads.append(head)
            length = int(receiver.header("content-length"))
            receiver.bodies.append(await reader.readexactly(length))
            await behaviour(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # The sender gave up: what these servers are for.
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()


def answering(status: str, *headers: str) -> Behaviour:
    """A short answer."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", "Content-Length: 2", *headers, "", "ok"]
        writer.write("\r\n".join(lines).encode())
        await writer.drain()

    return behave


async def hanging(_writer: asyncio.StreamWriter) -> None:
    """Says nothing."""
    await asyncio.sleep(3600)


async def dripping(writer: asyncio.StreamWriter) -> None:
    """Sends its head a byte at a time."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.02)


async def flooding(writer: asyncio.StreamWriter) -> None:
    """Answers with as much as the other side takes, up to a gigabyte."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    piece = b"x" * 65_536
    for _ in range(1_000_000_000 // len(piece)):
        writer.write(piece)
        await writer.drain()
