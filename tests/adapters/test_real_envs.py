"""Real environments through the adapters: invariants of every step, and back again by replay."""

import warnings

import gymnasium
import numpy as np
import pytest

from marl.adapters import make

NEEDS = {"mpe2": "mpe2", "sisl": "pygame", "butterfly": "pymunk", "classic": "rlcard"}
MPE = [
    "simple_adversary_v3",
    "simple_crypto_v3",
    "simple_push_v3",
    "simple_reference_v3",
    "simple_speaker_listener_v4",
    "simple_spread_v3",
    "simple_tag_v3",
    "simple_v3",
    "simple_world_comm_v3",
]
# name, steps, env_kwargs
ENVS = [
    *((f"mpe2.{name}", 60, {}) for name in MPE),
    ("mpe2.simple_spread_v3", 60, {"continuous_actions": True}),
    ("sisl/pursuit-v5", 25, {"max_cycles": 10}),
    ("sisl/multiwalker-v9", 150, {}),
    ("butterfly/knights_archers_zombies-v11", 250, {}),
    ("butterfly/pistonball-v6", 12, {"n_pistons": 4, "max_cycles": 5}),
    ("butterfly/cooperative_pong-v6", 60, {"render_mode": "rgb_array"}),
    ("classic/tictactoe-v3", 100, {}),
    ("classic/connect_four-v3", 100, {}),
    ("classic/leduc_holdem-v4", 100, {}),
    ("classic/texas_holdem-v4", 100, {}),
    ("classic/chess-v6", 60, {}),
    ("classic/rps-v2", 60, {}),
    ("CartPole-v1", 100, {}),
    ("Acrobot-v1", 100, {}),
    ("Pendulum-v1", 210, {}),
    ("FrozenLake-v1", 100, {}),
    ("Blackjack-v1", 100, {}),
    ("Taxi-v4", 210, {}),
]
PATTERNS = {
    "mpe2.simple_tag_v3": ["adversary_*", "agent_*"],
    "butterfly/knights_archers_zombies-v11": ["archer_*", "knight_*"],
}


def need(name):
    """Skip where the packages an environment needs are missing; Box2D warns in C, where no error can be raised."""
    family = name.replace("/", ".").partition(".")[0]
    if family in NEEDS:
        pytest.importorskip(NEEDS[family])
    if "multiwalker" in name:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip("Box2D")
    if "chess" in name:
        pytest.importorskip("chess")


def legal_actions(batch, step, rng):
    """Uniform over legal actions."""
    actions = []
    for team, now in zip(batch.spec.teams, step.teams, strict=True):
        kind, shape = team.action.kind, (batch.num_envs, team.num_agents, *team.action.shape)
        if kind == "box":
            actions.append(rng.uniform(team.action.low, team.action.high, shape).astype(np.float32))
        elif kind == "discrete":
            action_mask = np.ones((*shape, team.action.sizes[0]), bool) if now.action_mask is None else now.action_mask
            actions.append((rng.random(action_mask.shape) * action_mask).argmax(-1))
        else:
            actions.append(rng.integers(0, team.action.sizes, shape))
    return actions


def check(batch, step, at_reset=False):
    """What holds in every step of every environment."""
    spec = batch.spec
    ends = step.started | step.discarded
    for team, now in zip(spec.teams, step.teams, strict=True):
        rows = (batch.num_envs, team.num_agents)
        assert now.obs.shape == now.next_obs.shape == (*rows, *team.obs.shape)
        assert now.obs.dtype == team.obs.dtype
        for array in (now.reward, now.terminated, now.truncated, now.acting):
            assert array.shape == rows
        assert np.isfinite(now.obs).all()
        assert np.isfinite(now.next_obs).all()
        assert np.isfinite(now.reward).all()
        assert not (now.terminated & now.truncated).any()
        ended = now.terminated | now.truncated
        assert not (ended & now.acting & ~step.started[:, None]).any()
        if not any(other.terminated.any() or other.truncated.any() for other in step.teams):
            assert now.next_obs is now.obs
        for n, width in enumerate(team.obs.widths):
            if not team.obs.is_image:
                assert not now.obs[:, n, width:].any()
        if now.action_mask is not None:
            assert now.action_mask.any(-1).all()
            for n, width in enumerate(team.action.widths):
                assert not now.action_mask[:, n, width:].any()
    if spec.turn_based:
        assert (sum(now.acting.sum(-1) for now in step.teams) == 1).all()
    else:
        for e in np.flatnonzero(ends):
            assert any(now.acting[e].any() for now in step.teams)
    if spec.state_shape is not None:
        assert step.state.shape == (batch.num_envs, *spec.state_shape)
        assert np.isfinite(step.next_state).all()
    assert len(step.finished) == (0 if at_reset else step.started.sum())


@pytest.mark.parametrize(("name", "steps", "kwargs"), ENVS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_step_is_sound_and_every_state_comes_back(name, steps, kwargs):
    need(name)
    rng = np.random.default_rng(0)
    batch = make(name, 2, PATTERNS.get(name), env_kwargs=kwargs)
    step = batch.reset(1)
    check(batch, step, at_reset=True)
    earned = {agent: np.zeros(2) for agent in batch.spec.agents}
    finished = 0
    for _ in range(steps):
        step = batch.step(legal_actions(batch, step, rng))
        check(batch, step)
        for team, now in zip(batch.spec.teams, step.teams, strict=True):
            for n, agent in enumerate(team.agents):
                earned[agent] += now.reward[:, n]
        for episode in step.finished:
            finished += 1
            for agent, total in episode.returns.items():  # each reward was shown exactly once
                assert earned[agent][episode.copy] == pytest.approx(total, rel=1e-4, abs=1e-4)
        for e in np.flatnonzero(step.started):
            for total in earned.values():
                total[e] = 0
    assert finished > 0 or "chess" in name or "Acrobot" in name
    assert batch.faults == {}
    shown = [now.obs.copy() for now in step.teams]
    acting = [now.acting.copy() for now in step.teams]
    restored = batch.load_state_dict(batch.state_dict())
    for obs, who, now in zip(shown, acting, restored.teams, strict=True):
        np.testing.assert_array_equal(obs, now.obs)
        np.testing.assert_array_equal(who, now.acting)
    batch.close()


@pytest.mark.parametrize("name", MPE)
def test_the_turn_based_form_of_mpe2_is_sound_too(name):
    module = pytest.importorskip(f"mpe2.{name}")
    rng = np.random.default_rng(0)
    batch = make(module.env, 2, max_steps=40)
    step = batch.reset(1)
    for _ in range(90):
        step = batch.step(legal_actions(batch, step, rng))
        check(batch, step)
    batch.load_state_dict(batch.state_dict())


def test_random_returns_of_simple_spread_are_on_the_published_scale():
    """About -26.4 per agent and -79.2 as a sum in the literature, for 25 steps and uniformly random actions."""
    module = pytest.importorskip("mpe2.simple_spread_v3")
    batch = make(module, 4, state=False)
    batch.reset(0)
    rng = np.random.default_rng(0)
    sums = []
    while len(sums) < 100:
        step = batch.step([rng.integers(0, 5, (4, 3))])
        sums += [sum(episode.returns.values()) for episode in step.finished]
    assert np.mean(sums) == pytest.approx(-79.2, abs=3 * np.std(sums) / 10)


def test_supersuit_wrappers_work_on_real_environments():
    supersuit = pytest.importorskip("supersuit")
    module = pytest.importorskip("mpe2.simple_tag_v3")
    batch = make(lambda: supersuit.pad_action_space_v0(supersuit.pad_observations_v0(module.parallel_env())), 2)
    step = batch.reset(0)
    assert len(set(batch.spec.teams[0].obs.widths)) == 1
    rng = np.random.default_rng(0)
    for _ in range(30):
        step = batch.step(legal_actions(batch, step, rng))
        check(batch, step)


def test_gymnasium_wrappers_work():
    env = gymnasium.wrappers.FrameStackObservation(gymnasium.make("CartPole-v1", disable_env_checker=True), 4)
    batch = make(env)
    assert batch.spec.teams[0].obs.shape == (16,)
    step = batch.reset(0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        step = batch.step(legal_actions(batch, step, rng))
        check(batch, step)
