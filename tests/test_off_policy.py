"""Off-policy learners: identities, refusals, resuming, the worlds they must cope with."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

import marl
from marl.action_critic import own_action_only
from marl.exploration import OrnsteinUhlenbeck
from marl.schedules import Clock
from tests.support.learning import QUICK, trained
from tests.support.tiny import Single, Steer, Team, Turns, spec_of

SEED = np.random.SeedSequence(7)


def weights(learner):
    """All parameters, targets included."""
    return [value.clone() for module in learner.modules().values() for value in module.state_dict().values()]


def same(first, second):
    ours, theirs = weights(first.learners[0]), weights(second.learners[0])
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    "env", [lambda: Team(widths=(3,), choices=(2,)), lambda: Steer(widths=(3,), choices=(2,))], ids=["choices", "box"]
)
@pytest.mark.parametrize(
    ("joint", "local"),
    [(marl.maddpg, marl.iddpg), (marl.matd3, marl.itd3), (marl.masac, marl.isac)],
    ids=["ddpg", "td3", "sac"],
)
def test_with_one_agent_joint_critics_are_local_ones(joint, local, env):
    assert same(trained(joint(**QUICK), env), trained(local(**QUICK), env))


def test_with_one_agent_vdn_is_dqn():
    env = lambda: Team(widths=(3,), choices=(2,))  # noqa: E731
    mixed, plain = trained(marl.vdn(**QUICK), env), trained(marl.iql(**QUICK), env)
    ours, theirs = mixed.learners[0].flat.values, plain.learners[0].flat.values
    assert torch.equal(ours, theirs)
    assert torch.equal(mixed.learners[0].target_flat.values, plain.learners[0].target_flat.values)


def test_gymnasium_and_one_agent_pettingzoo_are_the_same():
    config = marl.iql(**QUICK)
    assert same(trained(config, "CartPole-v1"), trained(config, lambda: Single("CartPole-v1")))


def fill(learner, seed, agents):
    """Put random but reproducible rows of a three-agent team into a replay; ``agents`` picks columns."""
    memory, random = learner.memory, torch.Generator().manual_seed(seed)
    rows, copies = memory.rows, memory.num_envs

    def draw(*shape):
        return torch.rand(*shape, generator=random)

    memory.obs.copy_(draw(rows, copies, 3, memory.obs.shape[-1])[:, :, agents])
    memory.reward.copy_(draw(rows, copies, 3)[:, :, agents])
    ended = draw(rows, copies, 3)[:, :, agents]
    memory.terminated.copy_(ended < 0.1)
    if memory.action.is_floating_point():
        memory.action.copy_(draw(rows, copies, 3, memory.action.shape[-1])[:, :, agents] * 2 - 1)
    else:
        memory.action.copy_((draw(rows, copies, 3) * 3).long()[:, :, agents])
    memory.acting.fill_(True)
    memory.ragged = True  # agents end apart
    memory.link.copy_(((torch.arange(rows) + 1) % rows).to(torch.int32)[:, None, None].expand(memory.link.shape))
    memory.head, memory.size, memory.seen_steps = rows - 1, rows - 1, 64 * (seed + 1) + 1


@pytest.mark.parametrize(
    ("config", "action"),
    [
        (marl.DQN(sharing="none", double=True, dueling=True, normalize_obs=True), Discrete(3)),
        (marl.DQN(sharing="none", distribution=marl.nets.Quantiles(8)), Discrete(3)),
        (marl.DDPG(sharing="none"), Box(-1, 1, (2,), np.float32)),
        (marl.TD3(sharing="none", smoothing=0.0), Box(-1, 1, (2,), np.float32)),
        (marl.SAC(sharing="none"), Discrete(3)),
    ],
    ids=["dqn", "qr-dqn", "ddpg", "td3", "sac"],
)
def test_stacked_parameters_equal_separate_learners(config, action):
    config = dataclasses.replace(config, batch=8, learning_starts=1, updates_per_step=1 / 64, buffer=120)
    full = spec_of(3, action=action)
    stacked = config.build(full, full.teams[0], 4, SEED.spawn(1)[0], "cpu")
    alone = []
    for agent in range(3):
        spec = spec_of(1, action=action)
        learner = config.build(spec, spec.teams[0], 4, SEED.spawn(1)[0], "cpu")
        copy_columns(stacked, learner, agent)
        alone.append(learner)
    for update in range(20):
        before = stacked.experience.sampler.get_state()
        for which, learner in enumerate((stacked, *alone)):
            fill(learner, update, [0, 1, 2] if which == 0 else [which - 1])
            learner.experience.sampler.set_state(before)
            assert learner.ready(Clock(64 * (update + 1), 10_000))
            learner.update(Clock(64 * (update + 1), 10_000))
    for agent, learner in enumerate(alone):
        for (flat, _), (own, count) in zip(flats(stacked), flats(learner), strict=True):
            mine = torch.stack([flat.values[agent + 3 * c] for c in range(count)])
            assert torch.allclose(own.values, mine, atol=1e-6)


def flats(learner):
    """Parameter matrices, and how many rows each agent has in them."""
    if hasattr(learner, "flat"):
        return [(learner.flat, 1), (learner.target_flat, 1)]
    critics = learner.critic.count
    return [
        (learner.actor_flat, 1),
        (learner.actor_target_flat, 1),
        (learner.critic.flat, critics),
        (learner.critic.target_flat, critics),
    ]


def copy_columns(stacked, learner, agent):
    for (flat, _), (own, count) in zip(flats(stacked), flats(learner), strict=True):
        for c in range(count):
            own.values[c].copy_(flat.values[agent + 3 * c])


def test_an_agents_actor_loss_reaches_only_its_own_action():
    policy = torch.rand(1, 2, 3, 4, requires_grad=True)
    everybody = own_action_only(policy, torch.rand(1, 2, 3, 4))  # (1, 2, 3, 12)
    for judged in range(3):
        (gradient,) = torch.autograd.grad(everybody[:, :, judged].sum(), policy, retain_graph=True)
        for agent in range(3):
            assert (gradient[:, :, agent] != 0).all() == (agent == judged)
            assert (gradient[:, :, agent] != 0).any() == (agent == judged)


@pytest.mark.parametrize("recipe", [marl.maddpg, marl.matd3, marl.masac], ids=["ddpg", "td3", "sac"])
@pytest.mark.parametrize("env", [Team, Steer])
def test_what_an_agents_critic_says_moves_no_other_agents_actor(recipe, env):
    """The whole loss with only agent 1's rows counted: the others' own parameters get no gradient at all."""
    learner = trained(recipe(**QUICK), env, steps=60).learners[0]
    sample = learner.experience.draw(Clock(60))
    one = torch.tensor([False, True, False])
    sample = dataclasses.replace(sample, complete=sample.complete & one)
    learner.memory.ragged = True  # so that weights look at who counts
    seen = learner.actor.encode(sample.obs)
    extra = (learner.temperature(),) if recipe is marl.masac else ()
    loss = learner.compute_actor_loss(sample, seen, *extra)
    learner.actor_flat.backward(loss[0] if isinstance(loss, tuple) else loss)
    slopes = learner.actor_flat.gradients.abs().sum(1)
    assert slopes[1] > 0
    assert slopes[0] == slopes[2] == 0


LEARNERS = {
    "dqn": (marl.iql(n_step=3, prioritized=marl.memory.Prioritized(), **QUICK), Team),
    "c51-noisy": (
        marl.iql(**QUICK | {"network": marl.MLP((16,), "relu", noisy=0.5)}, distribution=marl.nets.Atoms(-5, 5, 11)),
        Team,
    ),
    "qmix-gru": (marl.qmix(**QUICK | {"network": marl.GRU(8)}, sequence=4, burn_in=1, td_lambda=0.8), Team),
    "qplex": (marl.qplex(**QUICK), Team),
    "wqmix": (marl.wqmix(**QUICK), Team),
    "maddpg": (marl.maddpg(**QUICK), Team),
    "maddpg-state": (marl.maddpg(critic=marl.Joint(of="state"), sharing="all", **QUICK), Team),
    "iddpg-box": (marl.iddpg(exploration=OrnsteinUhlenbeck(), normalize_obs=True, **QUICK), Steer),
    "matd3": (
        marl.matd3(
            prioritized=marl.memory.Prioritized(marl.Linear(0.7, 0.3, 200), marl.Linear(0.4, 1.0, 150)), **QUICK
        ),
        Steer,
    ),
    "masac": (marl.masac(**QUICK), Team),
    "isac-box": (marl.isac(sharing="all", **QUICK), Steer),
    "facmac": (marl.facmac(**QUICK), Steer),
    "iddpg-gru-ou": (
        marl.iddpg(**QUICK | {"network": marl.GRU(8)}, sequence=4, exploration=OrnsteinUhlenbeck()),
        Steer,
    ),
    "maddpg-gru": (marl.maddpg(**QUICK | {"network": marl.GRU(8)}, sequence=4), Team),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_resuming_is_never_having_stopped(name, tmp_path):
    config, env = LEARNERS[name]
    module = "tests.support.tiny:Steer" if env is Steer else "tests.support.tiny:Team"
    unbroken = marl.MultiAgentSystem(config, module, num_envs=2, seed=3)
    unbroken.train(steps=90)
    unbroken.save(tmp_path / "saved")
    unbroken.train(steps=60)
    resumed = marl.MultiAgentSystem.load(tmp_path / "saved", trust=True)
    resumed.train(steps=60)
    assert same(unbroken, resumed)
    assert unbroken.history["episode_rewards"] == resumed.history["episode_rewards"]


@pytest.mark.parametrize("name", LEARNERS)
def test_decentralized_evaluation_equals_batched(name):
    config, env = LEARNERS[name]
    system = trained(config, lambda: env(die=(None, 4)), steps=60)
    batched, alone = system.evaluate(4), system.evaluate(4, decentralized=True)
    assert batched.mean_return == pytest.approx(alone.mean_return, abs=1e-4)


@pytest.mark.parametrize(
    "env", [lambda: Turns(together=True), lambda: Team(die=(2, None, 4)), lambda: Team(widths=(2, 5), choices=(2, 4))]
)
@pytest.mark.parametrize("recipe", [marl.iql, marl.qmix, marl.qplex, marl.maddpg, marl.matd3, marl.masac])
def test_turns_deaths_and_unequal_agents(env, recipe):
    system = trained(recipe(**QUICK), env, steps=150)
    assert all(torch.isfinite(value).all() for value in weights(system.learners[0]) if value.is_floating_point())
    assert system.learners[0].experience.updates > 10
    assert np.isfinite(system.evaluate(2).mean_return)


@pytest.mark.parametrize("action", [MultiDiscrete([2, 3]), MultiBinary(2)], ids=str)
@pytest.mark.parametrize("recipe", [marl.iddpg, marl.matd3])
def test_composite_choices_train(action, recipe):
    class Composite(Team):
        def action_space(self, agent):
            return action

        def step(self, actions):
            assert all(action.contains(chosen) for chosen in actions.values())
            return super().step({agent: int(chosen[0]) for agent, chosen in actions.items()})

    assert trained(recipe(**QUICK), Composite, steps=80).learners[0].experience.updates > 5


def test_teams_with_critics_across_them_train_in_one_run():
    agents = {"agent_0": marl.maddpg(critic=marl.Joint(of="all"), **QUICK), "agent_[12]": marl.iddpg(**QUICK)}
    system = trained(agents, Team, steps=100)
    assert [learner.experience.updates > 5 for learner in system.learners] == [True, True]
    agents = {"agent_0": marl.masac(critic=marl.Joint(of="all"), **QUICK), "agent_[12]": marl.ippo(rollout=8)}
    assert trained(agents, Steer, steps=100).learners[0].experience.updates > 5


@pytest.mark.parametrize(
    "other", [marl.iddpg(**QUICK), marl.iql(**QUICK), marl.ippo(rollout=8)], ids=["ddpg", "dqn", "ppo"]
)
@pytest.mark.parametrize("die", [(2, None, None, 4), (None,) * 4], ids=["deaths", "all live"])
def test_a_critic_across_teams_knows_what_the_others_did_and_will_do(other, die):
    """Also where members have died; of teams with target policies the next action is theirs, the dead show zeros."""
    agents = {"agent_[01]": marl.maddpg(critic=marl.Joint(of="all"), **QUICK), "agent_[23]": other}
    system = trained(agents, lambda: Team(widths=(3,) * 4, choices=(2, 2, 2, 4), die=die), steps=120)
    ours, theirs = system.learners
    memory = ours.memory
    assert memory.ragged == (die[0] is not None)
    if not isinstance(other, marl.PPO):
        flat = theirs.target_flat if isinstance(other, marl.DQN) else theirs.actor_target_flat
        flat.values[:, -1] += 10  # the last choice, which agent_2 does not have
    sample = ours.experience.draw(Clock(120))
    now, later = (ours.cross_team.features(sample, successor)[0] for successor in (False, True))  # (1, B, 2, 2 * 4)
    checked = 0
    for b, place in enumerate(sample.index[:, 0].tolist()):
        row, copy = divmod(place, 2)
        for k in range(2):
            did = (
                torch.nn.functional.one_hot(memory.others[0][row, copy], 4)
                * memory.others_acting[0][row, copy, :, None]
            )
            assert torch.equal(now[0, b, k], did.flatten().float())
            if row + 1 == memory.head or not (sample.complete[0, b, k] and memory.link[row, copy, k] == row + 1):
                continue
            if sample.discount[0, b, k] == 0:
                continue
            acting = memory.others_acting[0][row + 1, copy]
            if isinstance(other, marl.PPO):
                wanted = torch.nn.functional.one_hot(memory.others[0][row + 1, copy], 4)
            else:
                action_mask = memory.others_action_mask[0][row + 1, copy]
                wanted = theirs.planned(theirs.memory.obs[row + 1, copy][None, None], action_mask[None, None])[0, 0]
                assert not wanted[0, 2:].any()  # agent_2 has two choices
                assert wanted[1, 3] == 1
            assert torch.equal(later[0, b, k], (wanted * acting[:, None]).flatten().float())
            checked += 1
    assert checked > 5


def test_metrics_are_means_over_the_updates_that_gave_them(monkeypatch):
    learner = trained(marl.itd3(delay=4, **QUICK), Steer, steps=20).learners[0]
    seen = []
    original = learner.compute_actor_loss

    def noted(*inputs):
        loss = original(*inputs)
        seen.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(learner, "compute_actor_loss", noted)
    learner.memory.seen_steps += 40  # 20 updates are due, 5 of the actor's
    metrics = learner.update(Clock(60))
    assert len(seen) == 5
    assert metrics["policy_loss"] == pytest.approx(sum(seen) / 5 / 3, rel=1e-5)


def test_a_central_value_sees_what_the_others_see():
    learner = trained(marl.wqmix(normalize_obs=True, **QUICK), Team, steps=60).learners[0]
    sample = learner.experience.draw(Clock(60))
    learner.mixer.central.net.norm = None  # it has no use for one of its own
    assert torch.isfinite(learner.learn(sample)["loss"])


def test_a_scheduled_leniency_is_not_recorded():
    leniency = marl.Linear(0.9, 0.0, 100)
    assert trained(marl.iql(**QUICK), Team, steps=20).learners[0]._recordable
    assert not trained(marl.iql(leniency=leniency, **QUICK), Team, steps=20).learners[0]._recordable


def test_opponents_are_not_mixed():
    with pytest.raises(marl.ConfigError, match=r"^QMix on team 'team': the rewards of its agents always cancel out"):
        trained(marl.qmix(**QUICK), Turns, steps=400)
    trained(marl.iql(**QUICK), Turns, steps=400)


def test_a_rows_priority_is_the_mean_over_those_who_acted():
    learner = trained(marl.maddpg(prioritized=marl.memory.Prioritized(), **QUICK), Turns, steps=60).learners[0]
    sample = learner.experience.draw(Clock(60))
    assert (sample.complete[0].sum(-1) == 1).all()  # one player has the turn, and what is not known is never drawn
    trees, index = learner.memory.priorities, sample.index[:, 0].numpy()
    learner.memory.update_priorities(sample, torch.where(sample.complete[0], 3.0, 0.0))
    assert trees.nodes[0, trees.leaves + index] == pytest.approx((3.0 + trees.epsilon) ** trees.alpha)


def test_the_update_ratio_does_not_change_with_the_number_of_copies():
    for copies in (1, 3, 10):
        system = marl.MultiAgentSystem(marl.iql(**QUICK), Team, num_envs=copies, seed=0)
        system.train(steps=120)
        assert system.learners[0].experience.updates == 50


@pytest.mark.parametrize(
    ("config", "env", "message"),
    [
        (marl.iql(batch=200, buffer=100), Team, "batch=200 is larger than buffer=100"),
        (marl.iql(n_step=80, batch=64, buffer=128), Team, "n_step=80 own turns of 2 copies are longer than buffer=128"),
        (marl.iql(buffer=10**12), Team, "lower buffer="),
        (marl.iql(critic=marl.Joint()), Team, "critic=Joint() has no meaning"),
        (marl.iql(), Steer, "box actions are not supported"),
        (marl.vdn(critic=marl.Joint()), Team, "a mixer mixes local values"),
        (marl.DDPG(credit=marl.QPlex()), Team, "QPlex compares an agent's actions"),
        (marl.TD3(credit=marl.QMix()), Team, "mixers go with single critics"),
        (marl.SAC(credit=marl.QMix()), Team, "mixers go with DQN and DDPG"),
        (marl.qmix(credit=marl.QMix(state="state")), Turns, "has no state()"),
        (marl.iql(prioritized=marl.memory.Prioritized(), network=marl.GRU(8)), Team, "prioritized draws are of single"),
        (marl.iql(hindsight=marl.memory.Hindsight("marl_envs.reach:compute_reward")), Team, "has no goals"),
        (marl.iql(exploration=marl.exploration.GaussianNoise()), Team, "GaussianNoise explores box actions"),
        (marl.iql(td_lambda=0.5), Team, "td_lambda needs sequences"),
        (marl.iql(sequence=4, burn_in=4), Team, "leaves no row"),
        (marl.qmix(sequence=4, td_lambda=0.5, n_step=3), Team, "td_lambda=0.5 and n_step=3 are two answers"),
        (marl.iql(distribution=marl.nets.Atoms(), hysteresis=0.1), Team, "hysteresis would change errors"),
        (
            marl.iql(distribution=marl.nets.Quantiles(), huber=1.0, leniency=0.5),
            Team,
            "huber and leniency would change",
        ),
        (marl.iql(distribution=marl.nets.Atoms(), network=marl.GRU(8), n_step=3), Team, "n_step would change errors"),
        (marl.iddpg(network=marl.MLP((8,), noisy=0.5)), Team, "noisy layers explore for DQN"),
        (marl.ippo(network=marl.MLP((8,), noisy=0.5)), Team, "noisy layers explore for DQN"),
        (marl.maddpg(critic_network=marl.GRU(8)), Team, "feed-forward"),
    ],
)
def test_what_has_no_meaning_is_refused_before_anything_starts(config, env, message):
    with pytest.raises((marl.ConfigError, marl.types.ResourceError)) as caught:
        marl.MultiAgentSystem(config, env, num_envs=2)
    assert "\n" not in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("copies", [1, 3])
def test_updates_come_in_bursts_and_as_many_as_without(copies):
    class Count(marl.callbacks.Callback):
        def on_step(self, training):
            done.append((training.steps, training.system.learners[0].experience.updates))

    done = []
    config = marl.iql(learning_starts=10, batch=4, updates_per_step=0.5, update_every=12, network=marl.MLP((8,)))
    with marl.MultiAgentSystem(config, "CartPole-v1", num_envs=copies) as system:
        system.train(steps=60, callbacks=[Count()])
    # 12, 24, 36 and 48 steps after the 10th six updates each, at the first step that is not before.
    assert all(updates == (max(steps - 10, 0) // 12) * 6 for steps, updates in done)
    assert done[-1] == (60, 24)
    with pytest.raises(marl.ConfigError, match="update_every"):
        marl.iql(update_every=0)
