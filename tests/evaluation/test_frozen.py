"""Evaluation plays with frozen copies: a run that is evaluated while it trains is the same run, bit for bit."""

from __future__ import annotations

import pytest
import torch

import marl
from marl.curriculum import Stage, Stages, Steps
from marl.playing.team import FrozenPolicy
from tests.support.equality import assert_equal_trees
from tests.support.tiny import Team, Turns

ON = {"rollout": 8, "minibatches": 2, "network": marl.MLP((16,))}
RECURRENT = {"rollout": 8, "minibatches": 2, "network": marl.GRU(8)}
OFF = {"buffer": 200, "learning_starts": 16, "batch": 8, "network": marl.MLP((16,))}
PAYOFF = {"payoff": [[[0, -1, 1], [1, 0, -1], [-1, 1, 0]], [[0, 1, -1], [-1, 0, 1], [1, -1, 0]]]}
STAGES = Stages([Stage({"width": 3}, Steps(at_least=24)), Stage({"width": 5})])


def dropout(shape, extra):
    return torch.nn.Sequential(torch.nn.Linear(shape[0] + extra, 8), torch.nn.Dropout(0.3), torch.nn.Tanh())


def sides(league, learner=None):
    agents = {name: learner or marl.ippo(**ON) for name in ("agent_0", "agent_1")}
    return lambda: marl.MultiAgentSystem(
        agents, "marl/matrix_game-v0", num_envs=4, env_kwargs=PAYOFF, league=league, seed=1
    )


def team(learner, env=Team, **options):
    return lambda: marl.MultiAgentSystem(learner, env, num_envs=4, seed=1, **options)


FEATURES = {
    "plain": team(marl.ippo(**ON, normalize_obs=True)),
    "recurrent, in turns": team(marl.ippo(**RECURRENT), Turns),
    "dropout": team(marl.ippo(rollout=8, minibatches=2, network=marl.Custom(dropout, 8))),
    "noisy": team(marl.iql(**OFF | {"network": marl.MLP((16,), noisy=0.5)})),
    "off-policy": team(marl.isac(**OFF)),
    "channel": team(marl.ippo(**ON, channel=marl.CommNet(link=marl.Link(loss=0.3, delay=1)))),
    "channel with memory": team(marl.ippo(**RECURRENT, channel=marl.TarMAC(rounds=0))),
    "words": team(marl.ippo(**ON), channel=marl.Spoken(words=2)),
    "shaping": team(marl.ippo(**ON), shaping=[marl.shaping.RND(), marl.shaping.StepCost(0.1)]),
    "curriculum": team(marl.ippo(**ON), "marl/gridworld-v0", env_kwargs={"max_cycles": 8}, curriculum=STAGES),
    "league": sides(marl.League(snapshot_every=24, latest=0.3), marl.ippo(**RECURRENT)),
    "PSRO": sides(marl.PSRO(response_steps=40, games=4, meta_solver="uniform")),
}
WAYS = ({}, {"decentralized": True}, {"greedy": False})


@pytest.mark.parametrize("feature", FEATURES)
def test_evaluation_while_training_leaves_every_bit_of_the_run(feature):
    histories, states = [], []
    for looked in (False, True):
        torch.manual_seed(0)
        with FEATURES[feature]() as system:
            for way in WAYS:
                system.train(steps=32, evaluate_every=16 if looked else None, evaluate_episodes=2, log_every=8)
                if looked:
                    system.evaluate(3, **way)
                    system.agent(system.spec.agents[0], 1)
            unlike = ("steps_per_second", "evaluation_return")
            histories.append({name: row for name, row in system.history.items() if name not in unlike})
            state = system.state_dict()
            states.append({name: own for name, own in state.items() if name not in ("history", "places")})
    assert_equal_trees(*({**state, "parts": without(state["parts"])} for state in states))
    for name in ("episode_rewards", "episode_lengths"):
        assert histories[0][name] == histories[1][name]


def without(parts):
    """Statistics of messages are of the rows since the last row of metrics, and evaluations make rows."""
    return {name: own for name, own in parts.items() if name != "messages"}


def test_a_frozen_policy_acts_as_its_learner_did():
    with FEATURES["plain"]() as system:
        system.train(steps=64)
        learner = system.learners[0]
        frozen = FrozenPolicy(learner, greedy=True)
        inputs = learner.memory.current()
        before, _ = frozen.act(inputs, torch.Generator())
        assert torch.equal(before, learner.act(inputs, explore=False).env_action)
        learner.model.parameters_flat.values.normal_(0.0, 3.0)
        assert torch.equal(before, frozen.act(inputs, torch.Generator())[0])
        sampled = FrozenPolicy(learner, greedy=False).act(inputs, torch.Generator().manual_seed(3))[0]
        again = learner.act(inputs, explore=True, generator=torch.Generator().manual_seed(3)).env_action
        assert torch.equal(sampled, again)


def test_a_module_that_is_given_out_again_is_copied():
    runs = []
    for looked in (False, True):
        torch.manual_seed(0)
        module = dropout((3,), 3)
        learner = marl.ippo(
            rollout=8, minibatches=2, network=marl.Custom(lambda shape, extra, one=module: one, 8),
            critic_network=marl.MLP((8,)),
        )  # fmt: skip
        with marl.MultiAgentSystem(learner, Team, num_envs=4, seed=1) as system:
            system.train(steps=64)
            if looked:
                system.evaluate(2)
            system.train(steps=64)
            runs.append(system.state_dict()["learners"])
    assert_equal_trees(*runs)


def test_experiments_are_one_object_and_old_keywords_make_it():
    from marl.playing import Experiment

    with FEATURES["channel"]() as system:
        system.train(steps=32)
        for old, new in (
            ({"silence": "agent_0"}, {"silence": "agent_0"}),
            ({"link": "loss=0.5", "remove": ["agent_1"]}, {"link": "loss=0.5", "remove": ("agent_1",)}),
            ({"swap": ("agent_0", "agent_2")}, {"swap": ("agent_0", "agent_2")}),
            ({"shuffle_messages": True}, {"shuffle": True}),
        ):
            one, other = system.evaluate(4, **old), system.evaluate(4, experiment=Experiment(**new))
            assert one == other
            assert one.changes
        pairs = Experiment(swap=[("agent_0", "agent_2")])
        assert pairs == Experiment(swap=("agent_0", "agent_2"))
        with pytest.raises(marl.ConfigError, match="give silence as a part of experiment="):
            system.evaluate(2, silence="agent_0", experiment=pairs)
        assert system.evaluate(3, decentralized=True) == system.evaluate(3, decentralized=True)
