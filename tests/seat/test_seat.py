"""A person in an agent's seat: in the browser, in a terminal, and what hostile browsers cannot do."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import signal
import threading
import time

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from pettingzoo import ParallelEnv

import marl
from marl.adapters.copies import derived_seed
from marl.adapters.resolve import resolve
from marl.cli import main
from marl.playing.episodes import evaluation_seeds
from marl.report import RecordedEpisode, Recording
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
from tests.support.commands import finish, start
from tests.support.tiny import Team

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
        marl.ippo(sharing="all", agent_id=False, **SMALL), "classic/tictactoe-v3", num_envs=2, seed=3,
        league=marl.League(between="agents", snapshot_every=32, latest=0.5),
    )  # fmt: skip
    system.train(64, run_dir=run)
    yield system, run
    system.close()


# --- the browser ------------------------------------------------------------------------------------------------------


HOLD = """(() => {
  const hear = seatPage.hear.bind(seatPage);
  seatPage.hear = (message) => {
    hear(message);
    if (message.kind === "turn" && message.step === 2)
      document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true}));
  };
})()"""  # in the page itself: a step takes no longer than a message from here


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """A function that opens tabs of one browser."""
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def buttons(page):
    return page.run("[...document.querySelectorAll('#controls button')].map((one) => !one.disabled)")


def key(page, name, kind="keyDown"):
    page.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)


def mine(page):
    return page.wait("!!seatPage.turn?.acting || seatPage.phase.phase === 'over'") or page.run(
        "!!seatPage.turn?.acting"
    )


@needs_browser
def test_a_browser_plays_noughts_and_crosses_against_a_member_of_the_league(noughts, tab):
    system, run = noughts
    with table(system, run, ["player_2"], "step 32") as game:
        page = tab().open(game.page("player_2"), 900, 900)
        page.wait("seatPage.hello !== undefined")
        assert "step 32" in page.run("document.getElementById('how').textContent")
        assert not any(buttons(page)), "nothing can be done before the game"
        page.run("document.getElementById('start').click()")
        moves = []
        while mine(page):
            legal = buttons(page)
            taken = [k for k, free in enumerate(legal) if not free]
            assert len(taken) == 2 * len(moves) + 1
            # A field that is taken: neither its button, nor the picture, nor a forged message moves anything.
            before = page.run("seatPage.turn.step")
            page.run(f"document.querySelector('[data-choice=\"{taken[0]}\"]').click()")
            page.run(f"seatPage.say({{do: 'act', step: {before}, action: {taken[0]}}})")
            page.wait("document.getElementById('refused').textContent.includes('not legal now')")
            assert page.run("seatPage.turn.step") == before
            move = legal.index(True)
            moves.append(move)
            box = page.run(
                "(({x, y, width, height}) => [x, y, width, height])(seatPage.canvas.getBoundingClientRect())"
            )
            row, column = move % 3, move // 3
            place = {"x": box[0] + box[2] * (column + 0.5) / 3, "y": box[1] + box[3] * (row + 0.5) / 3}
            for kind in ("mousePressed", "mouseReleased"):
                page.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
            page.wait(f"seatPage.phase.phase === 'over' || (seatPage.turn?.acting && seatPage.turn.step > {before})")
        page.wait("document.querySelectorAll('#scores tbody tr').length === 2")
        said = page.texts("#scores tbody td")
        assert page.said == []
        page.open("about:blank")
    recording = Recording.load(game.kept.path)
    assert list(recording.seats.values()) == ["a person as player_2, step 32"]
    episode = recording.episodes[0]
    acting = episode.acting["player_2"]
    assert episode.actions["player_2"][acting].tolist() == moves
    assert said[0] == "you"
    assert float(said[1]) == episode.returns["player_2"]
    assert int(said[2]) == episode.length
    assert said[3] == {1: "won", 0: "drawn", -1: "lost"}[episode.returns["player_2"]]
    assert replayed("classic/tictactoe-v3", episode) == (episode.length, dict(episode.returns))
    shown = Source([run]).content()["replays"]
    assert [one["name"] for one in shown] == ["run, a person as player_2-0001"]


def replayed(name, episode):
    """The length and the returns that a recorded episode's actions lead to in the environment itself."""
    env = resolve(name)[0]()
    env.reset(seed=0)
    returns = dict.fromkeys(env.possible_agents, 0.0)
    for step in range(episode.length):
        mover = env.agent_selection
        assert episode.acting[mover][step]
        env.step(int(episode.actions[mover][step]))
        for agent, reward in env.rewards.items():
            returns[agent] += reward
    assert all(env.terminations.values())
    return episode.length, returns


@pytest.mark.parametrize(("name", "agents", "seat", "steps", "tick"), [
    ("marl/spread-v0", marl.mappo(**SMALL), "agent_1", 8, 0.0),
    ("marl/tag-v0", {"adversary_*": marl.mappo(**SMALL), "agent_*": marl.ippo(**SMALL)}, "agent_0", 60, 0.02),
])  # fmt: skip
@needs_browser
def test_a_browser_plays_a_round_with_the_keyboard(tab, tmp_path, name, agents, seat, steps, tick):
    with (
        marl.MultiAgentSystem(agents, name, num_envs=1, seed=0, env_kwargs={"max_cycles": steps}) as system,
        table(system, tmp_path, [seat], tick=tick) as game,
    ):
        page = tab().open(game.page(seat), 900, 900)
        page.wait("seatPage.hello !== undefined")
        page.run(HOLD if tick else "0")
        page.run("document.getElementById('start').click()")
        if tick:  # an arrow is held: it is the action of every step from then on
            page.wait("seatPage.phase.phase === 'over'")
        else:
            for step, pressed in enumerate(["ArrowLeft", "d", "3", "ArrowUp", " ", "0", "1", "2"]):
                page.wait(f"seatPage.turn?.step === {step}")
                key(page, pressed)
        page.wait("document.querySelectorAll('#scores tbody tr').length === 2")
        said = page.texts("#scores tbody td")
        assert page.said == []
        page.open("about:blank")
    episode = Recording.load(game.kept.path).episodes[0]
    actions = episode.actions[seat].tolist()
    if tick:
        begun = actions.index(1)
        assert actions == [0] * begun + [1] * (steps - begun), "without a key it stays"
        assert begun > 2
        assert said[3] in ("won", "lost", "drawn")
    else:
        assert actions == [1, 2, 3, 4, 0, 0, 1, 2]
    assert episode.length == steps
    assert len(episode.pictures) == steps + 1
    assert float(said[1]) == pytest.approx(episode.returns[seat], rel=1e-3)
    env = resolve(name, {"max_cycles": steps})[0]()
    env.reset(seed=derived_seed(evaluation_seeds(0)[0], 0, 0))  # of the first game
    for step in range(steps):
        _, rewards, _, _, _ = env.step({agent: episode.actions[agent][step] for agent in env.possible_agents})
        assert {agent: episode.rewards[agent][step] for agent in rewards} == pytest.approx(rewards, rel=1e-6)


class Knobs(ParallelEnv):
    """Two agents for three steps: one turns two knobs of a MultiDiscrete, the other two numbers of a Box.

    Rewards are the sums of what was done. It draws nothing; with ``ansi`` it prints the step.
    """

    metadata = {"name": "knobs_v0", "render_modes": ["ansi"]}
    possible_agents = ("dial", "slide")

    def __init__(self, render_mode=None):
        self.agents, self.render_mode = [], render_mode

    def observation_space(self, agent):
        return Box(-1, 1, (2,))

    def action_space(self, agent):
        return MultiDiscrete([2, 3]) if agent == "dial" else Box(-1, 3, (2,))

    def render(self):
        return f"<step {self.time}>"

    def see(self):
        return {agent: np.full(2, self.time / 10, np.float32) for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        self.agents, self.time = list(self.possible_agents), 0
        return self.see(), {"dial": {}, "slide": {}}

    def step(self, actions):
        self.time += 1
        rewards = {agent: float(np.sum(action)) for agent, action in actions.items()}
        ends = dict.fromkeys(self.possible_agents, self.time == 3)
        self.agents = [] if self.time == 3 else self.agents
        return self.see(), rewards, ends, dict.fromkeys(ends, False), {agent: {} for agent in ends}


@pytest.fixture(scope="module")
def knobs():
    with marl.MultiAgentSystem({"dial": marl.ippo(**SMALL), "slide": marl.ippo(**SMALL)}, Knobs, num_envs=1) as system:
        yield system


@needs_browser
def test_two_people_turn_knobs_and_sliders_and_the_game_waits_for_both(knobs, tab, tmp_path):
    with table(knobs, tmp_path, ["dial", "slide"]) as game:
        # A tab in the background draws nothing, but answers.
        slide, dial = tab().open(game.page("slide")), tab().open(game.page("dial"))
        for page in (slide, dial):
            page.wait("seatPage.hello !== undefined && !seatPage.phase.missing.length")
        dial.run("document.getElementById('start').click()")
        assert len(dial.texts("[data-part='1']")) == 3
        for step in range(3):
            for page in (slide, dial):
                page.wait(f"seatPage.turn?.step === {step}")
            assert dial.run("seatPage.canvas.hidden"), "the environment draws nothing"
            assert dial.texts("#seen") == [("0  0", "0.1  0.1", "0.2  0.2")[step]]
            dial.run(f"seatPage.press(0, 1); seatPage.press(1, {step}); document.getElementById('send').click()")
            slide.run("(s => { s.value = 2; s.dispatchEvent(new Event('input')); })(document.querySelector('input'))")
            assert slide.texts("output") == ["2", "0"]
            slide.run("document.getElementById('send').click()")
        for page in (slide, dial):
            page.wait("document.querySelectorAll('#scores tbody tr').length === 2")
            assert page.said == []
            page.open("about:blank")
    episode = Recording.load(game.kept.path).episodes[0]
    assert game.kept.path.name == "dial+slide-0001.npz"
    assert episode.actions["dial"].tolist() == [[1, 0], [1, 1], [1, 2]]
    assert episode.actions["slide"].tolist() == [[2, 0]] * 3
    assert dict(episode.returns) == {"dial": 6.0, "slide": 6.0}


# --- hostile browsers -------------------------------------------------------------------------------------------------


def heard(socket, kind):
    while (message := json.loads(socket.recv(timeout=30)))["kind"] != kind:
        pass
    return message


def closed(socket):
    """How the server ended it."""
    from websockets.exceptions import ConnectionClosed

    try:
        while True:
            socket.recv(timeout=30)
    except ConnectionClosed as ended:
        return ended.rcvd and ended.rcvd.code


def test_hostile_messages_end_their_connection_and_not_the_game(knobs, tmp_path):
    from websockets.exceptions import InvalidStatus

    with table(knobs, tmp_path, ["dial"]) as game:
        for trouble in (
            {"token": "wrong"}, {"token": ""}, {"origin": "http://evil.example"}, {"origin": "null"},
            {"additional_headers": {"Sec-Fetch-Site": "cross-site"}},
        ):  # fmt: skip
            with pytest.raises(InvalidStatus) as refused:
                game.connect("dial", **trouble)
            assert refused.value.response.status_code == 403
        with game.connect("slide") as socket:  # which the agents play
            assert closed(socket) == 1008
        with game.connect("dial") as first:
            heard(first, "hello")
            with game.connect("dial") as second:
                assert closed(second) == 4001
            first.send(json.dumps({"do": "start"}))
            assert heard(first, "turn")["legal"] == [[True] * 2, [True] * 3]
            wrong = (
                *(None, "1", 1, True, [1], [1, 3], [-1, 0], [1, 2, 0], [1, 0.5], [True, 0], [[1], 0], {"0": 1}),
                *([1, 10**30], [float("nan"), 0], [float("inf"), 0]),
            )
            for action in wrong:
                first.send(json.dumps({"do": "act", "step": 0, "action": action}))
                assert "expected" in heard(first, "refused")["why"]
            for step in (1, -1, None, "0", [0]):
                first.send(json.dumps({"do": "act", "step": step, "action": [0, 0]}))
                assert heard(first, "refused")["why"] == "it is not your move"
        for nonsense, code in (
            ("", 1008), ("hello", 1008), ("[" * 1000, 1008), ("null", 1008), ('{"do": "delete"}', 1008),
            ('{"do": ["act"]}', 1008), (b"\x00\x01", 1008), ("x" * (MESSAGE + 1), 1009),
        ):  # fmt: skip
            waited(lambda: game.room.seats["dial"].send is None)
            with game.connect("dial") as socket:
                assert heard(socket, "turn")["step"] == 0, "the game waits where it was"
                socket.send(nonsense)
                assert closed(socket) == code
        waited(lambda: game.room.seats["dial"].send is None)
        with game.connect("dial") as socket:
            for _ in range(RATE + 50):
                with contextlib.suppress(Exception):  # it may be closed already
                    socket.send('{"do": "release"}')
            assert closed(socket) == 4002
        waited(lambda: game.room.seats["dial"].send is None)
        with game.connect("dial") as socket:
            for step in range(3):
                while heard(socket, "turn")["step"] != step:
                    pass
                socket.send(json.dumps({"do": "act", "step": step, "action": [1, 2]}))
            row = heard(socket, "scores")["rows"][0]
        assert (row["person"]["total"], row["person"]["length"]) == (9.0, 3)
        assert row["agents"]["length"] == 3
    assert Recording.load(game.kept.path).episodes[0].actions["dial"].tolist() == [[1, 2]] * 3


def test_pages_of_seats_are_behind_the_same_guard(knobs, tmp_path):
    with table(knobs, tmp_path, ["dial"]) as game:

        def ask(path, method="GET", **headers):
            connection = http.client.HTTPConnection(f"127.0.0.1:{game.port}", timeout=30)
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            data = answer.read().decode()
            connection.close()
            return answer.status, data

        status, page = ask(f"/play?token={TOKEN}&seat=dial")
        assert status == 200
        assert "default-src 'none'; script-src 'sha256-" in page
        assert "connect-src 'self'" in page
        assert ask(f"/play?token={TOKEN}&seat=slide")[0] == 404
        assert ask(f"/play?token={TOKEN}&seat=%3Cscript%3E")[0] == 404
        assert ask("/play?seat=dial")[0] == 401
        assert ask("/play?token=wrong&seat=dial")[0] == 401
        assert ask(f"/play?token={TOKEN}&seat=dial", "POST")[0] == 405
        assert ask(f"/play?token={TOKEN}&seat=dial", Origin="http://evil.example")[0] == 403
        assert ask(f"/play?token={TOKEN}&seat=dial", Host="evil.example")[0] == 403
        assert ask(f"/play/../knobs?token={TOKEN}")[0] in (401, 404)


def test_a_game_that_nobody_ends_is_not_kept(knobs, tmp_path):
    with table(knobs, tmp_path, ["dial"]) as game, game.connect("dial") as socket:
        socket.send(json.dumps({"do": "start"}))
        heard(socket, "turn")
    assert not game.room._thread.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_in_real_time_nothing_pressed_is_the_same_again_where_nothing_does_nothing(tmp_path):
    with (
        marl.MultiAgentSystem(marl.ippo(**SMALL), Team, num_envs=1, env_kwargs={"length": 3}) as system,
        table(system, tmp_path, ["agent_1"], tick=0.3) as game,
        game.connect("agent_1") as socket,
    ):
        assert heard(socket, "hello")["idle"] == "again"
        socket.send(json.dumps({"do": "start"}))
        while heard(socket, "turn")["step"] != 1:
            pass
        socket.send(json.dumps({"do": "act", "action": 1}))
        socket.send(json.dumps({"do": "release"}))
        heard(socket, "scores")
    actions = Recording.load(game.kept.path).episodes[0].actions["agent_1"].tolist()
    assert actions[0] == 0, "the first legal one before anything was pressed"
    assert actions[-1] == 1


def test_in_real_time_groups_and_sliders_stay_as_they_are(knobs, tmp_path):
    with (
        table(knobs, tmp_path, ["dial", "slide"], tick=0.3) as game,
        game.connect("dial") as dial,
        game.connect("slide") as slide,
    ):
        assert [heard(socket, "hello")["idle"] for socket in (dial, slide)] == ["keep", "keep"]
        dial.send(json.dumps({"do": "start"}))
        for socket, action in ((dial, [1, 1]), (slide, [0.5, 3])):
            while heard(socket, "turn")["step"] != 1:
                pass
            socket.send(json.dumps({"do": "act", "action": action}))
        heard(dial, "scores")
    episode = Recording.load(game.kept.path).episodes[0]
    assert episode.actions["dial"].tolist()[0::2] == [[0, 0], [1, 1]]
    assert episode.actions["slide"].tolist()[0::2] == [[0, 0], [0.5, 3]]


# --- controls, opponents, the terminal --------------------------------------------------------------------------------


def test_controls_are_the_choices_that_are_an_agents_own():
    team = team_spec("all", ["a", "b"], [Box(-1, 1, (2,))] * 2, [Discrete(2), Discrete(3)])
    narrow = controls_of(team, 0, Knobs())
    assert narrow.parts[0].names == ("0", "1")
    assert narrow.encoded(1, np.array([False, True, False])).tolist() == 1
    for action in (0, 2, "1", True):
        with pytest.raises(IllegalAction):
            narrow.encoded(action, np.array([False, True, False]))
    assert narrow.rest() is None
    assert narrow.first_legal(np.array([False, True, False])) == [1]
    parts = team_spec("all", ["a", "b"], [Box(-1, 1, (2,))] * 2, [MultiDiscrete([3]), MultiDiscrete([2, 4])])
    first, second = (controls_of(parts, n, Knobs()) for n in range(2))
    assert [len(part.names) for part in first.parts] == [3]
    assert [len(part.names) for part in second.parts] == [2, 4]
    assert first.encoded(2, None).tolist() == [2, 0]
    wide = team_spec("all", ["a", "b"], [Box(-1, 1, (2,))] * 2, [Box(-1, 2, (2,)), Box(-2, 1, (3,))])
    numbers = controls_of(wide, 0, Knobs())
    assert (numbers.low, numbers.high, numbers.rest()) == ((-1, -1), (2, 2), [0, 0])
    assert numbers.encoded([2, -1], None).tolist() == [2, -1, 0]
    for action in ([2.1, 0], [float("nan"), 0], [0], [0, 0, 0], ["0", 0]):
        with pytest.raises(IllegalAction):
            numbers.encoded(action, None)
    for space in (Box(-np.inf, np.inf, (2,)), Box(-1, 1, (9,))):
        with pytest.raises(ConfigError, match="at most 8 bounded numbers"):
            controls_of(team_spec("all", ["a"], [Box(-1, 1, (2,))], [space]), 0, Knobs())


@pytest.mark.parametrize(("returns", "outcome"), [
    ((1, -1), "won"), ((-1, 1), "lost"), ((0, 0), "drawn"), ((2, 1), ""), ((3, 3), ""),
])  # fmt: skip
def test_one_team_in_turns_wins_or_loses_only_where_it_plays_against_itself(returns, outcome):
    episode = RecordedEpisode(dict(zip(("player_0", "player_1"), returns, strict=True)), 1, 0, {}, *[{}] * 5)
    with marl.MultiAgentSystem(marl.ippo(**SMALL), "classic/connect_four-v3", num_envs=1) as system:
        assert Games(system, Seats({"player_0": None})).score(episode).outcome == outcome


def test_a_field_of_a_board_is_the_action_that_takes_it():
    board = BOARDS["tictactoe_v3"]
    assert [[board.action(row, column) for column in range(3)] for row in range(3)] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert board.names()[3] == "row 1, column 2"
    assert BOARDS["connect_four_v3"].names()[6] == "column 7"


def test_seats_and_members_that_there_are_not_are_named_with_those_that_there_are(noughts, knobs):
    system, _ = noughts
    with pytest.raises(ConfigError, match=r"unknown agent 'player_3'.*player_1, player_2"):
        Games(system, Seats({"player_3": None}))
    with pytest.raises(ConfigError, match=r"unknown member 'step 7'.*step 0, step 32, step 64"):
        Games(system, Seats({"player_1": None}, "step 7"))
    with pytest.raises(ConfigError, match="nobody is left"):
        Games(system, Seats({"player_1": None, "player_2": None}, "step 32"))
    with pytest.raises(ConfigError, match="has no league"):
        Games(knobs, Seats({"dial": None}, "step 32"))


def test_in_a_terminal_wrong_input_asks_again_and_the_end_of_it_ends_cleanly(noughts, monkeypatch, capsys):
    _, run = noughts
    words = "9\nthe middle\n-1\n4\n4\n" + "".join(f"{k}\n" for k in range(9)) * 4
    monkeypatch.setattr("sys.stdin", io.StringIO(words))
    assert main(["play", str(run), "--human", "player_1", "--opponent", "step 64"]) == 0
    said = capsys.readouterr().out
    assert "0 3 6\n1 4 7\n2 5 8\nlegal: 0, 1, 2, 3, 4, 5, 6, 7, 8\n" in said
    assert "expected a whole number from 0 to 8" in said
    assert "expected a number, got 'the middle'" in said
    assert "row 2, column 2 is not legal now" in said
    assert "game 1: you " in said
    kept = run / "human" / "player_1-0001.npz"
    assert f"kept in {kept}" in said
    episode = Recording.load(kept).episodes[0]
    assert episode.actions["player_1"][0] == 4
    assert replayed("classic/tictactoe-v3", episode) == (episode.length, dict(episode.returns))
    monkeypatch.setattr("sys.stdin", io.StringIO("0\n"))
    assert main(["play", str(run), "--human", "player_2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["human"], answer["episodes"], answer["record"]) == ("player_2", [], None)


def test_what_an_environment_prints_is_what_a_terminal_shows(knobs, tmp_path):
    from marl.seat.terminal import WANTS, Terminal

    out = io.StringIO()
    terminal = Terminal(io.StringIO("1 5\n1\n1 2\n0 1\n1 0\n"), out)
    games = Games(knobs, Seats({"dial": terminal}), wants=WANTS, shown=terminal.shows)
    recording = games.play(0)
    assert recording.episodes[0].actions["dial"].tolist() == [[1, 2], [0, 1], [1, 0]]
    said = out.getvalue()
    assert [line for line in said.splitlines() if "<" in line] == ["<step 0>", "<step 1>", "<step 2>"]
    assert "legal: part 1: 0, 1; part 2: 0, 1, 2" in said
    assert "expected 2 numbers, got 1" in said
    with pytest.raises(ConfigError, match="marl view RUN --play"):
        terminal.check(Games(knobs, Seats({"slide": terminal})).controls["slide"])


def test_games_begin_alike_whoever_plays_and_are_kept_one_after_the_other(tmp_path):
    class Still:
        def see(self, turn):
            pass

        def choose(self, turn):
            return turn.controls.encoded(0, turn.mask)

    with marl.MultiAgentSystem(
        marl.mappo(**SMALL), "marl/spread-v0", num_envs=1, env_kwargs={"max_cycles": 3}
    ) as system:
        games = Games(system, Seats({"agent_0": Still()}), seed=5)
        kept = Kept(tmp_path, ["agent_0", "../x y"])
        played = [games.play(n) for n in (0, 1, 0)]
        for one in played:
            kept.add(one)
        own = [games.own(n) for n in (0, 0)]
    seen = [one.episodes[0].observations["agent_0"] for one in played]
    assert np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0][0], seen[1][0])
    assert own[0] == own[1]
    assert own[0].outcome == "", "one side: nobody to win against"
    assert kept.path == tmp_path / "human" / "agent_0+.._x_y-0001.npz"
    whole = Recording.load(kept.path)
    assert [one.copy for one in whole.episodes] == [0, 1, 2]
    for one, alone in zip(whole.episodes, played, strict=True):
        assert one.returns == alone.episodes[0].returns
        for mine, first in zip(one.pictures, alone.episodes[0].pictures, strict=True):
            assert [whole.texts[int(k)] for k in mine[:, 7]] == [alone.texts[int(k)] for k in first[:, 7]]
    assert len(joined(played[0], played[1]).episodes) == 2
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "human").symlink_to(tmp_path)
    with pytest.raises(OSError, match="is a link"):
        Kept(tmp_path / "linked", ["agent_0"]).add(played[0])


def test_the_command_has_an_address_for_each_seat_and_writes_nothing_of_the_run_but_its_games(noughts):
    from websockets.sync.client import connect

    _, run = noughts
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    process = start("view", run, "--play", "--json", "--seat", "player_2", "player_1")
    try:
        seats = json.loads(process.stdout.readline())["seats"]
        places = [seats[name].replace("http:", "ws:").replace("/play", "/seat") for name in ("player_1", "player_2")]
        with connect(places[0], proxy=None) as first, connect(places[1], proxy=None) as second:
            first.send('{"do": "start"}')
            for step, move in enumerate((0, 3, 1, 4, 2)):  # the first player's column is full
                socket = (first, second)[step % 2]
                while not (turn := heard(socket, "turn"))["acting"] or turn["step"] != step:
                    pass
                socket.send(json.dumps({"do": "act", "step": step, "action": move}))
            assert heard(first, "scores")["file"] == "run/human/player_2+player_1-0001.npz"
    finally:
        process.send_signal(signal.SIGINT)
        assert finish(process, 30).code in (0, 130)
    kept = run / "human" / "player_2+player_1-0001.npz"
    assert Recording.load(kept).episodes[0].returns == {"player_1": 1.0, "player_2": -1.0}
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path != kept}
    assert after == before


def test_options_of_seats_alone_are_refused_in_a_line(noughts, capsys, tmp_path):
    _, run = noughts
    for words in (
        ["view", str(run), "--seat", "player_1"], ["view", str(run), str(run), "--play"],
        ["view", str(run), "--play", "--tick", "11"], ["view", str(run), "--play", "--seat", "nobody"],
        ["play", str(run), "--opponent", "step 32"], ["play", str(run), "--human", "x", "--gif", "a.gif"],
        ["play", str(run), "--human", "nobody"], ["play", str(run), "--human", "player_1", "--opponent", "nobody"],
    ):  # fmt: skip
        assert main(words) == 2, words
        said = capsys.readouterr()
        assert (said.err.count("\n"), said.out) == (1, ""), said
