"""A person in an agent's seat: in the browser, in a terminal, and what hostile browsers cannot do."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import threading
import time

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from pettingzoo import ParallelEnv

import marl
from marl.cli import main
from marl.report import Recording
from marl.report.content import Source
from marl.report.live import application, server
from marl.seat.controls import BOARDS, IllegalAction, controls_of
from marl.seat.games import Games, Kept, Seats, joined
from marl.seat.room import Room
from marl.seat.server import MESSAGE, RATE, routes
from marl.spaces import team_spec
from marl.types import ConfigError
from marl_runtime.service.listening import bound
from tests.support.browser import browser, needs_browser

pytest.importorskip("starlette")
pytest.importorskip("websockets")
pytest.importorskip("pygame")

TOKEN = "a-token-of-43-characters-that-nobody-guesses"
SMALL = {"rollout": 8, "epochs": 1, "minibatches": 1, "network": marl.MLP((8,))}


def waited(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Table:
    """A server with people's seats, in a thread of this process."""

    def __init__(self, system, run, people, opponent="", tick=0.0, seed=0):
        self.room, self.run = Room(people, tick), run
        games = Games(system, Seats(self.room.seats, opponent), seed=seed, shown=self.room.shows)
        self.kept = Kept(run, people)
        self.room.open(games, self.kept)
        self.listener = bound("127.0.0.1", 0, TOKEN)
        self.port = self.listener.getsockname()[1]
        app = application(Source([run]), TOKEN, self.port, None, routes(self.room))
        self.server = server(app, MESSAGE)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve([self.listener])))
        self.thread.start()

    def page(self, agent):
        return f"http://127.0.0.1:{self.port}/play?token={TOKEN}&seat={agent}"

    def connect(self, agent, token=TOKEN, **more):
        from websockets.sync.client import connect

        address = f"ws://127.0.0.1:{self.port}/seat?token={token}&seat={agent}"
        return connect(address, proxy=None, open_timeout=30, **more)

    def close(self):
        self.room.close()
        self.server.should_exit = True
        self.thread.join(30)
        self.listener.close()


@contextlib.contextmanager
def table(*arguments, **keywords):
    made = Table(*arguments, **keywords)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def noughts(tmp_path_factory):
    """A run of noughts and crosses with a league of two snapshots."""
    run = tmp_path_factory.mktemp("noughts") / "run"
    system = marl.MultiAgentSystem(
        "classic/tictactoe-v3", marl.ippo(sharing="all", agent_id=False, **SMALL), num_envs=2, seed=3,
        league=marl.League(between="agents", snapshot_every=32, latest=0.5),
    )  # fmt: skip
    system.train(64, run_dir=run)
    yield system, run
    system.close()
