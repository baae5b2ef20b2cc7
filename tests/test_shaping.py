"""Shaping changes what is learnt from and nothing else: hand numbers, invariance, exact resuming."""

from __future__ import annotations

import logging

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

import marl
from marl.schedules import Clock, Linear
from marl.shaping import RND, Clip, DifferenceReward, PotentialBased, RunningNormalize, TeamTransition
from marl.shaping.hook import HookContext
from marl.shaping.shaper import Shaper
from marl.types import ConfigError
from tests.support.tiny import Constant, Team, Turns, spec_of

PLACE = HookContext(spec_of(2).teams[0], 3, 0.9, np.random.SeedSequence(0))


def seen(obs, next_obs, reward, *, terminated=None, truncated=None, acting=None, steps=0):
    """One step of arrays (E, N, O) and (E, N)."""
    none = np.zeros(np.shape(reward), dtype=bool)
    terminated = none if terminated is None else np.asarray(terminated)
    truncated = none if truncated is None else np.asarray(truncated)
    acting = ~none if acting is None else np.asarray(acting)
    started = (terminated | truncated).all(axis=1)
    has_future = (~none & ~started[:, None] & ~terminated) | truncated
    return TeamTransition(
        np.asarray(obs, np.float32), np.asarray(next_obs, np.float32), none.astype(np.int64),
        np.asarray(reward, np.float32), terminated, truncated, acting, has_future, started, None, None,
        Clock(steps, 100), Clock(steps + 1, 100),
    )  # fmt: skip


def grid(*columns):
    """Observations (1, N, 4) whose first numbers are these."""
    obs = np.zeros((1, len(columns), 4))
    obs[0, :, 0] = columns
    return obs


def first(obs):
    return obs[..., 0]


# --- potential-based shaping ------------------------------------------------------------------------------------------


def test_a_potential_is_zero_at_the_end_and_counts_where_the_episode_was_cut_off():
    hook = PotentialBased(first).build(PLACE)
    obs, following, raw = grid(2, 3), grid(5, 7), [[1, 1]]
    assert hook(seen(obs, following, raw), np.float64(raw)) == pytest.approx(
        np.array([[1 + 0.9 * 5 - 2, 1 + 0.9 * 7 - 3]])
    )
    mixed = seen(obs, following, raw, terminated=[[True, False]], truncated=[[False, True]])
    assert hook(mixed, np.float64(raw)) == pytest.approx(np.array([[1 + 0 - 2, 1 + 0.9 * 7 - 3]]))


def test_a_dead_agent_gets_no_potential():
    hook = PotentialBased(first).build(PLACE)
    step = seen(grid(2, 3), grid(5, 7), [[0, 0]], acting=[[True, False]])
    step.has_future[0, 1] = False
    assert hook(step, np.zeros((1, 2))) == pytest.approx(np.array([[2.5, 0]]))


def test_a_weight_that_changes_belongs_to_the_potential():
    hook = PotentialBased(first, weight=Linear(0.0, 100.0)).build(PLACE)
    step = seen(grid(2, 2), grid(4, 4), [[0, 0]], steps=10)
    assert hook(step, np.zeros((1, 2)))[0, 0] == pytest.approx(0.9 * 11 * 4 - 10 * 2)


def test_only_the_learner_s_own_discount_is_taken():
    with pytest.raises(ConfigError, match=r"expected the learner's own \(0.9\)"):
        PotentialBased(first, discount=0.5).build(PLACE)
    with pytest.raises(ConfigError, match=r"the learner of team .team. has none that it could take; say one"):
        marl.MultiAgentSystem(marl.Random(), Team, shaping=[PotentialBased(first)])


class Fork(gymnasium.Env):
    """Leave at once for 1, or walk on: two more steps and 2 at the end. Undiscounted walking is worth more."""

    observation_space = Box(0, 1, (4,), np.float32)
    action_space = Discrete(2)

    def _look(self):
        return np.eye(4, dtype=np.float32)[self.place]

    def reset(self, *, seed=None, options=None):
        self.place = 0
        return self._look(), {}

    def step(self, action):
        leave = self.place == 0 and action == 0
        self.place += 1
        over = leave or self.place == 3
        return self._look(), 1.0 if leave else 2.0 * over, over, False, {}


def optimal_first_action(shape):
    """Value iteration by hand on Fork at gamma = 0.9 with a bonus ``shape(s, s', ended)``."""
    gamma, value = 0.9, np.zeros(4)
    for place in (2, 1):
        ended = place == 2
        value[place] = 2.0 * ended + shape(place, place + 1, ended) + gamma * (0.0 if ended else value[place + 1])
    leave, walk = 1.0 + shape(0, 1, True), shape(0, 1, False) + gamma * value[1]
    return int(walk > leave), walk - leave


def test_the_optimal_policy_stays_under_potentials_and_not_under_a_plain_bonus():
    potentials = np.array([0.3, -5.0, 4.0, 7.0])
    raw, gap = optimal_first_action(lambda s, t, ended: 0.0)
    shaped, shaped_gap = optimal_first_action(
        lambda s, t, ended: 0.9 * (0.0 if ended else potentials[t]) - potentials[s]
    )
    assert raw == shaped == 1
    assert shaped_gap == pytest.approx(gap)
    plain, _ = optimal_first_action(lambda s, t, ended: 0.0 if ended else potentials[t])
    assert plain == 0


def policy_after_training(shaping, seed=0):
    learner = marl.DQN(discount=0.9, network=marl.MLP((32,)), lr=3e-3, learning_starts=200, batch=64, tau=0.05)
    with marl.MultiAgentSystem(learner, Fork, num_envs=8, seed=seed, shaping=shaping) as system:
        system.train(steps=2_000)
        return system.evaluate(4).mean_return


def test_a_learner_finds_the_optimum_under_potentials_and_is_led_astray_by_a_plain_bonus():
    potentials = np.array([0.3, -1.0, 2.0, 3.0])
    assert policy_after_training([PotentialBased(lambda obs: obs @ potentials)]) == 2.0

    def bonus(step):
        return np.where(step.next_obs[..., 1] > 0, np.where(step.terminated, 0.0, -2.0), 0.0)

    assert policy_after_training([marl.shaping.Function(bonus)]) == 1.0


def test_in_a_game_of_turns_potentials_run_from_turn_to_turn():
    paid = []
    keep = marl.shaping.Function(
        lambda step: paid.append((step.has_future.copy(), step.acting.copy())) or np.zeros((1, 2))
    )
    phi = PotentialBased(lambda obs: obs[..., 0] + 1)
    learner = marl.ippo(rollout=8, minibatches=1, discount=1.0)
    with marl.MultiAgentSystem(learner, Turns, num_envs=1, shaping=[phi, keep]) as system:
        system.train(steps=5)
        got = system.learners[0].memory.reward[:5, 0, 0].tolist()
    assert all(not (acting[0].all()) for _, acting in paid)
    # Player 0 acts at counts 0, 2, 4; in between its potential rises by what it sees when its turn comes again.
    raw = [0, 0, 0, 0, 1]
    assert sum(got) == pytest.approx(sum(raw) - 1)  # telescopes to -phi(first)
    assert got[0] == pytest.approx(-1)


# --- the other hooks --------------------------------------------------------------------------------------------------


def test_simple_hooks_by_hand():
    raw = np.array([[1.0, 3.0]])
    step = seen(grid(0, 0), grid(0, 0), raw, acting=[[True, False]], steps=49)
    cases = {
        marl.shaping.TeamSpirit(1.0): [[2, 2]],
        marl.shaping.TeamSpirit(Linear(0.0, 1.0)): [[1.5, 2.5]],
        marl.shaping.StepCost(0.25): [[0.75, 3]],
        marl.shaping.Scale(2.0): [[2, 6]],
        Clip(-1, 2): [[1, 2]],
        marl.shaping.Function(lambda s: np.full((1, 2), 10.0), weight=0.5): [[6, 3]],
        DifferenceReward(lambda s: np.array([[3.5, 0.0]])): [[0.5, 0]],
    }
    for hook, expected in cases.items():
        assert hook.build(PLACE)(step, raw) == pytest.approx(np.array(expected, float)), hook


def test_hooks_apply_one_after_the_other():
    hooks = {"team": (marl.shaping.StepCost(1.0), marl.shaping.Scale(2.0))}
    shaper = Shaper(hooks, spec_of(2), 1, np.random.SeedSequence(0), {"team": 0.9})
    with marl.MultiAgentSystem(marl.Random(), lambda: Team((3, 3), (2, 2)), num_envs=1) as system:
        env = system.env
        step = env.reset(0)
        shaper.remember(step)
        step = env.step([np.zeros((1, 2), np.int64)])
        (reward,) = shaper(step, [np.zeros((1, 2), np.int64)], Clock(0), Clock(1))
        assert reward == pytest.approx((step.teams[0].reward - 1) * 2)


def test_running_normalization_divides_by_the_deviation_of_returns():
    hook = RunningNormalize(discount=0.5, clip=100).build(PLACE)
    rewards = np.array([[4.0, 0.0], [2.0, 2.0], [0.0, 6.0]])
    step = seen(np.zeros((3, 2, 4)), np.zeros((3, 2, 4)), rewards)
    hook(step, rewards)
    second = hook(step, rewards)
    returns = np.concatenate([rewards.ravel(), (rewards * 1.5).ravel()])
    assert second == pytest.approx(rewards / returns.std(), rel=1e-6)


def test_counts_pay_one_over_the_root_of_visits():
    for cell in (None, 0.5):
        hook = marl.shaping.CountBonus(weight=1.0, cell=cell).build(PLACE)
        step = seen(grid(0, 0), grid(1, -1), [[0, 0]])
        zero = np.zeros((1, 2))
        assert hook(step, zero) == pytest.approx(np.ones((1, 2)))
        assert hook(step, zero) == pytest.approx(np.full((1, 2), 2**-0.5))
        hook(step, zero)
        assert hook(step, zero) == pytest.approx(np.full((1, 2), 0.5))
        other = seen(grid(0, 0), grid(1, -1), [[0, 0]], acting=[[False, True]])
        assert hook(other, zero)[0] == pytest.approx([0, 5**-0.5])


def test_random_network_distillation_tires_of_what_it_knows():
    hook = RND(weight=1.0).build(PLACE)
    random = np.random.default_rng(0)
    known, new = random.normal(size=(8, 3, 2, 4)), random.normal(size=(3, 2, 4)) * 3
    zero = np.zeros((3, 2))
    begin = hook(seen(known[0], known[0], zero), zero).mean()
    for turn in range(400):
        late = hook(seen(known[0], known[turn % 8], zero), zero).mean()
    assert late < 0.5 * begin or late < hook(seen(known[0], new, zero), zero).mean() / 3


def test_episodic_novelty_pays_for_the_unlike_and_forgets_at_the_end():
    hook = marl.shaping.EpisodicNovelty(weight=1.0, neighbors=3).build(PLACE)
    random = np.random.default_rng(0)
    zero, places = np.zeros((3, 2)), random.normal(size=(20, 3, 2, 4)) * 5
    same = np.ones((3, 2, 4))
    for place in places:
        hook(seen(place, place, zero), zero)
    for _ in range(5):
        dull = hook(seen(same, same, zero), zero)
    fresh = hook(seen(same, same + 100, zero), zero)
    assert (fresh > 3 * dull).all()
    over = np.ones((3, 2), bool)
    hook(seen(same, same, zero, truncated=over), zero)
    assert not hook.written.any()


def place_of(env):
    """The only team of an environment."""
    with marl.MultiAgentSystem(marl.Random(), env, num_envs=1) as system:
        return HookContext(system.spec.teams[0], 1, 0.9, np.random.SeedSequence(0))


def influence_by_hand(own):
    """Agent 0 believes that agent 1 plays 0 three times of four after a 0, else as a coin falls; ``own``: its logit."""
    two = HookContext(spec_of(2, action=Discrete(2)).teams[0], 1, 0.9, np.random.SeedSequence(0))
    hook = marl.shaping.SocialInfluence(width=1).build(two)
    with torch.no_grad():
        for weight in hook.weights:
            weight.zero_()
        hook.act[0, 0, 0] = 1.0  # its hidden unit says that it plays 0 itself
        hook.predict[0, 0, 2] = np.log(3)  # and then this is the logit of agent 1's 0
        hook.own[0, 1, 0] = own
    x, yes = torch.zeros(2, 2, 4), torch.ones(2, 2, dtype=torch.bool)
    return hook.influence(x, torch.tensor([[0, 0], [1, 0]]), yes, yes)


def test_influence_is_what_an_action_changes_for_the_others():
    chances, coin = np.array([0.75, 0.25]), np.array([0.5, 0.5])
    for logit, own in ((0.0, 0.5), (np.log(3), 0.75)):
        average = own * chances + (1 - own) * coin
        found = influence_by_hand(logit)
        assert found[0, 0] == pytest.approx((chances * np.log(chances / average)).sum(), abs=1e-6)
        assert found[1, 0] == pytest.approx((coin * np.log(coin / average)).sum(), abs=1e-6)
        assert found[:, 1].tolist() == pytest.approx([0, 0], abs=1e-6)  # agent 1 believes that nothing matters
    assert influence_by_hand(0.0)[0, 0] == pytest.approx(0.0353749, abs=1e-6)


def test_who_is_followed_has_influence_and_who_follows_has_none():
    """Agent 1 does what agent 0 did a step ago: log 2 nats of agent 0's, nothing of its own."""
    hook = marl.shaping.SocialInfluence(weight=1.0, lr=1e-2, width=16).build(PLACE)
    random, before = np.random.default_rng(0), np.zeros(3, dtype=np.int64)
    zero, obs = np.zeros((3, 2)), np.zeros((3, 2, 4))
    paid = []
    for _ in range(400):
        step = seen(obs, obs, zero)
        step.action[:, 0], step.action[:, 1] = random.integers(0, 2, 3), before
        before = step.action[:, 0].copy()
        paid.append(hook(step, zero))
    leader, follower = np.mean(paid[-100:], axis=(0, 1))
    assert leader == pytest.approx(np.log(2), abs=0.1)
    assert follower < 0.05


def test_nobody_is_paid_for_influence_on_those_who_are_gone():
    hook = marl.shaping.SocialInfluence(weight=1.0).build(PLACE)
    zero, obs = np.zeros((1, 2)), np.zeros((1, 2, 4))
    for _ in range(3):
        assert (hook(seen(obs, obs, zero), zero) > 0).all()
    over = hook(seen(obs, obs, zero, terminated=[[True, True]]), zero)
    assert not over.any()
    assert not hook.before[2].any()  # and nothing that follows is what it led to
    alone = seen(obs, obs, zero, acting=[[True, False]])
    alone.has_future[0, 1] = False
    assert not hook(alone, zero).any()


# --- the whole --------------------------------------------------------------------------------------------------------

EVERYTHING = (
    PotentialBased(first),
    marl.shaping.CountBonus(),
    RND(width=8),
    marl.shaping.SocialInfluence(width=8),
    marl.shaping.EpisodicNovelty(neighbors=2, memory=8, width=4),
    marl.shaping.TeamSpirit(Linear(0.0, 1.0, steps=500)),
    RunningNormalize(),
    Clip(-5, 5),
)


def small():
    return marl.ippo(rollout=16, minibatches=2, epochs=2, network=marl.MLP((8,)))


def test_shaping_never_reaches_history_episodes_or_evaluation():
    ten = [marl.shaping.Function(lambda step: np.full(step.reward.shape, 10.0))]
    with marl.MultiAgentSystem(marl.Random(), Constant, num_envs=2, shaping=ten) as system:
        history = system.train(steps=64)
        assert set(history["episode_rewards"]) == {8.0}
        assert history["mean_return"][-1] == 8.0
        assert history["shaped_return"][-1] == 88.0
        assert system.evaluate(4).mean_return == 8.0
    with (
        marl.MultiAgentSystem(small(), Team, num_envs=2, seed=3) as plain,
        marl.MultiAgentSystem(small(), Team, num_envs=2, seed=3, shaping=EVERYTHING) as shaped,
    ):
        assert plain.evaluate(6).returns == shaped.evaluate(6).returns
        assert "shaped_return" not in plain.train(steps=64)


def test_what_may_change_the_optimum_is_said_once(caplog):
    with caplog.at_level(logging.WARNING, "marl.shaping"):
        with marl.MultiAgentSystem(
            small(), Team, num_envs=1, shaping=[PotentialBased(first), marl.shaping.StepCost(0.1)]
        ) as system:
            system.train(steps=16)
            system.train(steps=16)
        assert [record.message for record in caplog.records if "learnt little" not in record.message] == [
            "shaping of team: StepCost may change what is optimal; raw returns are what is reported"
        ]
        caplog.clear()
        with marl.MultiAgentSystem(small(), Team, num_envs=1, shaping=[PotentialBased(first)]) as system:
            system.train(steps=16)
        assert not [record for record in caplog.records if "learnt little" not in record.message]


def test_teams_are_shaped_on_their_own():
    learners = {"agent_0": marl.Random(), "agent_[12]": marl.Random()}
    hooks = {"agent_[12]": [marl.shaping.StepCost(1.0)]}
    with marl.MultiAgentSystem(learners, Team, num_envs=1, shaping=hooks) as system:
        history = system.train(steps=20)
        names = [team.name for team in system.spec.teams]
        assert history[f"{names[1]}/shaped_return"][-1] == history[f"{names[1]}/mean_return"][-1] - 2 * 10
        assert f"{names[0]}/shaped_return" not in history
    with pytest.raises(ConfigError, match="unknown team 'nobody'"):
        marl.MultiAgentSystem(learners, Team, shaping={"nobody": [marl.shaping.StepCost(1.0)]})


def numbers(system):
    parameters = [p.detach().numpy().copy() for p in system.learners[0].model.parameters()]
    return parameters, system.history["shaped_return"][-1]


def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(tmp_path):
    with marl.MultiAgentSystem(small(), Team, num_envs=2, seed=1, shaping=EVERYTHING) as whole:
        whole.train(steps=200)
        whole.train(steps=200)
        expected = numbers(whole)
    with marl.MultiAgentSystem(small(), Team, num_envs=2, seed=1, shaping=EVERYTHING) as broken:
        broken.train(steps=200)
        broken.save(tmp_path / "it")
    with pytest.raises(marl.CheckpointError, match="pass shaping="):
        marl.MultiAgentSystem.load(tmp_path / "it", env=Team).train(steps=2)
    with marl.MultiAgentSystem.load(tmp_path / "it", env=Team, shaping=EVERYTHING) as resumed:
        resumed.train(steps=200)
        found = numbers(resumed)
    assert all(np.array_equal(a, b) for a, b in zip(expected[0], found[0], strict=True))
    assert expected[1] == found[1]


def test_hooks_without_code_come_back_with_the_checkpoint(tmp_path):
    hooks = (marl.shaping.StepCost(Linear(0.1, 0.0, steps=100)), RND())
    with marl.MultiAgentSystem(small(), Team, num_envs=1, shaping=hooks) as system:
        system.train(steps=16)
        system.save(tmp_path / "it")
    with marl.MultiAgentSystem.load(tmp_path / "it", env=Team) as system:
        assert system.shaping == hooks


@pytest.mark.parametrize(
    ("shaping", "text"),
    [
        (marl.shaping.StepCost(0.1), "expected a list of hooks"),
        ([0.5], "expected hooks such as"),
        ([marl.shaping.StepCost], "expected hooks such as"),
    ],
)
def test_what_is_no_hook_is_refused(shaping, text):
    with pytest.raises(ConfigError, match=text):
        marl.MultiAgentSystem(marl.Random(), Team, shaping=shaping)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: marl.shaping.TeamSpirit(2.0), r"TeamSpirit.weight: expected a number in \[0, 1\], got 2.0"),
        (lambda: marl.shaping.TeamSpirit(Linear(0, 3)), "got 3"),
        (lambda: marl.shaping.Scale(-1.0), "Scale.factor"),
        (lambda: Clip(1, -1), "expected low below high"),
        (lambda: marl.shaping.CountBonus(bits=60), "CountBonus.bits"),
        (lambda: PotentialBased(first, of="pixels"), "of='obs' or 'state'"),
        (lambda: marl.shaping.EpisodicNovelty(memory=2), "EpisodicNovelty.memory"),
        (lambda: marl.shaping.SocialInfluence(lr=0.0), "SocialInfluence.lr"),
        (lambda: marl.shaping.SocialInfluence().build(place_of(Constant)), "one agent has no others to influence"),
        (lambda: marl.shaping.SocialInfluence().build(place_of("Pendulum-v1")), "expected discrete actions, got box"),
    ],
)
def test_bad_settings_are_refused_in_one_line(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


def test_a_function_of_the_wrong_shape_is_named():
    wrong = [marl.shaping.Function(lambda step: np.zeros(3))]
    with (
        marl.MultiAgentSystem(marl.Random(), Team, num_envs=2, shaping=wrong) as system,
        pytest.raises(ConfigError, match=r"Function.function: expected shape \(2, 3\) \(copies, agents\), got \(3,\)"),
    ):
        system.train(steps=2)
