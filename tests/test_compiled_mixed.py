"""The compiled gradient of VDN and QMIX is autograd's, and stands for nothing but what it was written for."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from gymnasium.spaces import Discrete

import marl
from marl.compiled import mixed
from marl.compiled.backend import MismatchError
from tests.support.tiny import Acting

SETTINGS = {
    "network": marl.GRU(8),
    "sequence": 5,
    "learning_starts": 16,
    "batch": 8,
    "buffer": 128,
    "updates_per_step": 0.5,
}
RECIPES = {"vdn": marl.vdn(**SETTINGS), "qmix": marl.qmix(**SETTINGS)}
OTHERWISE = {
    "as it comes": {},
    "one network": {"double": False, "huber": 0.05, "hysteresis": 0.3},
    "burn-in": {"burn_in": 2},
    "single rows, priorities": {"sequence": 1, "prioritized": marl.memory.Prioritized()},
    "LSTMs apart": {"network": marl.nets.LSTM(6), "sharing": "none", "stored_carry": False},
    "groups, normalized": {"sharing": {"agent_0": "one", "agent_*": "others"}, "normalize_obs": True},
}


@pytest.fixture(autouse=True)
def _as_it_comes():
    """These tests say themselves how compiled code is used."""
    with marl.compiled.use("auto"):
        yield


def system_of(settings, **how):
    """Episodes end and agents die within sequences."""
    how = {"length": 7, "die": (4, None, None)} | how
    return marl.MultiAgentSystem(settings, lambda: Acting(Discrete(3), **how), num_envs=2, seed=1)


def gradients(learner, word, sample):
    """What is said of a draw and the gradients, with compiled code or without."""
    with marl.compiled.use(word):
        seen, next_seen = learner.net.encode(sample.obs), learner.net.encode(sample.next_obs)
        gradient = learner.chosen.gradient if word == "auto" else learner._autograd
        said = gradient.fill(sample, seen, next_seen)
        return [*said, *(flat.gradients.clone() for flat in learner.flats)]


@pytest.mark.parametrize("other", OTHERWISE)
@pytest.mark.parametrize("name", RECIPES)
def test_gradients_and_what_is_said_of_a_draw_are_autograd_s(name, other):
    with system_of(replace(RECIPES[name], **OTHERWISE[other])) as system:
        system.train(steps=120)
        learner = system.learners[0]
        assert learner.chosen.compiled, learner.chosen.reason
        for _ in range(5):
            sample = learner.experience.draw(learner.clock)
            assert sample.length == 1 or not sample.acting.all()
            assert sample.length == 1 or sample.started[1:].any()
            results = [gradients(learner, word, sample) for word in ("auto", "off")]
            for ours, plain in zip(*results, strict=True):
                assert ours.shape == plain.shape
                assert ours.dtype == plain.dtype
                assert torch.allclose(ours, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_twenty_updates_lead_where_autograd_s_do(name):
    ends = []
    for word in ("auto", "off"):
        with marl.compiled.use(word), system_of(RECIPES[name], terminal=True) as system:
            system.train(steps=56)
            ends.append(system.learners[0])
    ours, plain = ends
    assert ours.experience.updates == plain.experience.updates == 20
    for one, other in zip(ours.flats, plain.flats, strict=True):
        assert torch.allclose(one.values, other.values, atol=1e-5)


REFUSED = {
    "rewards of several turns": ({"n_step": 3}, "setting 'n_step' is not among those that the kernel computes"),
    "another mixer": (
        {"credit": marl.qplex().credit},
        "setting 'sequence' is not among those that the kernel computes",
    ),
    "forgiving": ({"leniency": 0.5}, "setting 'leniency' is not among those that the kernel computes"),
    "no memory": (
        {"network": marl.MLP((8,)), "sequence": None},
        "the kernel mixes values of networks with a GRU or LSTM between plain layers, on a CPU, alone",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_equations_go_through_autograd(case):
    other, reason = REFUSED[case]
    with system_of(replace(RECIPES["qmix"], **other)) as system:
        system.train(steps=40)
        chosen = system.learners[0].chosen
    assert not chosen.compiled
    assert chosen.reason == reason


@pytest.mark.parametrize("method", ["mixed_loss", "cost", "mixer.now", "mixer.later", "mixer.online.forward"])
def test_a_function_put_in_the_place_of_an_equation_is_called(method):
    calls = []
    with system_of(RECIPES["qmix"]) as system:
        learner = system.learners[0]
        assert learner.chosen.compiled
        *path, name = method.split(".")
        owner = functools.reduce(getattr, path, learner)
        old = getattr(owner, name)

        def own(*inputs, **named):
            calls.append(method)
            return old(*inputs, **named)

        setattr(owner, name, own)
        system.train(steps=40)
        assert calls
        assert learner.chosen.reason == f"{method} was replaced by another function"


def test_a_hook_in_a_mixer_is_called():
    calls = []
    with system_of(RECIPES["qmix"]) as system:
        learner = system.learners[0]
        learner.mixer.online.register_forward_hook(lambda *_: calls.append(1))
        system.train(steps=40)
        assert calls
        assert not learner.chosen.compiled


def test_an_error_in_the_kernel_is_found(monkeypatch):
    kernel = mixed._td_errors

    def spoilt(*arguments):
        loss, slope, error = kernel(*arguments)
        return loss, -slope, error

    monkeypatch.setattr(mixed, "_td_errors", spoilt)
    with marl.compiled.use("check"), system_of(RECIPES["vdn"]) as system, pytest.raises(MismatchError, match="DQN"):
        system.train(steps=40)
