"""The same on a GPU: every recipe trains there and moves between devices, and recorded steps are the ordinary ones."""

from __future__ import annotations

import dataclasses
import warnings

import marl_envs
import pytest
import torch
from marl_scenarios import tag_league

import marl
from marl import graphs
from marl.learners.base import restore_generator
from tests.support.tiny import Team

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ON = {"rollout": 20, "minibatches": 2}
OFF = {"learning_starts": 40, "batch": 16, "buffer": 500, "updates_per_step": 0.1}
CASES = {
    "ippo": marl.ippo(**ON),
    "mappo": marl.mappo(**ON),
    "independent": marl.ippo(sharing="none", **ON),
    "groups": marl.ippo(sharing={"agent_[01]": "a", "agent_2": "b"}, normalize_obs=True, normalize_values=True, **ON),
    "recurrent": marl.ippo(network=marl.GRU(16), sequence=5, **ON),
    "cautious": marl.mappo(target_kl=0.001, value_clip=0.2, **ON),
    "happo": marl.happo(**ON),
    "talking": marl.mappo(channel=marl.TarMAC(), **ON),
    "ia2c": marl.ia2c(),
    "impala": marl.impala(lag=2),
    "appo": marl.appo(network=marl.GRU(16), sequence=5, lag=1, **ON),
    "coma": marl.coma(rollout=10),
    "iql": marl.iql(**OFF),
    "prioritized": marl.iql(
        prioritized=marl.memory.Prioritized(), n_step=3, distribution=marl.nets.Quantiles(8), **OFF
    ),
    "atoms": marl.iql(distribution=marl.nets.Atoms(-1, 12), network=marl.MLP(noisy=0.5), **OFF),
    "drqn": marl.iql(network=marl.GRU(16), sequence=5, **OFF),
    "dial": marl.iql(channel=marl.DIAL(), network=marl.GRU(16), sequence=5, **OFF),
    "vdn": marl.vdn(**OFF),
    "qmix": marl.qmix(**OFF),
    "qplex": marl.qplex(**OFF),
    "wqmix": marl.wqmix(**OFF),
    "iddpg": marl.iddpg(**OFF),
    "maddpg": marl.maddpg(**OFF),
    "matd3": marl.matd3(**OFF),
    "masac": marl.masac(**OFF),
    "facmac": marl.facmac(**OFF),
}
BOXES = {
    "ppo": marl.ippo(**ON),
    "squashed": marl.ippo(squash=True, **ON),
    "maddpg": marl.maddpg(**OFF),
    "matd3": marl.matd3(**OFF),
    "masac": marl.masac(**OFF),
    "ou": marl.iddpg(exploration=marl.exploration.OrnsteinUhlenbeck(), **OFF),
}


@pytest.fixture(autouse=True)
def strict():
    """A step that could not be recorded warns: here that is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def team():
    return Team(length=6, die=(3,))


def values(system):
    return {
        f"{name}/{key}": tensor
        for name, learner in zip("abc", system.learners, strict=False)
        for key, tensor in flattened(learner.state_dict())
        if "generator" not in key
    }


def flattened(state, prefix=""):
    for name, value in state.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}.")
        elif isinstance(value, torch.Tensor):
            yield f"{prefix}{name}", value.detach().float().cpu()


@gpu
@pytest.mark.parametrize("name", CASES)
def test_every_recipe_trains_on_a_gpu_and_goes_on_elsewhere(name, tmp_path):
    with marl.MultiAgentSystem(CASES[name], team, num_envs=4, seed=0, device="cuda") as system:
        system.train(steps=500)
        assert all(torch.isfinite(x).all() for x in values(system).values())
        greedy = system.evaluate(8)
        system.save(tmp_path / "there")
        there = values(system)
    with marl.MultiAgentSystem.load(tmp_path / "there", env=team) as here:
        for key, value in values(here).items():
            torch.testing.assert_close(value, there[key], rtol=0, atol=0)
        assert here.evaluate(8).mean_return == pytest.approx(greedy.mean_return, abs=0.5)
        here.train(steps=600)
        here.save(tmp_path / "here")
    with marl.MultiAgentSystem.load(tmp_path / "here", env=team, device="cuda") as back:
        back.train(steps=700)


@gpu
@pytest.mark.parametrize("name", BOXES)
def test_continuous_actions_on_a_gpu(name):
    world = {"env_kwargs": {"continuous_actions": True, "max_cycles": 10}, "num_envs": 4, "seed": 0}
    with marl.MultiAgentSystem(BOXES[name], marl_envs.Spread, device="cuda", **world) as system:
        system.train(steps=500)
        assert all(torch.isfinite(x).all() for x in values(system).values())
        system.evaluate(4)


@gpu
def test_a_league_on_a_gpu(tmp_path):
    league = marl.League(snapshot_every=800, latest=0.5)
    scenario = dataclasses.replace(tag_league.scenario, num_envs=8, league=league)
    with marl.MultiAgentSystem(None, scenario, seed=0, device="cuda") as system:
        system.train(steps=8 * 400)
        system.save(tmp_path / "there")
        system.train(steps=8 * 500)
    with marl.MultiAgentSystem.load(tmp_path / "there", env=scenario) as here:
        here.train(steps=8 * 500)


@gpu
@pytest.mark.parametrize("name", CASES)
def test_recorded_steps_are_the_ordinary_ones(name):
    def trained(enabled):
        graphs.use_graphs(enabled)
        try:
            with marl.MultiAgentSystem(CASES[name], team, num_envs=4, seed=0, device="cuda") as system:
                system.train(steps=600)
                learner = system.learners[0]
                things = (getattr(learner, name, None) for name in ("_acting", "_step", "_recorded"))
                return values(system), any(isinstance(x, graphs.Recorded) and x._recordings for x in things)
        finally:
            graphs.use_graphs(True)

    (with_graphs, recorded), (without, unrecorded) = trained(True), trained(False)
    assert recorded
    assert not unrecorded
    for key, value in without.items():
        torch.testing.assert_close(
            with_graphs[key], value, rtol=1e-4, atol=1e-5, msg=lambda text, k=key: f"{k}: {text}"
        )


@gpu
def test_what_cannot_be_recorded_is_computed_anyway():
    def waits(x):
        return x * float(x.sum().item())

    doubtful = graphs.Recorded(waits, "cuda")
    x = torch.ones(2, device="cuda")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers = [doubtful(x) for _ in range(5)]
    assert all(torch.equal(answer, 2 * x) for answer in answers)
    assert len(caught) == 1
    assert "CUDA graph" in str(caught[0].message)
    torch.rand(3, device="cuda")  # the streams of chance are as they were


def test_elsewhere_a_recorded_function_is_the_function():
    calls = []

    def add(x, number, nothing):
        calls.append((number, nothing))
        return x + number

    recorded = graphs.Recorded(add, "cpu")
    assert torch.equal(recorded(torch.ones(2), 2.0, None), torch.full((2,), 3.0))
    assert calls == [(2.0, None)]


def test_recording_can_be_switched_off():
    device = torch.device("cuda")
    assert graphs.recording(device)
    assert not graphs.recording(torch.device("cpu"))
    graphs.use_graphs(False)
    try:
        assert not graphs.recording(device)
    finally:
        graphs.use_graphs(True)


def test_a_random_stream_goes_on_on_another_device():
    """As a stream that its state decides."""
    foreign = torch.arange(16, dtype=torch.uint8)
    one, other, third = torch.Generator(), torch.Generator().manual_seed(5), torch.Generator()
    restore_generator(one, foreign)
    restore_generator(other, foreign)
    restore_generator(third, foreign + 1)
    draws = [torch.rand(4, generator=generator) for generator in (one, other, third)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    restore_generator(other, one.get_state())
    assert torch.equal(one.get_state(), other.get_state())
