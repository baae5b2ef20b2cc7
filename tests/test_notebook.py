"""What a notebook shows: short words, small escaped tables, pictures, progress; histories as tables and curves."""

from __future__ import annotations

import base64
import dataclasses
import io
import re

import numpy as np
import pandas
import pytest

import marl
from marl.film import Played
from marl.logs.progress import Progress
from marl.notebook import html_image, html_table
from marl.playing.intervals import Difference
from marl.playing.report import Metric
from marl.studies import Exploitation, Sweep, Tournament
from marl.studies.exploit import Exploited
from marl.studies.sweep import Point
from marl.training.history import EpisodeLog, History
from marl.types import ConfigError
from tests.support.tiny import Constant, Team

LEARNER = marl.ippo(rollout=8, minibatches=1, network=marl.MLP((4,)))


@pytest.fixture(scope="module")
def system():
    with marl.MultiAgentSystem(LEARNER, Team, num_envs=2) as made:
        made.train(steps=64, log_every=16)
        yield made


def cells(html):
    """The rows of a table, and nothing but a table."""
    assert re.fullmatch(r"<table><caption>[^<]*</caption>(<tr>(<t[hd]>[^<]*</t[hd]>)*</tr>)*</table>", html)
    return [re.findall(r"<t[hd]>([^<]*)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


def test_tables_escape_every_text_and_round_numbers():
    html = html_table("a < b", [("<script>", 1234, 0.125), ('"', True, None)], ("n&m", "", ""))
    assert "a &lt; b" in html
    assert cells(html) == [["n&amp;m", "", ""], ["&lt;script&gt;", "1,234", "0.12"], ["&quot;", "True", "None"]]


def test_long_tables_are_cut_and_say_so():
    assert cells(html_table("", [(n,) for n in range(35)]))[-2:] == [["29"], ["and 5 more"]]


def test_a_system_shows_environment_teams_learners_and_training(system):
    rows = dict(cells(system._repr_html_()))
    assert rows["team team"] == "PPO: agent_0, agent_1, agent_2"
    assert rows["trained"] == "64 steps, 6 episodes"
    assert rows["device"] == "cpu"
    assert rows["copies"] == "2, 0 worker processes"
    assert rows["mean return"] == f"{system.history['mean_return'][-1]:.2f}"
    assert "MultiAgentSystem on team_v0" in system._repr_html_()


def test_an_agent_shows_its_name_team_and_size(system):
    agent = system.agent("agent_1")
    count = sum(weights.numel() for weights in agent.net.parameters())
    assert repr(agent) == f"<Agent 'agent_1' of team 'team': {count:,} parameters>"
    rows = dict(cells(agent._repr_html_()))
    assert rows["action"] == "Discrete(2)"
    assert rows["observation"].startswith("Box(-1.0, 1.0, (3,)")


def test_a_report_is_a_line_and_a_table(system):
    report = system.evaluate(4, metrics={"turns": lambda episode: float(episode.episode.length)})
    low, high = report.confidence_interval
    assert (
        repr(report)
        == f"<Report: 4 episodes, return {report.mean_return:.2f} (95 % CI over episodes {low:.2f} to {high:.2f})>"
    )
    head, total, *rest = cells(report._repr_html_())
    assert head == ["", "mean", "95 % CI over episodes"]
    assert total == ["return, sum over agents", f"{report.mean_return:.2f}", f"{low:.2f} to {high:.2f}"]
    assert [row[0] for row in rest] == ["agent_0", "agent_1", "agent_2", "turns"]
    assert rest[-1][1:] == ["10.00", "10.00 to 10.00"]
    assert len(repr(report.teams["team"])) < 90
    assert repr(Metric.of([1.0, 1.0])) == "<Metric: 2 episodes, mean 1.000 (95 % CI over episodes 1.000 to 1.000)>"


def test_a_scenario_is_short():
    mine = marl.Scenario(name="mine", env=Team, agents={"agent_*": LEARNER}, steps=5_000, about="a <b>task</b>")
    assert repr(mine) == "<Scenario 'mine': on Team, by agent_* PPO, for 5,000 steps, in 8 copies>"
    assert ["about", "a &lt;b&gt;task&lt;/b&gt;"] in cells(mine._repr_html_())


def test_studies_are_short_and_have_tables():
    pair = np.array([[0.5, 0.75], [0.25, 0.5]])
    cup = Tournament(("a", "b"), ("x", "y"), 10, pair, np.zeros((2, 2, 2)), np.zeros((2, 2)))
    assert repr(cup) == "<Tournament: a, b; 20 games a pair>"
    assert cells(cup._repr_html_())[1][:3] == ["a", "0.00", "0.50"]
    assert cells(dataclasses.replace(cup, games=1)._repr_html_())[1][:3] == ["a", "0.00", "0.50 ="]
    found = Exploitation({"x": Exploited(0.0, 0.5, 0.1)}, 100, 10)
    assert repr(found) == "<Exploitation: NashConv at least 0.336 (95 % confidence over games; estimate 0.500)>"
    assert cells(found._repr_html_())[1] == ["x", "0.00", "0.50", "0.50", "0.304 to 0.696", ""]
    point = Point(0.1, 1.0, 0.5, 1.5)
    sweep = Sweep(7, point, point, {"loss": (point,)})
    assert repr(sweep) == "<Sweep: loss; 7 episodes each>"
    assert cells(sweep._repr_html_())[-1] == ["loss", "0.1", "1.00", "0.50 to 1.50", "", "", ""]
    changed = dataclasses.replace(point, change=Difference(-0.25, (-1.0, 0.5)))
    *_, change, interval, said = cells(Sweep(7, point, changed, {"loss": (point,)})._repr_html_())[2]
    assert (change, interval, said) == ("-0.25", "-1.00 to 0.50", "not distinguishable")


# --- history ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def history():
    made = History()
    made.add({"steps": 10, "loss": 1.0})
    made.add({"steps": 20, "loss": 0.5, "mean_return": 3.0, "evaluation_return": 9.0})
    made.add({"steps": 30, "mean_return": 4.0})
    made["episode_rewards"] += [2.0, 4.0]
    made["episode_lengths"] += [5, 6]
    return made


def test_rows_of_a_history_are_those_that_were_logged(history):
    assert history.rows == [
        {"steps": 10, "loss": 1.0},
        {"steps": 20, "loss": 0.5, "mean_return": 3.0, "evaluation_return": 9.0},
        {"steps": 30, "mean_return": 4.0},
    ]
    assert history["evaluation_return"] == [9.0]


def test_a_history_becomes_a_table_of_pandas_with_empty_cells(history):
    frame = history.to_pandas()
    expected = {
        "steps": [10, 20, 30],
        "loss": [1.0, 0.5, np.nan],
        "mean_return": [np.nan, 3.0, 4.0],
        "evaluation_return": [np.nan, 9.0, np.nan],
    }
    pandas.testing.assert_frame_equal(frame, pandas.DataFrame(expected))
    episodes = history.to_pandas(episodes=True)
    assert episodes.to_dict("list") == {"episode_rewards": [2.0, 4.0], "episode_lengths": [5, 6]}


def test_without_pandas_the_extra_is_named(history, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"pip install 'marl-system\[notebook\]'"):
        history.to_pandas()


def test_a_history_is_a_line_and_a_table_of_metrics(history):
    assert repr(history) == "<History: 2 episodes, 3 rows of metrics, 30 steps, mean_return 4.00>"
    with pytest.raises(KeyError, match="unknown metric 'episode_reward'; did you mean 'episode_rewards'"):
        History()["episode_reward"]
    assert repr(History()) == "<History: 0 episodes, 0 rows of metrics>"
    rows = cells(history._repr_html_())
    assert rows[0] == ["metric", "rows", "first", "last"]
    assert ["loss", "2", "1.00", "0.50"] in rows


def test_a_history_is_drawn_with_evaluations_as_dots(history):
    figure = history.plot()
    (panel,) = figure.axes
    line, dots = panel.get_lines()
    assert line.get_xydata().tolist() == [[20, 3], [30, 4]]
    assert dots.get_xydata().tolist() == [[20, 9]]
    assert figure._repr_png_()[:4] == b"\x89PNG"
    assert [axis.get_ylabel() for axis in history.plot("loss", "mean_return").axes] == [
        "loss",
        "return, sum over all agents",
    ]


def test_a_plot_of_what_was_not_logged_names_what_was(history):
    with pytest.raises(ConfigError, match=r"no kl to plot; known: evaluation_return, loss, mean_return"):
        history.plot("kl")
    with pytest.raises(ConfigError, match="nothing to plot yet"):
        History().plot()


def test_rows_come_back_with_a_saved_state(system):
    log = EpisodeLog(system.spec)
    log.load_state_dict(system.training.log.state_dict())
    assert log.history.rows == system.history.rows
    assert log.history == system.history


def test_a_state_that_says_no_rows_loses_none_but_those_that_nobody_knows(system):
    state = system.training.log.state_dict()
    del state["places"]
    state["history"]["evaluation_return"] = np.array([1.0])
    log = EpisodeLog(system.spec)
    log.load_state_dict(state)
    assert all("evaluation_return" not in row for row in log.history.rows)
    assert [row["steps"] for row in log.history.rows] == system.history["steps"]
    assert log.history["evaluation_return"] == [1.0]


# --- progress ---------------------------------------------------------------------------------------------------------


class Cell(io.StringIO):
    """What a notebook's kernel has in place of stdout."""


Cell.__module__ = "ipykernel.iostream"


def test_progress_in_a_notebook_is_one_line_that_rewrites_itself(monkeypatch):
    stream = Cell()
    monkeypatch.setattr("sys.stdout", stream)
    progress = Progress(1000, ["team"])
    progress.log({"steps": 500, "mean_return": 123456.0})
    progress.note("something to know")
    progress.log({"steps": 1000, "mean_return": 2.0})
    progress.close()
    progress.close()
    written = stream.getvalue()
    assert written.count("\n") == 2  # one after the note, one at the end
    assert "\x1b" not in written
    first, note, last, _ = filter(None, written.replace("\r", "\n").split("\n"))
    assert first.startswith("steps 500/1,000 (50%)")
    assert note.rstrip() == "something to know"
    assert len(note) == len(first)  # nothing of the line below it is left
    assert last.startswith("steps 1,000/1,000 (100%)")


def test_training_shows_its_progress(capfd):
    with marl.MultiAgentSystem(LEARNER, Constant, num_envs=1) as system:
        system.train(steps=16, progress=True)
        system.train(steps=8)
    lines = capfd.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith(("steps ", "compiling ")) for line in lines)
    assert "16/16 (100%)" in lines[-1]


# --- pictures ---------------------------------------------------------------------------------------------------------


class Drawn(Team):
    metadata = {"name": "drawn_v0", "render_modes": ["rgb_array"], "render_fps": 5}

    def render(self):
        return np.full((8, 8, 3), 20 * self.time, dtype=np.uint8)


def test_an_episode_shows_itself(tmp_path):
    with marl.MultiAgentSystem(LEARNER, Drawn, num_envs=1) as system:
        played = system.render_episode(seed=3)
        report = system.evaluate(1, seed=3, num_envs=1, decentralized=True)
        assert len(system.render_episode(max_steps=4).frames) == 5
    assert played.returns == pytest.approx(report.returns_per_agent)
    assert (played.length, played.rate) == (10, 5.0)
    assert [int(frame[0, 0, 0]) for frame in played.frames] == [20 * step for step in range(11)]
    html = played._repr_html_()
    assert f"10 steps, return {report.mean_return:.2f}" in html
    data = re.search(r'src="data:image/gif;base64,([^"]*)"', html)[1]
    assert base64.b64decode(data)[:6] == b"GIF89a"
    assert played.save(tmp_path / "episode.gif").read_bytes() == base64.b64decode(data)
    assert "11 frames" in repr(played)


def test_what_is_done_about_bad_observations_counts_for_pictures_too():
    class Far(Drawn):
        def _look(self, agents):
            return {agent: look * 7 for agent, look in super()._look(agents).items()}

    with marl.MultiAgentSystem(LEARNER, Far, num_envs=1, on_bad_obs="clip") as system:
        assert "clip" in system.evaluate(1, seed=3).faults
        assert system.render_episode(seed=3).length == 10


def test_words_below_a_picture_are_escaped():
    assert "<b>" not in html_image(b"", "gif", "<b>")
    assert "&lt;b&gt; 1.00" in Played([np.zeros((2, 2, 3), np.uint8)], {"<b>": 1.0}, 1)._repr_html_()
