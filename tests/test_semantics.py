"""What must be right in every step: one test for each rule, written so that the usual mistake fails it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo import ParallelEnv

import marl
from marl import adapters
from marl.nets.distributions import Bernoulli, Categorical, MultiCategorical
from tests.support.tiny import Constant, Single, Team, Turns
from tests.support.watching import Watch

DISCOUNT = 0.9


def learned_value(env, steps=12_000, **settings):
    """The critic's opinion of the first observation, trained until it knows."""
    config = marl.A2C(
        rollout=16, discount=DISCOUNT, gae_lambda=0.0, lr=3e-3, network=marl.MLP((16,)), value_weight=1.0, **settings
    )
    system = marl.MultiAgentSystem(config, env, num_envs=4, seed=0)
    system.train(steps=steps)
    model = system.learners[0].model
    memory = system.learners[0].memory
    with torch.no_grad():
        value, _ = model.critic(
            model.joint_input(memory.obs[:1], None), model.critic_carry, memory.started[:1], memory.acting[:1]
        )
    return float(value[0, 0, 0, 0])


# 1. Bootstrap on truncation, never on termination.


def test_constant_reward_cut_by_a_time_limit_is_worth_the_infinite_sum():
    assert learned_value(lambda: Constant(8)) == pytest.approx(1 / (1 - DISCOUNT), rel=0.05)


def test_constant_reward_ended_by_termination_is_worth_less():
    """One observation for all times, seven of eight steps go on: V = 1 + 7/8 discount V."""
    expected = 1 / (1 - DISCOUNT * 7 / 8)
    assert learned_value(lambda: Constant(8, terminal=True)) == pytest.approx(expected, rel=0.05)


def test_time_limit_set_by_us_bootstraps_too():
    def endless():
        return Constant(10**9)

    config = marl.A2C(rollout=16, discount=DISCOUNT, gae_lambda=0.0, lr=3e-3, network=marl.MLP((16,)), value_weight=1.0)
    system = marl.MultiAgentSystem(config, endless, num_envs=4, max_steps=8)
    history = system.train(steps=12_000)
    assert set(history["episode_lengths"]) == {8}
    model, memory = system.learners[0].model, system.learners[0].memory
    with torch.no_grad():
        value, _ = model.critic(memory.obs[:1], model.critic_carry, memory.started[:1], memory.acting[:1])
    assert float(value[0, 0, 0, 0]) == pytest.approx(1 / (1 - DISCOUNT), rel=0.05)


# 2. Autoreset in the same step; the true successor is never a reset observation.


def test_sentinel_reset_observation_is_never_a_successor():
    batch = adapters.make(lambda: Constant(3, sentinel=True), 2)
    step = batch.reset(0)
    resets = 0
    for _ in range(10):
        step = batch.step([np.zeros((2, 1), dtype=np.int64)])
        team = step.teams[0]
        assert (team.next_obs == 1).all()
        if step.started.any():
            resets += 1
            assert (team.obs[step.started] == -1).all()
    assert resets == 3


def test_finals_in_the_rollout_are_successors_and_rows_hold_no_fake_transition():
    system = marl.MultiAgentSystem(marl.PPO(rollout=8, minibatches=1), lambda: Constant(3, sentinel=True), num_envs=1)
    finals = []
    system.train(steps=7, watcher=Watch(lambda s: finals.extend(map(torch.clone, s.learners[0].memory.final_obs))))
    assert finals
    assert all((final == 1).all() for final in finals)
    memory = system.learners[0].memory
    assert memory.reward[:7, 0, 0].tolist() == [1.0] * 7  # a next-step autoreset would show a 0
    assert memory.truncated[:7, 0, 0].tolist() == [False, False, True, False, False, True, False]


# 3. Agents die, end differently, are masked out.


def test_the_middle_agent_dies_and_is_masked_out_of_everything():
    system = marl.MultiAgentSystem(marl.PPO(rollout=10, minibatches=1), lambda: Team(die=(None, 4, None)), num_envs=1)
    system.train(steps=9)
    memory = system.learners[0].memory
    assert memory.acting[:9, 0, 1].tolist() == [True] * 4 + [False] * 5
    assert memory.acting[:9, 0, 0].all()
    assert memory.acting[:9, 0, 2].all()
    assert memory.terminated[:9, 0, 1].nonzero().flatten().tolist() == [3]
    before = system.learners[0].memory.obs.clone()
    assert (before[4:9, 0, 1] == 0).all()


def test_dead_rows_change_no_gradient():
    """Whatever stands in rows of dead agents, the weights after an update are the same."""

    def weights(poison):
        system = marl.MultiAgentSystem(
            marl.PPO(rollout=10, minibatches=1, normalize_obs=True, normalize_values=True, entropy=0.1),
            lambda: Team(die=(None, 4, None)),
            num_envs=1,
        )

        def see(system):
            memory = system.learners[0].memory
            if memory.time == 9:
                memory.log_prob[5:, 0, 1] = poison
                memory.obs[5:9, 0, 1] = poison
                memory.action[5:9, 0, 1] = 1
                memory.reward[5:9, 0, 1] = poison

        system.train(steps=10, watcher=Watch(see))
        return system.learners[0].flat.values.clone()

    assert torch.equal(weights(0.0), weights(7.0))


def test_one_agent_terminates_while_another_truncates():
    batch = adapters.make(lambda: Team(widths=(2, 2), choices=(2, 2), length=5, die=(5, None)), 1)
    batch.reset(0)
    for _ in range(5):
        step = batch.step([np.zeros((1, 2), dtype=np.int64)])
    team = step.teams[0]
    assert team.terminated.tolist() == [[True, False]]
    assert team.truncated.tolist() == [[False, True]]
    assert len(step.finished) == 1


def test_the_episode_goes_on_and_counts_rewards_after_a_death():
    history = marl.MultiAgentSystem(marl.Random(), lambda: Team(die=(None, 4, None)), num_envs=1).train(episodes=3)
    assert history["episode_lengths"] == [10, 10, 10]


def test_team_reward_stream_goes_on_after_a_members_death():
    system = marl.MultiAgentSystem(
        marl.PPO(rollout=10, minibatches=1, credit=marl.TeamReward()), lambda: Team(die=(None, 4, None)), num_envs=1
    )
    system.train(steps=9)
    memory = system.learners[0].memory
    assert torch.equal(memory.reward[:9, 0, 0], memory.reward[:9, 0, 1])
    assert not memory.terminated[:9].any()  # the team's discount lives while any member lives


def test_team_that_dies_one_by_one_terminates_with_its_last_member():
    system = marl.MultiAgentSystem(
        marl.PPO(rollout=10, minibatches=1, credit=marl.TeamReward()), lambda: Team(die=(2, 4, 6)), num_envs=1
    )
    system.train(steps=9)
    memory = system.learners[0].memory
    assert memory.terminated[:9, 0].all(-1).nonzero().flatten().tolist() == [5]
    assert memory.terminated[:9, 0].any(-1).nonzero().flatten().tolist() == [5]


# 4. Turn-based games.


def test_the_loser_of_a_turn_based_game_learns_its_loss_exactly_once():
    system = marl.MultiAgentSystem(marl.PPO(rollout=10, minibatches=1), lambda: Turns(3), num_envs=1)
    history = system.train(steps=9)
    memory = system.learners[0].memory
    assert history["episode_lengths"] == [5]
    # Five turns, player_0 first: the loser's -1 lies in the winner's row, ends its last move, and comes once.
    assert memory.acting[:5, 0, 0].tolist() == [True, False, True, False, True]
    assert memory.acting[:5, 0, 1].tolist() == [False, True, False, True, False]
    assert memory.reward[:5, 0, 1].tolist() == [0, 0, 0, 0, -1]
    assert memory.reward[:5, 0, 0].tolist() == [0, 0, 0, 0, 1]
    assert memory.terminated[4, 0].tolist() == [True, True]
    from marl import ops

    zero = torch.zeros(5, 1, 2)
    advantage, complete = ops.idle_generalized_advantage_estimation(
        memory.reward[:5], zero, memory.acting[:5], memory.terminated[:5], memory.truncated[:5], zero,
        zero[0], memory.acting[5], 0.5, 1.0,
    )  # fmt: skip
    # Discounted per own turn: the loser's second and last move gets -1, its first -0.5.
    assert advantage[:, 0, 1].tolist() == [0, -0.5, 0, -1, 0]
    assert advantage[:, 0, 0].tolist() == [0.25, 0, 0.5, 0, 1]
    assert torch.equal(complete, memory.acting[:5])


# 5. Action masks.


def test_one_legal_action_has_log_probability_zero_and_entropy_zero():
    logits = torch.randn(5, 4)
    action_mask = torch.zeros(5, 4, dtype=torch.bool)
    action_mask[:, 2] = True
    head = Categorical(4)
    action = head.sample(logits, action_mask, None)
    log_prob, entropy = head.evaluate(logits, action_mask, action)
    assert (action == 2).all()
    assert (log_prob == 0).all()
    assert (entropy == 0).all()


def test_masked_choices_are_never_drawn_and_get_no_gradient():
    logits = torch.zeros(20_000, 3, requires_grad=True)
    action_mask = torch.tensor([True, False, True]).expand(20_000, 3)
    head = Categorical(3)
    action = head.sample(logits.detach(), action_mask, torch.Generator().manual_seed(0))
    assert set(action.tolist()) == {0, 2}
    log_prob, entropy = head.evaluate(logits, action_mask, action)
    assert torch.allclose(log_prob, torch.full_like(log_prob, -math.log(2)))
    assert torch.allclose(entropy, torch.full_like(entropy, math.log(2)))
    (gradient,) = torch.autograd.grad(log_prob.sum() + entropy.sum(), logits)
    assert (gradient[:, 1] == 0).all()


def test_masks_of_several_components():
    action_mask = torch.tensor([[True, False, False, True, True]])
    head = MultiCategorical((3, 2))
    log_prob, entropy = head.evaluate(torch.zeros(1, 5), action_mask, torch.tensor([[0, 1]]))
    assert log_prob.item() == pytest.approx(-math.log(2))
    assert entropy.item() == pytest.approx(math.log(2))
    bits = Bernoulli(2)
    forced = torch.tensor([[False, True, True, False]])  # the first bit must be one, the second zero
    assert bits.sample(torch.zeros(1, 2), forced, None).tolist() == [[1, 0]]
    log_prob, entropy = bits.evaluate(torch.zeros(1, 2), forced, torch.tensor([[1, 0]]))
    assert log_prob.item() == 0
    assert entropy.item() == 0


class Masked(ParallelEnv):
    """Legal is exactly the action named in the observation; anything else raises."""

    metadata = {"name": "masked_v0", "render_modes": []}

    def __init__(self, where, cut=False):
        self.where, self.cut = where, cut
        self.possible_agents = ["a", "b"]

    def observation_space(self, agent):
        inner = Box(0, 1, (4,), np.float32)
        return Dict(observation=inner, action_mask=Box(0, 1, (4,), np.int8)) if self.where == "obs" else inner

    def action_space(self, agent):
        return Discrete(4)

    def _look(self):
        self.action_mask = {a: int(self.random.integers(4)) for a in self.possible_agents}
        masks = {a: np.eye(4, dtype=np.int8)[i] for a, i in self.action_mask.items()}
        obs = {a: np.eye(4, dtype=np.float32)[i] for a, i in self.action_mask.items()}
        if self.where == "obs":
            return {a: {"observation": obs[a], "action_mask": masks[a]} for a in obs}, {a: {} for a in obs}
        return obs, {a: {"action_mask": masks[a]} for a in obs}

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.time = 0
        return self._look()

    def step(self, actions):
        assert actions == self.action_mask, "an illegal action"
        self.time += 1
        obs, infos = self._look()
        over = self.time == 6
        self.agents = [] if over else self.agents
        ended, cut = (dict.fromkeys(self.possible_agents, over and self.cut == which) for which in (False, True))
        return obs, dict.fromkeys(ended, 1.0), ended, cut, infos


@pytest.mark.parametrize("where", ["obs", "info"])
@pytest.mark.parametrize("learner", [marl.ippo(rollout=8), marl.mappo(rollout=8, network=marl.GRU(8)), marl.Random()])
def test_masks_from_observation_and_info_are_obeyed_at_acting_and_update(where, learner):
    system = marl.MultiAgentSystem(learner, lambda: Masked(where), num_envs=4)
    history = system.train(steps=200)
    assert history.get("entropy", [0.0])[-1] == 0
    assert abs(history.get("kl", [0.0])[-1]) < 1e-6
    assert system.evaluate(4).mean_return == 12
    assert system.evaluate(4, decentralized=True).mean_return == 12


OFF = {"learning_starts": 40, "batch": 16, "network": marl.MLP((16,), "relu")}


@pytest.mark.parametrize("where", ["obs", "info"])
@pytest.mark.parametrize("recipe", [marl.iql, marl.qmix, marl.maddpg, marl.masac])
def test_masks_hold_at_acting_and_at_the_successors_of_cut_episodes(where, recipe):
    system = marl.MultiAgentSystem(recipe(**OFF), lambda: Masked(where, cut=True), num_envs=4)
    system.train(steps=200)
    assert system.evaluate(2).mean_return == 12
    memory = system.learners[0].memory
    index = torch.arange(memory.size * 4).unsqueeze(1)
    sample = memory.sample(index, 1, 1, 0.9)
    assert (memory.link < -1).any()
    assert torch.equal(sample.next_action_mask, sample.next_obs.bool())  # what is seen is what is legal


def test_coma_plans_legal_actions_where_episodes_are_cut(tmp_path):
    system = marl.MultiAgentSystem(marl.coma(rollout=8), "tests.test_semantics:CutInObs", num_envs=4)
    model, seen = system.learners[0].model, []
    sample = model.distribution.sample
    model.distribution.sample = lambda out, action_mask, random: (
        seen.append(action_mask) or sample(out, action_mask, random)
    )
    system.train(steps=64)
    assert any(action_mask.dim() == 4 for action_mask in seen)  # (1, K, N, A): of true successors
    assert all((action_mask.sum(-1) == 1).all() for action_mask in seen)
    system.train(steps=28)  # an episode was cut since the last update
    system.save(tmp_path / "run")
    assert system.learners[0].memory.final_action_mask
    again = marl.MultiAgentSystem.load(tmp_path / "run", trust=True)
    for one in (system, again):
        one.train(steps=36)
    assert torch.equal(system.learners[0].flat.values, again.learners[0].flat.values)


def test_masks_of_cut_episodes_come_from_worker_processes_and_turns_too():
    batch = marl.adapters.make("tests.test_semantics:CutInObs", 4, None, workers=2)
    step = batch.reset(0)
    for _ in range(7):
        step = batch.step([step.teams[0].obs.argmax(-1)])
        assert np.array_equal(step.teams[0].next_action_mask, step.teams[0].next_obs.astype(bool))
    batch.close()


def CutInObs():
    return Masked("obs", cut=True)


# 6. Reported scales.


def test_mpe2_spread_random_policy_scales():
    simple_spread_v3 = pytest.importorskip("mpe2.simple_spread_v3")
    system = marl.MultiAgentSystem(marl.Random(), simple_spread_v3.parallel_env, num_envs=1)
    report = system.evaluate(300, seed=1)
    spread = np.std(report.returns) / np.sqrt(300)
    assert report.mean_return == pytest.approx(-79.2, abs=4 * spread)
    for mean in report.returns_per_agent.values():
        assert mean == pytest.approx(-26.4, abs=4 * spread / 3 + 0.3)
    assert report.mean_return == pytest.approx(sum(report.returns_per_agent.values()))


# 7. Schedules run on environment steps and updates do not depend on how many copies there are.


@pytest.mark.parametrize("num_envs", [1, 4])
def test_schedules_run_on_environment_steps(num_envs):
    config = marl.PPO(rollout=20, minibatches=1, lr=marl.Linear(1.0e-3, 0.0, steps=800))
    system = marl.MultiAgentSystem(config, Constant, num_envs=num_envs)
    system.train(steps=400)
    assert system.steps == 400
    assert system.learners[0].optimizer.lr == pytest.approx(5e-4)


# 8. Evaluation changes nothing.


def test_evaluation_changes_no_learner_normalizer_or_random_stream():
    def run(evaluate):
        system = marl.MultiAgentSystem(
            marl.mappo(rollout=8, minibatches=2, normalize_obs=True, network=marl.GRU(8)), Team, num_envs=2
        )
        system.train(steps=100)
        if evaluate:
            system.evaluate(5)
            system.evaluate(3, greedy=False, decentralized=True)
        system.train(steps=100, evaluate_every=30 if evaluate else None, evaluate_episodes=2)
        return system

    plain, evaluated = run(False), run(True)
    assert torch.equal(plain.learners[0].flat.values, evaluated.learners[0].flat.values)
    assert plain.history["episode_rewards"] == evaluated.history["episode_rewards"]
    assert len(evaluated.history["evaluation_return"]) >= 3


@pytest.fixture
def seeded():
    """An environment class and the seeds that each of its instances which really played was given."""
    given: dict[int, list[int | None]] = {}
    kept = []

    class Seeded(Team):
        def reset(self, seed=None, options=None):
            kept.append(self)
            given.setdefault(id(self), []).append(seed)
            return super().reset(seed, options)

    def played():
        # Seed 0 is that of the look at the first copy, before anybody plays.
        seeds = [seeds[1:] if seeds[0] == 0 else seeds for seeds in given.values() if len(seeds) > 1]
        given.clear()
        return seeds

    return Seeded, played


def test_evaluation_seeds_are_not_training_seeds(seeded):
    env, played = seeded
    system = marl.MultiAgentSystem(marl.Random(), env, num_envs=4)
    system.train(steps=80)
    trained = {seeds[0] for seeds in played()}
    system.evaluate(8)
    evaluated = {seeds[0] for seeds in played()}
    assert len(trained) == 4
    assert len(evaluated) == 8
    assert not trained & evaluated


# 9. Seeds.


def test_each_copy_is_seeded_once_and_differently(seeded):
    env, played = seeded
    marl.MultiAgentSystem(marl.Random(), env, num_envs=3).train(steps=150)
    seeds = played()
    assert len(seeds) == 3
    assert len({given[0] for given in seeds}) == 3
    assert all(given[0] is not None for given in seeds)
    assert all(seed is None for given in seeds for seed in given[1:])


# 10. Identities of agents that share parameters.


def test_shared_parameters_get_the_agents_id_unless_switched_off():
    def width(**settings):
        system = marl.MultiAgentSystem(marl.PPO(rollout=8, minibatches=1, **settings), Team, num_envs=1)
        return system.learners[0].model.actor.body.layers[0].weight.shape[1]

    assert width() == 3 + 3
    assert width(agent_id=False) == 3
    assert width(sharing="none") == 3


# 11. Continuous actions reach the box.


class Reach(Single):
    """Pays for the distance of the action from the upper bound of a lopsided box."""

    def __init__(self):
        self.possible_agents = ["agent_0"]
        self.time = 0

    def observation_space(self, agent):
        return Box(-1, 1, (1,), np.float32)

    def action_space(self, agent):
        return Box(np.array([2.0, -5.0], np.float32), np.array([6.0, -1.0], np.float32))

    def reset(self, seed=None, options=None):
        self.agents, self.time = ["agent_0"], 0
        return {"agent_0": np.zeros(1, np.float32)}, {"agent_0": {}}

    def step(self, actions):
        action = actions["agent_0"]
        assert (action >= [2, -5]).all()
        assert (action <= [6, -1]).all()
        self.time += 1
        self.agents = [] if self.time == 5 else self.agents
        reward = -float(np.abs(action - [6, -5]).sum())
        done = self.time == 5
        return tuple({"agent_0": x} for x in (np.zeros(1, np.float32), reward, done, False, {}))


@pytest.mark.parametrize("squash", [False, True])
def test_continuous_actions_stay_in_their_box_and_reach_its_corner(squash):
    config = marl.PPO(rollout=40, lr=3e-3, squash=squash, minibatches=2, network=marl.MLP((16,)))
    system = marl.MultiAgentSystem(config, Reach, num_envs=4)
    system.train(steps=8_000)
    assert system.evaluate(3).mean_return > -5 * 1.0


# 12-14 are tested where they live: tests/test_checkpoint.py, tests/cli.


def test_unknown_settings_name_the_nearest():
    with pytest.raises(marl.ConfigError, match=r"unknown field 'clp'; did you mean 'clip'"):
        marl.PPO(clp=0.1)
    with pytest.raises(marl.ConfigError, match=r"did you mean 'gae_lambda'"):
        marl.mappo(gae_lamda=0.9)


def test_a_pattern_behind_a_wider_one_is_told_so():
    with pytest.raises(marl.ConfigError, match=r"'agent_\*' stands before it and has its agents; put 'agent_\?' first"):
        marl.MultiAgentSystem({"agent_*": marl.Random(), "agent_?": marl.Random()}, Constant)
    system = marl.MultiAgentSystem(marl.Random(), Constant)
    for wrong in ({"stop": 3}, {"callback": "x"}):
        with pytest.raises(marl.ConfigError, match="expected None or something to call"):
            system.train(steps=10, **wrong)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: marl.DQN(learning_rate=1e-3), "did you mean 'lr'"),
        (lambda: marl.DQN(buffer_size=1000), "did you mean 'buffer'"),
        (lambda: marl.DQN(gamma=0.9), "did you mean 'discount'"),
        (lambda: marl.SAC(ent_coef=0.1), "did you mean 'temperature'"),
        (lambda: marl.PPO(ent_coef=0.1), "did you mean 'entropy'"),
        (lambda: marl.PPO(n_steps=16), "did you mean 'rollout'"),
        (lambda: marl.CommNet(3), r"CommNet\(3\): settings are given by name: .*size"),
        (lambda: marl.PPO(0.1), r"PPO\(0.1\): settings are given by name: critic, sharing"),
        (lambda: marl.Linear(1, 0, -5), r"Linear.steps: expected a number above 0, or None for the whole run, got -5"),
        (lambda: marl.Linear("1e-3", 0), r"Linear.start: expected a number, got '1e-3'"),
        (lambda: marl.schedules.Exponential(1, None, 5), r"Exponential.end: expected a number, got None"),
        (lambda: marl.schedules.Logarithmic(1, 0, True), r"Logarithmic.after: expected a number, got True"),
        (lambda: marl.MLP(64), r"MLP.sizes: expected positive whole numbers such as \(64, 64\), got 64"),
        (lambda: marl.MLP("64"), r"MLP.sizes: expected positive whole numbers"),
    ],
)
def test_names_from_elsewhere_and_values_of_the_wrong_kind_are_explained(make, words):
    with pytest.raises(marl.ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": "abc"}, "PPO.lr: expected float or Linear or Exponential or Logarithmic, got 'abc'"),
        ({"lr": float("nan")}, "PPO.lr: expected a finite number"),
        ({"discount": 1.5}, "PPO.discount: expected a number at most 1, got 1.5"),
        ({"clip": -0.1}, "PPO.clip: expected a number above 0"),
        ({"epochs": True}, "PPO.epochs: expected int, got True"),
        ({"epochs": 1.5}, "PPO.epochs: expected int"),
        ({"critic": "joint"}, "PPO.critic: expected Scope (what the critic sees: Local() or Joint()), got"),
        ({"network": "mlp"}, "PPO.network"),
    ],
)
def test_bad_settings_are_refused_with_their_range(settings, message):
    with pytest.raises(marl.ConfigError) as caught:
        marl.PPO(**settings)
    assert message in str(caught.value)


def test_what_has_no_meaning_together_is_refused_at_construction():
    cases = [
        (marl.PPO(rollout=10, minibatches=3), {"num_envs": 1}, "minibatches=3 does not divide"),
        (marl.PPO(rollout=10, sequence=3, network=marl.GRU(8)), {}, "sequence=3"),
        (marl.mappo(critic=marl.Joint(of="state")), {"env": Constant}, "has no state()"),
        (marl.PPO(network=marl.CNN()), {}, "CNN needs image observations"),
        ({"nobody_*": marl.PPO()}, {}, "nobody_"),
        (marl.PPO, {}, "expected a learner such as"),
        (marl.PPO(), {"num_envs": 0}, "num_envs"),
        (marl.PPO(), {"seed": 1.5}, "seed"),
        (marl.PPO(), {"device": "gpu"}, "device"),
    ]
    for agents, options, message in cases:
        options = dict(options)
        env = options.pop("env", Team)
        with pytest.raises(marl.ConfigError) as caught:
            marl.MultiAgentSystem(agents, env, **options)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
