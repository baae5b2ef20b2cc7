"""Films: captions below frames, names of agents, and a camera that stays where it is."""

from __future__ import annotations

import marl_envs
import numpy as np
import pytest

import marl
from marl.camera import PlainCamera, SteadyCamera, camera_for
from marl.film import Played, gif
from marl.panel import MOST_ROWS, captioned, named
from tests.support.tiny import Team

pytest.importorskip("pygame")
iio = pytest.importorskip("imageio.v3")
mpe2 = pytest.importorskip("mpe2")

RIGHT = 2  # the action, in mpe2 and in its twins
STONE = {"mpe2": (50, 50, 50), "marl": (64, 64, 64)}  # colors of landmarks


def frames_of(played):
    return iio.imread(gif([played], played.rate), extension=".gif")


def where(frame, color):
    """The pixels of a color."""
    return np.argwhere((frame == color).all(-1)).tolist()


def stone(frame, kind):
    """The pixels of the landmark; edges of letters may have its color too."""
    found = np.argwhere((frame == STONE[kind]).all(-1))
    return found[(np.abs(found - np.median(found, axis=0)) < 30).all(-1)].tolist()


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


# --- captions ---------------------------------------------------------------------------------------------------------


def test_step_and_returns_stand_below_every_frame():
    grey = np.full((120, 300, 3), 90, np.uint8)
    played = Played([grey] * 3, {"a": 2.0, "b": -1.0}, 2, 5.0, [(0.0, 0.0), (1.0, -1.0), (2.0, -1.0)])
    frames = frames_of(played)
    assert frames.shape[2:] == (300, 3)
    pictures, captions = frames[:, :120], frames[:, 120:]
    assert (pictures == pictures[0]).all()
    assert captions.shape[1] > 20
    assert [(captions[one] != captions[one + 1]).any() for one in range(2)] == [True, True]
    assert captions.min() < 100 < captions.max()
    plain = frames_of(Played([grey] * 3, {"a": 2.0}, 2, 5.0))
    assert plain.shape[-3:] == (120, 300, 3)  # nobody knows what it is worth


def test_a_film_knows_what_everybody_has_got_so_far():
    class Shown(Team):
        metadata = {"name": "shown_v0", "render_modes": ["rgb_array"]}

        def render(self):
            return np.full((16, 16, 3), 9, np.uint8)

    with marl.MultiAgentSystem(marl.Random(), lambda render_mode=None: Shown(length=6), num_envs=1) as system:
        played = system.render_episode(seed=3)
    assert len(played.totals) == len(played.frames) == 7
    assert played.totals[0] == (0.0, 0.0, 0.0)
    assert dict(zip(played.returns, played.totals[-1], strict=True)) == played.returns
    assert all(frame.shape == (16, 16, 3) for frame in played.frames)  # captions are the file's
    assert len({frame.shape for frame in frames_of(played)}) == 1


def test_texts_stand_in_the_same_place_in_all_frames():
    frames = [np.zeros((50, 200, 3), np.uint8)] * 2
    short, long = captioned(frames, [("step 1", ["a 0.00"] * 5), ("step 1000", ["a -1000.00"] * 5)])
    assert short.shape == long.shape
    alone, crowd = captioned(frames[:1], [("step 1", [])]), captioned(frames[:1], [("step 1", ["agent 0.00"] * 99)])
    assert len(crowd[0]) == len(alone[0])  # too many to be read: more than MOST_ROWS rows
    assert MOST_ROWS < 99 // 2


def test_a_name_is_written_above_its_place():
    frame = np.full((100, 100, 3), 255, np.uint8)
    there = np.argwhere((named(frame, [("agent_0", 50, 60)]) != frame).any(-1))
    assert len(there) > 20
    top, left = there.min(0)
    bottom, right = there.max(0)
    assert 40 < top < bottom < 60
    assert left < 50 < right
    assert (frame == 255).all()


# --- cameras ----------------------------------------------------------------------------------------------------------


def walk(env, steps, *cameras):
    """One agent walks to the right, and on."""
    for camera in cameras:
        camera.take()
    for _ in range(steps):
        env.step({"agent_0": RIGHT})
        for camera in cameras:
            camera.take()


def test_a_landmark_of_mpe2_keeps_its_pixels_while_an_agent_walks_away():
    from mpe2 import simple_spread_v3

    env = simple_spread_v3.parallel_env(N=1, max_cycles=25, render_mode="rgb_array")
    env.reset(seed=4)
    world, plain, steady = env.unwrapped.world, PlainCamera(env), camera_for(env)
    assert isinstance(steady, SteadyCamera)
    walk(env, 20, plain, steady)
    before, entities = env.render(), (world.agents, world.landmarks)
    moving, still = ([stone(frame, "mpe2") for frame in camera.pictures()] for camera in (plain, steady))
    assert len(still[0]) > 10
    assert all(place == still[0] for place in still)
    assert not all(place == moving[0] for place in moving)  # as mpe2 draws it by itself
    assert (world.agents, world.landmarks) == entities
    assert (env.render() == before).all()
    env.close()


def test_an_agent_of_mpe2_moves_in_steady_pictures_and_has_its_name():
    from mpe2 import simple_spread_v3

    env = simple_spread_v3.parallel_env(N=1, max_cycles=25, render_mode="rgb_array")
    env.reset(seed=4)
    camera = camera_for(env)
    walk(env, 5, camera)
    first, *_, last = camera.pictures()
    agent = (70, 70, 170)
    (y, x), (v, u) = (np.mean(where(frame, agent), axis=0) for frame in (first, last))
    assert u > x + 20
    assert abs(v - y) < 1
    ink = np.array(where(last, (40, 40, 40)))
    assert len(ink) > 10
    assert ink[:, 0].max() < v
    assert abs(ink[:, 1].mean() - u) < 10
    env.close()


def test_a_film_of_mpe2_is_taken_by_a_steady_camera():
    from mpe2 import simple_spread_v3

    def env(**keys):
        return simple_spread_v3.parallel_env(N=1, max_cycles=12, **keys)

    with marl.MultiAgentSystem(marl.Fixed(RIGHT), env, num_envs=1) as system:
        played = system.render_episode(seed=1)
    places = [stone(frame, "mpe2") for frame in played.frames]
    assert len(places) == 13
    assert all(place == places[0] for place in places)


def test_a_landmark_of_a_native_world_keeps_its_pixels_while_an_agent_walks_away():
    env = marl_envs.Spread(N=1, max_cycles=25, render_mode="rgb_array")
    env.reset(seed=1)
    assert isinstance(camera_for(env), PlainCamera)
    camera = camera_for(env)
    walk(env, 24, camera)
    frames = camera.pictures()
    places = [stone(frame, "marl") for frame in frames]
    assert len(places[0]) > 10
    assert all(place == places[0] for place in places)
    blue = [len(where(frame, (90, 90, 217))) for frame in frames]
    assert blue[0] > 100
    assert blue[-1] == 0  # hollow, at the edge
    assert (frames[-1] != 255).any(-1)[:, -20:].any()
    env.close()
