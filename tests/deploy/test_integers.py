"""Layers in whole numbers: what they compute, the ranges that play finds, and when they are refused."""

from __future__ import annotations

import numpy as np
import pytest

import marl
import marl_runtime
from marl.deploy import integers
from marl.deploy.integers import Recorder, refuse_slower
from marl.deploy.quantize import int8
from marl.program import program_of
from marl_runtime.program import Operation, Program, Stage
from tests.support.policies import agent_of, rows, system_of
from tests.support.tiny import Team

ON = {"rollout": 8, "minibatches": 1, "network": marl.MLP((16,))}
RANDOM = np.random.default_rng(0)
WEIGHT, BIAS = RANDOM.normal(size=(6, 4)).astype(np.float32), RANDOM.normal(size=4).astype(np.float32)
HEADS = {name: Stage((Operation("argmax", name, ("y",), {}),), {"action": name}) for name in ("greedy", "sample")}
LAYER = Program(
    {"observation": (6,)},
    {"weight": WEIGHT, "bias": BIAS},
    (Stage((Operation("layer", "y", ("observation", "weight", "bias"), {}),), {"parameters": "y"}),),
    HEADS,
)


def computed(quantize, observation, **ranges):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from marl.deploy.onnx import graphs_of
    from marl_runtime.onnx import session_of

    (graph,) = graphs_of(LAYER, quantize, ranges=ranges)
    return session_of(graph).run(["parameters"], {"observation": observation[None]})[0][0]


def test_a_static_layer_rounds_what_it_reads_to_127_steps_of_its_range():
    x = RANDOM.normal(size=6).astype(np.float32)
    step = np.float32(np.abs(x).max() / 127)
    whole, scale = int8(WEIGHT, -1)
    wanted = (np.rint(x / step) @ whole.astype(np.float64)) * step * scale[0] + BIAS
    np.testing.assert_allclose(computed("static", x, weight=float(np.abs(x).max())), wanted, rtol=1e-5)
    beyond = computed("static", 100 * x, weight=float(np.abs(x).max()))
    clipped = (np.clip(np.rint(100 * x / step), -128, 127) @ whole.astype(np.float64)) * step * scale[0] + BIAS
    np.testing.assert_allclose(beyond, clipped, rtol=1e-5)


def test_a_dynamic_layer_has_255_steps_from_the_least_to_the_largest_number():
    x = RANDOM.normal(size=6).astype(np.float32)
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    zero = np.rint(-min(x.min(), 0) / step)
    whole, scale = int8(WEIGHT, -1)
    wanted = ((np.rint(x / step) + zero - zero) @ whole.astype(np.float64)) * step * scale[0] + BIAS
    np.testing.assert_allclose(computed("dynamic", x), wanted, rtol=1e-5)


def test_the_range_of_a_layer_is_the_largest_number_that_it_read():
    agent = agent_of(marl.PPO(**ON))
    program, most = program_of(agent.net, agent.distribution), {}
    recorder, seen = Recorder(program, {}, most), rows(agent.codec.raw_space, 20)
    hidden = []
    for row in seen:
        values = recorder.begin(observation=row)
        recorder.run(values, 0)
        first = program.stages[0].operations[-2]
        hidden.append(np.abs(values[recorder._places[first.out]]).max())
    layers = [step for step in program.stages[0].operations if step.kind == "layer"]
    assert most[layers[0].inputs[1]] == pytest.approx(1.0)  # the identity, beside observations below 1
    assert most[layers[1].inputs[1]] == pytest.approx(max(hidden))


def test_a_static_bundle_acts_on_the_ranges_of_its_own_play(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    system = marl.MultiAgentSystem(marl.ippo(channel=marl.CommNet(rounds=2), **ON), Team, num_envs=2, seed=1)
    out = system.export(tmp_path / "bundle", format="onnx", quantize="static")
    team = marl_runtime.load(out, "onnx")
    assert team.manifest["precision"] == "static int8"
    exact = marl_runtime.load(system.export(tmp_path / "whole"))
    seen = rows(Team().observation_space("agent_0"), 20)
    for name in team:
        for row in seen:
            for one in (team[name], exact[name]):
                one.act(row)
            np.testing.assert_allclose(team[name].outputs, exact[name].outputs, atol=0.01)


def test_whole_numbers_are_of_graphs_alone(tmp_path):
    for quantize in ("dynamic", "static"):
        with pytest.raises(marl.ConfigError, match=rf"quantize='{quantize}' computes in whole numbers.*--format onnx"):
            system_of(marl.PPO(**ON)).export(tmp_path / "bundle", quantize=quantize)


def test_dynamic_int8_that_is_slower_is_refused_with_both_times(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    system = system_of(marl.PPO(**ON))
    monkeypatch.setattr(integers, "microseconds", lambda *graphs: [40.0, 55.0])
    reason = "export: agent 'a': dynamic int8 takes 55 us an action here and float32 40 us.*--quantize int8"
    with pytest.raises(marl.ConfigError, match=reason) as found:
        system.export(tmp_path / "bundle", format="onnx", quantize="dynamic")
    assert "\n" not in str(found.value)
    assert not (tmp_path / "bundle").exists()
    monkeypatch.setattr(integers, "microseconds", lambda *graphs: [55.0, 40.0])
    team = marl_runtime.load(system.export(tmp_path / "bundle", format="onnx", quantize="dynamic"), "onnx")
    assert team.manifest["precision"] == "dynamic int8"


def test_contenders_are_timed_by_their_own_graphs():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from marl.deploy.onnx import graphs_of

    graphs = graphs_of(LAYER)
    assert all(found > 0 for found in integers.microseconds(graphs, graphs))
    with pytest.raises(marl.ConfigError, match="so it would be slower"):
        refuse_slower([], graphs)
