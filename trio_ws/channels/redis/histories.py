"""Histories of channels in Redis: the keys, the scripts that change them, and their replies.

A channel has three keys, whose names end with these letters:

- ``m`` is a hash with the epoch, the offset of the newest message, the number of stored bytes, the run of the
  Redis process that wrote it, its replication id, and when that was looked up.
- ``s`` is a stream, whose entries are named ``offset-milliseconds``.
- ``o`` is a hash with the last sequence number of each publisher, which identifies messages that are sent
  again.

Invariants:

- The first writing command of each script is one that Redis refuses if it has no memory left. The script then
  changes nothing.
- One script assigns the offset, stores the message, and publishes it to subscribers. Subscribers therefore
  receive messages in the order of their offsets.
- A message is not taken before another one of its channel that was sent before it on the same connection. If
  Redis refused that one, and has recovered since then, both have to be sent again.
- A restarted Redis begins a new epoch, and so does a replica that becomes the primary, even one that was it
  before and has run since then. For each former epoch, it stores the offset up to which the history is the
  same. A position in a former epoch is valid up to that offset; later offsets may have been lost and then
  assigned to other messages.
- If messages were lost because the queue of their publisher was full, one entry takes their place and
  contains their number.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

import msgspec

from trio_ws.channels.broker import HistoryPage, KeptMessage
from trio_ws.channels.names import is_glob, matcher
from trio_ws.codecs.base import Position

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from trio_ws._types import Reply
    from trio_ws.channels.history import History
    from trio_ws.channels.redis.publish_queue import Outgoing

__all__ = [
    "CLUSTER_SCRIPTS",
    "KEPT",
    "KEPT_GAP",
    "LOST",
    "OUT_OF_ORDER",
    "SCRIPTS",
    "DeclaredHistories",
    "append_words",
    "declared_key",
    "latest_key",
    "latest_words",
    "note_words",
    "pack_declared",
    "parse_kept",
    "parse_page",
    "parse_run",
    "publish_words",
    "read_words",
]

#: The beginning of a delivered message of a channel with a history. The epoch, a space, the offset, a space
#: and the message as in messages.py follow. The payload of a `KEPT_GAP` is the number of lost messages, and
#: its signature covers the name of the channel followed by `LOST`.
KEPT = b"twp1"
KEPT_GAP = b"twg1"
LOST = b"\0lost"

#: Milliseconds after which the epoch of an unused channel expires.
_REMEMBERED = 86_400_000
#: Milliseconds after which the sequence numbers of publishers expire, and the maximum number of publishers.
_ORIGINS_REMEMBERED = 3_600_000
_MAX_ORIGINS = 4096
#: The number of channels of a namespace that are listed as those that keep only their newest message.
_MAX_LATEST = 10_000
#: Maximum number of messages and bytes in one page.
_PAGE_ITEMS = 500
_PAGE_BYTES = 262_144
#: Maximum number of former epochs that are stored.
_EPOCHS = 8
#: Milliseconds for which a script trusts that its server has not been a replica. It takes longer to become
#: one, to copy another primary, and to become the primary again.
_TRUSTED = 100

#: The reply about a message that was sent after another one, which Redis has not taken.
OUT_OF_ORDER = -2

_LOAD_CHANNEL = """
local meta, stream, origins = KEYS[1], KEYS[2], KEYS[3]
local run, fresh = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', meta, 'e', 'n', 'r', 'p', 'b', 't', 'i', 'c')
local epoch, n, earlier = known[1], tonumber(known[2] or 0), known[4] or ''
local size, oldest = tonumber(known[5] or 0), tonumber(known[6] or 0)
local instance, looked = known[7] or '', tonumber(known[8] or 0)
local restarted = run ~= '' and known[3] ~= run
if not epoch or restarted or now < looked or now - looked >= TRUSTED then
  local said = redis.pcall('INFO', 'replication')
  local id = type(said) == 'string' and string.match(said, 'master_replid:(%w+)') or ''
  restarted = restarted or (instance ~= '' and id ~= '' and id ~= instance)
  if restarted or id ~= '' then instance = id end
  looked = string.format('%.0f', now)
  if not epoch then
    epoch, n, earlier, size, oldest = fresh, 0, '', 0, 0
    redis.call('HSET', meta, 'e', epoch, 'n', 0, 'r', run, 'p', '', 'b', 0, 't', 0, 'i', instance)
    redis.call('HSET', meta, 'c', looked)
    redis.call('DEL', stream, origins)
  elseif restarted then
    local kept = epoch .. ' ' .. string.format('%.0f', n)
    local count = 1
    for one in string.gmatch(earlier, '[^,]+') do
      if count < EPOCHS then kept = kept .. ',' .. one end
      count = count + 1
    end
    epoch, earlier = fresh, kept
    redis.call('HSET', meta, 'e', epoch, 'r', run, 'p', earlier, 'i', instance, 'c', looked)
  else
    redis.call('HSET', meta, 'i', instance, 'c', looked)
  end
end
""".replace("EPOCHS", str(_EPOCHS)).replace("TRUSTED", str(_TRUSTED))

#: ARGV: run, fresh epoch, channel, origin, sequence, message, lost, items, bytes, milliseconds, origin and
#: sequence of the message that must be taken first, if any, whether another server has accepted the message;
#: with a cluster also the sharded channel, and whether to return the position instead of the number of
#: receivers.
#:
#: It returns -1 if the message was taken before, or if another server has accepted it, and this one has
#: nothing that is older. It returns OUT_OF_ORDER if the other message was not taken. If there is no memory,
#: that is the error for both.
_APPEND = (
    _LOAD_CHANNEL
    + """
local channel, origin, sequence, data = ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local lost, items, bytes, age = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local last = redis.call('HGET', origins, origin)
if last and tonumber(last) >= sequence then return -1 end
if ARGV[13] == '1' and earlier == '' then return -1 end
if ARGV[11] ~= '' then
  local first = ARGV[11] == origin and last or redis.call('HGET', origins, ARGV[11])
  if not first or tonumber(first) < tonumber(ARGV[12]) then
    redis.call('HSET', meta, 'n', string.format('%.0f', n))
    return OUT_OF_ORDER
  end
end
if redis.call('HLEN', origins) > MAX_ORIGINS then redis.call('DEL', origins) end
redis.call('HSET', origins, origin, ARGV[5])
redis.call('PEXPIRE', origins, ORIGINS_REMEMBERED)
if KEYS[4] then
  redis.call('ZADD', KEYS[4], string.format('%.0f', now), channel)
  redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -1 - MAX_LATEST)
  redis.call('PEXPIRE', KEYS[4], REMEMBERED)
end
n = n + 1
local offset = string.format('%.0f', n)
local id = offset .. '-' .. string.format('%.0f', now)
local field, head = 'd', 'twp1'
if lost > 0 then field, head = 'g', 'twg1' end
redis.call('XADD', stream, id, field, data)
local message = head .. epoch .. ' ' .. offset .. ' ' .. data
local reached = 0
if ARGV[14] then reached = redis.call('SPUBLISH', ARGV[14], message) end
reached = reached + redis.call('PUBLISH', channel, message)
size = size + 512 + #data
if oldest == 0 then oldest = now end
local count = redis.call('XLEN', stream)
while count > items or size > bytes or oldest <= now - age do
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 2)
  if not first[1] then size, oldest = 0, 0 break end
  oldest = tonumber(string.match(first[1][1], '%-(%d+)'))
  if count <= items and size <= bytes and oldest > now - age then break end
  redis.call('XDEL', stream, first[1][1])
  size = size - 512 - #first[1][2][2]
  count = count - 1
  if not first[2] then size, oldest = 0, 0 break end
  oldest = tonumber(string.match(first[2][1], '%-(%d+)'))
end
redis.call('HSET', meta, 'n', offset, 'b', size, 't', string.format('%.0f', oldest))
redis.call('PEXPIRE', stream, age)
redis.call('PEXPIRE', meta, REMEMBERED)
if ARGV[15] then return head .. epoch .. ' ' .. offset .. ' ' end
return reached
""".replace("MAX_ORIGINS", str(_MAX_ORIGINS))
    .replace("OUT_OF_ORDER", str(OUT_OF_ORDER))
    .replace("MAX_LATEST", str(_MAX_LATEST))
    .replace("ORIGINS_REMEMBERED", str(_ORIGINS_REMEMBERED))
    .replace("REMEMBERED", str(_REMEMBERED))
)

#: ARGV: run, fresh epoch, offset, items, bytes, milliseconds.
_READ = (
    _LOAD_CHANNEL
    + """
local after, items, bytes, age = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local found, more, taken = {}, 1, 0
while #found < items and taken < bytes do
  local some = redis.call('XRANGE', stream, string.format('%.0f', after + 1), '+', 'COUNT', 8)
  for _, entry in ipairs(some) do
    local offset, at = string.match(entry[1], '(%d+)%-(%d+)')
    after = tonumber(offset)
    if tonumber(at) > now - age then
      found[#found + 1] = {after, now - tonumber(at), entry[2][1], entry[2][2]}
      taken = taken + #entry[2][2]
      if taken >= bytes then break end
    end
  end
  if #some < 8 and taken < bytes then more = 0 break end
end
redis.call('PEXPIRE', meta, REMEMBERED)
return {epoch, n, earlier, found, more}
""".replace("REMEMBERED", str(_REMEMBERED))
)

#: Publishes to subscribers of the channel, and to those of globs, or to neither. ARGV: sharded channel,
#: channel, message. It has no key, since a missing key would be asked for elsewhere while its slot moves.
_PUBLISH = """
local reached = redis.pcall('SPUBLISH', ARGV[1], ARGV[3])
if type(reached) == 'table' then
  local problem = reached['err'] or ''
  if string.find(problem, 'non local key', 1, true) then return redis.error_reply('MOVED elsewhere') end
  if string.find(problem, 'cluster is down', 1, true) then return redis.error_reply('CLUSTERDOWN now') end
  return reached
end
return reached + redis.call('PUBLISH', ARGV[2], ARGV[3])
"""

#: Lists channels as those that keep only their newest message. ARGV: the channels.
_NOTE = """
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
for _, channel in ipairs(ARGV) do redis.call('ZADD', KEYS[1], now, channel) end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - MAX_LATEST)
redis.call('PEXPIRE', KEYS[1], REMEMBERED)
return #ARGV
""".replace("MAX_LATEST", str(_MAX_LATEST)).replace("REMEMBERED", str(_REMEMBERED))

#: The scripts, those for a cluster in addition, and their names at Redis.
SCRIPTS = (_APPEND.encode(), _READ.encode())
CLUSTER_SCRIPTS = (_PUBLISH.encode(), _NOTE.encode())
_APPEND_NAME, _READ_NAME, _PUBLISH_NAME, _NOTE_NAME = (
    hashlib.sha1(one, usedforsecurity=False).hexdigest().encode() for one in SCRIPTS + CLUSTER_SCRIPTS
)


def _keys(prefix: bytes, channel: bytes) -> list[bytes]:
    base = prefix + b"h{" + channel.removeprefix(prefix) + b"}"
    return [base + b"m", base + b"s", base + b"o"]


def _bounds(history: History) -> list[bytes]:
    return [
        b"%d" % (1 if history.latest else min(history.items, 2**31)),
        b"%d" % min(history.bytes, 2**40),
        b"%d" % _milliseconds(history),
    ]


def _milliseconds(history: History) -> int:
    return max(1, int(min(history.seconds, 10**9) * 1000))


def _fresh() -> bytes:
    return secrets.token_urlsafe(9).encode()


def append_words(
    prefix: bytes,
    run: bytes,
    origin: bytes,
    sequence: int,
    message: Outgoing,
    data: bytes,
    *more: bytes,
    after: tuple[bytes, int] | None = None,
) -> list[bytes]:
    """Return the words of the command that appends a message to its channel's history, and publishes it.

    ``after`` is the origin and the sequence number of the message that must be taken first.

    With a cluster, ``more`` begins with the sharded channel. The key of `latest_key` then belongs to another
    slot, and `note_words` is sent separately.
    """
    assert message.history is not None
    first_origin, first_sequence = after or (b"", 0)
    keys = _keys(prefix, message.channel)
    if message.history.latest and not more:
        keys.append(latest_key(prefix, message.channel))
    return [
        *(b"EVALSHA", _APPEND_NAME, b"%d" % len(keys), *keys),
        *(run, _fresh(), message.channel, origin, b"%d" % sequence, data, b"%d" % message.lost),
        *_bounds(message.history),
        *(first_origin, b"%d" % first_sequence, b"%d" % message.accepted),
        *more,
    ]


def publish_words(sharded: bytes, channel: bytes, data: bytes) -> list[bytes]:
    """Return the words of the command that publishes a message in a cluster."""
    return [b"EVALSHA", _PUBLISH_NAME, b"0", sharded, channel, data]


def note_words(key: bytes, channels: Iterable[bytes]) -> list[bytes]:
    """Return the words of the command that lists channels as those that keep only their newest message."""
    return [b"EVALSHA", _NOTE_NAME, b"1", key, *channels]


def read_words(prefix: bytes, run: bytes, channel: bytes, after: int, history: History) -> list[bytes]:
    """Return the words of the command that reads a page of a channel's history."""
    return [
        *(b"EVALSHA", _READ_NAME, b"3", *_keys(prefix, channel)),
        *(run, _fresh(), b"%d" % after, b"%d" % _PAGE_ITEMS, b"%d" % _PAGE_BYTES),
        b"%d" % _milliseconds(history),
    ]


def latest_key(prefix: bytes, channel: bytes) -> bytes:
    """Return the key that lists the channels of a channel's namespace that keep only their newest message."""
    return prefix + b"hl:" + channel[len(prefix) :].partition(b":")[0]


def latest_words(key: bytes) -> list[bytes]:
    """Return the words of the command that reads such a list."""
    return [b"ZREVRANGE", key, b"0", b"%d" % (_MAX_LATEST - 1)]


def parse_page(reply: Reply, unpack: Callable[[bytes, bool], KeptMessage]) -> HistoryPage:
    """Parse the reply to `read_words`.

    Args:
        reply: the reply.
        unpack: returns the message, without its position, for its bytes and whether it marks lost messages.

    Raises:
        ValueError, TypeError, IndexError, UnicodeDecodeError: the reply is malformed.
    """
    epoch, end, earlier, found, more = reply
    messages = []
    for offset, age, kind, data in found:
        message = unpack(data, kind == b"g")
        messages.append(message._replace(offset=int(offset), age=max(0, int(age)) / 1000))
    before = []
    for text in filter(None, earlier.decode().split(",")):
        name, _, offset = text.partition(" ")
        before.append(Position(name, int(offset)))
    return HistoryPage(epoch.decode(), int(end), messages, tuple(before), bool(more))


def parse_kept(data: bytes) -> tuple[str, int, bytes]:
    """Return the epoch, the offset and the message of delivered data. ValueError if it is malformed."""
    epoch, offset, message = data[len(KEPT) :].split(b" ", 2)
    if not epoch or len(epoch) > 64:
        raise ValueError("an invalid epoch")
    number = int(offset)
    if not 1 <= number < 2**53:
        raise ValueError("an invalid offset")
    return epoch.decode("ascii"), number, message


def parse_run(reply: Reply) -> bytes:
    """Return the id of this run of Redis from its reply to INFO; empty if the reply does not contain it."""
    text = reply if isinstance(reply, bytes) else str(reply).encode()
    for line in text.splitlines():
        if line.startswith(b"run_id:"):
            return line[len(b"run_id:") :].strip()
    return b""


class _Bounds(msgspec.Struct, array_like=True):
    """A `History` in the form in which it is stored in Redis for other programs."""

    items: int
    bytes: int
    seconds: float
    latest: bool


_from_msgpack = msgspec.msgpack.Decoder(list[tuple[str, _Bounds]]).decode
_to_msgpack = msgspec.msgpack.Encoder().encode


def declared_key(prefix: bytes, namespace: str) -> bytes:
    """Return the key that stores the histories of a handler, for publishers in other programs."""
    return prefix + b"h:" + namespace.encode("utf-8", "surrogatepass")


def pack_declared(patterns: Mapping[str, History]) -> bytes:
    """Encode the value of `declared_key`."""
    return _to_msgpack(
        [
            (pattern, _Bounds(one.items, one.bytes, one.seconds, one.latest))
            for pattern, one in patterns.items()
        ]
    )


class DeclaredHistories:
    """The histories of the channels of one namespace."""

    def __init__(self, patterns: Mapping[str, History]) -> None:
        self.patterns = dict(patterns)
        self._matchers = [
            (matcher(text) if is_glob(text) else text.__eq__, one) for text, one in patterns.items()
        ]

    @classmethod
    def unpack(cls, data: bytes, make: Callable[..., History]) -> DeclaredHistories:
        """Decode the value of `declared_key`. Raises `msgspec.MsgspecError` or ValueError."""
        return cls(
            {
                pattern: make(items=one.items, bytes=one.bytes, seconds=one.seconds, latest=one.latest)
                for pattern, one in _from_msgpack(data)
            }
        )

    def find(self, name: str) -> History | None:
        """The history of a channel, if it has one."""
        for matches, one in self._matchers:
            if matches(name):
                return one
        return None
