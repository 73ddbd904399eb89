"""The load side: the measurements.

It uses raw sockets and the frames of wire.py, in one thread, without a WebSocket library. Every measurement
is limited in time, connects to 127.0.0.1 only, checks the responses, and records the CPU time of the server.
"""

from __future__ import annotations

import functools
import os
import select
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.servers import Server
from benchmarks.wire import (
    CALLS,
    LIMIT,
    Requests,
    client_frame,
    connect,
    count_frames,
    echo_size,
    opening,
    receive,
    request,
    value_of,
)

__all__ = [
    "FULL",
    "MEASURES",
    "SMALLEST",
    "UNITS",
    "Effort",
    "FanOut",
    "Measure",
    "Sample",
    "call_requests",
    "close_all",
    "goodbye",
    "idle_connection",
    "keep_in_flight",
    "percentile",
    "round_trips",
]

now = time.perf_counter
Pair = tuple[int, int]


@dataclass(frozen=True)
class Effort:
    """The amount of work."""

    seconds: float = 0.3  # of one slice: short, so that the slices of several servers interleave
    connections: int = 100
    subscribers: int = 500
    publications: int = 15  # of single messages
    idle: Pair = (1000, 5000)
    settle: float = 0.5  # seconds to wait before memory is measured
    fresh: bool = True  # start a new server for measurements that need one


FULL = Effort()
#: Each operation once, for tests; the results are meaningless.
SMALLEST = Effort(
    seconds=0.0, connections=2, subscribers=3, publications=1, idle=(1, 2), settle=0.0, fresh=False
)


@dataclass
class Sample:
    """The result of one slice: values by the name of their figure, and the cost for the server."""

    values: dict[str, float]
    cpu_us: float = 0.0  # CPU time of the server per operation
    busy: float = 0.0  # share of the processor's time; well below 1, the server was not the limit
    beside: dict[str, float] = field(default_factory=dict)  # additional values that are not figures


class Meter:
    """Measures CPU and wall time from its creation on."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._cpu, self.began = server.cpu(), now()

    def sample(self, operations: int, values: dict[str, float], **beside: float) -> Sample:
        wall = now() - self.began
        cpu = self._server.cpu() - self._cpu
        return Sample(values, cpu / operations * 1e6, cpu / wall, beside)

    def rate(self, name: str, operations: int, factor: float = 1.0) -> Sample:
        return self.sample(operations, {name: operations * factor / (now() - self.began)})


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def goodbye(sock: socket.socket) -> None:
    """Perform the closing handshake, and close TCP."""
    sock.settimeout(LIMIT)
    sock.sendall(client_frame(b"\x03\xe8", 8))
    while sock.recv(1 << 16):
        pass
    sock.close()


def close_all(socks: list[socket.socket]) -> None:
    """Reset connections, so that thousands do not remain in TIME_WAIT."""
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        sock.close()


@functools.cache
def call_requests(method: str = "add", count: int = 20_000) -> list[bytes]:
    return [client_frame(request(number, method, number % 60, 1)) for number in range(count)]


def _open(server: Server, *, calls: bool) -> tuple[socket.socket, list[bytes]]:
    """Open a connection, check one response, and return the connection and requests for it."""
    if calls:
        sock = connect(server.port, "/rpc", CALLS)
        frames = call_requests()
        sock.sendall(frames[1])
        if value_of(_one_frame(sock)) != 2:
            raise RuntimeError("1 + 1 is 2")
        return sock, frames
    sock = connect(server.port, "/echo")
    payload = os.urandom(32)
    frame = client_frame(payload)
    sock.sendall(frame)
    if _one_frame(sock) != b"\x82\x20" + payload:
        raise RuntimeError("that is no echo")
    return sock, [frame]


def _one_frame(sock: socket.socket) -> bytes:
    data = receive(sock)
    while not count_frames(data)[0]:
        data += receive(sock)
    return data


# -- one at a time --------------------------------------------------------------------------------------


def round_trips(sock: socket.socket, frames: list[bytes], seconds: float) -> list[float]:
    """Return the seconds of each of many round trips, one after the other."""
    times: list[float] = []
    number = 0
    stop = now() + seconds
    while True:
        frame = frames[number % len(frames)]
        number += 1
        began = now()
        sock.sendall(frame)
        _one_frame(sock)
        ended = now()
        times.append(ended - began)
        if ended > stop:
            return times


def round_trip(name: str, *, calls: bool = False) -> Callable[[Server, Effort], Sample]:
    def measure(server: Server, effort: Effort) -> Sample:
        sock, frames = _open(server, calls=calls)
        round_trips(sock, frames, effort.seconds / 10)
        meter = Meter(server)
        times = round_trips(sock, frames, effort.seconds)
        p99 = percentile(times, 0.99) * 1e6
        sample = meter.sample(len(times), {name: statistics.median(times) * 1e6}, p99_us=p99)
        goodbye(sock)
        return sample

    return measure


# -- many at a time -------------------------------------------------------------------------------------


def keep_in_flight(
    sock: socket.socket,
    requests: Requests,
    window: int,
    answer_size: int | None,
    seconds: float,
    *,
    burst: bool = False,
) -> int:
    """Keep up to ``window`` requests in flight for some time, and return the number of answered requests.

    It sends and receives whenever possible, so that full buffers cannot block both sides.

    Args:
        sock: in blocking mode before and after.
        requests: the requests to send.
        window: the maximum number of requests in flight.
        answer_size: bytes of each response, or None to count frames.
        seconds: after this time no more are sent.
        burst: send a whole window at once, and the next one after all its responses.
    """
    sock.setblocking(False)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    waits_for = select.POLLIN
    asked = answered = got = 0
    rest = b""
    unsent = memoryview(b"")
    began = now()
    while True:
        passed = now() - began
        free = window - (asked - answered)
        if passed < seconds or not asked:
            if not unsent and free and (free == window or not burst):
                unsent = requests.take(free)
                asked += len(unsent) // requests.size
        elif answered == asked:
            break
        elif passed > seconds + LIMIT:
            raise TimeoutError(f"{asked - answered} answers stay out")
        if unsent:
            try:
                unsent = unsent[sock.send(unsent) :]
            except BlockingIOError:
                pass
        events = select.POLLIN | select.POLLOUT if unsent else select.POLLIN
        if events != waits_for:
            poll.modify(sock, events)
            waits_for = events
        if not poll.poll(1000):
            continue
        try:
            data = receive(sock)
        except BlockingIOError:
            continue
        if answer_size is not None:
            got += len(data)
            answered = got // answer_size
        else:
            data = rest + data if rest else data
            count, end = count_frames(data)
            rest = data[end:]
            answered += count
    sock.setblocking(True)
    return asked


def pipelined(
    name: str, size: int, window: int = 100, *, megabytes: bool = False
) -> Callable[[Server, Effort], Sample]:
    """Echoes per second, or MB per second each way, with ``window`` of them in flight on one connection."""

    def measure(server: Server, effort: Effort) -> Sample:
        sock, _ = _open(server, calls=False)
        requests = Requests([client_frame(os.urandom(size))] * min(window, 100))
        keep_in_flight(sock, requests, window, echo_size(size), effort.seconds / 10)
        meter = Meter(server)
        count = keep_in_flight(sock, requests, window, echo_size(size), effort.seconds)
        sample = meter.rate(name, count, size / 1e6 if megabytes else 1.0)
        goodbye(sock)
        return sample

    return measure


def calls_in_flight(
    name: str, window: int, *, burst: bool = False, method: str = "add"
) -> Callable[[Server, Effort], Sample]:
    """Calls per second with ``window`` of them in flight on one connection."""

    def measure(server: Server, effort: Effort) -> Sample:
        sock, _ = _open(server, calls=True)
        requests = Requests(call_requests(method))
        keep_in_flight(sock, requests, window, None, effort.seconds / 10, burst=burst)
        meter = Meter(server)
        sample = meter.rate(name, keep_in_flight(sock, requests, window, None, effort.seconds, burst=burst))
        goodbye(sock)
        return sample

    return measure


def many_connections(name: str, *, calls: bool = False) -> Callable[[Server, Effort], Sample]:
    """Requests per second over many connections, with one in flight on each: the usual kind of load."""

    def measure(server: Server, effort: Effort) -> Sample:
        connections = [_open(server, calls=calls) for _ in range(effort.connections)]
        with select.epoll() as epoll:
            by_fd = {sock.fileno(): (sock, frames[-1]) for sock, frames in connections}
            for sock, _ in connections:
                sock.setblocking(False)
                epoll.register(sock, select.EPOLLIN)

            def run(seconds: float) -> int:
                stop = now() + seconds
                for sock, frame in by_fd.values():
                    sock.send(frame)
                answered, under_way = 0, len(by_fd)
                while under_way:
                    ready = epoll.poll(LIMIT)
                    if not ready:
                        raise TimeoutError("the answers stay out")
                    more = now() < stop
                    for fd, _ in ready:
                        sock, frame = by_fd[fd]
                        receive(sock)
                        if more:
                            sock.send(frame)
                        else:
                            under_way -= 1
                    answered += len(ready)
                return answered

            run(effort.seconds / 10)
            meter = Meter(server)
            sample = meter.rate(name, run(effort.seconds))
        for sock, _ in connections:
            goodbye(sock)
        return sample

    return measure


def stream(server: Server, effort: Effort) -> Sample:
    """Items per second of one streaming call."""
    sock, _ = _open(server, calls=True)

    def run(items: int) -> float:
        began = now()
        sock.sendall(client_frame(request(1, "count", items)))
        missing = items + 1  # including the end of the stream
        rest = b""
        while missing:
            data = rest + receive(sock)
            count, end = count_frames(data)
            rest = data[end:]
            missing -= count
            if now() - began > LIMIT:
                raise TimeoutError(f"{missing} items stay out")
        return now() - began

    items = 1000 if effort.seconds else 3
    items = max(3, min(200_000, int(items / run(items) * effort.seconds)))
    meter = Meter(server)
    run(items)
    sample = meter.rate("stream", items)
    goodbye(sock)
    return sample


# -- connections ----------------------------------------------------------------------------------------


def connects(server: Server, effort: Effort) -> Sample:
    """Connections per second, each opened and closed with both handshakes, 16 at a time."""
    hello, bye = opening("/echo"), client_frame(b"\x03\xe8", 8)
    at_once = min(16, effort.connections)
    live: dict[int, tuple[socket.socket, bool]] = {}
    with select.epoll() as epoll:

        def start() -> None:
            sock = socket.create_connection(("127.0.0.1", server.port), LIMIT)
            sock.send(hello)
            sock.setblocking(False)
            live[sock.fileno()] = (sock, False)
            epoll.register(sock, select.EPOLLIN)

        meter = Meter(server)
        done = 0
        for _ in range(at_once):
            start()
        while live:
            ready = epoll.poll(LIMIT)
            if not ready:
                raise TimeoutError("the handshakes stay out")
            for fd, _ in ready:
                sock, open_already = live[fd]
                data = sock.recv(4096)
                if not open_already:
                    if b" 101 " not in data[:20] or not data.endswith(b"\r\n\r\n"):
                        raise ConnectionError(f"no WebSocket: {data!r}")
                    sock.send(bye)
                    live[fd] = (sock, True)
                elif not data:
                    del live[fd]
                    sock.close()
                    done += 1
                    if now() - meter.began < effort.seconds * 2:
                        start()
        return meter.rate("connects", done)


def idle_connection(server: Server, *, calls: bool = False) -> socket.socket:
    """Open a connection, receive one response, and leave it idle."""
    return _open(server, calls=calls)[0]


def memory(prefix: str, *, calls: bool = False) -> Callable[[Server, Effort], Sample]:
    """KiB that each idle connection adds. Requires a fresh server."""

    def measure(server: Server, effort: Effort) -> Sample:
        socks = [idle_connection(server, calls=calls) for _ in range(min(50, effort.idle[0]))]
        time.sleep(effort.settle)
        before = server.resident_bytes()
        values: dict[str, float] = {}
        first = len(socks)
        for count, full in zip(effort.idle, FULL.idle, strict=True):
            socks += [idle_connection(server, calls=calls) for _ in range(first + count - len(socks))]
            time.sleep(effort.settle)
            values[f"{prefix}_{full}"] = max(1, server.resident_bytes() - before) / count / 1024
        close_all(socks)
        return Sample(values)

    return measure


# -- to many --------------------------------------------------------------------------------------------


class FanOut:
    """Subscribers and a publisher. All messages have the size of the first one.

    ``SO_RCVLOWAT`` keeps this process asleep until a subscriber has received everything, so that it uses no
    CPU time while the server publishes.
    """

    SIZE = 32

    def __init__(self, server: Server, subscribers: int, *, calls: bool) -> None:
        self._server = server
        self._calls = calls
        self._subscribers = [self._subscribe(server, calls=calls) for _ in range(subscribers)]
        self._publisher = connect(server.port, "/rpc" if calls else "/pub", CALLS if calls else None)
        time.sleep(0.05 if subscribers < 100 else 0.3)  # some subscribe after their handshake
        self._epoll = select.epoll()
        self._by_fd = {sock.fileno(): sock for sock in self._subscribers}
        for sock in self._subscribers:
            sock.setblocking(False)
            self._epoll.register(sock, select.EPOLLIN)
        self._frame_size = 0
        self.publish(1)

    @staticmethod
    def _subscribe(server: Server, *, calls: bool) -> socket.socket:
        if not calls:
            return connect(server.port, "/sub")
        sock = connect(server.port, "/rpc", CALLS)
        sock.sendall(client_frame(request(0, "join", "room")))
        _one_frame(sock)
        return sock

    def command(self, messages: int) -> bytes:
        """Return the data that the publisher sends to publish ``count`` messages."""
        if self._calls:
            return client_frame(request(0, "pub", "room", messages, self.SIZE))
        return client_frame(b"%d %d" % (messages, self.SIZE), 1)

    def publish(self, messages: int) -> tuple[float, float]:
        """Return the wall and CPU seconds until all subscribers have received all messages."""
        due = messages * self._frame_size or 1
        for sock in self._subscribers:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, due)
        missing = dict.fromkeys(self._by_fd, due)
        command = self.command(messages)
        cpu, began = self._server.cpu(), now()
        self._publisher.sendall(command)
        while missing:
            ready = self._epoll.poll(LIMIT)
            if not ready:
                raise TimeoutError(f"{len(missing)} subscribers lack something")
            for fd, _ in ready:
                self._take(fd, missing)
        took = now() - began
        _one_frame(self._publisher)
        return took, self._server.cpu() - cpu

    def _take(self, fd: int, missing: dict[int, int]) -> None:
        sock = self._by_fd[fd]
        data = receive(sock)
        if not self._frame_size:
            if count_frames(data) != (1, len(data)) or b"x" * self.SIZE not in data:
                raise RuntimeError(f"that is not what was published: {data!r}")
            self._frame_size = len(data)
            missing.update(dict.fromkeys(missing, self._frame_size))
        missing[fd] -= len(data)
        if missing[fd] < 0:
            raise RuntimeError("a subscriber has got too much")
        if missing[fd]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, missing[fd])
        else:
            del missing[fd]

    def close(self) -> None:
        self._epoll.close()
        close_all(self._subscribers)
        goodbye(self._publisher)


def fan_out(name: str, *, calls: bool = False) -> Callable[[Server, Effort], Sample]:
    """Deliveries per second while messages are published without a pause, and the last one's delay."""

    def measure(server: Server, effort: Effort) -> Sample:
        many = FanOut(server, effort.subscribers, calls=calls)
        single = [many.publish(1)[0] for _ in range(effort.publications)]
        took, _ = many.publish(5)
        messages = max(1, min(200, int(5 * effort.seconds / took)))
        meter = Meter(server)
        took, _ = many.publish(messages)
        deliveries = messages * effort.subscribers
        values = {name: deliveries / took, f"{name}_one": statistics.median(single) * 1e3}
        sample = meter.sample(deliveries, values, messages=messages)
        many.close()
        return sample

    return measure


# -- all measurements -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """One measurement, with one or several figures."""

    run: Callable[[Server, Effort], Sample]
    calls: bool = False  # for servers of calls
    one_core: bool = False  # server and load side share a processor
    fresh: bool = False  # requires a fresh server


MEASURES = {
    "echo_rtt": Measure(round_trip("echo_rtt")),
    "echo_rtt_1core": Measure(round_trip("echo_rtt_1core"), one_core=True),
    "echo_pipe_32": Measure(pipelined("echo_pipe_32", 32)),
    "echo_pipe_1k": Measure(pipelined("echo_pipe_1k", 1024)),
    "echo_100conns": Measure(many_connections("echo_100conns")),
    "echo_64k": Measure(pipelined("echo_64k", 65536, 4, megabytes=True)),
    "echo_1m": Measure(pipelined("echo_1m", 1 << 20, 2, megabytes=True)),
    "connects": Measure(connects),
    "fanout_500": Measure(fan_out("fanout_500")),
    "memory": Measure(memory("memory"), fresh=True),
    "rpc_rtt": Measure(round_trip("rpc_rtt", calls=True), calls=True),
    "rpc_rtt_1core": Measure(round_trip("rpc_rtt_1core", calls=True), calls=True, one_core=True),
    "rpc_pipe_100": Measure(calls_in_flight("rpc_pipe_100", 100), calls=True),
    "rpc_burst_500": Measure(calls_in_flight("rpc_burst_500", 500, burst=True), calls=True),
    "rpc_burst_500_def": Measure(
        calls_in_flight("rpc_burst_500_def", 500, burst=True, method="plus"), calls=True
    ),
    "rpc_100conns": Measure(many_connections("rpc_100conns", calls=True), calls=True),
    "stream": Measure(stream, calls=True),
    "channel_500": Measure(fan_out("channel_500", calls=True), calls=True),
    "rpc_memory": Measure(memory("rpc_memory", calls=True), calls=True, fresh=True),
}

#: The unit of each figure. For rates, higher is better; for all others, lower.
UNITS = {
    "echo_rtt": "us",
    "echo_rtt_1core": "us",
    "echo_pipe_32": "/s",
    "echo_pipe_1k": "/s",
    "echo_100conns": "/s",
    "echo_64k": "MB/s",
    "echo_1m": "MB/s",
    "connects": "/s",
    "fanout_500": "/s",
    "fanout_500_one": "ms",
    "memory_1000": "KiB",
    "memory_5000": "KiB",
    "rpc_rtt": "us",
    "rpc_rtt_1core": "us",
    "rpc_pipe_100": "/s",
    "rpc_burst_500": "/s",
    "rpc_burst_500_def": "/s",
    "rpc_100conns": "/s",
    "stream": "/s",
    "channel_500": "/s",
    "channel_500_one": "ms",
    "rpc_memory_1000": "KiB",
    "rpc_memory_5000": "KiB",
}
