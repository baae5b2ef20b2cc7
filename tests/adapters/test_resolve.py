"""What users may name as an environment, and what they are told when it cannot be found or made."""

import importlib.util
import sys

import gymnasium
import pytest

from marl.adapters import make
from marl.types import BatchEnv, ConfigError
from tests.adapters import envs
from tests.adapters.envs import Scripted, Walk


def test_gymnasium_ids():
    assert make("CartPole-v1").spec.env == "CartPole-v1"


def test_pettingzoo_ids_prefer_the_parallel_form():
    assert make("classic/rps-v2").spec.turn_based is False
    assert make("classic/rps_v2").spec.agents == ("player_0", "player_1")


def test_modules_and_their_names():
    module = pytest.importorskip("mpe2.simple_v3")
    assert make(module).spec.env == make("mpe2.simple_v3").spec.env
    assert make("mpe2.simple_v3").spec.turn_based is False


def test_functions_classes_and_instances():
    for env in (Scripted, lambda: Scripted(), Scripted(), "tests.adapters.envs:Scripted"):
        assert make(env).spec.agents == ("a", "b", "c")


def test_env_kwargs_reach_whatever_makes_the_environment():
    assert make(Scripted, env_kwargs={"agents": ("x",)}).spec.agents == ("x",)
    assert make("tests.adapters.envs:Scripted", env_kwargs={"agents": ("x",)}).spec.agents == ("x",)
    pytest.importorskip("mpe2")
    batch = make("mpe2.simple_spread_v3", env_kwargs={"N": 2, "continuous_actions": True})
    assert len(batch.spec.agents) == 2
    assert batch.spec.teams[0].action.kind == "box"
    with pytest.raises(ConfigError, match=r"'mpe2.simple_spread_v3' does not take these env_kwargs.*'M'"):
        make("mpe2.simple_spread_v3", env_kwargs={"M": 2})
    with pytest.raises(ConfigError, match="exists already"):
        make(Walk(), env_kwargs={"noise": 1.0})


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("CartPol-v1", "CartPole-v1"),
        ("sisl/pursit-v5", "sisl/pursuit-v5"),
        ("mpe2.simple_sprad_v3", "mpe2.simple_spread_v3"),
        ("simple_spread_v3", "mpe2.simple_spread_v3"),
        ("classic/tictacto-v3", "classic/tictactoe-v3"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name, near):
    if near.startswith("mpe2"):
        pytest.importorskip("mpe2")
    with pytest.raises(ConfigError) as caught:
        make(name)
    assert f"unknown environment {name!r}" in str(caught.value)
    assert near in str(caught.value)


def test_a_module_of_ones_own_is_found_by_name_and_what_is_not_in_it_is_said(tmp_path, monkeypatch):
    (tmp_path / "world_of_mine.py").write_text(
        "from tests.adapters.envs import Scripted\n\n\nclass Mine(Scripted):\n    pass\n\n\nparallel_env = Mine\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("world_of_mine", "world_of_mine:Mine"):
        assert make(name).spec.agents == ("a", "b", "c")
    with pytest.raises(
        ConfigError, match=r"unknown environment 'world_of_mine:Mime'; did you mean 'world_of_mine:Mine'"
    ):
        make("world_of_mine:Mime")


def test_a_module_that_a_package_shows_and_keeps_elsewhere_is_found_by_both_names(tmp_path, monkeypatch):
    (tmp_path / "rooms_kept" / "inside").mkdir(parents=True)
    (tmp_path / "rooms_kept" / "__init__.py").write_text("from rooms_kept.inside import room_v1\n")
    (tmp_path / "rooms_kept" / "inside" / "__init__.py").write_text("")
    (tmp_path / "rooms_kept" / "inside" / "room_v1.py").write_text(
        "from tests.adapters.envs import Scripted\n\n\ndef parallel_env(scenario, agent_conf):\n    return Scripted()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("rooms_kept.room_v1", "rooms_kept.inside.room_v1"):
        assert make(name, env_kwargs={"scenario": "a", "agent_conf": "b"}).spec.agents == ("a", "b", "c")
        with pytest.raises(ConfigError, match=rf"'{name}' cannot be made without scenario and agent_conf") as caught:
            make(name)
        assert "env_kwargs={'scenario': ..., 'agent_conf': ...}" in str(caught.value)
        assert "--env-kwargs scenario=VALUE agent_conf=VALUE" in str(caught.value)
    with pytest.raises(ConfigError, match=r"unknown environment 'rooms_kept\.room_v2'"):
        make("rooms_kept.room_v2")


def test_names_unlike_anything_are_answered_with_what_may_be_named():
    with pytest.raises(ConfigError, match=r"expected a Gymnasium id, a PettingZoo id.*or a module"):
        make("qqqqqqq")


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [
        ("classic/chess-v6", "chess", "marl-system[classic]"),
        ("butterfly/pistonball-v6", "pymunk", "marl-system[butterfly]"),
        ("mpe2.simple_v3", "mpe2", "marl-system[mpe]"),
        ("atari/pong-v3", "multi_agent_ale_py", "pettingzoo[atari]"),
        ("magent2.environments.battle_v4", "magent2", "marl-system[magent]"),
        ("rware-tiny-2ag-v2", "rware", "marl-system[rware]"),
        ("gymnasium_robotics.mamujoco_v1", "gymnasium_robotics", "marl-system[mujoco]"),
    ],
)
def test_missing_extras_are_named(monkeypatch, name, missing, extra):
    for module in list(sys.modules):
        if module.startswith((missing, "pettingzoo.classic.chess", "pettingzoo.butterfly.pistonball")):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)  # what import does with a package that is not there
    if name.startswith(f"{missing}."):
        find_spec = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n.startswith(missing) else find_spec(n))
    from pettingzoo.env_registry import registration

    registration._load_env_creator.cache_clear()
    with pytest.raises(ConfigError) as caught:
        make(name)
    assert f"pip install '{extra}'" in str(caught.value)


def test_things_that_are_no_environment_are_refused():
    for thing, words in (
        (3, "expected an id, a module, a function"),
        (lambda: 3, "int is no environment"),
        (lambda: None, "NoneType is no environment"),
        (lambda: gymnasium.make_vec("CartPole-v1", 2), "already vectorized"),
        ("gymnasium.spaces", "has none of parallel_env, env, make"),
    ):
        with pytest.raises(ConfigError, match=words):
            make(thing)


def test_environments_with_a_batched_form_bring_it():
    class Native:
        def batch_env(self, num_envs, patterns=None):
            return make(Walk, num_envs, patterns)

    for env in (Native(), Native, lambda: Native()):
        batch = make(env, 3)
        assert isinstance(batch, BatchEnv)
        assert batch.num_envs == 3
    with pytest.raises(ConfigError, match="max_steps: Native ends its own episodes"):
        make(Native, max_steps=5)


def test_duck_typed_environments_are_recognized():
    class Plain:
        """No PettingZoo base class."""

        def __init__(self):
            self.env = envs.Scripted()

        def __getattr__(self, name):
            return getattr(self.env, name)

        def reset(self, seed=None, options=None):
            return self.env.reset(seed, options)

        def step(self, actions):
            return self.env.step(actions)

        def observation_space(self, agent):
            return self.env.observation_space(agent)

        def action_space(self, agent):
            return self.env.action_space(agent)

    batch = make(Plain)
    assert batch.spec.agents == ("a", "b", "c")
    assert batch.reset(0).teams[0].acting.all()
