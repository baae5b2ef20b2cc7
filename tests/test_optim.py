"""Optimizers move each parameter set as torch's own would move it alone; sets that are held keep values and moments."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import marl
from marl.compiled import use
from marl.config import from_json, to_json
from marl.nets.stacked import FlatParameters
from marl.optim import SGD, Adam, AdamW, Optimizer, RMSprop, Stepper, TorchOptim
from marl.schedules import Clock
from marl.types import CheckpointError, ConfigError
from tests.support.equality import assert_equal_trees
from tests.support.learning import fill, learner_of
from tests.support.tiny import Team

SETS, WIDTH, STEPS, LR = 3, 40, 20, 2.0**-7

# Each with what torch has for it: class and keywords.
OURS: dict[str, tuple[Optimizer, Any, dict[str, Any]]] = {
    "adam": (Adam(), torch.optim.Adam, {"eps": 1e-5}),
    "adam-betas": (Adam(eps=1e-8, betas=(0.5, 0.9)), torch.optim.Adam, {"eps": 1e-8, "betas": (0.5, 0.9)}),
    "adamw": (AdamW(weight_decay=0.3), torch.optim.AdamW, {"weight_decay": 0.3, "eps": 1e-5}),
    "rmsprop": (RMSprop(alpha=0.9), torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-5}),
    "rmsprop-momentum": (RMSprop(momentum=0.8), torch.optim.RMSprop, {"momentum": 0.8, "eps": 1e-5}),
    "sgd": (SGD(), torch.optim.SGD, {}),
    "sgd-momentum": (SGD(momentum=0.9), torch.optim.SGD, {"momentum": 0.9}),
    "sgd-nesterov": (SGD(momentum=0.9, nesterov=True), torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "radam": (TorchOptim(torch.optim.RAdam, {"weight_decay": 0.1}), torch.optim.RAdam, {"weight_decay": 0.1}),
    "adagrad": (TorchOptim(torch.optim.Adagrad), torch.optim.Adagrad, {}),
    "nadam": (TorchOptim("NAdam"), torch.optim.NAdam, {}),
}
EACH = pytest.mark.parametrize("name", OURS)


def matrix(sets: int = SETS) -> FlatParameters:
    values = torch.randn(sets, WIDTH, generator=torch.Generator().manual_seed(5))
    return FlatParameters([nn.ParameterList([nn.Parameter(values)])], sets)


def gradients(step: int, sets: int = SETS) -> Tensor:
    random = torch.Generator().manual_seed(100 + step)
    return torch.randn(sets, WIDTH, generator=random) * (10 if step % 2 else 0.01)


def rate(step: int) -> float:
    """A schedule of numbers that float32 knows."""
    return LR if step < STEPS // 2 else LR / 4


def moments(stepper: Stepper) -> list[Tensor]:
    """Copies of all tensors that an optimizer keeps."""

    def within(x: Any) -> list[Tensor]:
        if isinstance(x, Tensor):
            return [x.clone()]
        inner = x.values() if isinstance(x, dict) else x if isinstance(x, list) else ()
        return [tensor for part in inner for tensor in within(part)]

    return within(stepper.state_dict())


@EACH
@pytest.mark.parametrize("where", ["auto", "off"])
def test_twenty_steps_are_those_of_torch_on_clipped_gradients_with_a_frozen_set(name, where):
    optimizer, cls, keywords = OURS[name]
    flat = matrix()
    rows = [nn.Parameter(row.clone()) for row in flat.values]
    wanted = [cls([row], lr=LR, **keywords) for row in rows]
    with use(where):
        stepper = Stepper(optimizer, flat)
        for step in range(STEPS):
            frozen = 1 if step % 3 == 2 else None
            flat.thaw()
            if frozen is not None:
                flat.freeze(frozen)
            flat.gradients.copy_(gradients(step))
            expected = torch.linalg.vector_norm(flat.gradients, dim=1)
            for which, (row, gradient, theirs) in enumerate(zip(rows, gradients(step), wanted, strict=True)):
                row.grad = gradient
                nn.utils.clip_grad_norm_([row], 0.5)
                theirs.param_groups[0]["lr"] = rate(step)
                if which != frozen:
                    theirs.step()
            stepper.lr = rate(step)
            assert torch.allclose(stepper.step(0.5), expected, rtol=1e-5)
    assert torch.allclose(flat.values, torch.stack([row.detach() for row in rows]), atol=2e-6)


def test_one_step_of_each_by_hand():
    """From w = 1 with gradient 2 and learning rate 0.5, then gradient 2 again."""
    first_square, second_square = 0.1 * 4, 0.9 * 0.4 + 0.1 * 4
    root = [2 / (first_square**0.5 + 1e-5), 2 / (second_square**0.5 + 1e-5)]
    by_hand = {
        SGD(): [0.0, -1.0],
        SGD(momentum=0.5): [0.0, -1.5],  # b: 2, then 3
        SGD(momentum=0.5, nesterov=True): [1 - 0.5 * 3, 1 - 0.5 * 3 - 0.5 * 3.5],
        RMSprop(alpha=0.9): [1 - 0.5 * root[0], 1 - 0.5 * root[0] - 0.5 * root[1]],
        Adam(): [0.5, 0.0],  # m / (1 - b1^t) = 2 and v / (1 - b2^t) = 4 in both steps
        AdamW(weight_decay=0.2): [0.9 - 0.5, 0.4 * 0.9 - 0.5],
    }
    for optimizer, values in by_hand.items():
        flat = FlatParameters([nn.ParameterList([nn.Parameter(torch.ones(1, 1))])], 1)
        stepper = Stepper(optimizer, flat, lr=0.25, scale=2.0)
        for value in values:
            flat.gradients.fill_(2.0)
            stepper.step()
            assert float(flat.values) == pytest.approx(value, abs=2e-5), optimizer


@EACH
def test_stacked_is_separate(name):
    """Bit for bit, with a set that is frozen and one whose gradient is not finite now and then."""
    optimizer = OURS[name][0]
    flat, alone = matrix(), [matrix() for _ in range(SETS)]
    together, apart = Stepper(optimizer, flat), []
    for which, other in enumerate(alone):
        row = FlatParameters([nn.ParameterList([nn.Parameter(other.values[which : which + 1].clone())])], 1)
        apart.append(Stepper(optimizer, row))
    for step in range(STEPS):
        new = gradients(step)
        new[2, 7] = torch.nan if step % 4 == 1 else 1.0
        flat.gradients.copy_(new)
        flat.thaw()
        if step % 3 == 2:
            flat.freeze(1)
        for which, stepper in enumerate(apart):
            stepper.flat.gradients.copy_(new[which : which + 1])
            stepper.flat.thaw()
            if step % 3 == 2 and which == 1:
                stepper.flat.freeze(0)
        for stepper in (together, *apart):
            stepper.lr = rate(step)
            stepper.step(0.5)
    assert torch.equal(flat.values, torch.cat([stepper.flat.values for stepper in apart]))


@EACH
@pytest.mark.parametrize("held", ["frozen", "gradient", "loss"])
@pytest.mark.parametrize("loss_is", ["tensor", "number"])
def test_a_set_that_is_held_keeps_its_values_and_moments(name, held, loss_is):
    flat = matrix(1)
    stepper = Stepper(OURS[name][0], flat, lr=LR)
    for step in range(3):
        flat.gradients.copy_(gradients(step, 1))
        stepper.step(0.5)
    before, kept = flat.values.clone(), moments(stepper)
    flat.gradients.copy_(gradients(3, 1))
    if held == "frozen":
        flat.freeze(0)
    elif held == "gradient":
        flat.gradients[0, 5] = torch.inf
    else:
        flat.loss = torch.tensor(torch.nan) if loss_is == "tensor" else float("nan")
    stepper.step(0.5)
    assert torch.equal(flat.values, before)
    assert all(map(torch.equal, moments(stepper), kept))
    flat.thaw()
    flat.gradients.copy_(gradients(4, 1))
    stepper.step(0.5)
    assert (flat.values != before).any()


@EACH
def test_saved_moments_go_on_bit_for_bit(name):
    optimizer = OURS[name][0]

    def run(stepper: Stepper, steps: range) -> None:
        for step in steps:
            stepper.flat.gradients.copy_(gradients(step))
            stepper.lr = rate(step)
            stepper.step(0.5)

    whole, first, second = (Stepper(optimizer, matrix()) for _ in range(3))
    run(whole, range(12))
    run(first, range(7))
    second.load_state_dict(first.state_dict())
    second.flat.values.copy_(first.flat.values)
    run(first, range(7, 12))  # what was loaded is a copy
    run(second, range(7, 12))
    assert torch.equal(second.flat.values, whole.flat.values)
    assert all(map(torch.equal, moments(second), moments(whole)))


def test_moments_of_another_optimizer_are_refused():
    with pytest.raises(CheckpointError, match=r"expected saved moments last, got mean, square, steps; load with"):
        Stepper(SGD(), matrix()).load_state_dict(Stepper(Adam(), matrix()).state_dict())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Adam(eps=0), r"Adam\.eps: expected a number above 0"),
        (lambda: Adam(betas=(0.9, 1.0)), r"Adam\.betas: expected two numbers of at least 0 and below 1, got \(0\.9, 1"),
        (lambda: AdamW(betas=0.9), r"AdamW\.betas: expected two numbers"),
        (lambda: AdamW(weight_decay=-1), r"AdamW\.weight_decay"),
        (lambda: RMSprop(alpha=1), r"RMSprop\.alpha"),
        (lambda: SGD(nesterov=True), r"SGD: nesterov=True needs momentum above 0"),
        (lambda: TorchOptim("Adamm"), r"expected a class of optimizers or its name in torch\.optim, got 'Adamm'"),
        (lambda: TorchOptim(nn.Linear), r"expected a class of optimizers"),
        (lambda: TorchOptim(torch.optim.RAdam, {"lr": 0.1}), r"'lr' is the learner's own setting"),
        (lambda: TorchOptim(torch.optim.RAdam, {"speed": 1}), r"TorchOptim\(RAdam\): it cannot be made with"),
        (lambda: TorchOptim(torch.optim.LBFGS), r"TorchOptim\(LBFGS\): it cannot step on a vector"),
        (lambda: TorchOptim(torch.optim.SparseAdam), r"TorchOptim\(SparseAdam\): it cannot step on a vector"),
        (lambda: TorchOptim("SGD", 5), r"TorchOptim\.keywords: expected a dictionary, got 5"),
        (lambda: marl.PPO(optimizer="adam"), r"PPO\.optimizer: expected Optimizer .*, got 'adam'"),
        (lambda: marl.PPO(optimizer=torch.optim.Adam), r"PPO\.optimizer: expected Optimizer"),
        (lambda: marl.PPO(adam_eps=1e-3), r"unknown field 'adam_eps'; it is optimizer=marl\.optim\.Adam\(eps=\.\.\.\)"),
        (lambda: marl.qmix(adam_eps=1e-3), r"optimizer=marl\.optim\.Adam\(eps=\.\.\.\)"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, told):
    with pytest.raises(ConfigError, match=told):
        make()


@EACH
def test_settings_come_back_from_json(name):
    optimizer = OURS[name][0]
    assert from_json(json.loads(json.dumps(to_json(optimizer)))) == optimizer
    learner = marl.PPO(optimizer=optimizer)
    assert from_json(json.loads(json.dumps(to_json(learner)))) == learner


def test_a_file_from_before_there_were_optimizers_is_read():
    data = to_json(marl.SAC()) | {"adam_eps": 1e-3}
    del data["optimizer"]
    assert from_json(data) == marl.SAC(optimizer=Adam(eps=1e-3))


def test_the_command_line_sets_optimizers_and_their_fields():
    from marl.overrides import override

    scenario = marl.Scenario(name="it", env=Team, agents=marl.ippo())
    changed = override(scenario, ["learner.optimizer.eps=0.01"])
    assert changed.agents.optimizer == Adam(eps=0.01)
    changed = override(changed, ["learner.optimizer=SGD(momentum=0.9)"])
    assert changed.agents.optimizer == SGD(momentum=0.9)
    changed = override(changed, ["learner.optimizer=TorchOptim('RAdam', {'weight_decay': 0.1})"])
    assert changed.agents.optimizer == TorchOptim(torch.optim.RAdam, {"weight_decay": 0.1})
    with pytest.raises(ConfigError, match=r"did you mean 'learner\.optimizer\.eps'"):
        override(scenario, ["learner.adam_eps=0.01"])
    with pytest.raises(ConfigError, match=r"expected Adam\(\.\.\.\), SGD\(\.\.\.\) or another optimizer"):
        override(scenario, ["learner.optimizer=adam"])


REPLAY = {"batch": 8, "learning_starts": 8, "updates_per_step": 1.0}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (marl.PPO(rollout=8, minibatches=1, sharing="none", target_kl=0.5), "radam"),
        (marl.PPO(rollout=8, minibatches=1, sharing="none", target_kl=0.5), "adamw"),
        (marl.PPO(rollout=8, minibatches=1, sharing="none", sequential=True), "radam"),
        (marl.A2C(rollout=8), "rmsprop-momentum"),
        (marl.DQN(**REPLAY), "sgd-momentum"),
        (marl.DQN(**REPLAY, credit=marl.QMix()), "radam"),
        (marl.DDPG(**REPLAY, credit=marl.QMix()), "adamw"),
        (marl.TD3(**REPLAY), "rmsprop-momentum"),
        (marl.SAC(**REPLAY), "radam"),
    ],
    ids=lambda part: type(part).__name__ if dataclasses.is_dataclass(part) else part,
)
def test_learners_resume_bit_for_bit_with_any_optimizer(config, name, tmp_path):
    config = dataclasses.replace(config, optimizer=OURS[name][0], network=marl.MLP((8,)))

    def system() -> marl.MultiAgentSystem:
        return marl.MultiAgentSystem(config, Team, num_envs=2, seed=3)

    whole = system()
    whole.train(steps=96)
    first = system()
    first.train(steps=48)
    loaded = marl.MultiAgentSystem.load(first.save(tmp_path / "it"), env=Team)
    loaded.train(steps=48)
    for one, other in zip(whole.learners, loaded.learners, strict=True):
        assert_equal_trees(one.state_dict(), other.state_dict())


def test_the_compiled_gradient_does_not_depend_on_the_optimizer():
    """A step of plain descent is the gradient: PPO's kernel and autograd agree on it, whatever the optimizer."""
    moved = {}
    for where in ("auto", "off"):
        with use(where):
            learner = learner_of(marl.PPO(rollout=8, minibatches=1, epochs=1, optimizer=SGD(), max_grad_norm=1e9))
            assert learner.chosen.compiled == (where == "auto")
            fill(learner, 0, [0, 1, 2])
            before = learner.flat.values.clone()
            learner.update(Clock(0, 1))
            moved[where] = learner.flat.values - before
    assert float(moved["off"].abs().max()) > 0
    np.testing.assert_allclose(moved["auto"], moved["off"], atol=1e-7)
