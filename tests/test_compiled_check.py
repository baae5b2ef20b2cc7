"""The door to compiled code: switched off, compared with torch, on the borders of its maths; what is kept from it."""

from __future__ import annotations

import functools
import logging
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

import marl
from marl.compiled import (
    MismatchError,
    acting,
    adam,
    advantage,
    backend,
    decisions,
    dqn,
    kernels,
    mixing,
    mlp,
    ppo,
    recurrent_net,
    sac,
    side_by_side,
    tiles,
)
from marl.ops import recursion
from marl.playing.single import Agent
from marl.schedules import Clock
from tests.support.learning import fill
from tests.support.tiny import Acting, spec_of

ROOT = Path(marl.__file__).parents[1]
SMALL = marl.MLP((8, 8))
ON = {"rollout": 8, "minibatches": 2, "epochs": 2, "network": SMALL}
OFF = {"learning_starts": 16, "batch": 8, "buffer": 128, "updates_per_step": 0.5, "network": SMALL}
CONTINUOUS = Box(-1, 1, (2,), np.float32)
SETTINGS = {
    "ppo": (marl.PPO(**ON), Discrete(3)),
    "ppo-box": (marl.PPO(**ON), CONTINUOUS),
    "ppo-gru": (marl.PPO(**ON | {"network": marl.GRU(8), "sequence": 4}), Discrete(3)),
    "dqn": (marl.DQN(**OFF, huber=0.3), Discrete(3)),
    "ddpg": (marl.DDPG(**OFF), CONTINUOUS),
    "sac": (marl.SAC(**OFF), CONTINUOUS),
    "qmix": (marl.qmix(**OFF | {"network": marl.GRU(8), "sequence": 4}), Discrete(3)),
}


@pytest.fixture(autouse=True)
def _as_it_comes():
    """These tests say themselves how compiled code is used."""
    with marl.compiled.use("auto"):
        yield


def trained(name, steps=48):
    settings, space = SETTINGS[name]
    system = marl.MultiAgentSystem(settings, lambda: Acting(space), num_envs=2, seed=1)
    system.train(steps=steps)
    return system.learners[0]


def learner_of(settings, action=None):
    spec = spec_of(3, action=action or Discrete(3))
    return settings.build(spec, spec.teams[0], 4, np.random.SeedSequence(3), "cpu")


# --- switching it ---


def test_another_word_is_refused_in_one_line():
    with pytest.raises(marl.ConfigError, match=r"marl.compiled.use: expected 'auto', 'off' or 'check', got 'of'"):
        marl.compiled.use("of")
    done = subprocess.run(
        [sys.executable, "-c", "import marl\ntry: marl.PPO\nexcept marl.ConfigError as error: print(error)"],
        env=os.environ | {"MARL_COMPILED": "none"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "MARL_COMPILED: expected 'auto', 'off' or 'check', got 'none'\n"


def test_a_word_holds_until_the_end_of_the_statement_or_from_now_on():
    with marl.compiled.use("off"):
        assert not backend.enabled
        with marl.compiled.use("check"):
            assert backend.enabled
            assert backend.checking
        assert not backend.enabled
        marl.compiled.use("check")
        assert backend.checking
    assert backend.enabled
    assert not backend.checking


def test_with_compiled_code_off_no_kernel_is_called(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a kernel was called")

    for module, name in ((ppo, "_policy"), (dqn, "_td_gradient"), (sac, "_critics"), (sac, "_policy"),
                         (recurrent_net, "_forward"), (side_by_side, "_forward"), (mixing, "_mix"),
                         (acting, "_choose"), (mlp, "_forward"), (mlp, "_backward"), (tiles, "tanh_all"),
                         (adam, "_clip"), (adam, "_adam"), (kernels, "_categorical_kernels"),
                         (recursion, "_kernel"), (advantage, "_estimate"), (advantage, "_normalize")):  # fmt: skip
        monkeypatch.setattr(module, name, refuse)
    with marl.compiled.use("off"):
        for name in SETTINGS:
            learner = trained(name)
            assert not learner.chosen.compiled
            assert learner.chosen.reason == "compiled code is switched off (marl.compiled.use or MARL_COMPILED)"


def test_a_learner_decides_again_when_the_word_changes():
    learner = learner_of(marl.PPO(**ON))
    words = []
    for word in ("auto", "off", "check", "auto"):
        with marl.compiled.use(word):
            fill(learner, 0, [0, 1, 2])
            learner.update(Clock(0, 1))
            words.append((learner.chosen.compiled, type(learner._gradient).__name__))
    assert words == [(True, "CompiledPPO"), (False, "RolloutAutograd"), (True, "Checked"), (True, "CompiledPPO")]


# --- saying what was decided ---


def test_the_decision_is_said_in_one_line(caplog):
    caplog.set_level(logging.INFO, "marl.compiled")
    for name in ("ppo", "ppo-box", "qmix"):
        trained(name)
    assert [record.getMessage() for record in caplog.records if record.name == "marl.compiled"] == [
        "team: PPO: compiled gradient",
        "team: PPO: autograd, because the kernel computes policies of one choice per agent (Discrete actions) alone",
        "team: DQN: compiled gradient",
    ]


def test_decisions_of_all_teams_go_into_the_folder_of_a_run(tmp_path):
    from marl.cli import main
    from marl.logs.files import read_json

    words = ["train", "tag", "--run-dir", str(tmp_path / "run"), "--quiet", "--no-evaluate", "--steps", "64"]
    assert main(words) == 0
    found = read_json(tmp_path / "run" / "config.json")["compiled"]
    assert found == {team: {"gradient": "compiled", "optimizer": "compiled"} for team in ("adversary", "agent")}
    recurrent = learner_of(marl.PPO(**ON | {"network": marl.GRU(8)}))
    reason = "the kernel computes networks of plain tanh or relu layers over vectors, on a CPU, alone"
    assert decisions([recurrent]) == {"team": {"gradient": "autograd", "reason": reason, "optimizer": "compiled"}}


@pytest.mark.parametrize(
    ("name", "method"),
    [("ppo", "compute_loss"), ("dqn", "cost"), ("dqn", "compute_loss"), ("sac", "compute_actor_loss"),
     ("sac", "critic.next_value"), ("sac", "critic.value_of_own"), ("sac", "critic.values_of")],
)  # fmt: skip
@pytest.mark.parametrize("where", ["instance", "class"])
def test_a_function_put_in_the_place_of_an_equation_is_called(name, method, where, monkeypatch):
    settings, space = SETTINGS[name]
    system = marl.MultiAgentSystem(settings, lambda: Acting(space), num_envs=2, seed=1)
    learner, calls = system.learners[0], []
    assert learner.chosen.compiled
    *path, name = method.split(".")
    owner = functools.reduce(getattr, path, learner)
    old = getattr(type(owner), name)

    @functools.wraps(old)
    def own(self, *inputs, **named):
        calls.append(method)
        return old(self, *inputs, **named)

    if where == "class":
        monkeypatch.setattr(type(owner), name, own)
    else:
        setattr(owner, name, functools.partial(own, owner))
    system.train(steps=48)
    assert calls
    assert not learner.chosen.compiled
    assert learner.chosen.reason == f"{method} was replaced by another function"


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward"])
@pytest.mark.parametrize("name", ["ppo", "dqn", "sac"])
def test_a_hook_in_a_network_is_called(name, kind):
    settings, space = SETTINGS[name]
    system = marl.MultiAgentSystem(settings, lambda: Acting(space), num_envs=2, seed=1)
    learner, calls = system.learners[0], []
    net = learner.net if name == "dqn" else learner.actor if name == "sac" else learner.model.actor
    assert learner.chosen.compiled
    assert net.compiled() is not None
    handle = getattr(net.body.layers[1], f"register_{kind}_hook")(lambda *_: calls.append(kind))
    assert net.compiled() is None
    system.train(steps=48)
    assert calls
    assert not learner.chosen.compiled
    handle.remove()
    with marl.compiled.use("check"):
        assert net.compiled() is not None


# --- comparing ---


@pytest.mark.parametrize("name", SETTINGS)
def test_compiled_code_and_torch_agree_while_they_are_compared(name):
    with marl.compiled.use("check"):
        learner = trained(name, steps=240)
    assert learner.chosen.compiled == (name in ("ppo", "dqn", "sac", "qmix"))


def test_ten_updates_are_compared():
    learner = learner_of(marl.PPO(**ON))
    with marl.compiled.use("check"):
        kinds = []
        for update in range(12):
            fill(learner, update, [0, 1, 2])
            learner.update(Clock(0, 1))
            kinds.append(type(learner._gradient).__name__)
    assert kinds == ["Checked"] * 10 + ["CompiledPPO"] * 2


def negate(*places):
    """A kernel whose result in these arguments has the other sign."""

    def spoilt(kernel):
        def call(*arguments):
            result = kernel(*arguments)
            for place in places:
                arguments[place][:] *= -1
            return result

        return call

    return spoilt


def other_choice(kernel):
    def call(*arguments):
        kernel(*arguments)
        arguments[9][:] = (arguments[9] + 1) % 3

    return call


def add_half(place):
    def spoilt(kernel):
        def call(*arguments):
            result = kernel(*arguments)
            arguments[place][:] += 0.5
            return result

        return call

    return spoilt


def one_of(which, spoil):
    """The same for one of several functions that another one returns."""

    def spoilt(makes):
        found = makes()
        return lambda: tuple(spoil(kernel) if place == which else kernel for place, kernel in enumerate(found))

    return spoilt


def doubled(kernel):
    def call(*arguments):
        return kernel(*arguments[:7], 2 * arguments[7], *arguments[8:])

    return call


INJECTED = {
    "ppo policy": (ppo, "_policy", negate(-2), "ppo"),
    "ppo value": (ppo, "_value", negate(-2), "ppo"),
    "ppo parts": (ppo, "_policy", negate(-1), "ppo"),
    "ppo weights": (ppo, "_weights", add_half(-1), "ppo"),
    "dqn": (dqn, "_td_gradient", negate(-1), "dqn"),
    "sac critic": (sac, "_critics", negate(-1), "sac"),
    "sac actor": (sac, "_policy", negate(-1), "sac"),
    "acting, actions": (acting, "_choose", other_choice, "ppo"),
    "acting, log-probabilities": (acting, "_choose", add_half(10), "ppo"),
    "network": (mlp, "_forward", add_half(-4), "ddpg"),
    "network's gradient": (mlp, "_backward", negate(-4), "ddpg"),
    "choices drawn": (kernels, "_categorical_kernels", one_of(0, add_half(3)), "ppo-gru"),
    "choices": (kernels, "_categorical_kernels", one_of(1, negate(3)), "ppo-gru"),
    "choices' gradient": (kernels, "_categorical_kernels", one_of(2, negate(5)), "ppo-gru"),
    "clipping": (adam, "_clip", negate(0), "ppo"),
    "Adam": (adam, "_adam", doubled, "ppo"),
    "recursion": (recursion, "_kernel", lambda makes: lambda: add_half(3)(makes()), "ppo"),
    "advantages": (advantage, "_estimate", lambda makes: lambda: add_half(6)(makes()), "ppo"),
    "normalized advantages": (advantage, "_normalize", lambda makes: lambda: add_half(2)(makes()), "ppo"),
}


@pytest.mark.parametrize("which", INJECTED)
def test_an_error_in_a_kernel_is_found(which, monkeypatch):
    module, name, spoil, learner = INJECTED[which]
    monkeypatch.setattr(module, name, spoil(getattr(module, name)))
    with marl.compiled.use("check"), pytest.raises(MismatchError):
        trained(learner)


def test_an_error_in_tanh_is_found(monkeypatch):
    monkeypatch.setattr(tiles, "tanh_all", negate(0)(tiles.tanh_all))
    with marl.compiled.use("check"), pytest.raises(MismatchError, match="tanh"):
        kernels.tanh_(torch.ones(3))


def test_the_error_names_learner_update_difference_and_settings(monkeypatch):
    learner = learner_of(marl.PPO(**ON, entropy=0.01))
    with marl.compiled.use("check"):
        fill(learner, 0, [0, 1, 2])
        learner.update(Clock(0, 1))
        monkeypatch.setattr(ppo, "_policy", negate(-2)(ppo._policy))
        fill(learner, 1, [0, 1, 2])
        with pytest.raises(MismatchError) as found:
            learner.update(Clock(0, 1))
    text = str(found.value)
    assert text.startswith("team: PPO: update 2: the compiled gradient differs from autograd's by ")
    assert "rollout=8" in text
    assert "entropy=0.01" in text
    assert "\n" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("tiles.py", "z[i, j] *= _ONE - output[i, j] * output[i, j]", "z[i, j] *= _ONE + output[i, j] * output[i, j]"),
        ("ppo.py", "_ZERO if held else -free * w * passed", "_ZERO if held else free * w * passed"),
    ],
)
def test_a_changed_sign_in_a_kernel_s_source_is_found(file, right, wrong, tmp_path):
    """In a copy of the library, whose cache is as warm as it comes."""
    shutil.copytree(ROOT / "marl", tmp_path / "marl")
    source = tmp_path / "marl" / "compiled" / file
    text = source.read_text()
    assert text.count(right) == 1
    source.write_text(text.replace(right, wrong))
    code = (
        "from tests.test_compiled_check import trained\n"
        "import marl\n"
        "try:\n    marl.compiled.use('check'); trained('ppo')\n"
        "except marl.compiled.MismatchError as error: print(error)\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, cwd=tmp_path, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert "the compiled gradient differs from autograd's" in done.stdout


# --- the borders ---


def both_gradients(learner, *data):
    """By the kernel, and by the learner's own loss."""
    found = []
    kernel = learner.chosen.gradient
    for gradient in (kernel, learner._autograd):
        gradient.fill(*data)
        found.append(learner.flat.gradients.clone())
    return found


def rollout_on_a_border(value_clip=None):
    """A learner and its rollout: every ratio is 1, every value 0."""
    learner = learner_of(marl.PPO(**ON, value_clip=value_clip))
    fill(learner, 0, [0, 1, 2])
    learner.memory.acting.fill_(True)
    learner.flat.values.zero_()
    batch = learner.begin_update(Clock(0, 1))
    batch.log_prob.fill_(float(torch.zeros(3).log_softmax(-1)[0]))
    batch.value.zero_()
    batch.target.zero_()
    return learner, batch


def begin(learner, batch):
    learner.chosen.gradient.begin(batch)
    learner._autograd.begin(batch)


def test_a_ratio_on_the_border_of_the_clip_passes_half_of_its_gradient():
    learner, batch = rollout_on_a_border()
    begin(learner, batch)
    index = torch.arange(batch.seen.shape[1])
    inside = both_gradients(learner, index, 0.2, 0.0)
    border = both_gradients(learner, index, 0.0, 0.0)
    assert inside[0].abs().max() > 1e-3
    for full, half in zip(inside, border, strict=True):
        assert torch.allclose(half, 0.5 * full, atol=1e-7)
    assert torch.allclose(*border, atol=1e-7)
    ratio = torch.ones(1, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(marl.ops.clipped_surrogate_pg_loss(ratio, torch.ones(1, 4), 0.0).sum(), ratio)
    assert torch.equal(slope, torch.full((1, 4), -0.5))


@pytest.mark.parametrize(
    ("old", "target", "passes"),
    [
        (0.5, 0.25, True),  # both errors are as large: the unclipped one counts
        (0.25, 1.0, True),  # the change is exactly as large as the clip allows
        (0.5, 2.0, True),  # the clipped error is the smaller one
        (0.5, -1.0, False),  # the clipped error is the larger one
    ],
)
def test_a_value_on_the_border_of_its_clip(old, target, passes):
    """The value is 0 and may move by 1/4: from 1/2 to 1/4 at most."""
    learner, batch = rollout_on_a_border(value_clip=0.25)
    batch.advantage.zero_()
    batch.value.fill_(old)
    batch.target.fill_(target)
    begin(learner, batch)
    ours, plain = both_gradients(learner, torch.arange(batch.seen.shape[1]), 0.2, 0.0)
    assert torch.allclose(ours, plain, atol=1e-7)
    # Of V alone, through the last bias.
    assert float(ours.abs().max()) == pytest.approx(0.5 * abs(target) if passes else 0.0)


@pytest.mark.parametrize("error", [0.5, -0.5, 0.25, -0.25, 2.0])
def test_an_error_on_the_border_of_huber_has_the_slope_of_either_side(error):
    learner = trained_dqn(0.5)
    sample = learner.experience.draw(Clock(0, 1))
    learner.flat.values.zero_()
    learner.target_flat.values.zero_()
    sample.reward.fill_(error)
    seen, next_seen = learner.net.encode(sample.obs), learner.net.encode(sample.next_obs)
    ours, plain = both_gradients(learner, sample, seen, next_seen)
    assert torch.allclose(ours, plain, atol=1e-7)
    assert float(ours.sum()) == pytest.approx(-np.clip(error, -0.5, 0.5))


def trained_dqn(huber):
    system = marl.MultiAgentSystem(marl.DQN(**OFF, huber=huber), lambda: Acting(Discrete(3)), num_envs=2, seed=1)
    system.train(steps=20)
    return system.learners[0]


# --- what compiled code never reaches ---

KINDS = {
    "discrete": Discrete(4),
    "multidiscrete": MultiDiscrete([3, 2]),
    "multibinary": MultiBinary(3),
    "box": CONTINUOUS,
}


def agent_of(action, network):
    """An agent far from its first policy, and its team."""
    spec = spec_of(2, action=action)
    learner = marl.PPO(network=network, minibatches=1).build(spec, spec.teams[0], 2, np.random.SeedSequence(3), "cpu")
    with torch.no_grad():
        learner.flat.values.mul_(2)
    return Agent(spec.teams[0], 0, *learner.policy(0))


@pytest.mark.parametrize("how", ["trace", "export"])
@pytest.mark.parametrize("network", [None, marl.GRU(8)], ids=["default", "recurrent"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_down_of_an_agent_acts_as_it_does(kind, network, how):
    """On 1,000 observations, one after the other where the agent remembers."""
    agent = agent_of(KINDS[kind], network)
    net, carry = agent.net, torch.zeros(1, 1, agent.net.carry_shape[1])
    no, yes = torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, 1, dtype=torch.bool)
    inputs = torch.randn(1, 1, 1, 4), carry, no, yes
    with torch.no_grad():
        if how == "export":
            written = torch.export.export(net, inputs).module()
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch would rather export; people trace all the same
                written = torch.jit.trace(net, inputs)
        observations = np.random.default_rng(0).uniform(-1, 1, (1_000, 4)).astype(np.float32)
        for obs in observations:
            out, carries = written(torch.from_numpy(obs).view(1, 1, 1, 4), carry, no, yes)
            carry = carries[0] if network is not None else carry
            action = agent.distribution.to_env(agent.distribution.mode(out, None))[0, 0, 0].numpy()
            wanted = agent.act(obs)
            if kind == "box":
                assert np.allclose(agent.codec.decode(action), wanted, atol=1e-5)
            else:
                assert np.array_equal(agent.codec.decode(action), wanted)


@pytest.mark.parametrize("name", ["ppo", "dqn", "sac"])
def test_a_pickled_agent_holds_nothing_compiled(name):
    learner = trained(name)
    net = learner.net if name == "dqn" else learner.actor if name == "sac" else learner.model.actor
    assert net.compiled() is not None
    spec = spec_of(3, width=3, action=SETTINGS[name][1])
    for thing in (net, Agent(spec.teams[0], 0, *learner.policy(0))):
        data = pickle.dumps(thing)
        assert b"marl.compiled" not in data
        again = pickle.loads(data)
        assert type(again) is type(thing)
