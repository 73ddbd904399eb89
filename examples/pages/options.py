"""The options of docs/topics, made."""

from __future__ import annotations

import trio_ws


def small() -> trio_ws.Options:
    options = trio_ws.Options(
        max_message_size=64 * 1024,
        max_queue_bytes=64 * 1024,
        send_high_water=16 * 1024,
        max_connections=5_000,
    )
    return options  # noqa: RET504 - the page shows the line above


def two_sites() -> trio_ws.Options:
    options = trio_ws.Options(origins=["https://example.com", "https://admin.example.com"])
    return options  # noqa: RET504


def names() -> trio_ws.Options:
    options = trio_ws.Options(hosts=["chat.example", "*.chat.example"])
    return options  # noqa: RET504


if __name__ == "__main__":
    o = small()
    assert o.max_message_size is not None
    worst = (
        o.max_queue_bytes + 65536 + 2 * o.max_message_size + o.send_high_water + o.max_header_bytes + 10240
    )
    print(f"at most {worst // 1024} KiB for one connection")
    print(two_sites().origins)
    print(names().hosts)
