"""A game of Connect Four for two players and spectators: ``python examples/connect_four.py [port]``.

The first player sends ``{"type": "init"}`` and gets two keys, one for the other player and one for
spectators. The protocol is that of the tutorial of websockets, whose page can play here.
"""

from __future__ import annotations

import json
import secrets
import sys
from typing import Literal

import msgspec
import trio

import trio_ws

Player = Literal["red", "yellow"]
COLUMNS, ROWS = 7, 6


class Init(msgspec.Struct, tag="init"):
    join: str | None = None
    watch: str | None = None


class Play(msgspec.Struct, tag="play"):
    column: int


class Game:
    """The moves so far, and the connections that are told of the next ones."""

    def __init__(self) -> None:
        self.moves: list[dict[str, object]] = []
        self.board: dict[tuple[int, int], Player] = {}
        self.connections: set[trio_ws.WebSocket] = set()

    def drop(self, player: Player, column: int) -> bool:
        """Let a piece fall, and return whether the player has four in a row.

        Raises:
            ValueError: the move is not allowed.
        """
        if player != ("red", "yellow")[len(self.moves) % 2]:
            raise ValueError("It isn't your turn.")
        if not 0 <= column < COLUMNS:
            raise ValueError("There is no such column.")
        row = sum((column, height) in self.board for height in range(ROWS))
        if row == ROWS:
            raise ValueError("This slot is full.")
        self.board[column, row] = player
        self.moves.append({"type": "play", "player": player, "column": column, "row": row})
        return any(
            1 + self.run(player, column, row, right, up) + self.run(player, column, row, -right, -up) >= 4
            for right, up in ((1, 0), (0, 1), (1, 1), (1, -1))
        )

    def run(self, player: Player, column: int, row: int, right: int, up: int) -> int:
        """Count the player's pieces in one direction."""
        count = 0
        while self.board.get((column + right, row + up)) == player:
            column, row, count = column + right, row + up, count + 1
        return count


to_join: dict[str, Game] = {}
to_watch: dict[str, Game] = {}
app = trio_ws.App()


@app.websocket("/")
async def enter(ws: trio_ws.WebSocket) -> None:
    init = await ws.receive_json(type=Init)
    if init.join is not None:
        await take_part(ws, to_join.get(init.join), "yellow")
    elif init.watch is not None:
        await take_part(ws, to_watch.get(init.watch), None)
    else:
        game, join, watch = Game(), secrets.token_urlsafe(12), secrets.token_urlsafe(12)
        to_join[join] = to_watch[watch] = game
        try:
            await ws.send_json({"type": "init", "join": join, "watch": watch})
            await take_part(ws, game, "red")
        finally:
            del to_join[join], to_watch[watch]


async def take_part(ws: trio_ws.WebSocket, game: Game | None, player: Player | None) -> None:
    if game is None:
        await ws.send_json({"type": "error", "message": "Game not found."})
        return
    sent = 0
    while sent < len(game.moves):  # also those that are made meanwhile
        await ws.send_json(game.moves[sent])
        sent += 1
    game.connections.add(ws)
    try:
        async for message in ws:
            if player is not None:  # spectators only listen
                await make_move(ws, game, player, message.json(type=Play))
    finally:
        game.connections.remove(ws)


async def make_move(ws: trio_ws.WebSocket, game: Game, player: Player, move: Play) -> None:
    try:
        won = game.drop(player, move.column)
    except ValueError as exc:
        await ws.send_json({"type": "error", "message": str(exc)})
        return
    tell(game, game.moves[-1])
    if won:
        tell(game, {"type": "win", "player": player})


def tell(game: Game, event: dict[str, object]) -> None:
    trio_ws.broadcast(game.connections, json.dumps(event))


@app.http("/healthz")
async def healthz(request: trio_ws.Request) -> str:
    return "OK\n"


async def main() -> None:
    with trio_ws.cancel_on_signals():
        await trio_ws.serve(app, int(sys.argv[1]) if sys.argv[1:] else 8001)


if __name__ == "__main__":
    trio.run(main)
