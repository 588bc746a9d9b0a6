"""A loopback network that a test can break: one `Link` between Redis and each party.

open    bytes flow
cut     every connection is reset, and none is accepted
mute    connections stay, and new ones are made, but no byte arrives, as behind a firewall that drops
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Literal

Mode = Literal["open", "cut", "mute"]

ANSWER_SECONDS = 10.0  # that the network's thread has for a change


class Network:
    """A thread that carries every link's bytes; `with Network() as network`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self.links: list[Link] = []

    def __enter__(self) -> "Network":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for link in self.links:
            link.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def link(self, to_port: int) -> "Link":
        """A new link to this loopback port, open, at a port of its own."""
        link = Link(self, to_port)
        self.links.append(link)
        link.open()
        return link

    def carry_out(self, change: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Change something in the network's own thread, and wait until it is done."""
        asyncio.run_coroutine_threadsafe(change(), self._loop).result(ANSWER_SECONDS)


class Link:
    """One party's way to Redis; cut until it is opened."""

    def __init__(self, network: Network, to_port: int) -> None:
        self._network, self._to_port = network, to_port
        self._server: asyncio.Server | None = None
        self.ends: set[End] = set()
        self.mode: Mode = "cut"
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            self.port: int = chosen.getsockname()[1]

    def open(self, *, forgets: bool = False) -> None:
        """Let bytes flow; those that were held arrive late, unless it `forgets` the connections."""
        self._network.carry_out(lambda: self._open(forgets))

    def cut(self) -> None:
        """Reset every connection, and refuse new ones."""
        self._network.carry_out(self._cut)

    def mute(self) -> None:
        """Hold every byte back."""
        self._network.carry_out(self._mute)

    def reset(self) -> None:
        """Reset every connection; new ones are welcome."""
        self._network.carry_out(self._reset)

    async def _open(self, forgets: bool) -> None:
        self.mode = "open"
        if forgets:
            await self._reset()
        for end in self.ends:
            end.let_flow()
        await self._listen()

    async def _listen(self) -> None:
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: End(self), "127.0.0.1", self.port, backlog=256, reuse_address=True
            )

    async def _cut(self) -> None:
        self.mode = "cut"
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._reset()

    async def _mute(self) -> None:
        self.mode = "mute"
        for end in self.ends:
            end.hold()
        await self._listen()

    async def _reset(self) -> None:
        for end in list(self.ends):
            end.reset()

    async def dial(self, end: "End") -> None:
        """Make the other half of a connection that a party has made."""
        try:
            _, other = await asyncio.get_running_loop().create_connection(
                lambda: End(self, end), "127.0.0.1", self._to_port
            )
        except OSError:
            end.reset()
        else:
            end.join(other)


class End(asyncio.Protocol):
    """One end of a connection through a link: the party's, or Redis's."""

    def __init__(self, link: Link, other: "End | None" = None) -> None:
        self._link, self._other = link, other
        self._transport: Any = None
        self._dialling: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._link.ends.add(self)
        if self._other is None:
            self.hold()
            self._dialling = asyncio.ensure_future(self._link.dial(self))
        elif self._link.mode == "mute":
            self.hold()

    def join(self, other: "End") -> None:
        """The other half is there."""
        self._other = other
        if self._transport.is_closing():
            other.reset()
        elif self._link.mode == "open":
            self.let_flow()

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.ends.discard(self)
        if self._other is not None:
            self._other.end()

    def write(self, data: bytes) -> None:
        """Send what the other end has received."""
        self._transport.write(data)

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.hold()

    def resume_writing(self) -> None:
        if self._other is not None and self._link.mode == "open":
            self._other.let_flow()

    def hold(self) -> None:
        """Read no more from the socket for now."""
        self._transport.pause_reading()

    def let_flow(self) -> None:
        """Read again, if both halves are there."""
        if self._other is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def end(self) -> None:
        """Close, once all that was received is sent."""
        self._transport.close()

    def reset(self) -> None:
        """Close as a broken network does: what was not sent is lost."""
        if not self._transport.is_closing():
            found = self._transport.get_extra_info("socket")
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
