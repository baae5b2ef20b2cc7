"""Which episodes evaluation plays: of fitting environments only, as long as in training, and none that never ends."""

import functools

import numpy as np
import pytest

import marl
from marl.film import play
from marl.types import ConfigError
from tests.support.tiny import Constant, Single


class Pictured(Constant):
    """Endless, with a picture."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None):
        super().__init__(10**9)

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)


ENDLESS = functools.partial(Constant, 10**9)


def test_a_loaded_system_is_evaluated_in_a_fitting_environment_only(tmp_path):
    path = marl.MultiAgentSystem(marl.Random(), Constant).save(tmp_path / "saved")
    with pytest.raises(ConfigError, match=r"team 'team' expects"):
        marl.MultiAgentSystem.load(path, env=Single).evaluate(2)


def test_other_environments_are_cut_where_ones_own_is():
    system = marl.MultiAgentSystem(marl.Random(), ENDLESS, max_steps=7)
    assert set(system.evaluate(3, env=ENDLESS).episode_lengths) == {7}


def test_what_is_shown_is_cut_too():
    system = marl.MultiAgentSystem(marl.Random(), Pictured, max_steps=7)
    assert play(system, 1)[0][0].length == 7


def test_an_evaluation_that_would_never_end_says_so_and_ends(monkeypatch, caplog):
    monkeypatch.setattr("marl.playing.episodes.LONG_EPISODE", 20)
    monkeypatch.setattr("marl.playing.episodes.ENDLESS_EPISODE", 50)
    system = marl.MultiAgentSystem(marl.Random(), functools.partial(Constant, 30))
    assert set(system.evaluate(3).episode_lengths) == {30}
    assert "has not ended after 20 steps; if none ends by itself, max_steps= cuts them" in caplog.text
    with pytest.raises(ConfigError, match=r"has not ended after 50 steps; give max_steps="):
        marl.MultiAgentSystem(marl.Random(), ENDLESS).evaluate(3)
