"""RLax 0.1.9 as judge: equal values and gradients on random inputs. Skips where JAX is absent."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from marl import ops
from tests.ops.cases import SEQ, STEP, VARIANTS, draw

REASON = "rlax and jax judge these tests and are not installed: pip install 'marl-system[jax]'"
jax = pytest.importorskip("jax", reason=REASON)
rlax = pytest.importorskip("rlax", reason=REASON)

import jax.numpy as jnp  # noqa: E402
from rlax._src import multistep  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # RLax sends users to distrax
UNMAPPED = ("embed_oar", "transform_from_2hot")  # already batched in RLax
TOLERANCE = 1e-5
SHAPES = [(1, 2), (6, 3)]


def twin(name):
    return multistep.importance_corrected_td_errors if name == "importance_corrected_td_errors" else getattr(rlax, name)


def close(ours, theirs, where):
    ours = ours.detach().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape, f"{where}: shape {ours.shape} against {theirs.shape}"
    np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE, err_msg=where)


def run_both(name, case, stop=None):
    """Values and gradients of sum(weights * outputs) from both libraries, the twin vmapped over the batch axis."""
    options = dict(case.options)
    axis = 1 if case.kind == "seq" else 0
    arrays = [i for i, a in enumerate(case.arguments) if isinstance(a, np.ndarray)]
    extra = sorted(options)
    fixed = {} if stop is None else {stop[0]: stop[1]}

    tensors = []
    for a in case.arguments:
        if isinstance(a, np.ndarray):
            t = torch.from_numpy(a)
            tensors.append(t.float().requires_grad_() if t.is_floating_point() else t)
        else:
            tensors.append(a)
    out = getattr(ops, name)(*tensors, **{k: torch.from_numpy(options[k]) for k in extra}, **fixed)
    outs = list(out) if isinstance(out, tuple) else [out]

    def call(*xs):
        merged = list(case.arguments)
        for i, x in zip(arrays, xs, strict=False):
            merged[i] = x
        kwargs = dict(zip(extra, xs[len(arrays) :], strict=True))
        return twin(name)(*merged, **kwargs, **fixed)

    def cast(a):
        return jnp.asarray(
            a.astype({np.dtype("float64"): np.float32, np.dtype("int64"): np.int32}.get(a.dtype, a.dtype))
        )

    inputs = [cast(case.arguments[i]) for i in arrays] + [cast(options[k]) for k in extra]
    mapped = call
    if name not in UNMAPPED:
        first = jax.eval_shape(call, *[jnp.take(x, 0, axis=axis) for x in inputs])
        out_axes = jax.tree_util.tree_map(lambda s: axis if s.ndim >= 1 else 0, first)
        mapped = jax.vmap(call, in_axes=axis, out_axes=out_axes)
    places = [p for p, i in enumerate(arrays) if i in case.differentiable]
    shapes = [leaf.shape for leaf in jax.tree_util.tree_leaves(jax.eval_shape(mapped, *inputs))]
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in shapes]

    @jax.jit
    def judge(*floats):
        def scalar(*floats):
            merged = list(inputs)
            for p, x in zip(places, floats, strict=True):
                merged[p] = x
            leaves = jax.tree_util.tree_leaves(mapped(*merged))
            return sum(jnp.sum(w * leaf) for w, leaf in zip(weights, leaves, strict=True)), leaves

        return jax.grad(scalar, argnums=tuple(range(len(places))), has_aux=True)(*floats)

    theirs, expected = judge(*[inputs[p] for p in places])
    assert len(outs) == len(expected)
    for place, (o, e) in enumerate(zip(outs, expected, strict=True)):
        close(o, e, f"{name} value {place}")
    total = sum((torch.from_numpy(w) * o).sum() for w, o in zip(weights, outs, strict=True))
    leaves = [tensors[arrays[p]] for p in places]
    if total.requires_grad:
        mine = torch.autograd.grad(total, leaves, allow_unused=True)
    else:
        mine = [None] * len(leaves)
    for p, m, t in zip(places, mine, theirs, strict=True):
        m = torch.zeros_like(tensors[arrays[p]]) if m is None else m
        assert torch.isfinite(m).all()
        # RLax's own gradient with respect to atoms can be NaN; there is nothing to agree with then.
        finite = np.isfinite(np.asarray(t))
        close(m * torch.from_numpy(finite), np.where(finite, t, 0.0), f"{name} gradient of argument {arrays[p]}")


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_values_and_gradients_equal_rlax(name, variant):
    for seed, (time, batch) in enumerate(SHAPES):
        lead = (time, batch) if name in SEQ else (batch,)
        run_both(name, draw(name, variant, seed, lead))


OPTIONS = ("stop_target_gradients", "use_stop_gradient")
STOPPABLE = [
    (name, option, not parameter.default)
    for name in [*STEP, *SEQ]
    for option, parameter in inspect.signature(getattr(ops, name)).parameters.items()
    if option in OPTIONS
]


@pytest.mark.parametrize(("name", "option", "value"), STOPPABLE)
def test_the_other_choice_of_stopping_gradients_stops_what_rlax_stops(name, option, value):
    lead = (5, 3) if name in SEQ else (3,)
    run_both(name, draw(name, 0, 11, lead), stop=(option, value))


def rlax_names():
    return [n for n in dir(rlax) if not n.startswith("_")] + ["importance_corrected_td_errors"]


def test_the_stored_list_of_names_is_rlaxs():
    stored = Path(__file__).with_name("rlax_names.txt").read_text().split()
    assert sorted(stored) == sorted(rlax_names())


PLUMBING = {n for n in rlax_names() if n.startswith(("tree_", "transpose_"))} | {"AllSum"}
# Functions that take no plain batch of tensors have a test of their own below or in test_special_against_rlax.py.
SPECIAL = Path(__file__).with_name("test_special_against_rlax.py").read_text()


@pytest.mark.parametrize("name", sorted(set(rlax_names()) - PLUMBING))
def test_every_rlax_name_has_a_judged_twin_of_the_same_signature(name):
    assert hasattr(ops, name), f"marl.ops has no {name}"
    assert name in STEP or name in SEQ or re.search(rf"\b{name}\b", SPECIAL), f"{name} has a twin but no judge"
    theirs, ours = twin(name), getattr(ops, name)
    if isinstance(ours, tuple) or name in ("clip_gradient",):
        return
    rename = {"key": "generator", "rng_key": "generator"}
    expected = [
        rename.get(p, p) for p in inspect.signature(theirs).parameters if p not in ("axis_name", "pmean_axis_name")
    ]
    found = [p for p in inspect.signature(ours).parameters]
    if name.startswith("transformed_") and "tx_pair" not in expected:
        expected = ["tx_pair", *expected]  # RLax hides it behind a wrapper
    assert found == expected
    for mine, other in zip(found, expected, strict=True):
        a = inspect.signature(ours).parameters[mine].default
        b = inspect.signature(theirs).parameters.get(other)
        if b is not None and isinstance(b.default, int | float | bool | str):
            assert a == b.default, f"{name}: default of {mine}"
