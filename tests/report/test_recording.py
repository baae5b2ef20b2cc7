"""Recordings: the episodes of an evaluation as data, in a file that nothing is unpickled from."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
import torch

import marl
from marl.report import Recording, record
from marl.report.drawing import CIRCLE, COLUMNS, NAME
from marl.report.recording import HEADER, changes, frame_bytes
from marl.types import ConfigError
from tests.support.tiny import Acting, Team

PPO = {"rollout": 8, "minibatches": 1}


class Painted(Team):
    """Frames on which a white square walks one pixel a step over a grey ground that stays as it is."""

    metadata = {"name": "painted_v0", "render_modes": ["rgb_array"], "render_fps": 5}

    def render(self):
        ground = np.random.default_rng(0).integers(90, 99, (700, 400, 3), dtype=np.uint8)
        ground[40:120, 2 * self.time : 80 + 2 * self.time] = 255
        return ground


def untrained(env, learner=None, **how):
    return marl.MultiAgentSystem(learner or marl.mappo(**PPO), env, num_envs=2, seed=0, **how)


def test_a_recording_holds_the_very_episodes_of_the_evaluation():
    system = untrained("marl/spread-v0")
    made = record(system, 20, seed=4)
    report = system.evaluate(20, seed=4, decentralized=True)
    assert tuple(episode.total for episode in made.episodes) == report.returns
    assert tuple(episode.length for episode in made.episodes) == report.episode_lengths
    one = made.episodes[0]
    for agent in made.agents:
        np.testing.assert_allclose(one.rewards[agent].sum(), one.returns[agent], rtol=1e-5)
        assert one.ends[agent].tolist() == [0] * 24 + [2]
        assert one.observations[agent].shape == (26, 18)
        np.testing.assert_allclose(one.scores[agent].sum(-1), 1, atol=1e-5)
        assert one.actions[agent].tolist() == one.scores[agent].argmax(-1).tolist()  # greedy
    assert made.scores_are == dict.fromkeys(made.agents, "probabilities")


def test_pictures_of_a_compiled_world_are_marks_up_to_the_true_end():
    made = record(untrained("marl/spread-v0"), 3, seed=1)
    assert made.pictures_are == "marks"
    for episode in made.episodes:
        assert len(episode.pictures) == 26
        for agent in made.agents:  # where an agent sees itself is where it is drawn
            where = made.texts.index(agent)
            for seen, marks in zip(episode.observations[agent], episode.pictures, strict=True):
                name = marks[(marks[:, 0] == NAME) & (marks[:, 7] == where)][0]
                if (np.abs(seen[2:4]) < 1).all():  # who is farther out is drawn at the edge
                    np.testing.assert_allclose(name[1:3], seen[2:4], atol=1e-5)
        assert (episode.pictures[0][:, 0] == CIRCLE).sum() == 6


def test_mpe2_is_drawn_from_its_state_too():
    pytest.importorskip("mpe2")
    made = record(untrained("mpe2.simple_spread_v3"), 2, seed=1)
    assert made.pictures_are == "marks"
    seen, marks = made.episodes[1].observations["agent_1"][-1], made.episodes[1].pictures[-1]
    name = marks[(marks[:, 0] == NAME) & (marks[:, 7] == made.texts.index("agent_1"))][0]
    np.testing.assert_allclose(name[1:3], seen[2:4], atol=1e-5)


def test_messages_are_what_was_heard_and_others_have_values():
    made = record(untrained("marl/reference-v0", marl.mappo(channel=marl.CommNet(), **PPO)), 1, seed=2)
    one = made.episodes[0]
    assert one.messages["team"].shape[0] == one.weights["team"].shape[0] == one.length
    assert not one.weights["team"][0].any()  # nothing has been said before the first step
    assert (one.weights["team"][1:].sum((1, 2)) > 0).all()
    values = record(untrained("marl/spread-v0", marl.iql()), 1, seed=2)
    assert values.scores_are["agent_0"] == "values"
    best = values.episodes[0].scores["agent_0"].argmax(-1)
    assert best.tolist() == values.episodes[0].actions["agent_0"].tolist()


def test_frames_are_made_smaller_and_take_the_room_that_was_told():
    told = []
    system = untrained(lambda **kw: Painted(length=40, **kw))
    made = record(system, 4, seed=0, tell=told.append)
    assert made.pictures_are == "frames"
    assert made.rate == 5
    frames = made.episodes[2].pictures
    assert [frame.shape for frame in frames] == [(234, 134, 3)] * 41
    whole = Painted(length=40)
    whole.time = 40
    np.testing.assert_array_equal(frames[-1], whole.render()[::3, ::3])
    assert len(told) == 1
    expected = frame_bytes(frames[:25]) * 40 * 4
    assert f"{expected / 1e6:,.1f} MB" in told[0]
    without = record(system, 4, seed=0, pictures=False)
    assert without.pictures_are == ""
    first = sum(len(np.ascontiguousarray(changes(one.pictures)[:1]).tobytes()) for one in made.episodes)
    grown = len(made.to_bytes()) - len(without.to_bytes())
    assert 0.8 * expected < grown < 1.2 * expected + first


def test_a_file_gives_back_what_was_recorded(tmp_path):
    for env in ("marl/spread-v0", lambda **kw: Painted(widths=(3, 2), choices=(2, 3), die=(4,), **kw)):
        made = record(untrained(env, marl.ippo(**PPO), shaping=[marl.shaping.StepCost(0.5)]), 3, seed=1)
        again = Recording.load(made.save(tmp_path / "folder" / "episodes.npz"))
        assert again.to_bytes() == made.to_bytes()
        assert (again.env, again.teams, again.texts) == (made.env, made.teams, made.texts)
        for one, other in zip(made.episodes, again.episodes, strict=True):
            assert one.returns == other.returns
            for name in ("observations", "actions", "rewards", "acting", "ends", "masks", "shaping"):
                for agent in made.agents if getattr(one, name) else ():
                    np.testing.assert_array_equal(getattr(one, name)[agent], getattr(other, name)[agent])
            assert all(np.array_equal(a, b) for a, b in zip(one.pictures, other.pictures, strict=True))


def test_a_hundred_episodes_of_spread_take_less_than_a_megabyte():
    assert len(record(untrained("marl/spread-v0"), 100, seed=0).to_bytes()) < 1_000_000


def test_files_that_are_no_recordings_are_refused_in_a_line(tmp_path):
    good = record(untrained("marl/spread-v0"), 2, seed=0).to_bytes()

    def entry(array, pickled=False):
        out = io.BytesIO()
        np.lib.format.write_array(out, array, allow_pickle=pickled)
        return out.getvalue()

    def changed(**entries):
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(good)) as there, zipfile.ZipFile(out, "w") as made:
            for name in there.namelist():
                made.writestr(name, entries.get(name.removesuffix(".npy"), there.read(name)))
        return out.getvalue()

    def headed(**fields):
        with zipfile.ZipFile(io.BytesIO(good)) as there:
            header = json.loads(np.load(io.BytesIO(there.read(f"{HEADER}.npy"))).tobytes())
        return changed(**{HEADER: entry(np.frombuffer(json.dumps(header | fields).encode(), np.uint8))})

    wrong = {
        "empty": b"",
        "torn": good[: len(good) // 2],
        "pickled": changed(marks=entry(np.array([print], dtype=object), pickled=True)),
        "longer": changed(lengths=entry(np.array([25, 26]))),
        "negative": changed(lengths=entry(np.array([60, -10]))),
        "marks": changed(marks=entry(np.zeros((COLUMNS - 1, 9), np.float32))),
        "texts": headed(texts=[]),
        "agents": headed(teams={"team": ["agent_0", "stranger"]}),
        "version": headed(format=2),
        "list": headed(episodes=3),
        "rate": headed(rate=0),
    }
    for name, data in wrong.items():
        (tmp_path / f"{name}.npz").write_bytes(data)
        with pytest.raises(ConfigError, match=rf"recording .*{name}\.npz"):
            Recording.load(tmp_path / f"{name}.npz")
    with pytest.raises(ConfigError, match="cannot be read"):
        Recording.load(tmp_path / "nowhere.npz")


def test_the_command_writes_what_the_evaluation_plays(tmp_path, capsys):
    from marl.cli import main

    system = untrained("marl/spread-v0")
    system.train(steps=32, run_dir=tmp_path / "run")
    out = tmp_path / "run" / "episodes.npz"
    capsys.readouterr()
    assert main(["play", str(tmp_path / "run"), "--record", str(out), "--episodes", "2", "--seed", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["record"] == str(out)
    report = system.evaluate(2, seed=3, decentralized=True)
    assert [sum(one["returns"].values()) for one in said["episodes"]] == list(report.returns)
    assert [one.total for one in Recording.load(out).episodes] == list(report.returns)
    for words in (
        *(["--record", "x.zip"], ["--record", "x.npz", "--gif", "x.gif"]),
        *(["--against", "team=x"], ["--record", "x.npz", "--against", "team"]),
    ):
        assert main(["play", str(tmp_path / "run"), *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1


# --- what learning sees -----------------------------------------------------------------------------------------------


def test_values_are_what_the_critic_says_of_the_whole_episode():
    for learner in (marl.ippo(network=marl.GRU(), **PPO), marl.mappo(normalize_values=True, **PPO)):
        system = untrained("marl/spread-v0", learner)
        if learner.normalize_values:
            system.train(steps=64)
        made = record(system, 3, seed=4)
        one, model = made.episodes[1], system.learners[0].model
        assert made.discounts == {"team": learner.discount}
        obs = torch.from_numpy(np.stack([one.observations[agent][:-1] for agent in made.agents], 1)).unsqueeze(1)
        started = torch.zeros(one.length, 1, dtype=torch.bool)
        started[0] = True
        with torch.no_grad():  # all rows at once, as in learning
            seen = model.critic.encode(model.joint_input(obs, None))
            carry = torch.zeros(1, *model.critic.carry_shape)
            acting = torch.ones(one.length, 1, 3, dtype=torch.bool)
            outputs, _ = model.critic_value(seen, carry, started, acting, torch.zeros(one.length, 1, 3))
            values = model._denormalize(model.value_of(outputs, torch.zeros(one.length, 1, 3)))[:, 0].numpy()
        for n, agent in enumerate(made.agents):
            np.testing.assert_allclose(one.values[agent], values[:, n], atol=1e-4)


def test_values_of_best_actions_are_a_learners_own_and_no_share_of_a_mixers():
    own = record(untrained("marl/spread-v0", marl.iql()), 1, seed=2).episodes[0]
    assert own.values["agent_1"].tolist() == own.scores["agent_1"].max(-1).tolist()
    assert record(untrained("marl/spread-v0", marl.qmix()), 1, seed=2).episodes[0].values == {}


def test_what_shaping_adds_stands_beside_raw_rewards():
    plain = record(untrained("marl/spread-v0"), 2, seed=1).episodes[0]
    hooks = [marl.shaping.StepCost(0.25)]
    one = record(untrained("marl/spread-v0", shaping=hooks), 2, seed=1).episodes[0]
    for agent in ("agent_0", "agent_2"):
        np.testing.assert_allclose(one.shaping[agent], np.full(25, -0.25), atol=1e-6)
        assert one.rewards[agent].tolist() == plain.rewards[agent].tolist()
    remembers = untrained("marl/spread-v0", shaping=[marl.shaping.RND()])
    assert record(remembers, 1, seed=1).episodes[0].shaping == {}
    assert plain.shaping == {}


def test_attention_is_shared_out_among_those_who_are_heard():
    system = untrained("marl/spread-v0", marl.mappo(channel=marl.TarMAC(), **PPO))
    made = record(system, 2, seed=2)
    one = made.episodes[0]
    assert one.total == system.evaluate(2, seed=2, decentralized=True).returns[0]  # looking on changes nothing
    assert not one.attention["team"][0].any()  # nothing has been said before the first step
    np.testing.assert_allclose(one.attention["team"][1:].sum(-1), 1, atol=1e-5)
    assert (one.attention["team"][:, range(3), range(3)] == 0).all()  # nobody hears itself
    assert one.gates["team"].tolist() == [[1.0] * 3] * 25
    gated = record(untrained("marl/spread-v0", marl.mappo(channel=marl.IC3Net(), **PPO)), 1, seed=2).episodes[0]
    assert set(np.unique(gated.gates["team"])) <= {0.0, 1.0}
    assert gated.attention == {}
    heard = gated.weights["team"][1:] > 0
    assert not heard[gated.gates["team"][:-1][:, None, :].repeat(3, 1) == 0].any()  # a closed gate is not heard


def test_another_system_plays_a_team_that_is_given_to_it(tmp_path):
    env = "pettingzoo.classic.tictactoe_v3"
    pytest.importorskip("pettingzoo.classic.tictactoe_v3")
    ours = untrained(env, {"player_1": marl.ippo(**PPO), "player_2": marl.ippo(**PPO)})
    theirs = untrained(env, {"player_1": marl.Random(), "player_2": marl.Random()})
    alone, made = record(ours, 2, seed=1), record(ours, 2, seed=1, against={"player_2": ("guest", theirs)})
    again = Recording.load(made.save(tmp_path / "episodes.npz"))
    assert dict(again.seats) == {"player_2": "guest"}
    assert alone.seats == {}
    assert "player_2" not in made.episodes[0].values  # its critic is not there
    assert alone.episodes[0].actions["player_1"][0] == made.episodes[0].actions["player_1"][0]
    with pytest.raises(ConfigError, match=r"against: .*player_9"):
        record(ours, 1, against={"player_9": ("guest", theirs)})


def test_entries_of_observations_are_called_as_their_space_calls_them():
    from gymnasium.spaces import Box, Dict, Discrete, Tuple

    from marl.spaces import entries

    box = Box(-1, 1, (2,), np.float32)
    space = Dict({"goal": Discrete(2), "own": Dict({"at": box}), "both": Tuple((box, Box(0, 1, (1,), np.float32)))})
    wanted = ["both.0[0]", "both.0[1]", "both.1", "goal = 0", "goal = 1", "own.at[0]", "own.at[1]"]
    assert sorted(entries(space)) == sorted(wanted)
    assert entries(box) == []
    made = record(untrained(lambda **kw: Acting(Discrete(2), goals=True, **kw), marl.ippo(**PPO)), 1, seed=0)
    names = made.names["agent_0"]
    assert len(names) == made.episodes[0].observations["agent_0"].shape[1]
    assert names == ("achieved_goal", "desired_goal", "observation")
