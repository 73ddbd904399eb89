"""RedisBroker against a real redis-server that is killed, started again, and made to hang."""

from __future__ import annotations

import logging
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.kit.redis import RedisServer, redis_server
from tests.kit.serving import all_tasks, guard
from tests.kit.watching import until
from trio_ws import BrokerError, RedisBroker
from trio_ws.channels import redis as redis_module
from trio_ws.channels.redis_link import Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.channels.test_brokers import Heard

QUICK: dict[str, Any] = {"backoff_initial": 0.02, "backoff_max": 0.1}


@asynccontextmanager
async def running(
    server: RedisServer, *names: str, **options: Any
) -> AsyncIterator[tuple[RedisBroker, Heard]]:
    """A broker that runs and writes down what it hears; Redis knows of its subscriptions."""
    broker = RedisBroker(server.url, **{**QUICK, **options})
    heard: Heard = []
    async with broker.run(lambda name, payload: heard.append((name, payload)), 5):
        for name in names:
            broker.subscribe(name)
        await settled(broker)
        yield broker, heard


async def settled(broker: RedisBroker) -> None:
    """Until it is connected, and Redis has answered all that it was told and given."""
    await until(
        lambda: (
            broker._link is not None
            and not broker._wanted.changed
            and not broker._link.awaited
            and not len(broker._queue)
        )
    )


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "trio_ws.channels" and record.levelno == level
    ]


async def test_redis_is_asked_only_for_what_is_wanted_here() -> None:
    async with redis_server() as server, running(server, "a", "b", "b", "n.*") as (broker, _):
        assert await server.subscriptions() == {"trio_ws:a", "trio_ws:b"}
        assert await server.do("PUBSUB", "NUMPAT") == 1
        broker.unsubscribe("a")
        broker.unsubscribe("n.*")
        broker.subscribe("c")
        broker.subscribe("d")
        broker.unsubscribe("d")
        await settled(broker)
        assert await server.subscriptions() == {"trio_ws:b", "trio_ws:c"}
        assert await server.do("PUBSUB", "NUMPAT") == 0


async def test_many_subscriptions_are_told_in_batches() -> None:
    names = [f"room{number}" for number in range(3000)]
    async with redis_server() as server, running(server, *names) as (broker, _):
        assert len(await server.subscriptions()) == 3000
        for name in names[1:]:
            broker.unsubscribe(name)
        await settled(broker)
        assert await server.subscriptions() == {"trio_ws:room0"}


async def test_another_prefix_is_another_audience() -> None:
    async with redis_server() as server, running(server, "a", "*") as (one, heard_one):
        async with running(server, "a", "*", prefix="other:") as (two, heard_two):
            one.publish("a", b"")
            two.publish("a", b"")
            await settled(one)
            await settled(two)
        async with running(server) as (three, _):
            three.publish("a", b"3")
            await until(lambda: heard_one)
        assert heard_one == [("a", b"3")]
        assert heard_two == []


async def test_a_burst_arrives_whole_and_in_order() -> None:
    async with redis_server() as server, running(server, "n*") as (_, heard), running(server) as (other, _):
        for number in range(5000):
            other.publish("n", b"%d" % number)
        for number in range(5000, 5008):  # larger than what is sent at once
            other.publish("n", b"%d" % number + bytes(700_000))
        await until(lambda: len(heard) == 5008)
        assert [int(payload.rstrip(b"\0")) for _, payload in heard] == list(range(5008))
        assert other.statistics() == (5008, 0, 0, 0, 0)


async def test_what_was_published_while_redis_was_away_arrives_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trio_ws.channels")
    async with (
        redis_server() as server,
        running(server, "a", "b*") as (one, heard_one),
        running(server, "a") as (two, heard_two),
    ):
        two.publish("a", b"before")
        await until(lambda: heard_one)
        await server.kill()
        await until(lambda: one.state == two.state == "lost")
        for number in range(10):
            two.publish("a", b"%d" % number)
        one.publish("a", b"back")
        one.subscribe("c")
        one.unsubscribe("b*")
        assert two.statistics().waiting == 10
        await server.start()
        await until(lambda: len(heard_one) == 11 and heard_two)
        assert heard_one == [("a", b"before"), *(("a", b"%d" % number) for number in range(10))]
        assert heard_two == [("a", b"back")]
        await settled(one)
        await settled(two)
        assert await server.subscriptions() == {"trio_ws:a", "trio_ws:c"}
        assert await server.do("PUBSUB", "NUMPAT") == 0
        two.publish("c", b"after")
        await until(lambda: heard_one[-1] == ("c", b"after"))
        await settled(two)
        assert one.state == two.state == "connected"
        assert two.statistics() == (12, 1, 0, 1, 0)
    assert [text.startswith("lost Redis") for text in logged(caplog, logging.WARNING)] == [True, True]
    assert [" is back after " in text for text in logged(caplog, logging.INFO)] == [True, True]


async def test_what_does_not_fit_while_redis_is_away_is_counted_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        redis_server() as server,
        running(server, "a") as (one, heard),
        running(server, max_queue_items=3) as (two, _),
    ):
        await server.kill()
        await until(lambda: one.state == two.state == "lost")
        caplog.clear()
        for number in range(10):
            two.publish("a", b"%d" % number)
        assert two.statistics() == (0, 0, 7, 1, 3)
        assert len(logged(caplog, logging.WARNING)) == 1
        await server.start()
        await until(lambda: len(heard) == 3)
        assert heard == [("a", b"7"), ("a", b"8"), ("a", b"9")]
        await settled(two)
        assert two.statistics() == (3, 0, 7, 1, 0)


async def test_max_queue_bytes_is_held() -> None:
    async with redis_server() as server, running(server, max_queue_bytes=10_000) as (broker, _):
        await server.kill()
        await until(lambda: broker.state == "lost")
        for _ in range(100):
            broker.publish("a", bytes(1000))
        assert broker.statistics().waiting == 9
        assert broker.statistics().unpublished == 91
    assert broker.statistics() == (0, 0, 100, 1, 0)  # and the rest was lost with the broker


async def test_a_message_that_is_sent_again_is_heard_once() -> None:
    async with (
        redis_server() as server,
        running(server, "a", "*") as (_, heard),
        running(server) as (other, _),
    ):
        link = other._link
        assert link is not None
        # Redis takes these, and the connection breaks before its answers have been read.
        with trio.CancelScope(shield=True):
            other.publish("a", b"1")
            other.publish("a", b"2")
            await link.send(other._commands(link))
            await server.do("PING")
            await link.aclose()
        other.publish("a", b"3")
        await until(lambda: len(heard) == 3)
        await settled(other)
        assert other.statistics()[:4] == (3, 0, 0, 1)
        other.publish("a", b"4")
        await until(lambda: len(heard) == 4)
        assert heard == [("a", b"%d" % number) for number in range(1, 5)]


async def test_a_redis_that_hangs_is_noticed_and_one_that_is_quiet_is_not() -> None:
    async with redis_server() as server, running(server, ping_interval=0.05, ping_timeout=25) as (quiet, _):
        async with running(server, "a", ping_interval=0.05, ping_timeout=0.4) as (broker, heard):
            link = quiet._link
            assert link is not None
            await until(lambda: link.pinged)
            await until(lambda: not link.pinged)
            server.pause()
            await until(lambda: broker.state == "lost")
            for _ in range(10):
                quiet.publish("a", b"")
            assert quiet.state == "connected"
            server.resume()
            await settled(broker)
            quiet.publish("a", b"again")
            await until(lambda: heard[-1:] == [("a", b"again")])
        assert quiet._link is link  # it was never lost
        assert quiet.statistics().losses == 0
        await server.until_clients(1)


async def test_what_others_publish_there_is_dropped_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        redis_server() as server,
        running(server, "a", "*") as (broker, heard),
        running(server) as (two, _),
    ):
        for garbage in (b"", b"x" * 100, b"tws1", b"tws1" + bytes(23), b"\xff"):
            await server.do("PUBLISH", "trio_ws:a", garbage)
        await server.do("PUBLISH", b"trio_ws:\xff", b"tws1" + bytes(40))
        await server.do("PUBLISH", b"trio_ws:", b"tws1" + bytes(40))
        two.publish("a", b"real")
        await until(lambda: heard)
        assert heard == [("a", b"real")]
        assert broker.statistics().received == 1
        assert len(logged(caplog, logging.WARNING)) == 1
        assert broker.state == "connected"


async def test_a_receiver_that_raises_costs_one_message(caplog: pytest.LogCaptureFixture) -> None:
    heard = []

    def receive(name: str, payload: bytes) -> None:
        if payload == b"1":
            raise KeyError(name)
        heard.append(payload)

    async with redis_server() as server, running(server) as (other, _):
        broker = RedisBroker(server.url)
        broker.subscribe("a")
        async with broker.run(receive, 5):
            await settled(broker)
            for number in range(3):
                other.publish("a", b"%d" % number)
            await until(lambda: len(heard) == 2)
        assert heard == [b"0", b"2"]
        assert len(logged(caplog, logging.ERROR)) == 1


async def test_the_numbers_of_other_brokers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_module, "_MAX_ORIGINS", 3)
    async with redis_server() as server, running(server, "a") as (broker, heard):
        for _ in range(5):
            async with running(server) as (other, _):
                other.publish("a", b"")
        await until(lambda: len(heard) == 5)
        assert len(broker._numbers) == 3


async def test_leaving_gives_out_what_waits_also_when_cancelled() -> None:
    async with redis_server() as server, running(server, "a") as (_, heard):
        other = RedisBroker(server.url)
        with trio.CancelScope() as scope:
            async with other.run(lambda *_: None, 5):
                for number in range(3000):
                    other.publish("a", b"%d" % number)
                scope.cancel()
        assert other.statistics() == (3000, 0, 0, 0, 0)
        await until(lambda: len(heard) == 3000)
        other.publish("a", b"too late")
        assert other.statistics() == (3000, 0, 1, 0, 0)


async def test_leaving_does_not_wait_for_a_redis_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    async with redis_server() as server:
        async with running(server) as (broker, _):
            await server.kill()
            await until(lambda: broker.state == "lost")
            broker.publish("a", b"")
        assert broker.statistics().unpublished == 1
        assert broker.state == "closed"
    assert "1 messages could not be given" in logged(caplog, logging.WARNING)[-1]


async def test_a_broker_may_run_again_as_another() -> None:
    async with redis_server() as server, running(server, "a") as (_, heard):
        broker = RedisBroker(server.url)
        for number in range(2):
            async with broker.run(lambda *_: None, 5):
                broker.publish("a", b"%d" % number)
            assert broker.state == "closed"
        await until(lambda: len(heard) == 2)
        assert broker.statistics().published == 2


class Defective(RedisBroker):
    """Has a defect that shows when Redis is lost."""

    def _lose(self, reason: str) -> None:
        raise ZeroDivisionError(reason)


async def test_a_defect_of_its_own_ends_the_block_as_itself() -> None:
    async with redis_server() as server:
        broker = Defective(server.url)
        with pytest.raises(ZeroDivisionError, match=r"closed the connection|broke"):
            async with broker.run(lambda *_: None, 5):
                await server.kill()
                await trio.sleep_forever()
        assert broker.state == "closed"
        assert our_tasks() == []


async def test_the_buffer_of_a_connection_is_given_back_under_a_flood() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    link = Link(ours, "redis")
    message = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$10000\r\n" + b"x" * 10_000 + b"\r\n"
    seen = 0
    await theirs.send_all(message[:5])
    for _ in range(1000):  # never does a piece end where a message does
        await theirs.send_all(message[5:] + message[:5])
        seen += len(await link.receive())
        assert len(link._parser.localbuffer.getvalue()) < 2_000_000
    assert seen == 1000
    await link.aclose()


# -- reaching it -------------------------------------------------------------------------------------------


def our_tasks() -> list[str]:
    return [name for name in (task.name for task in all_tasks()) if name.startswith("trio_ws")]


async def refused(url: str, seconds: float = 5) -> BrokerError:
    broker = RedisBroker(url)
    broker.publish("a", b"waits")
    with trio.fail_after(guard()), pytest.raises(BrokerError) as caught:
        async with broker.run(lambda *_: None, seconds):
            pass
    assert "secret" not in "".join((str(caught.value), repr(broker), str(caught.value.__cause__)))
    assert our_tasks() == []
    return caught.value


async def test_bad_input_broker_url_where_nobody_listens() -> None:
    with trio.socket.socket() as taken:
        await taken.bind(("127.0.0.1", 0))  # and does not listen
        error = await refused(f"redis://me:secret@127.0.0.1:{taken.getsockname()[1]}")
    assert isinstance(error.__cause__, OSError)
    assert "redis://me:***@127.0.0.1:" in str(error)
    assert isinstance((await refused("unix:///no/such/socket")).__cause__, OSError)


class NoSuchName(trio.abc.HostnameResolver):
    """Knows no name but "slow", for which it takes for ever."""

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
    """A server that is no Redis, and its URL."""
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
async def test_bad_input_broker_url_of_a_server_that_is_no_redis(answer: bytes) -> None:
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
async def test_a_redis_that_talks_nonsense_later_is_lost(
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
    assert logged(caplog, logging.WARNING)[0].startswith("lost Redis")


async def test_what_redis_forbids_is_said_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async with redis_server() as server:
        await server.do("ACL", "SETUSER", "some", "on", "nopass", "+@all", "resetchannels", "&trio_ws:yes*")
        place = server.url.removeprefix("redis://")
        broker = RedisBroker(f"redis://some:any@{place}", **QUICK)
        heard: Heard = []
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
        )  # no TLS there


async def tls_port(server: RedisServer, pem: Any, ca: Any) -> int:
    """Open a port for TLS at a server that runs, whichever is free."""
    for name, value in (("cert-file", pem), ("key-file", pem), ("ca-cert-file", ca), ("auth-clients", "no")):
        await server.do("CONFIG", "SET", f"tls-{name}", str(value))
    with trio.socket.socket() as probe:
        await probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    await server.do("CONFIG", "SET", "tls-port", str(port))
    return port


# -- cancelling --------------------------------------------------------------------------------------------


class CancelAfter(trio.abc.Instrument):
    """Cancels a scope after so many steps of the broker's tasks, and of others while they do not spin."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self.scope = scope
        self.left = steps
        self.spinning = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if not self.spinning or task.name.startswith("trio_ws"):
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()

    async def until(self, holds: Callable[[], object]) -> None:
        self.spinning = True
        await until(holds)
        self.spinning = False


async def test_cancelled_anywhere_it_leaves_no_task_and_no_connection() -> None:
    async with redis_server() as server:
        steps = 0
        finished = False
        while not finished:
            steps += 1
            broker = RedisBroker(server.url, backoff_initial=0.001)
            broker.subscribe("a")
            broker.publish("b", b"")
            with trio.CancelScope() as scope:
                instrument = CancelAfter(scope, steps)
                trio.lowlevel.add_instrument(instrument)
                try:
                    async with broker.run(lambda *_: None, 5):
                        broker.subscribe("c*")
                        link = broker._link
                        assert link is not None
                        await instrument.until(lambda: broker._queue.published)
                        await link.aclose()  # it is lost, and comes back
                        broker.publish("d", b"")
                        await instrument.until(lambda: broker._queue.published == 2)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            finished = not scope.cancelled_caught
            assert our_tasks() == []
            assert broker.state in ("new", "closed")
        assert steps > 25
        await server.until_clients(0)


# -- arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis://",
        "redis:///0",
        "redis://:secret@",
        "redis://h:x",
        "redis://h:0",
        "redis://h:70000",
        "redis://h/secret",
        "redis://h/0/1",
        "redis://h?db=secret",
        "redis://h?ssl_cert_reqs=none",
        "redis://:secret#1@h",
        "redis://[::1",
        "unix://",
        "unix:///",
        "unix://host/path",
        "http://h",
        "h:6379",
        "secret@h",
        "secret:secret@h",
    ],
)
def test_bad_input_redis_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"Redis|understood") as caught:
        RedisBroker(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h", "redis://h"),
        ("redis://:secret@h:7/1", "redis://:***@h:7/1"),
        ("rediss://me:%40secret@[::1]:7", "rediss://me:***@[::1]:7"),
        ("unix://me:secret@/a%20b?db=2", "unix://me:***@/a%20b"),
        ("redis://me@h", "redis://me@h"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    broker = RedisBroker(url)
    assert repr(broker) == f"<RedisBroker {shown} new>"
    assert "secret" not in repr(broker._url)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"prefix": b"p"}, TypeError),
        ({"max_queue_items": 0}, ValueError),
        ({"max_queue_bytes": 0}, ValueError),
        ({"backoff_initial": 0}, ValueError),
        ({"backoff_max": float("nan")}, ValueError),
        ({"ping_interval": -1}, ValueError),
        ({"ping_timeout": 0}, ValueError),
        ({"ssl_context": ssl.create_default_context()}, ValueError),
    ],
)
def test_bad_input_redis_options(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        RedisBroker("redis://h", **options)


async def test_bad_input_redis_timeout() -> None:
    broker = RedisBroker("redis://h")
    with pytest.raises(ValueError, match="timeout"):
        async with broker.run(lambda *_: None, 0):
            pass


def test_without_coredis_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "coredis.parser", None)
    with pytest.raises(BrokerError, match=r"pip install 'trio-ws\[redis\]'"):
        RedisBroker("redis://h")
