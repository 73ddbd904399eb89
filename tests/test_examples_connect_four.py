"""The example of a game: two players and a spectator, and clients that break its protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.connect_four import COLUMNS, ROWS, Game, app, to_join, to_watch
from tests.support.examples import examples
from tests.support.serving import serving_in_memory
from trio_ws import ConnectionClosedError, WebSocket

if TYPE_CHECKING:
    from examples.connect_four import Player


async def enter(ws: WebSocket, **key: str) -> None:
    await ws.send_json({"type": "init", **key})


async def play(column: int, ws: WebSocket, *connections: WebSocket) -> dict[str, Any]:
    """Make a move, which every connection is told of."""
    await ws.send_json({"type": "play", "column": column})
    told = [await one.receive_json() for one in (ws, *connections)]
    assert all(one == told[0] for one in told)
    event: dict[str, Any] = told[0]
    return event


async def test_two_players_and_a_spectator() -> None:
    async with serving_in_memory(app) as memory, memory.connect() as red:
        await enter(red)
        keys = await red.receive_json()
        async with memory.connect() as yellow, memory.connect() as spectator:
            await play(3, red)
            await enter(yellow, join=keys["join"])
            assert await yellow.receive_json() == {"type": "play", "player": "red", "column": 3, "row": 0}
            assert (await play(3, yellow, red))["row"] == 1
            await yellow.send_json({"type": "play", "column": 3})
            assert await yellow.receive_json() == {"type": "error", "message": "It isn't your turn."}
            await enter(spectator, watch=keys["watch"])
            seen = [await spectator.receive_json() for _ in range(2)]
            assert [move["player"] for move in seen] == ["red", "yellow"]
            await spectator.send_json({"type": "play", "column": 0})  # has no effect
            for column in (2, 1):
                await play(column, red, yellow, spectator)
                await play(6, yellow, red, spectator)
            await play(0, red, yellow, spectator)
            for one in (red, yellow, spectator):
                assert await one.receive_json() == {"type": "win", "player": "red"}
    assert not to_join
    assert not to_watch


@pytest.mark.parametrize("key", ["join", "watch"])
async def test_a_game_that_is_over(key: str) -> None:
    async with serving_in_memory(app) as memory:
        async with memory.connect() as red:
            await enter(red)
            keys = await red.receive_json()
        async with memory.connect() as late:
            await enter(late, **{key: keys[key]})
            assert await late.receive_json() == {"type": "error", "message": "Game not found."}
            assert await late.recv() is None


@pytest.mark.parametrize("text", ["{", '{"type": "play"}', '{"type": "init", "join": 5}', "\ufeff{}"])
async def test_what_is_no_beginning_of_a_game_ends_the_connection(text: str) -> None:
    async with serving_in_memory(app) as memory, memory.connect() as ws:
        await ws.send(text)
        with pytest.raises(ConnectionClosedError) as caught:
            await ws.recv()
        assert caught.value.code == 1011


async def test_a_client_that_leaves_before_it_has_said_anything_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving_in_memory(app) as memory:
        async with memory.connect():
            pass
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def has_four(moves: list[tuple[int, int]]) -> bool:
    """Whether four of the places are in a row."""
    places = set(moves)
    return any(
        all((column + step * right, row + step * up) in places for step in range(4))
        for column, row in places
        for right, up in ((1, 0), (0, 1), (1, 1), (1, -1))
    )


@examples(30)
@given(st.lists(st.integers(-1, COLUMNS), max_size=60))
def test_any_moves(columns: list[int]) -> None:
    game = Game()
    players: tuple[Player, Player] = ("red", "yellow")
    for column in columns:
        player = players[len(game.moves) % 2]
        height = sum(move["column"] == column for move in game.moves)
        if not 0 <= column < COLUMNS or height == ROWS:
            with pytest.raises(ValueError, match=r"no such column|is full"):
                game.drop(player, column)
            continue
        won = game.drop(player, column)
        assert game.moves[-1] == {"type": "play", "player": player, "column": column, "row": height}
        mine: list[Any] = [(move["column"], move["row"]) for move in game.moves if move["player"] == player]
        assert won == has_four(mine)
        if won:
            break
