"""What an export writes, what a certificate says of it, and how exported teams play in processes without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

import marl
import marl_runtime
from marl.deploy import verify
from marl.deploy.playing import BundlePlayers, open_bundle
from marl.deploy.quantize import int8, packed, rounded
from marl.playing.evaluate import EvaluationPlan, evaluate
from marl.program import program_of
from marl_runtime import process
from tests.support.policies import ACTIONS, agent_of, rows, system_of
from tests.support.tiny import Acting, Team, Turns

ON = {"rollout": 8, "minibatches": 1, "network": marl.MLP((16,))}
PAYOFF = {"payoff": [[[0, -1, 1], [1, 0, -1], [-1, 1, 0]], [[0, 1, -1], [-1, 0, 1], [1, -1, 0]]]}


def opinionated(system):
    """Policies whose outputs are far apart: those of new networks are all but equal."""
    for learner in system.learners:
        with torch.no_grad():
            learner.policy_net.head.weight.mul_(30)
    return system


def test_a_shared_policy_is_written_once_and_told_who_it_is(tmp_path):
    shared = json.loads((system_of(marl.PPO(**ON)).export(tmp_path / "one") / "manifest.json").read_text())
    assert len(shared["policies"]) == 1
    assert [agent["identity"] for agent in shared["agents"].values()] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    own = json.loads((system_of(marl.PPO(sharing="none", **ON)).export(tmp_path / "own") / "manifest.json").read_text())
    assert len(own["policies"]) == 3
    assert all(agent["identity"] == [] for agent in own["agents"].values())


def test_only_the_agents_that_are_asked_for_are_written(tmp_path):
    system = system_of(marl.PPO(sharing="none", **ON))
    team = marl_runtime.load(system.export(tmp_path / "bundle", agents=["b"], license="MIT"))
    assert list(team) == ["b"]
    assert team.manifest["license"] == "MIT"
    with pytest.raises(marl.ConfigError, match="agent 'd'"):
        system.export(tmp_path / "bundle", agents=["d"])
    with pytest.raises(marl.CheckpointError, match="it lacks a, c"):
        verify(team.path, system, states=1, episodes=1, calls=1)


@pytest.mark.parametrize(
    ("how", "reason"), [({"format": "pickle"}, "pickle"), ({"quantize": "int4"}, "int4")], ids=["format", "quantize"]
)
def test_what_there_is_not_is_named(how, reason, tmp_path):
    with pytest.raises(marl.ConfigError, match=reason):
        system_of(marl.PPO(**ON)).export(tmp_path / "bundle", **how)


# --- networks of one's own --------------------------------------------------------------------------------------------


class Own(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner, self.norm, self.drop = torch.nn.Linear(width, 16), torch.nn.LayerNorm(16), torch.nn.Dropout(0.5)
        self.outer = torch.nn.Linear(16, 8)

    def forward(self, x):
        return torch.nn.functional.gelu(self.outer(self.drop(self.norm(self.inner(x)))))


class Choosy(Own):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


def own_system(kind, **how):
    own = marl.Custom(lambda shape, extra: kind(shape[0] + extra), 8)
    return opinionated(system_of(marl.PPO(network=own, rollout=8, minibatches=1, **how)))


@pytest.mark.parametrize("format", ["numpy", "torch"])
def test_networks_of_ones_own_are_refused_in_one_line_where_they_cannot_go(format, tmp_path):
    reason = r"export: agent 'a': Own is a network of your own, which ONNX alone can hold: .*--distill"
    with pytest.raises(marl.ConfigError, match=reason) as found:
        own_system(Own).export(tmp_path / "bundle", format=format)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "bundle").exists()


def test_networks_of_ones_own_become_graphs_that_act_the_same(tmp_path, capfd):
    for needed in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(needed)
    system = own_system(Own, channel=marl.TarMAC(rounds=2), normalize_obs=True)
    out = system.export(tmp_path / "bundle", format="onnx")
    found = verify(out, system, engine="onnx", states=50, episodes=2, calls=2, processes=False)
    assert found.agreement == 1.0
    assert found.difference <= 1e-5
    with pytest.raises(marl_runtime.BundleError, match="operation 'network' is not known here; engine='onnx'"):
        marl_runtime.load(out)
    with pytest.raises(marl.ConfigError, match=r"Choosy is .* that torch\.onnx\.export does not take") as why:
        own_system(Choosy).export(tmp_path / "other", format="onnx")
    assert "\n" not in str(why.value)
    assert "--distill" in str(why.value)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(marl.ConfigError, match="page: Own is a network of your own"):
        own_system(Own).export(tmp_path / "other", format="onnx", page=True)


def test_an_operation_that_no_bundle_may_hold_is_named():
    pytest.importorskip("onnxscript")
    from marl.deploy.own import graph_of

    class Sorted(torch.nn.Module):
        def forward(self, x):
            return x.sort(-1).values

    with pytest.raises(marl.ConfigError, match="Sorted is a network of your own whose graph has TopK, which no bundle"):
        graph_of(Sorted(), 4)


def test_a_policy_as_a_module_of_torch_takes_a_batch_and_gradients(tmp_path):
    system = opinionated(system_of(marl.PPO(**ON, normalize_obs=True)))
    team = marl_runtime.load(system.export(tmp_path / "bundle", format="torch"), "torch")
    seen = rows(Box(-1, 1, (5,), np.float32), 20)
    agent, batch = team["b"], torch.from_numpy(np.array(seen)).requires_grad_()
    module = agent.policies[0].engine
    found = module(batch)
    assert found["action"].tolist() == [agent.act(row) for row in seen]
    assert found["parameters"].shape == (20, 4)
    found["parameters"].sum().backward()
    assert batch.grad.abs().sum() > 0


# --- smaller numbers --------------------------------------------------------------------------------------------------


def test_int8_is_within_half_a_step_of_each_channels_scale():
    weight = np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32) * np.arange(7, dtype=np.float32)
    whole, scale = int8(weight, -1)
    assert whole.dtype == np.int8
    assert scale.shape == (1, 7)
    assert scale.dtype == np.float16
    np.testing.assert_allclose(scale[0], np.abs(weight).max(0) / 127, rtol=2**-10)
    assert (np.abs(whole * scale.astype(np.float32) - weight) <= scale / 2 + 1e-7).all()
    assert not whole[:, 0].any()  # a channel of zeros has no scale, and stays zeros
    kernel = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)
    assert int8(kernel, 0)[1].shape == (4, 1, 1, 1)


@pytest.mark.parametrize("size", [1e-6, 1e8])
def test_scales_that_float16_cannot_hold_stay_float32(size):
    weight = size * np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32)
    whole, scale = int8(weight, -1)
    assert scale.dtype == np.float32
    assert (np.abs(whole * scale - weight) <= scale * 0.51).all()


@pytest.mark.parametrize("engine", ["numpy", "onnx"])
@pytest.mark.parametrize(("quantize", "share"), [("int8", 0.32), ("fp16", 0.55)])
def test_smaller_weights_are_what_the_runtime_computes_with(quantize, share, engine, tmp_path):
    format = "numpy"
    if engine == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
        format = "onnx"
    seen = Box(-1, 1, (18,), np.float32)  # as wide as in spread
    learner = marl.PPO(network=marl.MLP((64, 64)), rollout=8, minibatches=1)
    system = opinionated(system_of(learner, observation=seen))
    whole = system.export(tmp_path / "whole") / "policy_0.safetensors"
    out = system.export(tmp_path / "small", quantize=quantize, format=format)
    assert (out / "policy_0.safetensors").stat().st_size <= share * whole.stat().st_size
    ours, agent = marl_runtime.load(out, engine)["a"], system.agent("a")
    runner = marl_runtime.program.Runner(rounded(program_of(agent.net, agent.distribution), quantize))
    for row in rows(seen, 20):
        turn = ours.turn(row, None)
        with pytest.raises(StopIteration):
            next(turn)
        values = runner.begin(observation=row)
        np.testing.assert_allclose(ours.outputs, runner.run(values, 0)["parameters"], atol=1e-5)
        wanted, _ = agent._computed(row)
        assert np.abs(ours.outputs - wanted).max() < 0.05 * np.abs(wanted).max()


def test_biases_and_normalizers_stay_as_they_are():
    agent = agent_of(marl.PPO(normalize_obs=True, **ON))
    program = program_of(agent.net, agent.distribution)
    stored = packed(program, "int8")
    small = {name for name, value in stored.items() if value.dtype == np.int8}
    assert len(small) == 2  # a hidden and an output layer
    assert all(stored[name] is program.constants[name] for name in program.constants if name not in small)


# --- certificates -----------------------------------------------------------------------------------------------------


def talking(**how):
    system = marl.MultiAgentSystem(marl.ippo(channel=marl.CommNet(**how), **ON), Team, num_envs=2, seed=1)
    system.train(steps=32)
    return opinionated(system)


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_faithful_bundle_gets_a_certificate_of_equal_actions_and_returns(rounds, tmp_path):
    system = talking(rounds=rounds)
    out = system.export(tmp_path / "bundle")
    found = verify(out, system, states=50, episodes=4, calls=10, processes=False)
    assert found.agreement == 1.0
    assert found.difference < 1e-5
    assert found.exported == found.trained
    assert found.change.mean == 0
    assert min(one.compared for one in found.agents.values()) >= 50
    assert found.sizes == {file.name: file.stat().st_size for file in out.iterdir() if file.name != "manifest.json"}
    found.check(1.0, 1e-5, 0.0)
    kept = marl_runtime.load(out).manifest["certificate"]
    assert kept["exported"]["mean"] == found.exported.mean
    assert "greedy actions equal" in str(found)


def test_a_bundle_of_another_policy_fails_loudly(tmp_path):
    system, other = talking(), talking()
    with torch.no_grad():
        other.learners[0].policy_net.head.weight.mul_(-1)
    out = other.export(tmp_path / "bundle")
    found = verify(out, system, states=50, episodes=4, calls=10, processes=False, keep=False)
    assert found.agreement < 0.9
    assert found.difference > 0.1
    assert marl_runtime.load(out).manifest["certificate"] is None
    for bounds, reason in (
        ((1.0, None, None), "agreement"),
        ((None, 1e-5, None), "difference"),
        ((None, None, -9.0), "lost"),
    ):
        with pytest.raises(marl.CheckpointError, match=rf"not verified: .*{reason}"):
            found.check(*bounds)


def test_a_bundle_of_other_spaces_is_refused(tmp_path):
    out = talking().export(tmp_path / "bundle")
    wide = marl.MultiAgentSystem(marl.ippo(channel=marl.CommNet(), **ON), lambda: Team(widths=(4, 4, 4)), num_envs=1)
    with pytest.raises(marl.CheckpointError, match="'agent_0' was made for other spaces"):
        verify(out, wide, states=1, episodes=1, calls=1)
    (out / "policy_0.json").write_text("{}")
    with pytest.raises(marl.CheckpointError, match="cannot be read"):
        open_bundle(out)


def test_each_policy_of_a_mixture_is_exported_and_drawn_by_its_side(tmp_path):
    agents = {name: marl.ippo(**ON) for name in ("agent_0", "agent_1")}
    league = marl.PSRO(response_steps=40, games=4, meta_solver="uniform")
    system = marl.MultiAgentSystem(agents, "marl/matrix_game-v0", num_envs=4, env_kwargs=PAYOFF, league=league, seed=1)
    system.train(steps=100)
    team = marl_runtime.load(system.export(tmp_path / "bundle"))
    strategy = system.agent("agent_0").strategy
    agent = team["agent_0"]
    assert [policy.chance for policy in agent.policies] == [chance for chance, _ in strategy]
    assert len(strategy) > 1
    drawn = []
    for seed in range(200):
        agent.reset(seed)
        drawn.append(agent.policy)
        twin = agent.twin(seed + 1, side_seed=seed)
        assert twin.policy == agent.policy
    share = np.bincount(drawn, minlength=len(strategy)) / len(drawn)
    assert np.abs(share - [chance for chance, _ in strategy]).max() < 0.15
    found = verify(team.path, system, states=20, episodes=2, calls=5, processes=False)
    assert found.agreement == 1.0


# --- in processes -----------------------------------------------------------------------------------------------------


def played(system, team, decentralized, episodes=4, engine="numpy"):
    players = BundlePlayers.of(system.training.players, team, engine, trained=True)
    plan = EvaluationPlan(episodes, 3, decentralized).checked()
    return evaluate(players, plan, system.environments.lender(None, False, False), lambda batch: ())


def test_agents_in_processes_without_torch_play_as_the_trained_batch(tmp_path):
    system = talking()
    team = open_bundle(system.export(tmp_path / "bundle"))
    report = played(system, team, "processes")
    assert not report.faults
    assert report.agreement.different == 0
    assert report.returns == report.batched.returns
    code = "import sys, marl_runtime.process; print([n for n in ('torch', 'gymnasium', 'marl') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("learner", "world"),
    [
        (marl.ippo(**ON), lambda: Turns()),
        (marl.ippo(**ON | {"network": marl.GRU(8)}), lambda: Team(die=(None, 4))),
        (marl.ippo(**ON), lambda: Team(choices=(2, 3, 4), widths=(3, 2, 5))),
        (marl.ippo(**ON), lambda: Acting(ACTIONS["box"])),
        (marl.ippo(**ON), lambda: Acting(Discrete(3, start=2))),
        (marl.ippo(channel=marl.TarMAC(), **ON), lambda: Turns(together=True)),
    ],
    ids=["turns", "deaths", "padding", "box", "start", "talk in turns"],
)
def test_exported_teams_play_whole_episodes_as_the_trained_batch(learner, world, tmp_path):
    system = marl.MultiAgentSystem(learner, world, num_envs=1, seed=2)
    opinionated(system)
    report = played(system, open_bundle(system.export(tmp_path / "bundle")), True)
    together = system.evaluate(4, seed=3)
    np.testing.assert_allclose(report.returns, together.returns, atol=1e-4)


@pytest.mark.parametrize("name", ["spread", "tictactoe", "pendulum", "reference_tarmac", "switch_riddle"])
def test_exported_scenarios_play_as_the_trained_batch_in_processes_without_torch(name, tmp_path):
    system = marl.MultiAgentSystem(None, name, seed=1)
    team = open_bundle(system.export(tmp_path / "bundle"))
    report = played(system, team, "processes", episodes=3)
    assert not report.faults
    assert report.agreement.compared > 0
    assert report.agreement.different == 0  # action for action, on the same observations
    np.testing.assert_allclose(report.returns, report.batched.returns, rtol=1e-4, atol=1e-4)
    found = verify(team.path, system, states=60, episodes=1, calls=1, processes=False)
    assert found.agreement == 1.0
    assert found.difference < 1e-5


def test_a_process_that_cannot_load_its_agent_says_why(tmp_path):
    asked = {"folder": str(tmp_path / "no"), "agent": "a", "engine": "numpy", "side_seed": 0}
    with pytest.raises(marl_runtime.BundleError, match="expected a folder"):
        process.agent_named(json.dumps(asked))


# --- command line -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    system = marl.MultiAgentSystem(marl.ippo(**ON), "marl/spread-v0", num_envs=2, seed=1)
    folder = tmp_path_factory.mktemp("runs") / "run"
    system.train(steps=32, run_dir=folder)
    return folder


def test_a_run_is_exported_verified_and_evaluated_from_the_command_line(run, tmp_path, command):
    out = tmp_path / "bundle"
    assert f"wrote {out}" in command("export", run, "--out", out, "--checkpoint", "last").out
    assert "names, hashes and programs are right" in command("verify", out).out
    small = ("--states", 30, "--episodes", 2, "--calls", 5, "--no-processes", "--checkpoint", "last")
    said = command("verify", out, run, *small, "--min-agreement", 1.0, "--max-difference", 1e-5, "--json")
    assert json.loads(said.out)["exported"] == json.loads(said.out)["trained"]
    alone = json.loads(command("evaluate", out, "--episodes", 2, "--seed", 5, "--json").out)
    trained = json.loads(command("evaluate", run, "--episodes", 2, "--seed", 5, "--json", "--checkpoint", "last").out)
    assert alone["returns"] == pytest.approx(trained["returns"], abs=1e-3)
    failed = command("verify", out, run, *small, "--max-drop", -9.0)
    assert failed.code == 5
    assert "not verified: share of the return that is lost" in failed.err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("export",), "RUN is missing"),
        (("export", "RUN"), "--out is missing"),
        (("export", "RUN", "--out", "x", "--format", "pickle"), "pickle"),
        (("verify",), "DIR is missing"),
        (("verify", "nowhere"), "expected a folder"),
    ],
)
def test_a_mistake_is_one_line(words, reason, run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    said = command(*(str(run) if word == "RUN" else word for word in words))
    assert said.code in (2, 5)
    assert reason in said.err
    assert said.error


def test_a_bundle_chooses_no_environment_that_would_run_code(run, tmp_path, command):
    from marl.deploy.export import write_bundle
    from marl_runtime.bundle import read

    out = tmp_path / "bundle"
    command("export", run, "--out", out, "--checkpoint", "last")
    bundle = read(out)
    bundle.manifest["world"]["reference"] = "antigravity:fly"
    write_bundle(out, bundle.manifest, bundle.contents)
    said = command("evaluate", out, "--episodes", 1)
    assert said.code == 5
    assert "it would import and run 'antigravity:fly'" in said.err
    assert "antigravity" not in sys.modules
