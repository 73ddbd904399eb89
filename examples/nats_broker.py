"""A user-defined broker: channels and their histories through NATS and its JetStream.

``python examples/nats_broker.py nats://localhost:4222 8000`` serves a chat; start a second one on another
port, and both have the same room. NATS must run with JetStream: ``nats-server -js``.

The client protocol of NATS is text over TCP, and is spoken here directly (docs.nats.io, "Client Protocol").
Each channel with a history has a stream of its own, which JetStream bounds, and whose sequence numbers are
the offsets. What a stream stores is published again by NATS with its number (``republish``), under a subject
that ends with the epoch. Publishing again after a lost connection has the same ``Nats-Msg-Id``, so that it
is stored once. A glob listens to all channels, and is applied here. Plain messages, which have no history,
may be lost with a connection.
"""

from __future__ import annotations

import base64
import datetime as dt
import fnmatch
import json
import secrets
import sys
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import trio

import trio_ws
from trio_ws import BrokerError, BrokerState, BrokerStatistics, History, HistoryPage, KeptMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

#: Messages of one page of a history.
PAGE = 100
#: Bytes of a message: NATS closes the connection of a client that sends more than a MiB.
LARGEST = 1_000_000


class Signal:
    """Wakes all tasks that wait for a change."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class Outgoing(NamedTuple):
    """A message that waits to be published."""

    subject: str
    payload: bytes
    history: History | None = None
    name: str = ""
    id: str = ""


class NatsBroker(trio_ws.Broker):
    """Connects processes through NATS 2.9 or later.

    Args:
        url: ``nats://[user:password@]host[:port]``.
        prefix: of all subjects and streams.
        storage: of the streams: ``"file"``, which survives a restart of NATS, or ``"memory"``.
        max_queue: messages that may wait while NATS is away. Past it the oldest are dropped.
        ping_interval: seconds of silence after which NATS is asked whether it lives, and given up.
    """

    keeps_histories = True

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "trio_ws",
        storage: str = "file",
        max_queue: int = 10_000,
        ping_interval: float = 5.0,
    ) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "localhost", parts.port or 4222
        self._login = {"user": parts.username, "pass": parts.password} if parts.username else {}
        self._prefix = prefix
        self._storage = storage
        self._max_queue = max_queue
        self._ping_interval = ping_interval
        self._state: BrokerState = "new"
        self._names: dict[str, int] = {}  # subscribed, and the number of the subscription
        self._next_number = 1
        self._out = bytearray()  # commands that are to be sent
        self._queue: deque[Outgoing] = deque()
        self._lost: dict[str, tuple[int, History]] = {}  # dropped messages, by name
        self._sending = False  # the first of the queue
        self._to_write = Signal()
        self._to_publish = Signal()
        self._state_changed = Signal()
        self._progress = Signal()
        self._inbox = f"_INBOX.{secrets.token_hex(8)}"
        self._answers: dict[str, _Answer] = {}
        self._published = self._received = self._unpublished = self._losses = 0

    # -- names --------------------------------------------------------------------------------------

    def _token(self, name: str) -> str:
        """A name as one token of a subject, which may be empty and has no dots."""
        return "n" + base64.urlsafe_b64encode(name.encode("utf-8", "surrogatepass")).decode().rstrip("=")

    def _name(self, token: str) -> str:
        encoded = token[1:]
        return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode("utf-8", "surrogatepass")

    def _stream_name(self, name: str) -> str:
        return f"{self._prefix}-{self._token(name)}"

    # -- called by a server -------------------------------------------------------------------------

    def subscribe(self, name: str) -> None:
        if name in self._names:
            return
        self._names[name] = self._next_number
        self._next_number += 1
        self._tell(name)

    def _tell(self, name: str) -> None:
        """Subscribe to plain messages, and to those that streams publish again."""
        token = "*" if is_glob(name) else self._token(name)
        number = self._names[name]
        # Each glob and each name has two.
        self._write(f"SUB {self._prefix}.plain.{token} {2 * number}\r\n".encode())
        self._write(f"SUB {self._prefix}.kept.{token}.* {2 * number + 1}\r\n".encode())

    def unsubscribe(self, name: str) -> None:
        number = self._names.pop(name, None)
        if number is not None:
            self._write(b"UNSUB %d\r\nUNSUB %d\r\n" % (2 * number, 2 * number + 1))

    def publish(self, name: str, payload: bytes) -> None:
        self._put(Outgoing(f"{self._prefix}.plain.{self._token(name)}", payload))

    def append(self, name: str, payload: bytes, history: History) -> None:
        subject = f"{self._prefix}.keep.{self._token(name)}"
        self._put(Outgoing(subject, b"\0" + payload, history, name, secrets.token_hex(8)))

    def _put(self, message: Outgoing) -> None:
        if self._state == "closed" or len(message.payload) > LARGEST:
            self._lose(message)
        else:
            self._queue.append(message)
            if len(self._queue) > self._max_queue:
                index = int(self._sending)  # the one that is under way may arrive
                self._lose(self._queue[index])
                del self._queue[index]
        self._to_publish.set()

    def _lose(self, message: Outgoing) -> None:
        """Drop a message. If its channel has a history, subscribers will receive a gap."""
        self._unpublished += 1
        if message.history is not None and not message.history.latest:
            before, _ = self._lost.get(message.name, (0, message.history))
            self._lost[message.name] = before + 1, message.history

    async def read(self, name: str, after: int, history: History) -> HistoryPage:
        await trio.lowlevel.checkpoint()
        while True:
            while self._state == "lost":
                await self._state_changed.wait()
            if self._state != "connected":
                raise BrokerError("the broker is not running")
            try:
                return await self._read(name, after, history)
            except ConnectionError:
                continue  # the message is lost, and read again afterwards

    @property
    def state(self) -> BrokerState:
        return self._state

    def statistics(self) -> BrokerStatistics:
        return BrokerStatistics(
            self._published, self._received, self._unpublished, self._losses, len(self._queue)
        )

    # -- running ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def run(
        self,
        receive: Callable[[str, bytes], None],
        timeout: float,  # noqa: ASYNC109
    ) -> AsyncIterator[None]:
        self._receive = receive
        stream: trio.SocketStream | None = None
        with trio.move_on_after(timeout):
            stream = await self._connect()
        if stream is None or self._state != "connected":
            raise BrokerError(f"NATS did not answer within {timeout} seconds")
        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stay_connected, stream)
            nursery.start_soon(self._publish_all)
            try:
                yield
            except BaseException as exc:  # noqa: BLE001 - raised again below, outside of the nursery
                failure = exc
            with trio.move_on_after(1, shield=True):
                while (self._queue or self._out) and self._state == "connected":
                    await self._progress.wait()
            self._set_state("closed")
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def _set_state(self, state: BrokerState) -> None:
        self._state = state
        self._state_changed.set()
        self._progress.set()

    async def _connect(self) -> trio.SocketStream:
        try:
            stream = await trio.open_tcp_stream(*self._address)
        except OSError as exc:
            raise BrokerError(f"could not reach NATS at {self._address}: {exc}") from exc
        # Messages do not come back to the connection that published them, except from a stream.
        options = {"verbose": False, "headers": True, "no_responders": True, "echo": False, **self._login}
        self._set_state("connected")
        self._out = bytearray(f"CONNECT {json.dumps(options)}\r\nSUB {self._inbox}.* 1\r\n".encode())
        for name in self._names:
            self._tell(name)
        return stream

    async def _stay_connected(self, stream: trio.SocketStream) -> None:
        while True:
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(self._send, stream, nursery.cancel_scope)
                nursery.start_soon(self._take, stream, nursery.cancel_scope)
            self._losses += 1
            self._set_state("lost")
            for answer in self._answers.values():
                answer.set(None)
            self._answers.clear()
            pause = 0.1
            while self._state == "lost":
                await trio.sleep(secrets.SystemRandom().uniform(0, pause))
                pause = min(2 * pause, 1.0)
                try:
                    stream = await self._connect()
                except BrokerError:
                    continue
            if self.on_missed is not None:
                self.on_missed()
            if self.on_resubscribed is not None:
                self.on_resubscribed()

    def _write(self, data: bytes) -> None:
        if self._state == "connected":
            self._out += data
            self._to_write.set()

    async def _send(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            while True:
                while not self._out:
                    await self._to_write.wait()
                data, self._out = bytes(self._out), bytearray()
                await stream.send_all(data)
                self._progress.set()
        except trio.BrokenResourceError:
            scope.cancel()

    async def _take(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        """Read the messages of NATS: lines, some of them followed by a payload."""
        buffer = bytearray()

        async def more() -> None:
            data = None
            for _ in range(2):
                with trio.move_on_after(self._ping_interval):
                    data = await stream.receive_some(65_536)
                    break
                self._write(b"PING\r\n")
            if not data:
                raise trio.BrokenResourceError("NATS is gone")
            buffer.extend(data)

        try:
            while True:
                while (end := buffer.find(b"\r\n")) < 0:
                    await more()
                verb, *words = buffer[:end].decode().split(" ")
                del buffer[: end + 2]
                if verb == "PING":
                    self._write(b"PONG\r\n")
                elif verb in ("MSG", "HMSG"):
                    size = int(words[-1])
                    while len(buffer) < size + 2:
                        await more()
                    body = bytes(buffer[:size])
                    del buffer[: size + 2]
                    head = int(words[-2]) if verb == "HMSG" else 0
                    self._deliver(words[0], int(words[1]), body[:head], body[head:])
        except trio.BrokenResourceError:
            scope.cancel()

    def _deliver(self, subject: str, number: int, head: bytes, body: bytes) -> None:
        if subject.startswith(self._inbox):
            answer = self._answers.pop(subject, None)
            if answer is not None:
                answer.set((head, body))
            return
        _, kind, token, *epoch = subject.split(".")
        name = self._name(token)
        # A name may be subscribed to by itself and by globs: the first of those that it has is used.
        first = next((text for text in self._names if matches(text, name)), None)
        if first is None or self._names[first] != number // 2:
            return
        self._received += 1
        if kind == "plain":
            self._receive(name, body)
        elif self.receive_kept is not None:
            offset = int(headers(head)["Nats-Sequence"])
            self.receive_kept(name, epoch[0], kept(offset, body))

    # -- publishing ---------------------------------------------------------------------------------

    async def _publish_all(self) -> None:
        """Publish the waiting messages in order; those for streams one after the other."""
        while True:
            while self._state != "connected":
                await self._state_changed.wait()
            while not self._queue and not self._lost:
                await self._to_publish.wait()
            if self._lost:
                name, (count, history) = self._lost.popitem()
                subject = f"{self._prefix}.keep.{self._token(name)}"
                message = Outgoing(subject, b"\1%d" % count, history, name, secrets.token_hex(8))
                self._queue.appendleft(message)
            message = self._queue[0]
            self._sending = True
            try:
                await self._publish(message)
            except ConnectionError:
                await trio.lowlevel.checkpoint()
                continue
            finally:
                self._sending = False
            self._queue.popleft()
            self._published += 1
            self._progress.set()

    async def _publish(self, message: Outgoing) -> None:
        if message.history is None:
            size = len(message.payload)
            self._write(f"PUB {message.subject} {size}\r\n".encode() + message.payload + b"\r\n")
            await trio.lowlevel.checkpoint()
            return
        head = f"NATS/1.0\r\nNats-Msg-Id: {message.id}\r\n\r\n".encode()
        while True:
            status, body = await self._ask(message.subject, message.payload, head)
            if b"503" not in status.partition(b"\r\n")[0]:
                break
            await self._make_stream(message.name, message.history)  # there is none yet
        if b'"error"' in body:
            self._lose(message)

    async def _ask(self, subject: str, payload: bytes, head: bytes = b"") -> tuple[bytes, bytes]:
        """Send a request, and return the head and the body of the answer. ConnectionError if it is lost."""
        if self._state != "connected":
            raise ConnectionError
        reply = f"{self._inbox}.{secrets.token_hex(8)}"
        answer = self._answers[reply] = _Answer()
        if head:
            sizes = f"{len(head)} {len(head) + len(payload)}"
            self._write(f"HPUB {subject} {reply} {sizes}\r\n".encode() + head + payload + b"\r\n")
        else:
            self._write(f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload + b"\r\n")
        try:
            await answer.event.wait()
        finally:
            self._answers.pop(reply, None)
        if answer.value is None:
            raise ConnectionError
        return answer.value

    async def _call(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Call JetStream's API."""
        _, body = await self._ask(f"$JS.API.{what}", json.dumps(arguments).encode())
        answer: dict[str, Any] = json.loads(body or b"{}")
        return answer

    # -- histories ----------------------------------------------------------------------------------

    async def _make_stream(self, name: str, history: History) -> None:
        token, epoch = self._token(name), secrets.token_urlsafe(9)
        stream = self._stream_name(name)
        subject = f"{self._prefix}.keep.{token}"
        await self._call(
            f"STREAM.CREATE.{stream}",
            name=stream,
            subjects=[subject],
            storage=self._storage,
            max_msgs=1 if history.latest else history.items,
            max_bytes=history.bytes,
            max_age=int(history.seconds * 1e9),
            discard="old",
            duplicate_window=int(min(history.seconds, 120) * 1e9),
            republish={"src": subject, "dest": f"{self._prefix}.kept.{token}.{epoch}"},
        )  # if another process was faster, it fails, and that one's is used

    async def _read(self, name: str, after: int, history: History) -> HistoryPage:
        stream = self._stream_name(name)
        while "config" not in (found := await self._call(f"STREAM.INFO.{stream}")):
            if found.get("error", {}).get("code") != 404:
                raise BrokerError(f"NATS refuses: {found.get('error')}")
            await self._make_stream(name, history)
        epoch = found["config"]["republish"]["dest"].rpartition(".")[2]
        last = found["state"]["last_seq"]
        first = max(after + 1, found["state"]["first_seq"])
        messages: list[KeptMessage] = []
        wanted = range(first, min(last, first + PAGE - 1) + 1)
        got: dict[int, dict[str, Any]] = {}

        async def get(number: int) -> None:
            got[number] = await self._call(f"STREAM.MSG.GET.{stream}", seq=number)

        try:
            async with trio.open_nursery() as nursery:
                for number in wanted:
                    nursery.start_soon(get, number)
        except BaseExceptionGroup as group:
            if group.split(ConnectionError)[1] is not None:
                raise
            raise ConnectionError from group
        for number in wanted:
            message = got[number].get("message")
            if message is None:
                messages.clear()  # trimmed meanwhile, and all before
                continue
            published = dt.datetime.fromisoformat(message["time"][:19] + "+00:00")
            age = (dt.datetime.now(dt.UTC) - published).total_seconds()
            body = base64.b64decode(message.get("data", ""))
            messages.append(kept(number, body)._replace(age=max(0.0, age)))
        if wanted and not messages and wanted[-1] < last:
            return await self._read(name, wanted[-1], history)  # all of these were trimmed meanwhile
        return HistoryPage(epoch, last, messages, more=bool(wanted) and wanted[-1] < last)


class _Answer:
    """The answer to a request; None if the connection was lost."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.value: tuple[bytes, bytes] | None = None

    def set(self, value: tuple[bytes, bytes] | None) -> None:
        self.value = value
        self.event.set()


def kept(offset: int, body: bytes) -> KeptMessage:
    """Return a stored message: its payload, or the number of missing messages."""
    if body[:1] == b"\1":
        return KeptMessage(offset, b"", int(body[1:]))
    return KeptMessage(offset, body[1:])


def headers(head: bytes) -> dict[str, str]:
    """The headers of a message."""
    lines = head.decode().split("\r\n")[1:]
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if name}


def is_glob(name: str) -> bool:
    return any(character in name for character in "*?[")


def matches(text: str, name: str) -> bool:
    """Whether a subscription is to a name, and not to a glob."""
    return fnmatch.fnmatchcase(name, text) if is_glob(text) else text == name


class Chat(trio_ws.WebSocketHandler):
    """A room with a history that everybody may read and write."""

    channels_history = {"room": trio_ws.History(items=100, seconds=86_400)}

    def may_subscribe(self, connection: trio_ws.ClientConnection, name: str) -> bool:
        return name == "room"

    def may_publish(self, connection: trio_ws.ClientConnection, name: str, data: object) -> bool:
        return name == "room" and isinstance(data, str) and len(data) < 1000


async def main(url: str, port: int) -> None:
    await trio_ws.serve(Chat, port, broker=NatsBroker(url))


if __name__ == "__main__":
    url, port = (*sys.argv[1:], *["nats://localhost:4222", "8000"][len(sys.argv) - 1 :])
    trio.run(main, url, int(port))
