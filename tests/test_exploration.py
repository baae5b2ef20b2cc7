"""Exploration: frequencies, masks, annealing in env steps, noise per copy, saving."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import marl
from marl.compiled.kernels import stray
from marl.exploration import (
    Boltzmann,
    BoltzmannGumbel,
    EpsilonGreedy,
    GaussianNoise,
    Greedy,
    GumbelSample,
    MaxBoltzmann,
    OrnsteinUhlenbeck,
    Uniform,
)
from marl.memory.base import PolicyInput
from marl.schedules import Clock, value_at
from marl.types import ActionSpec
from tests.support.tiny import Team

CHOICES = ActionSpec("discrete", (4,), (4, 4))
BOX = ActionSpec("box", (), (2, 2), ((-1.0, -1.0),) * 2, ((1.0, 1.0),) * 2)
PARTS = ActionSpec("multidiscrete", (2, 3), (2, 2))
COPIES = 4_000
NOW = Clock(0, 100)

ON_CHOICES = [
    Greedy(),
    Uniform(),
    EpsilonGreedy(0.5),
    Boltzmann(0.7),
    MaxBoltzmann(0.5, 2.0),
    BoltzmannGumbel(),
    GumbelSample(),
]
ON_BOXES = [
    Greedy(),
    Uniform(),
    GaussianNoise(0.5),
    OrnsteinUhlenbeck(),
]
IDS = {"ids": lambda choice: type(choice).__name__}


def look(scores, action_mask=None, started=None, acting=None):
    started = torch.zeros(len(scores), dtype=torch.bool) if started is None else started
    acting = torch.ones(scores.shape[:2], dtype=torch.bool) if acting is None else acting
    return PolicyInput(
        torch.zeros(*scores.shape[:2], 1), torch.zeros(*scores.shape[:2], 0), started, acting, action_mask
    )


def act(explorer, scores, action_mask=None, clock=NOW, seed=0, started=None):
    return explorer(scores, look(scores, action_mask, started), clock, torch.Generator().manual_seed(seed))


def shares(action, of=4):
    return torch.bincount(action.flatten(), minlength=of) / action.numel()


def test_epsilon_greedy_strays_as_often_as_it_says():
    explorer = EpsilonGreedy(marl.Linear(1.0, 0.2, 100)).build(CHOICES, COPIES, "cpu")
    scores = torch.tensor([0.0, 3.0, 1.0, 2.0]).expand(COPIES, 2, 4)
    for steps, epsilon in ((0, 1.0), (50, 0.6), (100, 0.2), (900, 0.2)):
        wanted = torch.full((4,), epsilon / 4)
        wanted[1] += 1 - epsilon
        assert torch.allclose(shares(act(explorer, scores, clock=Clock(steps, None))), wanted, atol=0.03)


def test_epsilon_may_differ_between_copies():
    explorer = EpsilonGreedy(0.5, spread=3.0).build(CHOICES, COPIES, "cpu")
    scores = torch.tensor([0.0, 3.0, 1.0, 2.0]).expand(COPIES, 2, 4)
    stray = (act(explorer, scores) != 1).float()
    assert stray[:400].mean() == pytest.approx(0.75 * 0.5**1.15, abs=0.04)
    assert stray[-400:].mean() == pytest.approx(0.75 * 0.5**3.85, abs=0.04)


def test_boltzmann_draws_from_the_softmax():
    scores = torch.tensor([0.0, 1.0, -1.0, 5.0]).expand(COPIES, 2, 4)
    action = act(Boltzmann(2.0).build(CHOICES, COPIES, "cpu"), scores)
    assert torch.allclose(shares(action), (scores[0, 0] / 2).softmax(-1), atol=0.03)
    clipped = act(Boltzmann(1.0, clip=0.5).build(CHOICES, COPIES, "cpu"), scores)
    assert torch.allclose(shares(clipped), scores[0, 0].clamp(-0.5, 0.5).softmax(-1), atol=0.03)
    drawn = act(GumbelSample().build(CHOICES, COPIES, "cpu"), scores)
    assert torch.allclose(shares(drawn), scores[0, 0].softmax(-1), atol=0.03)


def test_boltzmann_gumbel_calms_down_with_visits():
    explorer = BoltzmannGumbel(1.0).build(CHOICES, 50, "cpu")
    scores = torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(50, 2, 4)
    first = (act(explorer, scores, seed=1) == 1).float().mean()
    for seed in range(40):
        act(explorer, scores, seed=seed + 2)
    assert (act(explorer, scores, seed=99) == 1).float().mean() > first
    assert explorer.visits[0].sum() == 2 * 4 + 42 * 50 * 2  # one each to begin with, then every choice of 42 calls


def test_what_the_dead_would_do_is_no_visit():
    for spec, width in ((CHOICES, 4), (PARTS, sum(PARTS.sizes))):
        explorer = BoltzmannGumbel(1.0).build(spec, 50, "cpu")
        before = [visits.clone() for visits in explorer.visits]
        scores = torch.zeros(50, 2, width)
        acting = torch.ones(50, 2, dtype=torch.bool)
        acting[:, 1] = False
        acting[:20, 0] = False
        explorer(scores, look(scores, acting=acting), NOW, torch.Generator().manual_seed(0))
        for visits, old in zip(explorer.visits, before, strict=True):
            assert (visits - old).sum(-1).tolist() == [30, 0]


@pytest.mark.parametrize("choice", ON_CHOICES, **IDS)
@pytest.mark.parametrize("spec", [CHOICES, PARTS], ids=["one", "parts"])
def test_masks_are_never_broken(choice, spec):
    random = torch.Generator().manual_seed(3)
    action_mask = torch.rand(500, 2, sum(spec.sizes), generator=random) < 0.5
    start = 0
    for size in spec.sizes:
        action_mask[..., start] |= ~action_mask[..., start : start + size].any(-1)
        start += size
    scores = torch.randn(500, 2, sum(spec.sizes), generator=random) * 5
    action = act(choice.build(spec, 500, "cpu"), scores, action_mask)
    chosen = action.unsqueeze(-1) if spec is CHOICES else action
    offsets = torch.tensor([0, *np.cumsum(spec.sizes)[:-1]])
    assert action_mask.gather(-1, chosen + offsets).all()


@pytest.mark.parametrize("choice", ON_BOXES, **IDS)
def test_noise_stays_in_the_box(choice):
    explorer = choice.build(BOX, 500, "cpu")
    action = act(explorer, torch.empty(500, 2, 2).uniform_(-1, 1, generator=torch.Generator().manual_seed(0)))
    assert (action.abs() <= 1).all()


def test_gaussian_noise_has_the_scale_of_the_schedule():
    explorer = GaussianNoise(marl.schedules.Exponential(0.4, 0.0, 100)).build(BOX, COPIES, "cpu")
    assert act(explorer, torch.zeros(COPIES, 2, 2)).std() == pytest.approx(0.4, rel=0.05)
    assert act(explorer, torch.zeros(COPIES, 2, 2), clock=Clock(200)).std() == pytest.approx(0.1, rel=0.05)


def test_ornstein_uhlenbeck_remembers_and_starts_anew_with_each_copys_episode():
    explorer = OrnsteinUhlenbeck(theta=0.2, scale=0.1).build(BOX, COPIES, "cpu")
    generator, still = torch.Generator().manual_seed(0), torch.zeros(COPIES, dtype=torch.bool)
    zeros = torch.zeros(COPIES, 2, 2)
    for _ in range(60):
        before = explorer.noise.clone()
        explorer(zeros, look(zeros, started=still), NOW, generator)
    # stationary: variance scale^2 / (1 - (1 - theta)^2), correlation 1 - theta
    assert explorer.noise.var() == pytest.approx(0.01 / (1 - 0.64), rel=0.06)
    pair = torch.stack([before.flatten(), explorer.noise.flatten()])
    assert torch.corrcoef(pair)[0, 1] == pytest.approx(0.8, abs=0.03)
    started = still.clone()
    started[::2] = True
    explorer(zeros, look(zeros, started=started), NOW, generator)
    assert explorer.noise[::2].std() == pytest.approx(0.1, rel=0.06)
    assert explorer.noise[1::2].std() > 0.14


@pytest.mark.parametrize(("choice", "spec"), [(c, CHOICES) for c in ON_CHOICES] + [(c, BOX) for c in ON_BOXES])
def test_a_restored_explorer_goes_on_the_same(choice, spec):
    one, twin = choice.build(spec, 8, "cpu"), choice.build(spec, 8, "cpu")
    scores = torch.zeros(8, 2, 4 if spec is CHOICES else 2)
    for seed in range(3):
        act(one, scores, seed=seed)
    twin.load_state_dict(one.state_dict())
    assert torch.equal(act(one, scores, seed=9), act(twin, scores, seed=9))


def test_exponential_halves_the_rest_of_the_way():
    schedule = marl.schedules.Exponential(1.0, 0.2, 1_000)
    assert [value_at(schedule, Clock(steps)) for steps in (0, 1_000, 2_000)] == pytest.approx([1.0, 0.6, 0.4])


def test_logarithmic_falls_a_tenth_of_the_way_to_ten_times_the_steps():
    schedule = marl.schedules.Logarithmic(1.0, 0.1, 100)
    assert [value_at(schedule, Clock(steps)) for steps in (0, 99, 999, 5_000)] == pytest.approx([1.0, 1.0, 0.1, 0.1])
    rule = [1 - math.log10((steps + 1) / 25) for steps in (30, 100, 200)]
    assert [value_at(marl.schedules.Logarithmic(1, 0, 25), Clock(steps)) for steps in (30, 100, 200)] == pytest.approx(
        rule
    )


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: EpsilonGreedy(1.5),
        lambda: Boltzmann(0.0),
        lambda: OrnsteinUhlenbeck(theta=-1),
        lambda: marl.schedules.Exponential(1, 0, 0),
        lambda: marl.schedules.Logarithmic(1, 0, 0),
        lambda: GaussianNoise(-0.1),
        lambda: GaussianNoise(marl.Linear(0.5, -0.5)),
        lambda: OrnsteinUhlenbeck(scale=-1),
        lambda: EpsilonGreedy(0.1, spread=-1),
        lambda: EpsilonGreedy("often"),
        lambda: marl.memory.Prioritized(alpha=marl.Linear(0.6, 1.2)),
        lambda: marl.memory.Prioritized(beta=2.0),
        lambda: marl.memory.Prioritized(beta=True),
    ],
)
def test_numbers_without_meaning_are_refused(wrong):
    with pytest.raises(marl.ConfigError):
        wrong()


def test_sac_explores_with_noise_on_top_of_its_own_draws():
    def actions(exploration):
        config = marl.SAC(random_start=False, learning_starts=10_000, exploration=exploration)
        with marl.MultiAgentSystem(config, "marl/pendulum-v0", num_envs=2, seed=0) as system:
            system.train(steps=400)
            return system.learners[0].memory.action[:200].clone()

    own, pushed = actions(None), actions(OrnsteinUhlenbeck(theta=0.01, scale=0.3))
    assert (pushed.abs() <= 1).all()

    def memory(x):  # correlation of one step's action with the next one's
        return torch.corrcoef(torch.stack([x[:-1].flatten(), x[1:].flatten()]))[0, 1]

    assert memory(own).abs() < 0.2
    assert memory(pushed) > 0.4


@pytest.mark.parametrize(
    ("config", "env", "kept"),
    [
        (marl.iql(exploration=BoltzmannGumbel(5.0)), Team, lambda explorer: explorer.visits[0]),
        (
            marl.iddpg(exploration=OrnsteinUhlenbeck(scale=0.5)),
            "Pendulum-v1",
            lambda explorer: explorer.noise,
        ),
    ],
    ids=["visits", "noise"],
)
def test_an_exploring_evaluation_is_the_same_each_time_and_leaves_no_trace(config, env, kept):
    with marl.MultiAgentSystem(config, env, num_envs=2, seed=0) as system:
        system.train(steps=60)
        before = kept(system.learners[0].explorer).clone()
        results = {system.evaluate(3, seed=1, greedy=False).mean_return for _ in range(3)}
        assert len(results) == 1
        system.evaluate(2, seed=1, greedy=False, num_envs=1)
        assert torch.equal(kept(system.learners[0].explorer), before)


def test_epsilon_greedy_compiled_is_torchs_to_the_last_choice():
    """Ties go to the first, NaN counts as the greatest, copies have shares of their own."""
    random = torch.Generator().manual_seed(4)
    scores = torch.randn(7, 3, 5, generator=random).round()
    scores[2, 1, 3] = float("nan")
    chance, other = torch.rand(7, 3, generator=random), torch.randint(5, (7, 3), generator=random)
    for share in (torch.tensor(0.4), torch.linspace(0, 1, 7).unsqueeze(1)):
        found = []
        for word in ("auto", "off"):
            with marl.compiled.use(word):
                found.append(stray(scores.transpose(0, 1).contiguous().transpose(0, 1), chance, share, other))
        assert torch.equal(*found)
