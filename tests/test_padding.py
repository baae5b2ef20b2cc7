"""An agent's numbers do not depend on how wide the actions of its team mates are, for all four kinds of action."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st

import marl
from marl.nets.action_head import ActionHead, SquashedHead
from marl.nets.distributions import make_distribution
from marl.schedules import Clock
from marl.shaping.hook import HookContext
from marl.spaces import AgentCodec, base_action_mask, team_spec
from marl.types import Spec
from tests.support.learning import fill
from tests.support.tiny import LOOK, Wide

SEED = np.random.SeedSequence(7)

NARROW_AND_WIDE = {
    "discrete": (Discrete(3), Discrete(5)),
    "multidiscrete": (MultiDiscrete([3]), MultiDiscrete([3, 2, 4])),
    "multibinary": (MultiBinary(1), MultiBinary(7)),
    "box": (Box(-1, 2, (1,), np.float32), Box(-3, 1, (4,), np.float32)),
}
kinds = pytest.mark.parametrize("kind", NARROW_AND_WIDE)


def team_of(*spaces):
    return team_spec("team", [f"agent_{n}" for n in range(len(spaces))], [LOOK] * len(spaces), spaces)


def spec_of(*spaces):
    return Spec("tiny", (team_of(*spaces),))


def legal_of(team):
    return torch.from_numpy(base_action_mask(team.action, team.action_spaces)) if team.masked else None


# --- distributions ----------------------------------------------------------------------------------------------------


@st.composite
def teams(draw):
    """An agent's action space, and those of two team mates of the same kind."""
    kind = draw(st.sampled_from(list(NARROW_AND_WIDE)))
    number, size = st.integers(1, 5), st.integers(1, 4)
    if kind == "discrete":
        return [Discrete(draw(number)) for _ in range(3)]
    if kind == "multidiscrete":
        return [MultiDiscrete(draw(st.lists(size, min_size=1, max_size=4))) for _ in range(3)]
    if kind == "multibinary":
        return [MultiBinary(draw(number)) for _ in range(3)]
    return [Box(-1, 1, (draw(number),), np.float32) for _ in range(3)]


def own_places(team):
    """Where the first agent's parameters, choices and components stand in its team's row."""
    if team.action.kind == "box":
        return list(range(team.action.widths[0]))
    codec = AgentCodec(team, 0)
    places = codec.true_choices.tolist()
    return [place // 2 for place in places if place % 2] if team.action.kind == "multibinary" else places


def parameters_of(team, alone, seed):
    """The same random parameters for the first agent in both teams; whatever else for its team mates and padding."""
    random = torch.Generator().manual_seed(seed)
    together, single = make_distribution(team.action), make_distribution(alone.action)
    blocks = 2 if team.action.kind == "box" else 1  # means, then log standard deviations
    wide = torch.randn(6, team.num_agents, blocks, together.size, generator=random)
    narrow = wide[:, :1][..., own_places(team)].clone()
    assert narrow.shape[-1] == single.size
    return (wide.flatten(-2).requires_grad_(), together), (narrow.flatten(-2).requires_grad_(), single)


@given(spaces=teams(), seed=st.integers(0, 999))
@settings(max_examples=150, deadline=None)
def test_log_probability_entropy_and_kl_are_those_of_the_agent_alone(spaces, seed):
    team, alone = team_of(*spaces), team_of(spaces[0])
    (wide, together), (narrow, single) = parameters_of(team, alone, seed)
    action_mask, components = legal_of(team), alone.action.shape
    action = single.sample(narrow.detach(), None, torch.Generator().manual_seed(seed))
    padded = together.sample(wide.detach(), action_mask, torch.Generator().manual_seed(seed))
    if components:
        padded[:, :1] = 0
        padded[:, :1, : components[0]] = action
    else:
        padded[:, :1] = action
    found, expected = together.evaluate(wide, action_mask, padded), single.evaluate(narrow, None, action)
    for name, one, other in zip(("log-probability", "entropy"), found, expected, strict=True):
        torch.testing.assert_close(one[:, :1], other, rtol=0, atol=1e-6, msg=name)
    # KL(old | new) by its sample estimate r - 1 - log r, as learners take it, for a changed policy.
    changed = together.evaluate(wide * 0.5, action_mask, padded)[0][:, :1] - found[0][:, :1]
    expected_change = single.evaluate(narrow * 0.5, None, action)[0] - expected[0]
    first, second = (ratio.exp() - 1 - ratio for ratio in (changed, expected_change))
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)
    # Nothing is learnt for what does not exist.
    (gradient,) = torch.autograd.grad((found[0] + found[1])[:, 0].sum(), wide)
    own = torch.zeros(wide.shape[-1], dtype=torch.bool)
    own.view(-1, together.size)[:, own_places(team)] = True
    assert (gradient[:, 0, ~own] == 0).all()


@given(spaces=teams(), seed=st.integers(0, 999))
@settings(max_examples=100, deadline=None)
def test_padded_components_are_always_zero(spaces, seed):
    team = team_of(*spaces)
    distribution, action_mask = make_distribution(team.action), legal_of(team)
    blocks = 2 if team.action.kind == "box" else 1
    parameters = torch.randn(20, 3, blocks * distribution.size, generator=torch.Generator().manual_seed(seed))
    for action in (distribution.sample(parameters, action_mask, None), distribution.mode(parameters, action_mask)):
        if team.action.shape:
            for n, width in enumerate(team.action.widths):
                assert (action[:, n, width:] == 0).all()
                assert (distribution.to_env(action)[:, n, width:] == 0).all()
        else:
            assert (action < torch.tensor(team.action.widths)).all()


def test_entropies_of_padded_teams_by_hand():
    for spaces, right in (
        ((MultiDiscrete([2]), MultiDiscrete([2, 3, 3])), [math.log(2), math.log(18)]),
        ((MultiBinary(1), MultiBinary(7)), [math.log(2), 7 * math.log(2)]),
    ):
        team = team_of(*spaces)
        distribution = make_distribution(team.action)
        parameters, action = torch.zeros(2, distribution.size), torch.zeros(2, *team.action.shape, dtype=torch.int64)
        log_prob, entropy = distribution.evaluate(parameters, legal_of(team), action)
        np.testing.assert_allclose(entropy, right, rtol=1e-6)
        np.testing.assert_allclose(-log_prob, right, rtol=1e-6)


# --- what critics read, what actors pay -------------------------------------------------------------------------------


@kinds
def test_critics_read_zeros_where_an_agent_has_no_component(kind):
    team = team_of(*NARROW_AND_WIDE[kind])
    head, action_mask = ActionHead(team.action), legal_of(team)
    action_mask = None if action_mask is None else action_mask.expand(50, -1, -1)
    own = len(own_places(team)) * (2 if kind == "multibinary" else 1)
    parameters = torch.randn(50, 2, head.size)
    if kind == "box":
        stored = torch.randn(50, 2, 4)
    else:
        stored = head.sample(parameters, action_mask, None)
    for features in (head.features(stored), head.relaxed(parameters, action_mask, None)):
        assert features.shape == (50, 2, head.size)
        assert (features[:, 0, own:] == 0).all()
        assert (features[:, 1] != 0).any()
    squashed = SquashedHead(team.action) if kind == "box" else None
    if squashed is not None:
        drawn = squashed.mode(torch.randn(50, 2, squashed.size), None), squashed.features(stored)
        assert all((features[:, 0, 1:] == 0).all() for features in drawn)


@kinds
def test_the_cost_of_large_outputs_is_the_agents_own(kind):
    narrow, wide = NARROW_AND_WIDE[kind]
    together, alone = team_of(narrow, wide), team_of(narrow)
    own = ActionHead(alone.action).size
    parameters = torch.randn(9, 2, ActionHead(together.action).size)
    cost = ActionHead(together.action).cost(parameters, legal_of(together))
    expected = ActionHead(alone.action).cost(parameters[:, :1, :own], None)
    torch.testing.assert_close(cost[:, :1], expected)


# --- learning ---------------------------------------------------------------------------------------------------------


def put_narrow_into_wide(alone, padded, action_mask):
    """The narrow agent's rollout for the first agent of the team; the other does nothing."""
    for name in ("acting", "terminated", "truncated", "action", "log_prob", "reward"):
        target, source = getattr(padded.memory, name), getattr(alone.memory, name)
        target.zero_()
        if name == "action" and source.dim() > 3:
            target[:, :, :1, : source.shape[-1]] = source
        else:
            target[:, :, :1] = source
    padded.memory.obs.zero_()
    padded.memory.obs[:, :, :1] = alone.memory.obs
    padded.memory.started.copy_(alone.memory.started)
    if action_mask is not None:
        padded.memory.action_mask[:] = action_mask
    padded.memory.time = padded.memory.steps


def own_part(wide, like):
    """The first agent's own part of a stacked parameter."""
    return wide[tuple(slice(0, size) for size in like.shape)]


@kinds
@pytest.mark.parametrize(
    "config",
    [
        marl.PPO(sharing="none", rollout=8, minibatches=2, entropy=0.05, lr=3e-3),
        marl.A2C(sharing="none", rollout=8, entropy=0.05, lr=3e-3, normalize_advantages=True),
    ],
    ids=["ppo", "a2c"],
)
def test_an_agent_beside_a_wide_one_learns_what_it_would_learn_alone(config, kind):
    narrow, wide = NARROW_AND_WIDE[kind]
    team, single = spec_of(narrow, wide), spec_of(narrow)
    padded = config.build(team, team.teams[0], 4, SEED.spawn(1)[0], "cpu")
    alone = config.build(single, single.teams[0], 4, SEED.spawn(1)[0], "cpu")
    before = {name: value for name, value in alone.model.state_dict().items() if not name.endswith(("carry", "ids"))}
    for name, value in before.items():
        value.copy_(own_part(padded.model.state_dict()[name], value))
    for update in range(10):
        fill(alone, update, [0])
        put_narrow_into_wide(alone, padded, legal_of(team.teams[0]))
        alone.generator.set_state(padded.generator.get_state())
        together, apart = padded.update(Clock(0, 1)), alone.update(Clock(0, 1))
        # Of two parameter sets one had nothing to learn from, so the mean over sets is half.
        assert 2 * together["entropy"].item() == pytest.approx(apart["entropy"].item(), rel=1e-4)
    after = padded.model.state_dict()
    for name, value in before.items():
        torch.testing.assert_close(own_part(after[name], value), value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("learner", "kind"),
    [
        (learner, kind)
        for learner in (marl.DDPG, marl.TD3, marl.SAC, marl.PPO)
        for kind in NARROW_AND_WIDE
        if kind in learner.action_kinds
    ],
)
def test_no_memory_holds_anything_but_zeros_for_padding(learner, kind):
    off_policy = {"learning_starts": 8, "batch": 8, "critic": marl.Joint()}
    config = learner(rollout=32) if learner is marl.PPO else learner(**off_policy)
    spaces = NARROW_AND_WIDE[kind]
    system = marl.MultiAgentSystem(config, lambda: Wide(*spaces), num_envs=2, seed=0)
    system.train(steps=40)
    action = system.learners[0].memory.action[..., 0, :] if kind != "discrete" else None
    if action is not None:
        assert (action[..., 1:] == 0).all()
        assert (action[..., :1] != 0).any()
    else:
        assert system.learners[0].memory.action[..., 0].max() < 3


def test_a_bit_beside_twenty_has_the_log_probability_of_one_bit():
    system = marl.MultiAgentSystem(
        marl.ippo(sharing="none", rollout=16), lambda: Wide(MultiBinary(1), MultiBinary(20)), num_envs=4, seed=0
    )
    system.train(steps=32)  # before the first update every bit is a fair coin
    log_prob = system.learners[0].memory.log_prob[:8].mean((0, 1))
    np.testing.assert_allclose(log_prob, [-math.log(2), -20 * math.log(2)], atol=0.02)


def test_a_greedy_agent_beside_a_wide_one_acts_alike_alone_and_together():
    for spaces in NARROW_AND_WIDE.values():
        system = marl.MultiAgentSystem(marl.ippo(rollout=16), lambda s=spaces: Wide(*s), num_envs=4, seed=0)
        system.train(steps=128)
        together, alone = system.evaluate(4, seed=3), system.evaluate(4, seed=3, decentralized=True)
        assert together.returns_per_agent == pytest.approx(alone.returns_per_agent, rel=1e-5)


def test_an_agent_without_alternatives_has_no_influence():
    """Its team mate has five actions; that makes no alternatives for an agent that has one."""
    team = team_of(Discrete(1), Discrete(5))
    hook = marl.shaping.SocialInfluence().build(HookContext(team, 2, 0.99, SEED.spawn(1)[0]))
    x = torch.randn(2, 2, 3)
    yes = torch.ones(2, 2, dtype=torch.bool)
    influence = hook.influence(x, torch.tensor([[0, 3], [0, 1]]), yes, yes)
    np.testing.assert_allclose(influence[:, 0], 0, atol=1e-6)
    assert (hook.own_actions(x)[:, 0].exp()[:, 1:] == 0).all()
    assert (hook.next_actions(x, torch.zeros(2, 2, 10)).exp()[:, :, 0, 1:] == 0).all()
