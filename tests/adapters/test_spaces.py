"""Spaces as arrays: layouts, padding, masks, what cannot go together, and JSON."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.spaces import (
    AgentCodec,
    BadValue,
    action_spec,
    base_action_mask,
    check_member,
    flat_width,
    obs_spec,
    observation_writer,
    team_spec,
)
from marl.spec_json import space_from_json, space_to_json
from marl.types import ConfigError

LEAVES = st.one_of(
    st.builds(lambda n, s: Discrete(n, start=s), st.integers(1, 5), st.integers(-3, 3)),
    st.builds(MultiDiscrete, st.lists(st.integers(1, 4), min_size=1, max_size=3)),
    st.builds(lambda n: MultiDiscrete([n, 2], start=[-1, 3]), st.integers(1, 4)),
    st.builds(MultiBinary, st.integers(1, 4)),
    st.builds(
        lambda shape, dtype: Box(-3, 3, tuple(shape), dtype),
        st.lists(st.integers(1, 3), max_size=3),
        st.sampled_from([np.float32, np.float64, np.int8]),
    ),
    st.just(Box(np.array([-np.inf, 0.1], np.float32), np.array([np.inf, 0.3], np.float32))),
)
SPACES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: spaces.Tuple(parts)),
        st.dictionaries(st.sampled_from("xyz"), inner, min_size=1).map(lambda parts: spaces.Dict(parts)),
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(space=SPACES, seed=st.integers(0, 1000))
def test_vectors_are_laid_out_as_gymnasium_does(space, seed):
    space.seed(seed)
    raw = space.sample()
    check_member(space, raw)
    out = np.full(flat_width(space), 9, dtype=np.float32)
    observation_writer(space, out)(raw)
    np.testing.assert_array_equal(out, np.asarray(gymnasium.spaces.flatten(space, raw), dtype=np.float32))


@settings(max_examples=60, deadline=None)
@given(space=SPACES)
def test_json_brings_back_the_same_space(space):
    text = json.dumps(space_to_json(space), allow_nan=False)
    assert space_from_json(json.loads(text)) == space


BOX = {"type": "Box", "low": 0, "high": 1, "shape": [2], "dtype": "float32"}
BAD = [
    *({"type": "Sphere"}, {"type": "Box"}, {}, None, {"type": "Discrete", "n": 2}, 3, [], "Box"),
    *(BOX | {"shape": [10**12]}, BOX | {"shape": [-1]}, BOX | {"shape": "x"}, BOX | {"dtype": "O"}),
    {"type": "Discrete", "n": 10**12, "start": 0, "dtype": "int64"},
    {"type": "MultiDiscrete", "nvec": [10**9, 10**9], "start": [0, 0], "dtype": "int64"},
    {"type": "MultiBinary", "n": [10**6, 10**6]},
    {"type": "Dict", "spaces": [[["a", 0], BOX]]},
]


@pytest.mark.parametrize("bad", BAD)
def test_json_that_is_no_space_or_larger_than_any_is_refused(bad):
    with pytest.raises(ConfigError):
        space_from_json(bad)


def test_keys_of_dict_spaces_that_are_no_texts_come_back_as_they_were():
    keys = [("goal", 0), ("goal", (1, None)), 3, "3", 2.5, ()]
    space = spaces.Dict([(key, Discrete(place + 2)) for place, key in enumerate(keys)])
    text = json.dumps(space_to_json(space), allow_nan=False)
    again = space_from_json(json.loads(text))
    assert again == space
    assert list(again.spaces) == keys
    assert [type(key) for key in again.spaces] == [type(key) for key in keys]
    with pytest.raises(ConfigError, match="use texts, numbers or tuples"):
        space_to_json(spaces.Dict([(frozenset((1,)), Discrete(2))]))


def test_what_has_no_fixed_length_is_refused():
    for space in (spaces.Text(5), spaces.Sequence(Discrete(2)), spaces.Dict({"x": spaces.Text(3)})):
        with pytest.raises(ConfigError, match=r"agent 'a'.*no fixed length"):
            obs_spec(["a"], [space])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((84, 84, 3), (3, 84, 84)),
        ((4, 84, 84), (4, 84, 84)),
        ((12, 64, 96), (12, 64, 96)),
        ((84, 84, 4), (4, 84, 84)),
        ((7, 7, 3), (3, 7, 7)),
        ((3, 3, 3), (3, 3, 3)),
        ((84, 84), (1, 84, 84)),
    ],
)
def test_images_become_channels_first(shape, expected):
    space = Box(0, 255, shape, np.uint8)
    team = team_spec("team", ["a"], [space], [Discrete(2)])
    assert team.obs.shape == expected
    assert team.obs.dtype == "uint8"
    assert team.obs.widths == (int(np.prod(shape)),)
    raw = np.arange(np.prod(shape), dtype=np.int64).astype(np.uint8).reshape(shape)
    row, action_mask = AgentCodec(team, 0).encode(raw)
    assert action_mask is None
    if len(shape) == 2:
        np.testing.assert_array_equal(row[0], raw)
    elif expected == shape and shape[0] != shape[2]:
        np.testing.assert_array_equal(row, raw)
    else:
        np.testing.assert_array_equal(row, np.moveaxis(raw, -1, 0))


def test_small_integer_boards_are_vectors():
    assert obs_spec(["a"], [Box(0, 1, (6, 7, 2), np.uint8)]).shape == (84,)
    assert obs_spec(["a"], [Box(0, 255, (20,), np.uint8)]).shape == (20,)
    assert obs_spec(["a"], [Box(0, 255, (4, 4, 3), np.float32)]).shape == (48,)


def test_narrow_agents_are_padded_with_zeros_and_their_padded_choices_are_illegal():
    team = team_spec("t", ["a", "b"], [Box(-1, 1, (2,)), Box(-1, 1, (5,))], [Discrete(3), Discrete(5)])
    assert team.obs.shape == (5,)
    assert team.obs.widths == (2, 5)
    assert team.action.sizes == (5,)
    assert team.action.widths == (3, 5)
    assert team.masked
    row, action_mask = AgentCodec(team, 0).encode(np.array([0.5, -0.5], np.float32))
    np.testing.assert_array_equal(row, [0.5, -0.5, 0, 0, 0])
    np.testing.assert_array_equal(action_mask, [True] * 3 + [False] * 2)


def test_components_that_differ_are_padded_too():
    actions = [MultiDiscrete([2, 3]), MultiDiscrete([4]), MultiDiscrete([4, 3])]
    spec = action_spec(["a", "b", "c"], actions)
    assert (spec.kind, spec.sizes, spec.widths) == ("multidiscrete", (4, 3), (2, 1, 2))
    np.testing.assert_array_equal(
        base_action_mask(spec, actions),
        [[1, 1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0], [1] * 7],  # of what b has not the first choice, and no other
    )
    boxes = action_spec(["a", "b"], [Box(-1, 1, (1,)), Box(-2, 3, (3,))])
    assert boxes.low == ((-1.0, 0.0, 0.0), (-2.0, -2.0, -2.0))
    assert boxes.high == ((1.0, 0.0, 0.0), (3.0, 3.0, 3.0))
    assert boxes.widths == (1, 3)
    assert boxes.shape == (3,)
    binary = action_spec(["a", "b"], [MultiBinary(2), MultiBinary((2, 2))])
    assert (binary.sizes, binary.widths) == ((2, 2, 2, 2), (2, 4))


@pytest.mark.parametrize(
    ("observations", "actions", "words"),
    [
        ([Box(0, 255, (9, 9, 3), np.uint8), Box(0, 1, (3,))], [Discrete(2)] * 2, "an image beside a vector"),
        ([Box(0, 255, (9, 9, 3), np.uint8), Box(0, 255, (8, 9, 3), np.uint8)], [Discrete(2)] * 2, "different shapes"),
        ([Box(0, 1, (3,))] * 2, [Discrete(2), Box(0, 1, (2,))], "discrete beside box"),
    ],
)
def test_what_cannot_be_padded_together_is_refused_with_a_way_out(observations, actions, words):
    with pytest.raises(ConfigError) as caught:
        team_spec("team", ["camera_0", "lidar_0"], observations, actions)
    message = str(caught.value)
    assert words in message
    assert "'camera_0'" in message
    assert "'lidar_0'" in message
    assert 'two teams, e.g. {"camera_0": ..., "lidar_0": ...}' in message


@pytest.mark.parametrize("key", ["observation", "board"])
def test_the_mask_is_no_part_of_the_observation(key):
    inner = {key: Box(0, 1, (2,), np.float32)} | ({"clock": Discrete(2)} if key == "board" else {})
    space = spaces.Dict({**inner, "action_mask": Box(0, 1, (3,), np.int8)})
    team = team_spec("team", ["a"], [space], [Discrete(3)])
    assert team.masked
    assert team.obs.shape == (2 if key == "observation" else 4,)
    raw = {key: np.array([0.25, 0.5], np.float32), "action_mask": np.array([0, 1, 1], np.int8)}
    raw |= {"clock": 1} if key == "board" else {}
    row, action_mask = AgentCodec(team, 0).encode(raw)
    np.testing.assert_array_equal(row, [0.25, 0.5] + ([0, 1] if key == "board" else []))
    np.testing.assert_array_equal(action_mask, [False, True, True])


def test_masks_of_several_components_lie_end_to_end_and_may_be_tuples():
    team = team_spec("team", ["a", "b"], [Box(0, 1, (1,))] * 2, [MultiDiscrete([2, 3]), MultiDiscrete([4, 3])], True)
    codec, out = AgentCodec(team, 0), np.zeros(7, dtype=bool)
    for mask in (np.array([0, 1, 1, 0, 1]), (np.array([0, 1]), np.array([1, 0, 1]))):
        codec.action_mask(None, {"action_mask": mask}, out)
        np.testing.assert_array_equal(out, [0, 1, 0, 0, 1, 0, 1])
    with pytest.raises(BadValue, match="a mask of 5"):
        codec.action_mask(None, {"action_mask": np.ones(7)}, out)


def test_boxes_do_not_broadcast():
    out = np.zeros(3, np.float32)
    write = observation_writer(Box(0, 1, (3,)), out)
    write([0.1, 0.2, 0.3])
    np.testing.assert_allclose(out, [0.1, 0.2, 0.3])
    for wrong in (np.zeros(1, np.float32), np.zeros((3, 1), np.float32), 0.5, None, [1, [2]], {"x": 1}):
        with pytest.raises(BadValue):
            write(wrong)


@pytest.mark.parametrize(
    ("space", "wrong"),
    [
        (Discrete(3), 3),
        (Discrete(3), -1),
        (Discrete(3), 1.5),
        (MultiDiscrete([2, 2]), [0, 2]),
        (MultiDiscrete([2, 2]), [0]),
        (spaces.Dict({"x": Discrete(2)}), {"y": 1}),
        (spaces.Dict({"x": Discrete(2)}), 1),
        (spaces.Tuple((Discrete(2), Discrete(2))), (1,)),
    ],
)
def test_values_that_do_not_fit_are_refused(space, wrong):
    with pytest.raises(BadValue):
        observation_writer(space, np.zeros(flat_width(space), np.float32))(wrong)
    with pytest.raises(BadValue):
        check_member(space, wrong)
