"""Where compiled code stands in for a learner's equations: never for equations that somebody changed."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

import marl
from marl.auxiliary import PredictActions
from marl.compiled import backend
from marl.config import config as settings_of
from marl.config import setting
from marl.learners.a2c import A2CLearner
from marl.learners.ddpg import DDPGLearner
from marl.learners.dqn import DQNLearner
from marl.learners.ppo import PPOLearner
from marl.learners.sac import SACLearner
from marl.learners.td3 import TD3Learner
from marl.memory.replay import ReplayMemory
from marl.nets import agent_net
from marl.nets.agent_net import AgentNet
from marl.nets.networks import Body, Inputs, MLPBody
from marl.nets.owner import Owner
from marl.nets.stacked import FlatParameters, StackedLinear
from tests.support.tiny import Acting, spec_of

SMALL = marl.MLP((8, 8))
ON_POLICY = {"rollout": 8, "network": SMALL}
OFF_POLICY = {"learning_starts": 16, "batch": 8, "buffer": 128, "updates_per_step": 0.5, "network": SMALL}
CONTINUOUS = Box(-1, 1, (2,), np.float32)
LEARNERS = {
    marl.PPO: (PPOLearner, ON_POLICY | {"minibatches": 2, "epochs": 3, "lr": 3e-3}, Discrete(3)),
    marl.A2C: (A2CLearner, ON_POLICY, Discrete(3)),
    marl.DQN: (DQNLearner, OFF_POLICY, Discrete(3)),
    marl.DDPG: (DDPGLearner, OFF_POLICY, CONTINUOUS),
    marl.TD3: (TD3Learner, OFF_POLICY, CONTINUOUS),
    marl.SAC: (SACLearner, OFF_POLICY, CONTINUOUS),
}
COVERED = {
    kind: backend.covered(f"{learner.__module__}.{learner.__qualname__}").settings
    for kind, (learner, *_) in LEARNERS.items()
    if kind in (marl.PPO, marl.DQN, marl.SAC)
}


@pytest.fixture(autouse=True)
def _with_compiled_code():
    """Even where everything else is tested without it."""
    with marl.compiled.use("auto" if backend.word == "off" else backend.word):
        yield


def trained(settings, goals=False, steps=48):
    space = LEARNERS[kind_of(settings)][2]
    system = marl.MultiAgentSystem(settings, lambda: Acting(space, goals=goals), num_envs=2, seed=1)
    system.train(steps=steps)
    return system.learners[0]


def kind_of(settings):
    return next(kind for kind in LEARNERS if isinstance(settings, kind))


def weights(learner):
    if hasattr(learner, "model"):
        return learner.model.parameters_flat.values
    nets = [learner.flat] if isinstance(learner, DQNLearner) else [learner.actor_flat, learner.critic.flat]
    return torch.cat([net.values.flatten() for net in nets])


def is_compiled(learner):
    """Whether the last update's gradient came without autograd."""
    return learner.chosen.compiled


# --- what somebody changed is what is learnt by ---


def changed(kind, name):
    """Settings of a learner whose loss of this name is turned round, and where the calls of it are counted."""
    learner, values, _ = LEARNERS[kind]
    calls = []

    def turned(self, *inputs):
        calls.append(name)
        out = getattr(learner, name)(self, *inputs)
        return (-out[0], *out[1:]) if isinstance(out, tuple) else -out

    own = type("Own", (learner,), {name: turned})

    class Settings(kind):
        def build(self, spec, team, num_envs, seed, device):
            return own(self, spec, team, num_envs, seed, device)

    return Settings(**values), calls


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (marl.PPO, "compute_loss"),
        (marl.PPO, "policy_cost"),
        (marl.A2C, "compute_loss"),
        (marl.DQN, "separate_loss"),
        (marl.DQN, "cost"),
        (marl.DDPG, "compute_critic_loss"),
        (marl.DDPG, "compute_actor_loss"),
        (marl.TD3, "compute_critic_loss"),
        (marl.TD3, "compute_actor_loss"),
        (marl.SAC, "compute_critic_loss"),
        (marl.SAC, "compute_actor_loss"),
    ],
)
def test_a_loss_that_is_overridden_is_the_one_that_is_learnt_by(kind, name):
    settings, calls = changed(kind, name)
    learner = trained(settings)
    assert calls
    assert not is_compiled(learner)
    assert not torch.allclose(weights(learner), weights(trained(kind(**LEARNERS[kind][1]))), atol=1e-5)


@pytest.mark.parametrize("kind", COVERED, ids=lambda kind: kind.__name__)
def test_the_learners_of_the_library_are_compiled_as_they_come(kind):
    assert is_compiled(trained(kind(**LEARNERS[kind][1])))


@pytest.mark.parametrize("kind", COVERED, ids=lambda kind: kind.__name__)
def test_a_setting_that_is_added_leaves_the_loss_to_autograd(kind):
    """Whether it comes with a class of settings of its own, or into the class that there is."""

    @settings_of
    class Wider(kind):
        unheard_of: float = setting(0.0, "what the kernel does not know")

    values = LEARNERS[kind][1]
    assert not is_compiled(trained(Wider(**values)))
    assert COVERED[kind] <= {field.name for field in dataclasses.fields(kind)}
    # As if it stood in the class that there is.
    Wider.__module__, Wider.__qualname__ = kind.__module__, kind.__qualname__
    assert is_compiled(trained(Wider(**values)))
    learner = trained(Wider(**values, unheard_of=3.0))
    assert not is_compiled(learner)
    assert learner.chosen.reason == "setting 'unheard_of' is not among those that the kernel computes"


class Doubled(MLPBody):
    """Layers with other features than theirs."""

    def forward(self, x, extra, carry, start, acting):
        y, carries = super().forward(x, extra, carry, start, acting)
        return 2 * y, carries


class Scaled(StackedLinear):
    """A layer that computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


@dataclasses.dataclass(frozen=True)
class Changed(marl.MLP):
    """An MLP whose body, or whose layers, are of another class."""

    how: str = "body"

    def build(self, owner, inputs, generators) -> Body:
        body = (Doubled if self.how == "body" else MLPBody)(self, owner, inputs, generators)
        if self.how == "layer":
            body.layers[1] = Scaled(owner, *self.sizes, generators)
        return body


@pytest.mark.parametrize("flat", [False, True], ids=["before", "in-a-flat-matrix"])
@pytest.mark.parametrize("how", ["body", "layer"])
def test_a_network_that_is_overridden_is_the_one_that_is_read(how, flat):
    network, owner = Changed((8, 8), how=how), Owner((0, 0))
    net = AgentNet(network, owner, (3,), 2, [torch.Generator().manual_seed(0)], gain=1.0)
    if flat:
        FlatParameters([net], 1)
    assert net.compiled() is None
    x, carry = torch.randn(1, 4, 2, 3), torch.zeros(4, 2, 0)
    still, yes = torch.zeros(1, 4, dtype=torch.bool), torch.ones(1, 4, 2, dtype=torch.bool)
    features, _ = net.body(owner.enter(x), None, owner.enter(carry[None])[0], owner.enter(still[..., None]), None)
    assert torch.equal(net(x, carry, still, yes)[0], owner.leave(net.head(features)))
    plain = AgentNet(marl.MLP((8, 8)), owner, (3,), 2, [torch.Generator().manual_seed(0)], gain=1.0)
    assert not torch.allclose(net(x, carry, still, yes)[0], plain(x, carry, still, yes)[0])


def test_a_policy_of_changed_layers_is_not_trained_by_compiled_gradients():
    for how in ("body", "layer"):
        values = LEARNERS[marl.PPO][1] | {"network": Changed((8, 8), how=how)}
        assert not is_compiled(trained(marl.PPO(**values)))


# --- whatever a setting is, both ways agree ---

GOALS = marl.memory.Hindsight("marl_envs.reach:compute_reward", share=0.5)
FOLDER = object()  # a new one

# Another value of each setting; a dictionary brings along what it needs. A setting that is not here fails a test:
# say what else it may be, and if it changes the equations, implement it in the kernels or leave it out of COVERED.
OTHERWISE: dict[str, Any] = {
    "critic": marl.Joint(),
    "sharing": "none",
    "credit": marl.TeamReward(),
    "network": marl.MLP((12, 9), "relu"),
    "critic_network": marl.MLP((10,)),
    "shared_trunk": True,
    "channel": {"channel": marl.CommNet(size=4, rounds=1), "sequence": 4},
    "agent_id": False,
    "sequence": 4,
    "lr": 2e-3,
    "discount": 0.5,
    "max_grad_norm": 0.01,
    "normalize_obs": True,
    "optimizer": marl.optim.RMSprop(momentum=0.5),
    "auxiliary": (PredictActions(),),
    # on-policy
    "rollout": 12,
    "gae_lambda": 0.5,
    "correction": {"correction": marl.VTrace(rho=2.0, c=0.5), "lag": 1},
    "lag": 1,
    "value_weight": 3.0,
    "entropy": 0.1,
    "normalize_advantages": None,  # the other of the two
    "normalize_values": None,  # likewise
    "squash": True,
    "epochs": 2,
    "minibatches": 4,
    "clip": 0.01,
    "value_clip": 0.02,
    "target_kl": 1e-5,
    "sequential": {"sequential": True, "sharing": "none"},
    # off-policy
    "exploration": None,  # another for each kind of action
    "memory": {"memory": ReplayMemory(buffer=50), "buffer": marl.DQN().buffer},
    "buffer": 40,
    "buffer_dir": FOLDER,
    "batch": 12,
    "learning_starts": 24,
    "updates_per_step": 1.0,
    "update_every": 8,
    "overlap": True,
    "n_step": 3,
    "prioritized": marl.memory.Prioritized(),
    "hindsight": GOALS,
    "burn_in": {"burn_in": 2, "sequence": 4},
    "stored_carry": False,
    "target_every": 3,
    "tau": 0.5,
    "double": False,
    "dueling": True,
    "distribution": marl.nets.Atoms(-1.0, 5.0, 11),
    "huber": 0.1,
    "hysteresis": 0.3,
    "leniency": 0.5,
    "td_lambda": {"td_lambda": 0.7, "sequence": 4},
    "critic_lr": 3.0,
    "random_start": False,
    "action_cost": 0.3,
    "delay": 1,
    "smoothing": 0.6,
    "smoothing_clip": 0.1,
    "temperature": 0.3,
    "first_temperature": 0.2,
    "target_entropy": 0.5,
    "entropy_share": 0.8,
}
REFUSED = {(marl.DQN, "critic")}  # nothing but what it is


def otherwise(kind, name, folder):
    """The settings with another value of one."""
    values = LEARNERS[kind][1]
    other = OTHERWISE[name]
    if name in ("normalize_advantages", "normalize_values"):
        other = not getattr(kind(), name)
    elif name == "exploration":
        other = marl.exploration.EpsilonGreedy(0.4) if kind is marl.DQN else marl.exploration.GaussianNoise(0.4)
    elif other is FOLDER:
        other = str(folder)
    return kind(**values | (other if isinstance(other, dict) else {name: other}))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, field.name, id=f"{kind.__name__}-{field.name}")
        for kind in LEARNERS
        for field in dataclasses.fields(kind)
    ],
)
def test_compiled_and_plain_learning_agree_whatever_a_setting_is(kind, name, tmp_path, monkeypatch):
    assert name in OTHERWISE, f"{kind.__name__}.{name} is new: say in OTHERWISE what else it may be"
    if (kind, name) in REFUSED:
        with pytest.raises(marl.ConfigError):
            trained(otherwise(kind, name, tmp_path))
        return
    goals = name == "hindsight"
    ours = trained(otherwise(kind, name, tmp_path / "ours"), goals)
    assert is_compiled(ours) <= (kind in COVERED and name in COVERED[kind])
    only_autograd(monkeypatch)
    plain = trained(otherwise(kind, name, tmp_path / "plain"), goals)
    assert not is_compiled(plain)
    assert weights(ours).isfinite().all()
    assert torch.allclose(weights(ours), weights(plain), rtol=1e-4, atol=2e-5)


def only_autograd(monkeypatch):
    """Networks and gradients through torch alone; choices are drawn as ever, so that play is the same."""
    leave = Owner.leave  # noise is drawn in the order of memory, which is to be the same
    monkeypatch.setattr(Owner, "leave", lambda self, x: leave(self, x).contiguous())
    monkeypatch.setattr(agent_net, "is_plain", lambda body, head: False)


# --- what is written down is the whole network ---


def traced(net, inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather export; people trace all the same
        return torch.jit.trace(net, inputs)


def rows_of(net, count):
    """Something to read for one agent: ``count`` copies, and the masks."""
    torch.manual_seed(count)
    x, carry = torch.randn(1, count, 1, *net.shape), torch.randn(count, 1, net.carry_shape[1])
    return x, carry, torch.zeros(1, count, dtype=torch.bool), torch.ones(1, count, 1, dtype=torch.bool)


@pytest.mark.parametrize("action", [Discrete(3), CONTINUOUS], ids=["discrete", "box"])
@pytest.mark.parametrize("kind", [marl.PPO, marl.DDPG])
@pytest.mark.parametrize(
    "network",
    [None, marl.MLP((8, 8), "relu"), marl.MLP((8,), "elu"), marl.GRU(8)],
    ids=["default", "relu", "elu", "gru"],
)
def test_a_traced_network_says_what_the_network_says(network, kind, action):
    spec = spec_of(2, action=action)
    learner = kind(network=network).build(spec, spec.teams[0], 4, np.random.SeedSequence(3), "cpu")
    net, _ = learner.policy(0)
    net = net.eval().requires_grad_(False)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, StackedLinear):
                layer.weight.mul_(3)  # far from where a missing activation would not be seen
        written = traced(net, rows_of(net, 4))
        for count in (4, 7):
            inputs = rows_of(net, count)
            for said, wanted in zip(written(*inputs), net(*inputs), strict=True):
                assert torch.allclose(said, wanted, atol=1e-5)


def test_the_team_s_own_network_in_its_flat_matrix_can_be_traced():
    spec = spec_of(3)
    learner = marl.PPO(sharing="none").build(spec, spec.teams[0], 2, np.random.SeedSequence(3), "cpu")
    net = learner.model.actor
    inputs = torch.randn(1, 2, 3, 4), torch.zeros(2, 3, 0), torch.zeros(1, 2).bool(), torch.ones(1, 2, 3).bool()
    assert net.compiled() is not None
    with torch.no_grad():
        written = traced(net, inputs)
        assert torch.allclose(written(*inputs)[0], net(*inputs)[0], atol=1e-5)
    assert "tanh" in str(written.inlined_graph)


def test_an_exported_network_says_what_the_network_says():
    spec = spec_of(2)
    learner = marl.PPO().build(spec, spec.teams[0], 2, np.random.SeedSequence(3), "cpu")
    net = learner.policy(0)[0].eval().requires_grad_(False)
    inputs = rows_of(net, 4)
    program = torch.export.export(net, inputs)
    assert torch.allclose(program.module()(*inputs)[0], net(*inputs)[0], atol=1e-5)
    assert any("tanh" in str(node.target) for node in program.graph.nodes)


def test_a_body_can_be_asked_for_all_its_attributes():
    for activation in ("tanh", "relu", "elu", "gelu", "silu"):
        inputs = Inputs((3,))
        body = marl.MLP((4,), activation).build(Owner((0,)), inputs, [torch.Generator()])
        assert isinstance(body, nn.Module)
        assert all(isinstance(hasattr(body, name), bool) for name in dir(body))
