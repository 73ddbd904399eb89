"""Connecting to Redis, or to something else: names, passwords, TLS, invalid data; a connection's buffer."""

from __future__ import annotations

import logging
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.redis import (
    QUICK,
    Received,
    RedisServer,
    logged,
    our_tasks,
    redis_server,
    running,
    settled,
)
from tests.support.serving import guard
from tests.support.watching import until
from trio_ws import BrokerError, RedisBroker
from trio_ws.channels.redis.connection import RedisConnection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


async def refused(url: str, seconds: float = 5) -> BrokerError:
    broker = RedisBroker(url)
    broker.publish("a", b"waits")
    with trio.fail_after(guard()), pytest.raises(BrokerError) as caught:
        async with broker.run(lambda *_: None, seconds):
            pass
    assert "secret" not in "".join((str(caught.value), repr(broker), str(caught.value.__cause__)))
    assert our_tasks() == []
    return caught.value


async def test_bad_input_broker_url_without_a_listener() -> None:
    with trio.socket.socket() as taken:
        await taken.bind(("127.0.0.1", 0))  # and does not listen
        error = await refused(f"redis://me:secret@127.0.0.1:{taken.getsockname()[1]}")
    assert isinstance(error.__cause__, OSError)
    assert "redis://127.0.0.1:" in str(error)
    assert isinstance((await refused("unix:///no/such/socket")).__cause__, OSError)


class NoSuchName(trio.abc.HostnameResolver):
    """A resolver that knows only the name "slow", for which it never returns."""

    async def getaddrinfo(self, host: bytes | None, *rest: Any, **named: Any) -> Any:
        if host == b"slow":
            await trio.sleep_forever()
        raise OSError(-2, "Name or service not known")

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


async def test_bad_input_broker_url_with_an_unknown_host() -> None:
    trio.socket.set_custom_hostname_resolver(NoSuchName())
    assert "not known" in str(await refused("redis://nowhere.invalid"))
    assert "within 0.05 seconds" in str(await refused("redis://slow", 0.05))
    assert "could not reach" in str(await refused(f"redis://{'x' * 70}.invalid"))


async def test_bad_input_broker_url_with_a_wrong_password() -> None:
    async with redis_server("--requirepass right") as server:
        place = server.url.removeprefix("redis://")
        assert "invalid username-password" in str(await refused(f"redis://:secret@{place}"))
        assert "invalid username-password" in str(await refused(f"redis://someone:secret@{place}"))
        assert "AUTH" in str(await refused(f"redis://{place}"))
        for user in (":right", "default:right", "default:%72ight"):
            async with RedisBroker(f"redis://{user}@{place}/3").run(lambda *_: None, 5):
                pass


@asynccontextmanager
async def something_else(talk: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """Run a server that is not Redis, and yield its URL."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, talk, 0)
        yield f"redis://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"+OK\r\n",
        b"220 mail.example.org ESMTP\r\n",
        b":1\r\n",
        b"$x\r\n\r\n",
        b"\r\n\r\n",
        b"x" * 100_000,
        b"$100000\r\n" + b"x" * 70_000,
        b">1\r\n+hello\r\n",
        b"-ERR unknown command 'HELLO'\r\n",
        b"%1\r\n+proto\r\n:3\r\n+more\r\n",
        b"",
    ],
)
async def test_bad_input_broker_url_of_a_server_other_than_redis(answer: bytes) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        try:
            await stream.send_all(answer)
            if answer:
                await trio.sleep_forever()
        except trio.BrokenResourceError:
            pass

    async with something_else(talk) as url:
        error = await refused(url)
    assert "did not answer within" not in str(error)


async def test_bad_input_broker_url_of_a_server_that_says_nothing() -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with something_else(talk) as url:
        assert "did not answer within 0.05 seconds" in str(await refused(url, 0.05))
        assert "within 0.05 seconds" in str(await refused(url.replace("redis:", "rediss:"), 0.05))


@pytest.mark.parametrize(
    "answer",
    [
        b"+what?\r\n",
        b">3\r\n+subscribe\r\n+x\r\n:1\r\n",
        b"no RESP at all\r\n",
        b"*1\r\n:1\r\n",
        b"%1\r\n+a\r\n:1\r\n",
    ],
)
async def test_invalid_data_from_redis_breaks_the_connection(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"%1\r\n+proto\r\n:3\r\n")
        await stream.receive_some()
        await stream.send_all(answer)
        async for _ in stream:
            pass

    async with something_else(talk) as url:
        broker = RedisBroker(url, **QUICK)
        broker.subscribe("a")
        with trio.fail_after(guard()):
            async with broker.run(lambda *_: None, 5):
                await until(lambda: broker.statistics().losses)
    assert logged(caplog, logging.WARNING)[0].startswith("lost the connection to Redis")


async def test_errors_of_redis_are_logged_and_other_commands_continue(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with redis_server() as server:
        await server.do("ACL", "SETUSER", "some", "on", "nopass", "+@all", "resetchannels", "&trio_ws:yes*")
        place = server.url.removeprefix("redis://")
        broker = RedisBroker(f"redis://some:any@{place}", **QUICK)
        heard: Received = []
        async with broker.run(lambda *message: heard.append(message), 5):
            for name in ("no1", "yes1", "no2", "yes2", "x*", "yes*"):
                broker.subscribe(name)
            await until(lambda: len(logged(caplog, logging.WARNING)) == 3)
            broker.publish("no", b"")
            await settled(broker)
            assert await server.subscriptions() == {"trio_ws:yes1", "trio_ws:yes2"}
            assert await server.do("PUBSUB", "NUMPAT") == 1
            assert broker.statistics() == (0, 0, 1, 0, 0)
            assert broker.state == "connected"
    texts = logged(caplog, logging.WARNING)
    assert sum("refused SUBSCRIBE" in text for text in texts) == 2
    assert sum("refused PSUBSCRIBE" in text for text in texts) == 1
    assert sum("refused a message" in text for text in texts) == 1


async def test_a_unix_socket() -> None:
    async with redis_server() as server, running(server, "a") as (_, heard):
        broker = RedisBroker(f"unix://{server.socket_path}")
        async with broker.run(lambda *_: None, 5):
            broker.publish("a", b"by path")
        await until(lambda: heard)


async def test_tls_and_a_certificate_that_is_not_trusted(tmp_path: Any) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    pem = tmp_path / "server.pem"
    async with redis_server() as server:
        try:
            port = await tls_port(server, pem, tmp_path / "ca.pem")
        except AssertionError as exc:
            pytest.skip(f"this redis-server has no TLS: {exc}")
        url = f"rediss://127.0.0.1:{port}"
        context = ssl.create_default_context()
        authority.configure_trust(context)
        async with running(server, "a") as (_, heard):
            broker = RedisBroker(url, ssl_context=context)
            broker.subscribe("a")
            async with broker.run(lambda *_: None, 5):
                broker.publish("a", bytes(100_000))
            await until(lambda: heard)
        assert "certificate verify failed" in str(await refused(url))
        assert "within 0.2" in str(
            await refused(server.url.replace("redis:", "rediss:"), 0.2)
        )  # the server has no TLS


async def tls_port(server: RedisServer, pem: Any, ca: Any) -> int:
    """Let a running server listen on a free port with TLS, and return the port."""
    for name, value in (("cert-file", pem), ("key-file", pem), ("ca-cert-file", ca), ("auth-clients", "no")):
        await server.do("CONFIG", "SET", f"tls-{name}", str(value))
    with trio.socket.socket() as probe:
        await probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    await server.do("CONFIG", "SET", "tls-port", str(port))
    return port


async def test_the_buffer_of_a_connection_is_given_back_under_a_flood() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    link = RedisConnection(ours, "redis")
    message = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$10000\r\n" + b"x" * 10_000 + b"\r\n"
    seen = 0
    await theirs.send_all(message[:5])
    for _ in range(1000):  # no read ends at the end of a message
        await theirs.send_all(message[5:] + message[:5])
        seen += len(await link.receive())
        assert link._parser.len() < 2_000_000
    assert seen == 1000
    await link.aclose()
