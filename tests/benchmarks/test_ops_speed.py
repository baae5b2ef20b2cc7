"""marl.ops against jitted, vmapped RLax on the same machine in one run: T = 128, batch 384, one thread.

OMP_NUM_THREADS=1 pytest tests/benchmarks/test_ops_speed.py --benchmark-columns=median,min
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np
import pytest
import torch

from marl import ops

pytest.importorskip("pytest_benchmark", reason="benchmarks need pytest-benchmark: pip install 'marl-system[test]'")

TIME, BATCH, ACTIONS = 128, 384, 5
NAMES = ["vtrace", "lambda_returns", "truncated_generalized_advantage_estimation", "retrace"]


def arguments(name):
    g = np.random.default_rng(0)

    def normal(*shape):
        return g.normal(size=shape).astype(np.float32)

    def probs(*shape):
        x = np.exp(normal(*shape))
        return x / x.sum(-1, keepdims=True)

    row, q = (TIME, BATCH), (TIME, BATCH, ACTIONS)
    r, v, v_t, d = normal(*row), normal(*row), normal(*row), np.full(row, 0.99, np.float32)
    action = g.integers(0, ACTIONS, row).astype(np.int32)
    return {
        "vtrace": (v, v_t, r, d, np.exp(normal(*row))),
        "lambda_returns": (r, d, v, 0.95),
        "truncated_generalized_advantage_estimation": (r, d, 0.95, normal(TIME + 1, BATCH)),
        "retrace": (
            normal(*q),
            normal(*q),
            action,
            action,
            r,
            d,
            probs(*q),
            g.uniform(0.1, 1, row).astype(np.float32),
            0.95,
        ),
    }[name]


def torch_call(name):
    xs = [
        torch.from_numpy(x.astype(np.int64) if x.dtype == np.int32 else x) if isinstance(x, np.ndarray) else x
        for x in arguments(name)
    ]
    function = getattr(ops, name)
    return lambda: function(*xs)


def jax_call(name):
    reason = "rlax and jax are the yardstick and are not installed: pip install 'marl-system[jax]'"
    jax = pytest.importorskip("jax", reason=reason)
    rlax = pytest.importorskip("rlax", reason=reason)
    xs = arguments(name)
    axes = tuple(1 if isinstance(x, np.ndarray) else None for x in xs)
    function = jax.jit(jax.vmap(getattr(rlax, name), in_axes=axes, out_axes=1))
    xs = tuple(jax.device_put(x) for x in xs)
    return lambda: function(*xs).block_until_ready()


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("library", ["marl", "rlax"])
def test_speed_of_returns(benchmark, name, library):
    torch.set_num_threads(1)
    call = torch_call(name) if library == "marl" else jax_call(name)
    benchmark.group = name
    benchmark.pedantic(call, rounds=200, warmup_rounds=20)


@pytest.mark.parametrize("acting", [1.0, 0.5])
def test_speed_of_the_idle_row_advantage(benchmark, acting):
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    row = (TIME, BATCH)

    def coin(chance, *shape):
        return torch.rand(*shape, generator=g) < chance

    xs = (
        torch.randn(row, generator=g), torch.randn(row, generator=g), coin(acting, *row), coin(0.02, *row),
        coin(0.02, *row), torch.randn(row, generator=g), torch.randn(BATCH, generator=g), coin(acting, BATCH),
        0.99, 0.95,
    )  # fmt: skip
    benchmark.group = "idle_generalized_advantage_estimation"
    benchmark.pedantic(lambda: ops.idle_generalized_advantage_estimation(*xs), rounds=200, warmup_rounds=20)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_no_more_than_twice_rlax(record_property):
    """Interleaved medians, so that a busy machine slows both alike."""
    from time import perf_counter

    torch.set_num_threads(1)
    ratios = {}
    for name in NAMES:
        calls = (torch_call(name), jax_call(name))
        times = ([], [])
        for repeat in range(220):
            for call, taken in zip(calls, times, strict=True):
                start = perf_counter()
                call()
                if repeat >= 20:
                    taken.append(perf_counter() - start)
        ours, theirs = (float(np.median(x)) * 1e6 for x in times)
        ratios[name] = ours / theirs
        print(f"{name}: marl {ours:.0f} us, rlax {theirs:.0f} us, ratio {ours / theirs:.2f}")
    record_property("ratios", ratios)
    assert max(ratios.values()) <= 2.0, ratios
