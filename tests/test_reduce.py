"""Two learners with half of the copies each are one learner with all of them, to rounding."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

import marl
from marl import ops, reduce
from marl.memory.sample import Sample
from marl.nets.normalizers import RunningNorm
from marl.nets.owner import Owner
from marl.nets.stacked import FlatParameters
from marl.optim import SGD, Adam, Stepper
from marl.schedules import Clock
from tests.support.learning import fill, learner_of

COPIES = 8


class Pair:
    """Two learners in two threads, which wait for each other whenever they add up."""

    alone = False

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=60)
        self.said: dict[int, tuple[Tensor, ...]] = {}
        self.sums = 0

    def sum(self, *tensors: Tensor) -> None:
        self.sums += 1
        self._meet(tensors, torch.add)

    def max(self, *tensors: Tensor) -> None:
        self._meet(tensors, torch.maximum)

    def _meet(self, tensors, put) -> None:
        me = threading.get_ident()
        self.said[me] = tuple(tensor.clone() for tensor in tensors)
        self.barrier.wait()
        first, second = (self.said[who] for who in sorted(self.said))
        for tensor, one, other in zip(tensors, first, second, strict=True):
            tensor.copy_(put(one, other))
        self.barrier.wait()

    def run(self, *functions):
        """What both functions return, computed at the same time."""
        self.said.clear()
        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(function) for function in functions]
            return [answer.result() for answer in answers]


def half(memory, whole, part) -> None:
    """Copies of a rollout's columns."""
    columns = slice(part * COPIES // 2, (part + 1) * COPIES // 2)
    for name, value in vars(whole).items():
        mine = getattr(memory, name)
        if isinstance(value, Tensor) and value.dim() > 1 and value.shape[1] == COPIES:
            mine.copy_(value[:, columns])
    memory.time = whole.time


ON = {"rollout": 16, "network": marl.MLP((16,)), "normalize_obs": True, "normalize_values": True}


@pytest.mark.parametrize("sharing", ["all", "none", {"agent_0": "a", "agent_*": "b"}], ids=["all", "none", "groups"])
@pytest.mark.parametrize(
    "config",
    [
        marl.A2C(**ON, normalize_advantages=True),
        marl.A2C(**ON, critic=marl.Joint(), optimizer=marl.optim.RMSprop()),
        marl.PPO(**ON, minibatches=1, epochs=3),
    ],
    ids=["a2c", "a2c-joint-rmsprop", "ppo"],
)
def test_two_halves_of_a_rollout_teach_what_the_whole_does(config, sharing):
    config = dataclasses.replace(config, sharing=sharing)
    whole = learner_of(config, envs=COPIES)
    fill(whole, 3, [0, 1, 2])
    pair = Pair()
    with reduce.use(pair):
        parts = [learner_of(config, envs=COPIES // 2) for _ in range(2)]
    for part, learner in enumerate(parts):
        half(learner.memory, whole.memory, part)
    complete = [int(learner.memory.acting[:-1].sum()) for learner in parts]
    assert complete[0] != complete[1]  # so a plain mean of two means would be another number
    clock = Clock(0, 1)
    told = whole.update(clock)
    answers = pair.run(*(lambda learner=learner: learner.update(clock) for learner in parts))
    assert torch.equal(parts[0].flat.values, parts[1].flat.values)
    start = learner_of(config, envs=COPIES).flat.values
    moved = whole.flat.values - start
    assert float((parts[0].flat.values - whole.flat.values).abs().max()) < 0.01 * float(moved.abs().max())
    for name, value in whole.model.state_dict().items():
        if "norm" in name:
            torch.testing.assert_close(parts[0].model.state_dict()[name], value, rtol=1e-5, atol=1e-7)
    for answer in answers:
        for name in ("explained_variance", "gradient_norm"):
            torch.testing.assert_close(answer[name], told[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("beyond", [0.98, 1.02], ids=["stops", "goes on"])
def test_epochs_stop_at_the_divergence_of_all_rows(beyond):
    """The limit is so close that one half alone would be beyond it and the other would not."""
    config = marl.PPO(**ON, minibatches=1, epochs=2, lr=0.01)
    divergences: list[float] = []

    def updated(learner) -> int:
        """How many passes a learner makes over its rollout."""
        passed: list[float] = []
        make = learner._pass

        def counted(*given):
            sums, parts = make(*given)
            passed.append(float(sums))
            return sums, parts

        learner._pass = counted
        learner.update(Clock(0, 1))
        divergences[:] = passed
        return len(passed)

    whole = learner_of(config, envs=COPIES)
    fill(whole, 3, [0, 1, 2])
    assert updated(whole) == 2
    config = dataclasses.replace(config, target_kl=beyond * divergences[0])
    pair = Pair()
    alone, parts = [learner_of(config, envs=COPIES // 2) for _ in range(2)], []
    with reduce.use(pair):
        parts = [learner_of(config, envs=COPIES // 2) for _ in range(2)]
    fill(whole, 3, [0, 1, 2])
    for part in range(2):
        half(alone[part].memory, whole.memory, part)
        half(parts[part].memory, whole.memory, part)
    assert sorted(map(updated, alone)) == [1, 2]
    assert pair.run(*(lambda learner=learner: updated(learner) for learner in parts)) == [1 if beyond < 1 else 2] * 2


def drawn(learner, seed: int, batch: int) -> Sample:
    """A draw of made-up transitions, some of which do not count."""
    random = torch.Generator().manual_seed(seed)
    agents, width = learner.team.num_agents, learner.team.obs.shape[0]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random)

    box = learner.team.action.kind == "box"
    size = (1, batch, agents)
    acting = uniform(*size) < 0.8
    yes = torch.ones(1, batch, dtype=torch.bool)
    return Sample(
        index=torch.zeros(batch, 1, dtype=torch.int64),
        obs=uniform(*size, width),
        action=uniform(*size, 2) * 2 - 1 if box else (uniform(*size) * 3).long(),
        action_mask=None,
        started=yes,
        acting=acting,
        complete=acting & (uniform(*size) < 0.9),
        successor=torch.full(size, -1),
        reward=uniform(*size),
        discount=torch.full(size, 0.9),
        next_obs=uniform(*size, width),
        next_action_mask=None,
        next_acting=acting,
        carry=torch.zeros(batch, agents, 0),
        joint=None,
        next_joint=None,
        others=(),
        next_others=(),
        acting_others=(),
        next_acting_others=(),
        next_action_mask_others=(),
        weight=torch.ones(batch, 1),
    )


def piece(sample: Sample, rows: slice) -> Sample:
    """Some transitions of a draw."""
    values = {}
    for field in dataclasses.fields(Sample):
        value = getattr(sample, field.name)
        if isinstance(value, Tensor):
            value = value[rows] if field.name in ("index", "carry", "weight") else value[:, rows]
        values[field.name] = value
    return Sample(**values)


REPLAY = {"network": marl.MLP((16,)), "normalize_obs": True, "batch": 24, "lr": 1e-3}


@pytest.mark.parametrize(
    "config",
    [
        marl.DQN(**REPLAY, sharing="none"),
        marl.DDPG(**REPLAY),
        marl.DDPG(**REPLAY, optimizer=marl.optim.TorchOptim(torch.optim.NAdam)),
    ],
    ids=["dqn", "ddpg", "ddpg-nadam"],
)
def test_two_halves_of_a_draw_teach_what_the_whole_does(config):
    action = Box(-1, 1, (2,), np.float32) if isinstance(config, marl.DDPG) else None
    whole = learner_of(config, action=action)
    pair = Pair()
    with reduce.use(pair):
        parts = [learner_of(config, action=action) for _ in range(2)]
    for learner in (whole, *parts):
        learner.memory.ragged = True
        for optimizer in learner.optimizers().values():
            optimizer.lr = 1e-3
    for update in range(3):
        sample = drawn(whole, update, 24)
        pieces = [piece(sample, rows) for rows in (slice(0, 9), slice(9, 24))]
        counts = [int(each.complete.sum()) for each in pieces]
        assert counts[0] != counts[1]
        whole.learn_once(sample)
        pair.run(*(lambda one=one, its=its: one.learn_once(its) for one, its in zip(parts, pieces, strict=True)))
    for name, optimizer in whole.optimizers().items():
        one, other = (learner.optimizers()[name].flat.values for learner in parts)
        assert torch.equal(one, other)
        torch.testing.assert_close(one, optimizer.flat.values, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("optimizer", [Adam(), SGD()], ids=["compiled", "torch"])
def test_gradients_are_added_up_once_per_step_before_they_are_clipped(optimizer):
    pair, flats = Pair(), []
    with reduce.use(pair):
        for _ in range(2):
            flats.append(FlatParameters([nn.ParameterList([nn.Parameter(torch.zeros(2, 4))])], 2))
        steppers = [Stepper(optimizer, flat, lr=0.1) for flat in flats]
    steppers[0].rows, steppers[1].rows = torch.tensor([1, 3]), torch.tensor([3, 0])
    flats[0].gradients.copy_(torch.tensor([[8.0], [5.0]]).expand(2, 4))
    flats[1].gradients.copy_(torch.tensor([[4.0], [9.0]]).expand(2, 4))
    norms = pair.run(*(lambda stepper=stepper: stepper.step(6.0) for stepper in steppers))
    for norm in norms:  # (1 * 8 + 3 * 4) / 4 = 5 and 5 in each of four columns
        torch.testing.assert_close(norm, torch.tensor([10.0, 10.0]))
    torch.testing.assert_close(flats[0].gradients, torch.full((2, 4), 3.0), rtol=1e-5, atol=1e-5)
    assert pair.sums == 2  # of each learner one message: rows, gradients, and the loss
    assert torch.equal(flats[0].values, flats[1].values)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_in_one_learner_moves_none(where):
    pair, steppers = Pair(), []
    with reduce.use(pair):
        for _ in range(2):
            flat = FlatParameters([nn.ParameterList([nn.Parameter(torch.ones(1, 4))])], 1)
            steppers.append(Stepper(Adam(), flat, lr=0.1))
    for stepper in steppers:
        stepper.flat.gradients.fill_(1.0)
    if where == "loss":
        steppers[1].flat.loss = torch.tensor(torch.nan)
    else:
        steppers[1].flat.gradients[0, 2] = torch.inf
    pair.run(*(lambda stepper=stepper: stepper.step(1.0) for stepper in steppers))
    for stepper in steppers:
        assert (stepper.flat.values == 1).all()
        assert int(stepper.flat.non_finite) == 1


def test_statistics_of_two_halves_are_those_of_the_whole():
    random = torch.Generator().manual_seed(2)
    owner = Owner((0, 1, 0))
    x, mask = torch.randn(30, 3, generator=random), torch.rand(30, 3, generator=random) < 0.7
    halves = [slice(0, 11), slice(11, 30)]
    wanted = ops.masked_normalize(x, mask, torch.tensor(owner.index), 2)
    pair = Pair()
    found = pair.run(
        *(
            lambda rows=rows: ops.masked_normalize(x[rows], mask[rows], torch.tensor(owner.index), 2, reduce=pair)
            for rows in halves
        )
    )
    torch.testing.assert_close(torch.cat(found), wanted, rtol=1e-5, atol=1e-6)
    whole, norms = RunningNorm(owner, 1), [RunningNorm(owner, 1) for _ in range(2)]
    whole.update(x.unsqueeze(-1), mask)
    pair.run(
        *(
            lambda norm=norm, rows=rows: norm.update(x[rows].unsqueeze(-1), mask[rows], pair)
            for norm, rows in zip(norms, halves, strict=True)
        )
    )
    for norm in norms:
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(norm.state_dict()[name], value)


def test_equal_entries_in_one_half_are_no_spread_and_different_ones_in_the_other_are():
    mask, owner = torch.ones(2, 1, dtype=torch.bool), torch.tensor([0])
    pair = Pair()
    same, other = torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [5.0]])
    found = pair.run(*(lambda x=x: ops.masked_normalize(x, mask, owner, 1, reduce=pair) for x in (same, other)))
    torch.testing.assert_close(
        torch.cat(found), ops.masked_normalize(torch.cat((same, other)), torch.cat((mask, mask)), owner, 1)
    )


def test_a_learner_keeps_what_it_was_made_with():
    pair = Pair()
    with reduce.use(pair):
        inside = learner_of(marl.PPO(rollout=8, minibatches=1))
    outside = learner_of(marl.PPO(rollout=8, minibatches=1))
    assert inside.reduce is inside.optimizer.reduce is pair
    assert outside.reduce is outside.optimizer.reduce is reduce.ALONE
    assert not inside.optimizer.recordable
    assert outside.optimizer.recordable
