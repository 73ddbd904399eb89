"""Which tests are slow, so that ``make test`` leaves them out and ``make check`` runs them.

A test gets the marker ``slow`` by its own decorator, by the marker ``repeats``, or by a line here. Each has a
kind, which the summary of a run without them counts. A new file belongs here if it takes more than about two
seconds, or starts programs that most machines do not have.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SLOW", "kinds", "mark"]

ROOT = Path(__file__).parents[1]

#: Files and folders below tests/, and single tests after "::".
SLOW = {
    "browsers and Node": [
        "javascript/test_browser.py",
        "javascript/test_conformance.py",
        "javascript/test_node.py",
        "javascript/test_recovery.py",
        "javascript/test_types.py",
        "cli/test_try_page.py",
        "interop/test_calls_javascript.py",
        "interop/test_chromium.py",
        "interop/test_devtools.py",
        "interop/test_selenium.py",
        "interop/test_tutorial_page.py",
        "schema/test_page.py",
        "schema/test_typescript.py",
    ],
    "other servers and clients": [
        "channels/test_redis.py",
        "channels/test_redis_cluster.py",
        "channels/test_redis_histories.py",
        "channels/test_redis_patterns.py",
        "channels/test_redis_recovery.py",
        "channels/test_redis_sentinel.py",
        "channels/test_redis_tenants.py",
        "interop/test_caddy.py",
        "interop/test_graphql.py",
        "interop/test_haproxy.py",
        "interop/test_hosts.py",
        "interop/test_nginx.py",
        "interop/test_ocpp.py",
        "interop/test_others.py",
        "interop/test_peers.py",
    ],
    "several processes": [
        "channels/test_publisher.py::test_from_another_program",
        "cli/test_completion.py",
        "cli/test_interactive.py",
        "cli/test_other_servers.py",
        "cli/test_pages.py::test_no_page_when_it_is_not_wanted",
        "cli/test_pages.py::test_several_processes_with_tls",
        "cli/test_pipes.py",
        "cli/test_reloading.py",
        "cli/test_schemas.py::test_schema_as_a_process",
        "cli/test_schemas.py::test_types_as_a_process",
        "cli/test_serving.py",
        "cli/test_tls_and_proxies.py",
        "client/test_client_reconnect.py::test_a_server_that_is_killed_and_comes_back",
        "guarantees/test_no_comparisons_of_bytes_and_text.py",
        "guarantees/test_interrupted_starts.py",
        "guarantees/test_many_processes.py",
        "guarantees/test_recovery_over_processes.py",
        "guarantees/test_restarts_lose_nothing.py",
        "guarantees/test_secrets_stay_out_of_errors.py::test_the_command_line",
        "processes",
        "server/test_blocking.py::test_a_program_ends_without_a_thread_that_was_left_behind",
        "test_ctrl_c.py",
        "test_examples.py",
        "test_examples_calls.py",
        "test_examples_channels.py",
        "test_examples_clients.py",
        "test_examples_processes.py",
        "test_exploring.py::test_fixtures",
        "test_pages.py::test_a_program_of_the_pages",
        "test_processes.py",
        "test_systems.py",
        "test_tutorial.py",
    ],
    "whole package": ["test_dependencies.py::test_every_import_is_declared", "test_typing.py"],
    "builds": ["protocol/test_sanitizers.py", "test_benchmarks.py", "test_build.py", "test_docs.py"],
    "again and again": [
        "adversary",
        "client/test_other_servers_explored.py",
        "client/test_session.py::test_cuts_at_random_places",
        "dialects/test_any_message.py",
        "guarantees/test_a_stalled_subscriber.py",
        "guarantees/test_any_checkpoint_any_byte.py",
        "guarantees/test_calls_at_any_checkpoint.py",
        "guarantees/test_fault_plan.py",
        "guarantees/test_limits_and_bursts.py",
        "guarantees/test_recovery.py",
        "guarantees/test_places_are_freed.py",
        "guarantees/test_slow_readers.py",
        "guarantees/test_stream_windows.py",
        "guarantees/test_user_code_property.py",
        "guarantees/test_memory_ledger.py",
        "protocol/test_frames_agree.py",
        "protocol/test_implementations.py",
        "rpc/test_calls_property.py",
        "test_guest.py::test_a_host_that_fails_to_send_ends_the_connection",
        "websocket/test_shared_reader.py",
    ],
}


def mark(items: Iterable[pytest.Item]) -> None:
    """Add the marker ``slow`` to the slow tests, with their kind."""
    kind_of = {entry: kind for kind, entries in SLOW.items() for entry in entries}
    for item in items:
        path = item.path.relative_to(ROOT) if item.path.is_relative_to(ROOT) else None
        if path is None:
            continue
        name = item.name.partition("[")[0]
        entries = (f"{path.as_posix()}::{name}", path.as_posix(), *(up.as_posix() for up in path.parents))
        kind = next((kind_of[entry] for entry in entries if entry in kind_of), None)
        if kind is None and item.get_closest_marker("repeats"):
            kind = "again and again"
        if kind is not None and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.slow(kind))


def kinds(items: Iterable[pytest.Item]) -> Counter[str]:
    """Return the number of slow tests by kind."""
    markers = [marker for item in items if (marker := item.get_closest_marker("slow"))]
    return Counter(str(marker.args[0]) if marker.args else "others" for marker in markers)
