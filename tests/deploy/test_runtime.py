"""Exported agents act as the agents that they were exported from, without torch."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

import marl
import marl_runtime
from marl.deploy.verify import Comparison, Pair, worth
from marl.nets.q_head import QHead
from marl.recipes import fits, recipes
from marl.spaces import AgentCodec, base_action_mask, team_spec
from marl.spec_json import space_to_json
from marl_runtime.spaces import Codec, ValueMismatch
from tests.support.policies import ACTIONS, CHANNELS, IMAGE, IMAGE_NETWORKS, NETWORKS, Trio, rows, spoken, system_of

ON = {"rollout": 8, "minibatches": 1}
LEARNERS = {
    "dqn": (marl.DQN(), "discrete"),
    "dueling atoms": (marl.DQN(dueling=True, distribution=marl.nets.Atoms(-2, 2, 11)), "discrete"),
    "noisy": (marl.DQN(network=marl.MLP((8,), noisy=0.5)), "discrete"),
    **{f"ddpg {kind}": (marl.DDPG(), kind) for kind in ACTIONS},
    "sac box": (marl.SAC(), "box"),
    "sac discrete": (marl.SAC(), "discrete"),
    "squashed": (marl.PPO(squash=True, **ON), "box"),
    "no sharing": (marl.PPO(sharing="none", **ON), "discrete"),
    "fixed": (marl.Fixed(1), "discrete"),
}
FITTING = [(name, [kind for kind in ACTIONS if fits(recipe(), [kind])]) for name, recipe in recipes().items()]
RECIPES = [  # each with its first kind of action, and with all that it acts in where there is time
    pytest.param(name, kind, marks=() if kind == kinds[0] else pytest.mark.slow)
    for name, kinds in FITTING
    for kind in kinds
]
STEPS = 25  # states in which all are compared; 1,000 with -m slow
ENGINES = ["numpy", "onnx", "torch"]


@pytest.fixture(params=[STEPS, pytest.param(1_000, marks=pytest.mark.slow)], ids="{} states".format)
def states(request):
    """In how many states, one after the other of one episode, agents are compared."""
    return request.param


@pytest.fixture
def exported(tmp_path):
    """A function that exports a system whose policies prefer some actions, and loads the bundle with an engine."""

    def export(system, engine="numpy", **how):
        for learner in system.learners:
            net = getattr(learner, "policy_net", None) or getattr(learner, "net", None)
            for head in [module.head for module in [net] if module is not None]:
                with torch.no_grad():
                    head.weight.mul_(30)  # a new policy's outputs are all but equal
        if engine == "onnx":
            pytest.importorskip("onnx")
            pytest.importorskip("onnxruntime")
        out = system.export(tmp_path / "bundle", format=engine, **how)
        return marl_runtime.load(out, engine)

    return export


def assert_alike(system, team, states):
    """The same actions and outputs of every agent over an episode, each from its own memory."""
    seen = rows(system.spec.teams[0].observation_spaces[0], states)
    with marl.compiled.use("off"):
        for name in team:
            trained, ours = system.agent(name), team[name]
            assert ours.name == name
            ours.reset(0)
            for row in seen[:STEPS]:
                wanted, found = trained.act(row), ours.act(row)
                assert type(found) is type(wanted)
                assert np.asarray(found).dtype == np.asarray(wanted).dtype
                np.testing.assert_allclose(found, wanted, atol=1e-5)
            comparison = Comparison()
            pair = Pair(system.agent(name), ours.twin(0), comparison)
            pair.reset()
            for row in seen:
                with pytest.raises(StopIteration):
                    next(pair.turn(*ours.codec.encode(row)))
            assert comparison.compared == states
            assert comparison.equal + comparison.ties == states
            assert comparison.difference <= 1e-5


def test_two_actions_of_one_value_are_a_tie_and_others_are_none():
    head = QHead(2, dueling=True)  # outputs are a value, then two advantages
    for outputs, ties in (([5.0, 1.0, 1.0], 1), ([1.0, 1.0, 5.0], 0)):
        comparison = Comparison()
        comparison.action(np.int64(1), np.int64(0), worth(head, np.array(outputs, np.float32)))
        assert (comparison.compared, comparison.equal, comparison.ties) == (1, 0, ties)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("network", "kind"), list(itertools.product(NETWORKS, ACTIONS)))
def test_every_network_and_action_acts_as_it_was_trained(network, kind, engine, exported, states):
    recurrent = {"sequence": 4} if network in ("gru", "lstm") else {}
    learner = marl.PPO(network=NETWORKS[network], normalize_obs=network == "relu", **ON, **recurrent)
    system = system_of(learner, ACTIONS[kind])
    assert_alike(system, exported(system, engine), states)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("network", IMAGE_NETWORKS)
def test_every_network_over_images_acts_as_it_was_trained(network, engine, exported, states):
    recurrent = {"sequence": 4} if network == "gru" else {}
    system = system_of(marl.PPO(network=IMAGE_NETWORKS[network], **ON, **recurrent), observation=IMAGE)
    assert_alike(system, exported(system, engine), states)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_acts_as_it_was_trained(name, engine, exported, states):
    learner, kind = LEARNERS[name]
    system = system_of(learner, ACTIONS[kind])
    team = exported(system, engine)
    if name != "fixed":  # which draws, whatever it is asked
        assert_alike(system, team, states)
    assert team["a"].act(rows(system.spec.teams[0].observation_spaces[0], 1)[0]) is not None


@pytest.mark.parametrize(("name", "kind"), RECIPES)
def test_every_recipe_acts_as_it_was_trained(name, kind, exported, states):
    system = system_of(recipes()[name](network=marl.MLP((8,))), ACTIONS[kind])
    assert_alike(system, exported(system), states)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["discrete", "multidiscrete", "multibinary"])
def test_what_a_mask_forbids_is_never_chosen(kind, engine, exported):
    system = system_of(marl.PPO(**ON), ACTIONS[kind])
    team = exported(system, engine)
    mask = {"discrete": [0, 1, 0, 1], "multidiscrete": [0, 1, 1, 0, 1], "multibinary": [1, 0, 0, 1, 1, 1]}[kind]
    offsets = {"discrete": [0], "multidiscrete": [0, 2], "multibinary": [0, 2, 4]}[kind]
    agent = team["b"]
    agent.reset(3)
    for row, explore in itertools.product(rows(system.spec.teams[0].observation_spaces[0], STEPS), (False, True)):
        chosen = np.ravel(agent.act(row, mask, explore))
        assert all(mask[offset + choice] for offset, choice in zip(offsets, chosen, strict=True))
    with pytest.raises(ValueMismatch, match="expected a mask of"):
        agent.act(rows(system.spec.teams[0].observation_spaces[0], 1)[0], [0, 1])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("channel", "rounds", "memory"), list(itertools.product(CHANNELS, (0, 2), (False, True))))
def test_every_channel_talks_as_it_was_trained(channel, rounds, memory, engine, exported, states):
    network = {"network": marl.GRU(8), "sequence": 4} if memory else {}
    system = system_of(marl.PPO(channel=replace(CHANNELS[channel], rounds=rounds), **ON, **network))
    team = exported(system, engine)
    trained, ours = system.agent("b"), team["b"]
    random = np.random.default_rng(1)
    told = [
        (random.normal(size=(3, ours.size)).astype(np.float32), (random.random(3) < 0.6).astype(np.float32))
        for _ in range(states * max(rounds, 1))
    ]
    heard = {}
    for agent in (trained, ours):
        messages, heard[agent] = iter(told), []
        with marl.compiled.use("off"):
            for row in rows(Trio.observation, states):
                turn = agent.turn(row, None, False, None if rounds else next(messages))
                heard[agent] += [*spoken(turn, messages if rounds else itertools.repeat(None)), agent.outputs]
    for wanted, found in zip(heard[trained], heard[ours], strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_team_in_one_process_hears_its_messages_as_in_evaluation(rounds, exported):
    channel = marl.CommNet(size=4, rounds=rounds, topology=marl.topology.Ring(directed=True))
    system = system_of(marl.PPO(channel=channel, **ON))
    team = exported(system)
    seen = {name: rows(Trio.observation, STEPS * 3)[k::3] for k, name in enumerate(team)}
    actor = system.training.players.apart(1, 0, True)
    spec = system.spec
    steps = []
    for t in range(STEPS):
        step = marl.types.zeros_step(spec, 1)
        step.started[0] = t == 0
        step.teams[0].acting[:] = True
        for n, name in enumerate(spec.agents):
            step.teams[0].obs[0, n] = seen[name][t]
        steps.append(actor.act(step)[0][0].tolist())
    team.reset(0)
    found = [list(team.act({name: seen[name][t] for name in team}).values()) for t in range(STEPS)]
    assert found == steps


def test_an_agent_draws_by_its_seed_and_forgets_where_an_episode_begins(exported):
    system = system_of(marl.PPO(network=marl.GRU(8), sequence=4, **ON))
    agent, seen = exported(system)["a"], rows(Trio.observation, STEPS)

    def episode(seed):
        agent.reset(seed)
        return [agent.act(row, explore=True) for row in seen]

    assert episode(1) == episode(1) != episode(2)
    agent.reset()
    greedy = [agent.act(row) for row in seen]
    agent.reset()
    assert [agent.act(row) for row in seen] == greedy


def test_messages_by_name_reach_whoever_may_hear_them(exported):
    channel = marl.CommNet(size=4, topology=marl.topology.Star(hub="a"))
    team = exported(system_of(marl.PPO(channel=channel, **ON)))
    row = rows(Trio.observation, 1)[0]
    for agent in team.values():
        agent.act(row)
    message, weight = team["b"].inbox({"a": team["a"].said, "c": team["c"].said, "b": None})
    np.testing.assert_array_equal(weight, [1, 0, 0])
    np.testing.assert_array_equal(message[0], team["a"].said)
    with pytest.raises(ValueMismatch, match="'nobody' is not one of a, b, c"):
        team["a"].hear({"nobody": team["a"].said})
    with pytest.raises(ValueMismatch, match=r"expected a message of shape \(4,\)"):
        team["a"].hear({"b": [1.0]})


def test_a_closed_gate_says_nothing(exported):
    system = system_of(marl.PPO(channel=marl.IC3Net(size=3), **ON))
    for sign, silent in ((-1, True), (1, False)):
        with torch.no_grad():
            system.learners[0].policy_net.speech.gate.bias.fill_(100.0 * sign)
        agent = exported(system)["a"]
        agent.act(rows(Trio.observation, 1)[0])
        assert (agent.said is None) == silent


# --- spaces -----------------------------------------------------------------------------------------------------------

OBSERVATIONS = [
    Box(-1, 1, (3,), np.float32),
    Box(-np.inf, np.inf, (2, 3), np.float64),
    Box(0, 255, (8, 8, 3), np.uint8),
    Box(0, 255, (3, 16, 16), np.uint8),
    Box(0, 255, (8, 8), np.uint8),
    Discrete(5, start=-2),
    MultiDiscrete([2, 3], start=[1, -1]),
    MultiDiscrete([[2, 3], [4, 2]]),
    MultiBinary([2, 2]),
    Dict({"z": Discrete(3), "a": Box(-1, 1, (2,)), "m": Tuple([MultiBinary(2), Discrete(2)])}),
    Dict({"observation": Box(-1, 1, (4,)), "action_mask": MultiBinary(4)}),
    Dict({"here": Box(-1, 1, (4,)), "action_mask": MultiBinary(4)}),
    Tuple([Box(-1, 1, ()), Discrete(2)]),
]


FOUR = Discrete(4)
UNEVEN = Box(np.full(2, -1, np.float32), np.array([0.1, 3], np.float32))


def both_codecs(observation, action=FOUR, wider=None):
    """The codec of an agent beside a wider one, and the runtime's of the same."""
    agents = ["a", "b"] if wider is not None else ["a"]
    spaces = [observation] * len(agents)
    team = team_spec("team", agents, spaces, [action, wider][: len(agents)])
    theirs = AgentCodec(team, 0)
    said = {
        "observation_space": space_to_json(observation),
        "action_space": space_to_json(action),
        "observation_shape": list(team.obs.shape),
        "choices": base_action_mask(team.action, team.action_spaces)[0].tolist() if team.masked else None,
    }
    return theirs, Codec(said), team


@pytest.mark.parametrize("space", OBSERVATIONS, ids=str)
def test_observations_become_the_rows_that_they_were_trained_on(space):
    theirs, ours, _ = both_codecs(space)
    space.seed(0)
    for _ in range(5):
        raw = space.sample()
        if "action_mask" in getattr(space, "spaces", ()):
            raw["action_mask"] = np.array([0, 1, 1, 0], np.int8)
        wanted, found = theirs.encode(raw), ours.encode(raw)
        assert found[0].dtype == wanted[0].dtype
        np.testing.assert_array_equal(found[0], wanted[0])
        if wanted[1] is None:
            assert found[1] is None
        else:
            np.testing.assert_array_equal(found[1], wanted[1])


@pytest.mark.parametrize(
    ("action", "wider", "padded"),
    [
        (Discrete(3), None, 2),
        (Discrete(3, start=4), None, 6),
        (MultiDiscrete([2, 3], start=[1, -4]), MultiDiscrete([4, 3, 2]), [2, -2, 0]),
        (MultiBinary([2, 2]), MultiBinary(6), [1, 0, 1, 1, 0, 0]),
        (UNEVEN, Box(-1, 1, (3,)), np.array([0.5, 2.0, 0.0], np.float32)),
        (Box(np.float64(0.1), np.float64(0.3), (2,), np.float64), None, np.array([0.1, 0.3], np.float32)),
        (Box(-5, 5, (2, 2), np.int64), None, np.array([0.5, 1.5, -7.0, 2.49], np.float32)),
    ],
    ids=str,
)
def test_actions_become_those_that_the_environment_takes(action, wider, padded):
    theirs, ours, team = both_codecs(Box(-1, 1, (3,)), action, wider)
    program = np.asarray(padded)  # what a program gives: counted from the space's own start
    row = ours.padded(program)
    wanted, found = theirs.decode(row), ours.decode(program)
    assert type(found) is type(wanted)
    assert np.asarray(found).dtype == np.asarray(wanted).dtype
    np.testing.assert_array_equal(found, wanted)
    assert action.contains(found)
    assert np.shape(row) == team.action.shape


def test_a_mask_is_of_the_agents_own_choices_whatever_wider_agents_have():
    for action, wider, mask in (
        (Discrete(2), Discrete(4), [0, 1]),
        (MultiDiscrete([2, 3]), MultiDiscrete([3, 3, 2]), [1, 0, 0, 1, 1]),
        (MultiBinary(1), MultiBinary(3), [0, 1]),
    ):
        theirs, ours, _ = both_codecs(Box(-1, 1, (3,)), action, wider)
        row = np.zeros(3, np.float32)
        wanted = theirs.encode(row, {"action_mask": np.array(mask)})[1]
        np.testing.assert_array_equal(ours.encode(row, mask)[1], wanted)
        np.testing.assert_array_equal(ours.encode(row)[1], theirs.encode(row)[1])


@pytest.mark.parametrize(
    ("space", "raw", "reason"),
    [
        (Box(-1, 1, (3,)), np.zeros(4), r"shape \(3,\)"),
        (Box(-1, 1, (3,)), "text", r"numbers of shape \(3,\)"),
        (Discrete(3), 3, "integers from"),
        (Dict({"a": Discrete(2)}), {"b": 1}, "dictionary with keys"),
        (Tuple([Discrete(2)]), [1, 1], "tuple of 1"),
        (Dict({"observation": Discrete(2), "action_mask": MultiBinary(4)}), 1, "dictionary with 'action_mask'"),
    ],
)
def test_an_observation_that_does_not_fit_is_refused_with_what_was_expected(space, raw, reason):
    with pytest.raises(ValueMismatch, match=reason):
        both_codecs(space)[1].encode(raw)


# --- what it needs ----------------------------------------------------------------------------------------------------


def test_the_runtime_plays_without_torch_gymnasium_and_marl(tmp_path):
    out = system_of(marl.PPO(**ON)).export(tmp_path / "bundle")
    code = (
        "import sys, numpy, marl_runtime\n"
        f"agent = marl_runtime.load({str(out)!r})['a']\n"
        "agent.act(numpy.zeros(5, numpy.float32))\n"
        "print([name for name in ('torch', 'gymnasium', 'marl', 'numba') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_engine_is_at_most_300_lines():
    assert len(Path(marl_runtime.program.__file__).read_text().splitlines()) <= 300


def test_gymnasium_environments_of_one_agent_are_exported_too(tmp_path):
    system = marl.MultiAgentSystem(marl.PPO(**ON), "CartPole-v1", num_envs=1, seed=0)
    (agent,) = marl_runtime.load(system.export(tmp_path / "bundle")).values()
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(agent.act(observation))
