"""Messages as actions: any PettingZoo environment with a channel."""

from __future__ import annotations

import marl_envs
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from pettingzoo import ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec

import marl
from marl import adapters
from marl.adapters.spoken_batch import SpokenBatch
from marl.adapters.spoken_envs import SpokenAEC, SpokenParallel
from marl.channels import Link
from marl.conformance import check
from marl.topology import Complete, Graph, Ring, Star, Within
from tests.support.tiny import Team, Turns


class Room(Team):
    """Team with any action space, which remembers what it was told to do."""

    def __init__(self, action=None, **options):
        super().__init__(**options)
        self.given = {}
        self._act = {agent: action or Discrete(2) for agent in self.possible_agents}

    def step(self, actions):
        self.given = dict(actions)
        return super().step({agent: int(np.ravel(action)[0]) % 2 for agent, action in actions.items()})


def inbox(observation, words=4):
    """What stands behind the three numbers of the world, a row for each sender."""
    return np.asarray(observation)[3:].reshape(-1, words)


def say(word, own=0, words=4):
    return own * words + word


def test_what_is_said_in_a_step_is_read_in_the_next():
    env = marl.Spoken(words=4).wrap(Room())
    observations, _ = env.reset(seed=0)
    assert all((inbox(row) == 0).all() for row in observations.values())
    assert env.action_space("agent_0") == Discrete(8)
    assert env.observation_space("agent_0").shape == (3 + 2 * 4,)
    words = {"agent_0": 1, "agent_1": 2, "agent_2": 3}
    observations, *_ = env.step({agent: say(word, own=word % 2) for agent, word in words.items()})
    assert env.unwrapped.given == {"agent_0": 1, "agent_1": 0, "agent_2": 1}
    assert inbox(observations["agent_0"]).argmax(-1).tolist() == [2, 3]
    assert inbox(observations["agent_1"]).argmax(-1).tolist() == [1, 3]
    assert (inbox(observations["agent_2"]).sum(-1) == 1).all()
    observations, *_ = env.step(dict.fromkeys(words, say(0)))
    assert inbox(observations["agent_0"]).argmax(-1).tolist() == [0, 0]
    observations, _ = env.reset()
    assert all((inbox(row) == 0).all() for row in observations.values())


ACTIONS = {
    "discrete": (Discrete(3), Discrete(12), [say(2, own=1), say(0, own=2)], [1, 2]),
    "start": (Discrete(3, start=-1), Discrete(12, start=-1), [say(2, own=1) - 1, say(0) - 1], [0, -1]),
    "multidiscrete": (MultiDiscrete([2, 3]), MultiDiscrete([2, 3, 4]), [[1, 2, 2], [0, 1, 0]], [[1, 2], [0, 1]]),
    "multibinary": (MultiBinary(2), MultiBinary(6), [[1, 0, 0, 0, 1, 0], [0, 1, 1, 0, 0, 0]], [[1, 0], [0, 1]]),
    "box": (
        Box(-2, 3, (2,), np.float32),
        Box(np.array([-2, -2, *[-1] * 4], np.float32), np.array([3, 3, *[1] * 4], np.float32)),
        [[0.5, 3, 0, 0, 1, 0], [1, 2, 1, 0, 0, 0]],
        [[0.5, 3], [1, 2]],
    ),
}


@pytest.mark.parametrize("kind", ACTIONS)
def test_every_kind_of_action_has_room_for_a_message(kind):
    action, expected, given, own = ACTIONS[kind]
    env = marl.Spoken(words=4).wrap(Room(action, widths=(3, 3), choices=(2, 2)))
    assert env.action_space("agent_0") == expected
    env.reset(seed=0)
    actions = {f"agent_{n}": np.array(part, expected.dtype) for n, part in enumerate(given)}
    assert all(expected.contains(np.asarray(one)) for one in actions.values())
    observations, *_ = env.step(actions)
    for n, part in enumerate(own):
        found = env.unwrapped.given[f"agent_{n}"]
        assert np.array_equal(found, part)
        assert action.contains(np.int64(found) if isinstance(action, Discrete) else found)
    assert inbox(observations["agent_1"]).tolist() == [[0, 0, 1, 0]]
    assert inbox(observations["agent_0"]).tolist() == [[1, 0, 0, 0]]
    system = marl.MultiAgentSystem(
        marl.ippo(rollout=8, minibatches=1), lambda: Room(action), channel=marl.Spoken(words=3), num_envs=2
    )
    system.train(steps=32)
    assert system.evaluate(2).returns == system.evaluate(2, decentralized=True).returns


def test_topology_says_who_has_an_inbox_and_who_has_words():
    graph = Graph([("agent_0", "agent_1"), ("agent_0", "agent_2", 0.5)])
    env = marl.Spoken(words=4, topology=graph).wrap(Room())
    assert [env.action_space(agent).n for agent in env.possible_agents] == [8, 2, 2]
    assert [env.observation_space(agent).shape[0] for agent in env.possible_agents] == [3, 7, 7]
    env.reset(seed=0)
    observations, *_ = env.step({"agent_0": say(3, own=1), "agent_1": 1, "agent_2": 0})
    assert env.unwrapped.given == {"agent_0": 1, "agent_1": 1, "agent_2": 0}
    assert inbox(observations["agent_1"]).tolist() == [[0, 0, 0, 1]]
    assert inbox(observations["agent_2"]).tolist() == [[0, 0, 0, 0.5]]
    assert env.message_entries == ("agent_1<agent_0:3-6", "agent_2<agent_0:3-6")


def test_range_decides_at_the_time_of_speaking():
    env = marl.Spoken(words=2, topology=Within(0.7, (0,))).wrap(Room(length=40))
    observations, _ = env.reset(seed=1)
    near = far = 0
    for _ in range(30):
        position = np.array([observations[agent][0] for agent in env.agents])
        observations, *_ = env.step(dict.fromkeys(env.agents, 1))
        for n, agent in enumerate(env.agents):
            others = [m for m in range(3) if m != n]
            heard = inbox(observations[agent], 2).sum(-1) > 0
            expected = np.abs(position[others] - position[n]) <= 0.7
            assert heard.tolist() == expected.tolist()
            near, far = near + expected.sum(), far + (~expected).sum()
    assert near > 20 < far


@pytest.mark.parametrize("delay", [1, 3])
def test_a_delay_shifts_by_exactly_so_many_steps(delay):
    env = marl.Spoken(words=8, link=Link(delay=delay)).wrap(Room(length=50, widths=(3, 3), choices=(2, 2)))
    env.reset(seed=0)
    said = np.random.default_rng(0).integers(8, size=20)
    for t, word in enumerate(said):
        observations, *_ = env.step({"agent_0": say(int(word), words=8), "agent_1": 0})
        heard = inbox(observations["agent_1"], 8)[0]
        assert heard.sum() == (t >= delay)
        assert t < delay or heard.argmax() == said[t - delay]


def test_loss_has_its_frequency_and_is_seeded():
    env = marl.Spoken(words=2, link=Link(loss=0.3)).wrap(Room(length=400))

    def play(seed):
        env.reset(seed=seed)
        return np.stack([inbox(env.step(dict.fromkeys(env.agents, 0))[0]["agent_1"], 2).sum(-1) for _ in range(300)])

    first = play(5)
    assert first.mean() == pytest.approx(0.7, abs=0.05)
    assert (first == play(5)).all()
    assert (first != play(6)).any()
    assert abs(np.corrcoef(first.T)[0, 1]) < 0.15  # each link on its own


def test_budget_and_quiet_words():
    env = marl.Spoken(words=3, link=Link(budget=2), quiet=True).wrap(Room(widths=(3, 3), choices=(2, 2)))
    env.reset(seed=0)
    heard = []
    for word in (1, 0, 0, 2, 1, 2):
        observations, *_ = env.step({"agent_0": word, "agent_1": 0})
        heard.append(inbox(observations["agent_1"], 3)[0].tolist())
    assert heard == [[0, 1, 0], [0] * 3, [0] * 3, [0, 0, 1], [0] * 3, [0] * 3]
    env.reset()
    observations, *_ = env.step({"agent_0": 1, "agent_1": 0})
    assert inbox(observations["agent_1"], 3)[0].tolist() == [0, 1, 0]


def test_the_dead_are_silent():
    env = marl.Spoken(words=2).wrap(Room(die=(None, 2), widths=(3, 3, 3), choices=(2, 2, 2)))
    env.reset(seed=0)
    counts = []
    for _ in range(5):
        observations, *_ = env.step(dict.fromkeys(env.agents, 1))
        counts.append(inbox(observations["agent_0"], 2).sum(-1).tolist())
    assert counts == [[1, 1], [1, 1], [0, 1], [0, 1], [0, 1]]  # its last word still arrives


def test_numbers_suffer_what_numbers_can():
    action = Box(-1, 1, (1,), np.float32)
    link = Link(floats=2, bits=1)
    env = marl.Spoken(words=3, link=link).wrap(Room(action, widths=(3, 3), choices=(2, 2)))
    env.reset(seed=0)
    observations, *_ = env.step(dict.fromkeys(env.agents, np.array([0, 0.3, -0.2, 0.9], np.float32)))
    assert inbox(observations["agent_0"], 3)[0].tolist() == [1, -1, 0]


class Masked(Team):
    """Action 0 is legal at even times only, by observation or by info; observations of a few kinds."""

    def __init__(self, where="observation", **options):
        super().__init__(**options)
        self.where = where

    def observation_space(self, agent):
        space = super().observation_space(agent)
        if self.where == "observation":
            return spaces.Dict({"observation": space, "action_mask": Box(0, 1, (2,), np.int8)})
        return space

    @property
    def mask(self):
        return np.array([self.time % 2 == 0, True], dtype=np.int8)

    def _masked(self, observations, infos):
        if self.where == "observation":
            return {a: {"observation": row, "action_mask": self.mask} for a, row in observations.items()}, infos
        return observations, {a: {"action_mask": self.mask} for a in observations}

    def reset(self, seed=None, options=None):
        return self._masked(*super().reset(seed, options))

    def step(self, actions):
        assert all(self.mask[action] for action in actions.values())
        observations, *middle, infos = super().step(actions)
        observations, infos = self._masked(observations, infos)
        return observations, *middle, infos


@pytest.mark.parametrize("where", ["observation", "info"])
def test_masks_know_of_words(where):
    env = marl.Spoken(words=3).wrap(Masked(where))
    observations, infos = env.reset(seed=0)
    observations, _, _, _, infos = env.step(dict.fromkeys(env.agents, 5))
    mask = observations["agent_0"]["action_mask"] if where == "observation" else infos["agent_0"]["action_mask"]
    assert mask.tolist() == [0, 0, 0, 1, 1, 1]
    if where == "observation":
        assert env.observation_space("agent_0").contains(observations["agent_0"])
        assert observations["agent_0"]["observation"][3:].tolist() == [0, 0, 1, 0, 0, 1]
    system = marl.MultiAgentSystem(
        marl.iql(learning_starts=10, batch=8), lambda: Masked(where), channel=marl.Spoken(words=3), num_envs=2
    )
    system.train(steps=60)  # the environment itself refuses what is illegal


class Mixed(ParallelEnv):
    """Agents who see a choice, a dictionary, and nothing but bits."""

    metadata = {"name": "mixed_v0"}
    possible_agents = ["a", "b", "c"]
    seen = {
        "a": Discrete(3),
        "b": spaces.Dict({"x": Box(-1, 1, (2,), np.float32), "n": Discrete(2)}),
        "c": MultiBinary(2),
    }

    def observation_space(self, agent):
        return self.seen[agent]

    def action_space(self, agent):
        return Discrete(2)

    def _look(self):
        return {"a": 2, "b": {"x": np.array([0.5, -0.5], np.float32), "n": 1}, "c": np.array([0, 1], np.int8)}

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return self._look(), {agent: {} for agent in self.agents}

    def step(self, actions):
        no = dict.fromkeys(self.agents, False)
        return self._look(), dict.fromkeys(self.agents, 0.0), no, no, {agent: {} for agent in self.agents}


def test_observations_of_any_kind_become_vectors():
    env = marl.Spoken(words=2, topology=Ring(directed=True)).wrap(Mixed())
    env.reset(seed=0)
    observations, *_ = env.step(dict.fromkeys(env.agents, 1))
    assert observations["a"].tolist() == [0, 0, 1, 0, 1]
    assert observations["b"].tolist() == [0, 1, 0.5, -0.5, 0, 1]  # as Gymnasium flattens: keys in order
    assert observations["c"].tolist() == [0, 1, 0, 1]
    assert all(env.observation_space(agent).contains(row) for agent, row in observations.items())


def test_turn_based_agents_talk_too():
    env = marl.Spoken(words=3).wrap(Turns(moves=3))
    assert isinstance(env, SpokenAEC)
    env.reset(seed=0)
    observation, *_ = env.last()
    assert observation.tolist() == [0, 0, 0, 0, 0]
    env.step(say(2, own=1, words=3))
    assert env.last()[0].tolist() == [1, 1, 0, 0, 1]
    env.step(say(1, words=3))
    assert env.last()[0].tolist() == [2, 0, 0, 1, 0]
    env.step(say(0, words=3))
    assert env.observe("player_0").tolist() == [3, 0, 0, 1, 0]  # what was said last stays until said anew
    assert env.last()[0].tolist() == [3, 1, 1, 0, 0]
    for recipe in (marl.ippo(rollout=8, minibatches=1), marl.iql(learning_starts=10, batch=8)):
        system = marl.MultiAgentSystem(recipe, Turns, channel=marl.Spoken(words=3, link=Link(loss=0.2)), num_envs=2)
        system.train(steps=64)
        assert system.evaluate(2).returns == system.evaluate(2, decentralized=True).returns


def test_in_turns_too_the_dead_fall_silent():
    env = marl.Spoken(words=2).wrap(parallel_to_aec(Team(die=(1,))))
    env.reset(seed=0)
    heard = []
    while len(heard) < 4:
        observation, _, terminated, truncated, _ = env.last()
        if env.agent_selection == "agent_1":
            heard.append(observation[3:].tolist())
        env.step(None if terminated or truncated else say(1, words=2))
    assert heard[0] == [0, 1, 0, 0]
    assert heard[1] == [0, 1, 0, 1]  # agent_0 is gone, its last word is not
    assert heard[2:] == [[0, 0, 0, 1]] * 2


@pytest.mark.filterwarnings("ignore")
def test_pettingzoo_and_our_own_check_find_nothing_wrong():
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test

    for link in (Link(), Link(loss=0.3, noise=0.1, delay=1)):
        spoken = marl.Spoken(words=3, link=link)
        parallel_api_test(spoken.wrap(Team()), num_cycles=50)
        parallel_seed_test(lambda spoken=spoken: spoken.wrap(Team()))
        api_test(spoken.wrap(Turns()), num_cycles=50)
        seed_test(lambda spoken=spoken: spoken.wrap(Turns()))
        for env in (Team, Masked, Turns):
            report = check(lambda env=env, spoken=spoken: spoken.wrap(env()), steps=200)
            assert report.ok, report.findings


@pytest.mark.parametrize("recipe", [marl.iql, marl.qmix, marl.maddpg, marl.mappo])
def test_any_learner_takes_the_words(recipe):
    quick = {"rollout": 8, "minibatches": 1} if recipe is marl.mappo else {"learning_starts": 10, "batch": 8}
    system = marl.MultiAgentSystem(recipe(**quick), Team, channel=marl.Spoken(words=3), num_envs=2)
    system.train(steps=60)
    assert system.spec.teams[0].action.sizes == (6,)
    assert system.spec.teams[0].obs.shape == (9,)


def test_workers_instances_and_resuming(tmp_path):
    spoken = marl.Spoken(words=3, link=Link(loss=0.3, delay=1))
    config = marl.ippo(rollout=8, minibatches=1)
    straight = marl.MultiAgentSystem(config, "tests.support.tiny:Team", num_envs=2, channel=spoken, seed=2)
    straight.train(steps=84)
    straight.save(tmp_path / "saved")
    straight.train(steps=80)
    resumed = marl.MultiAgentSystem.load(tmp_path / "saved", trust=True)
    assert resumed.spoken == spoken
    resumed.train(steps=80)
    assert resumed.history["episode_rewards"] == straight.history["episode_rewards"]
    with marl.MultiAgentSystem(
        config, "tests.support.tiny:Team", num_envs=2, workers=2, channel=spoken, seed=2
    ) as apart:
        apart.train(steps=164)
        assert apart.history["episode_rewards"] == straight.history["episode_rewards"]
    one = marl.MultiAgentSystem(config, Team(), channel=spoken)
    assert one.spec.teams[0].obs.shape == (9,)
    one.train(steps=16)


def test_a_scenario_can_have_a_channel_and_evaluation_other_links():
    scenario = marl.Scenario(
        name="words", env=Team, agents=marl.ippo(rollout=8, minibatches=1), num_envs=2, channel=marl.Spoken(words=2)
    )
    system = marl.MultiAgentSystem(None, scenario)
    loud = system.learners[0].model.actor.head.weight
    loud.data.mul_(100)
    plain = system.evaluate(8)
    lossless = system.evaluate(8, link="loss=0")
    assert plain.returns == lossless.returns
    assert lossless.changes == ("link: perfect",)
    silent = system.evaluate(8, silence=system.spec.agents)
    assert system.evaluate(8, link="loss=1").returns == silent.returns != plain.returns
    assert system.evaluate(8, shuffle_messages=True).returns != plain.returns
    with pytest.raises(marl.ConfigError, match=r"Link\.bits has no meaning for words"):
        system.evaluate(8, link="bits=2")
    from marl.studies.sweep import sweep

    found = sweep(system, ["loss=0,1"], episodes=8)
    assert [point.mean_return for point in found.curves["loss"]] == [plain.mean_return, silent.mean_return]
    assert found.silent.mean_return == silent.mean_return


class Pictures(Team):
    def observation_space(self, agent):
        return Box(0, 255, (8, 8, 3), np.uint8)


class Two(Team):
    def action_space(self, agent):
        return spaces.Tuple((Discrete(2), Discrete(2)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: marl.Spoken(words=0), "words"),
        (lambda: marl.Spoken(word=2), "unknown field 'word'; did you mean 'words'"),
        (lambda: marl.Spoken().wrap(Pictures()), "agent 'agent_0' sees images"),
        (lambda: marl.Spoken().wrap(Two()), "agent 'agent_0': a message fits beside"),
        (lambda: marl.Spoken(link=Link(bits=2)).wrap(Team()), r"Link\.bits has no meaning for words"),
        (lambda: marl.Spoken(link=Link(floats=2)).wrap(Room(MultiBinary(2))), r"Link\.floats has no meaning"),
        (lambda: marl.Spoken(quiet=True).wrap(Room(Box(-1, 1, (2,), np.float32))), "quiet has no meaning for numbers"),
        (lambda: marl.Spoken(topology=Graph([("agent_0", "agent_7")])).wrap(Team()), "unknown agent 'agent_7'"),
        (lambda: marl.Spoken(topology=Within(1.0, (7,))).wrap(Team()), r"Within\.position"),
        (lambda: marl.Spoken().wrap(Team(widths=(3,), choices=(2,))), "one agent, who has nobody to talk to"),
        (lambda: marl.MultiAgentSystem(marl.ippo(), "CartPole-v1", channel=marl.Spoken()), "one agent"),
        (lambda: marl.MultiAgentSystem(marl.ippo(), Team, channel=marl.channels.CommNet()), "are a learner's"),
        (lambda: marl.MultiAgentSystem(marl.ippo(), Team, channel=4), "expected marl.Spoken"),
        (lambda: marl.Spoken(topology=Complete(), link=Link(delay=-1)), r"Link\.delay"),
    ],
)
def test_what_has_no_meaning_is_refused(make, reason):
    with pytest.raises(marl.ConfigError, match=reason):
        make()


def test_the_wrapper_hides_what_knows_nothing_of_messages():
    env = marl.Spoken().wrap(marl_envs.Spread())
    assert isinstance(env, SpokenParallel)
    assert not hasattr(env, "set_tasks")
    system = marl.MultiAgentSystem(
        marl.ippo(rollout=8, minibatches=1), marl_envs.Spread, channel=marl.Spoken(words=2), num_envs=2
    )
    assert system.spec.teams[0].action.sizes == (10,)
    assert isinstance(system.env, SpokenBatch)


WORLDS = {
    "spread": (lambda: marl_envs.Spread(max_cycles=5), marl.Spoken(words=3, link=Link(delay=1))),
    "numbers": (
        lambda: marl_envs.Spread(max_cycles=5, continuous_actions=True),
        marl.Spoken(words=2, topology=marl.topology.Ring(directed=True), link=Link(bits=3)),
    ),
    "widths": (lambda: marl_envs.Tag(max_cycles=6), marl.Spoken(topology=Star("agent_0"), quiet=True)),
    "near": (
        lambda: marl_envs.Spread(max_cycles=6),
        marl.Spoken(words=3, topology=marl.topology.Within(1.0, (2, 3)), link=Link(budget=3)),
    ),
    "masks": (lambda: marl_envs.TrafficJunction(max_cycles=12), marl.Spoken(words=2)),
    "one room": (marl_envs.SwitchRiddle, marl.Spoken(words=2, quiet=True)),
}


@pytest.mark.parametrize("name", WORLDS)
def test_a_batch_says_and_hears_what_one_world_does(name):
    make, spoken = WORLDS[name]

    def one() -> SpokenParallel:
        env = make()
        return SpokenParallel(env, spoken.wrap(env).exchange)

    face, batch = one(), adapters.make(spoken.source(make), 2)
    assert isinstance(batch, SpokenBatch)
    plain = adapters.make(one, 2)
    assert batch.spec == plain.spec
    rng, team = np.random.default_rng(0), batch.spec.teams[0]
    observations, infos = face.reset(seed=5)
    step = batch.reset(5)
    for _ in range(3):  # episodes
        fresh = True
        while face.agents:
            now = step.teams[0]
            for n, agent in enumerate(team.agents):
                seen = now.obs if fresh else now.next_obs
                if agent in face.agents:
                    np.testing.assert_array_equal(seen[0, n, : team.obs.widths[n]], observations[agent])
                    mask = infos[agent].get("action_mask")
                    if mask is not None:
                        assert np.array_equal(now.action_mask[0, n, : len(mask)], mask.astype(bool))
                else:
                    assert not seen[0, n].any()
            if team.action.kind == "box":
                low, high = np.array(team.action.low), np.array(team.action.high)
                actions = rng.uniform(low, high, (2, *low.shape)).astype(np.float32)
                given = {a: actions[0, n, : team.action.widths[n]] for n, a in enumerate(team.agents)}
            else:
                action_mask = (
                    np.ones((2, len(team.agents), team.action.num_choices), bool)
                    if now.action_mask is None
                    else now.action_mask
                )
                actions = np.where(action_mask, rng.random(action_mask.shape), -1).argmax(-1)
                given = {a: int(actions[0, n]) for n, a in enumerate(team.agents)}
            observations, rewards, _, _, infos = face.step({a: given[a] for a in face.agents})
            step = batch.step([actions])
            fresh = False
            assert [rewards.get(a, 0.0) for a in team.agents] == step.teams[0].reward[0].tolist()
        for n, agent in enumerate(team.agents):  # the last thing seen is the true successor, inbox and all
            if agent in observations:
                np.testing.assert_array_equal(step.teams[0].next_obs[0, n, : team.obs.widths[n]], observations[agent])
        observations, infos = face.reset()


def test_a_batch_divides_into_teams_and_goes_on_exactly():
    spoken = marl.Spoken(words=3, link=Link(loss=0.3, noise=0.1))
    whole, parts = (adapters.make(spoken.source(marl_envs.Tag), 3, p) for p in (None, ["*_[02]", "*"]))
    one, two = whole.reset(1), parts.reset(1)
    order = [whole.spec.agents.index(agent) for agent in parts.spec.agents]
    rng = np.random.default_rng(0)
    for _ in range(30):
        action = rng.integers(0, np.array(whole.spec.teams[0].action.widths), (3, 4))
        one = whole.step([action])
        split = action[:, order]
        sizes = np.cumsum([team.num_agents for team in parts.spec.teams])[:-1]
        two = parts.step(np.split(split, sizes, axis=1))
        rows = [one.teams[0].obs[:, n] for n in order]
        theirs = [team.obs[:, n] for team in two.teams for n in range(team.obs.shape[1])]
        for mine, other in zip(rows, theirs, strict=True):
            width = min(mine.shape[-1], other.shape[-1])
            assert np.array_equal(mine[:, :width], other[:, :width])
    saved = whole.state_dict()
    after = [whole.step([action]).teams[0].obs.copy() for _ in range(30)]
    whole.load_state_dict(saved)
    again = [whole.step([action]).teams[0].obs.copy() for _ in range(30)]
    assert all(map(np.array_equal, after, again))
    alone = adapters.make(spoken.source(marl_envs.Tag), 1)  # a copy's fate, and chance, are its own
    three = adapters.make(spoken.source(marl_envs.Tag), 3)
    alone.reset(4), three.reset(4)
    for _ in range(30):
        assert np.array_equal(alone.step([action[:1]]).teams[0].obs[0], three.step([action]).teams[0].obs[0])


def test_worlds_that_talk_can_have_a_curriculum():
    curriculum = marl.curriculum.DomainRandomization({"max_cycles": marl.curriculum.Among((3, 6))})
    with marl.MultiAgentSystem(
        marl.ippo(rollout=8), marl_envs.Spread, channel=marl.Spoken(words=2), curriculum=curriculum, num_envs=4
    ) as system:
        system.train(steps=320)
        assert set(system.history["episode_lengths"]) == {3, 6}


class Hint(ParallelEnv):
    """One sees a symbol, the other must name it a step later: by chance half of the time, by a word always."""

    metadata = {"name": "hint_v0"}
    possible_agents = ["speaker", "listener"]

    def observation_space(self, agent):
        return MultiBinary(2)

    def action_space(self, agent):
        return Discrete(1 if agent == "speaker" else 2)

    def _look(self):
        return {"speaker": np.eye(2, dtype=np.int8)[self.symbol], "listener": np.zeros(2, np.int8)}

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.agents, self.time, self.symbol = list(self.possible_agents), 0, int(self.random.integers(2))
        return self._look(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.time += 1
        over, agents = self.time == 2, self.agents
        reward = float(over and actions["listener"] == self.symbol)
        self.agents = [] if over else agents
        infos = {agent: {} for agent in agents}
        return (
            self._look(),
            dict.fromkeys(agents, reward),
            dict.fromkeys(agents, over),
            dict.fromkeys(agents, False),
            infos,
        )


def test_words_are_learnt():
    """RIAL: independent Q-learning finds a code, since a word is an action like any other."""
    graph = Graph([("speaker", "listener")])
    learner = marl.iql(
        sharing="none", lr=1e-2, batch=64, learning_starts=100, buffer=1_000, network=marl.MLP((32,), "relu"),
        exploration=marl.exploration.EpsilonGreedy(marl.Linear(1.0, 0.02)), discount=0.9, tau=0.05,
    )  # fmt: skip
    system = marl.MultiAgentSystem(learner, Hint, channel=marl.Spoken(words=2, topology=graph), num_envs=8, seed=0)
    system.train(steps=3_000)
    assert system.evaluate(200).mean_return == 2
    silent = system.evaluate(300, silence="speaker").mean_return
    assert silent == pytest.approx(1, abs=0.2)
    assert system.evaluate(300, shuffle_messages=True).mean_return == pytest.approx(1, abs=0.2)


def test_words_given_to_a_learner_are_sent_where_they_belong():
    with pytest.raises(marl.ConfigError, match="MultiAgentSystem or Scenario channel"):
        marl.iql(channel=marl.Spoken())
