"""Compilation is told in one line where a cache is cold, and no speed counts it."""

from __future__ import annotations

import importlib.util
import io

import marl_envs
import pytest
from numba.core import event

from marl import compiling
from marl.compiling import Compilation, telling
from marl.logs.progress import Progress
from marl.training.history import Rate

KERNEL = """
from marl.compiled.cache import jit

@jit()
def twice(x):
    return 2 * x
"""


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock(monkeypatch):
    """The clock of a process that has compiled nothing yet."""
    found = Clock()
    monkeypatch.setattr(compiling, "now", found)
    monkeypatch.setattr(compiling, "compilation", Compilation())
    compiling.listen()
    return found


def kernel(folder):
    """A compiled function of a file of its own, imported anew."""
    path = folder / "mill.py"
    if not path.exists():
        path.write_text(KERNEL)
    spec = importlib.util.spec_from_file_location("mill", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.twice


def loop():
    """What steps the copies of a world; it is compiled when it is asked to be, not here."""
    return marl_envs.Spread.loop(box=False, join_state=False)


def test_a_cold_cache_is_told_of_and_a_warm_one_is_not(clock, tmp_path):
    told = []
    with telling(told.append):
        assert kernel(tmp_path)(21) == 42
        assert told == ["compiling mill, once"]
        compiling.compilation = Compilation()
        compiling.compilation.notes.append(told.append)
        again = kernel(tmp_path)
        assert again(21) == 42
        assert sum(again.stats.cache_hits.values()) == 1
    assert told == ["compiling mill, once"]


def test_a_world_is_told_of_by_name_and_with_the_time_that_it_takes(clock):
    told = []
    with telling(told.append):
        for _ in range(2):
            compiling.compilation.begin(loop())
            compiling.compilation.end()
    assert told == ["compiling spread, once, about 5 s"]


def test_what_takes_a_moment_is_not_worth_a_line(clock, monkeypatch):
    told = []
    monkeypatch.setattr(compiling, "SECONDS", {"marl_envs": compiling.LEAST / 2})
    with telling(told.append):
        compiling.compilation.begin(loop())
        compiling.compilation.end()
    assert not told


@pytest.mark.parametrize(
    ("module", "same"), [("marl_envs.spread", "marl_envs"), ("marl.memory.priorities", "marl"), ("marlin.mill", None)]
)
def test_how_long_it_takes_is_known_by_module_or_package(module, same):
    assert compiling.expected(module) == (None if same is None else compiling.SECONDS[same])


def test_only_the_innermost_one_is_told():
    outer, inner = [], []
    compilation = compiling.compilation
    with telling(outer.append):
        with telling(inner.append):
            compilation.notes[-1]("one")
        compilation.notes[-1]("two")
    assert (outer, inner) == (["two"], ["one"])
    assert len(compilation.notes) == 1


def test_speed_does_not_count_compilation(clock):
    """A function that is compiled calls another, which is compiled meanwhile: its seconds count once."""
    rate = Rate(0)
    clock.time += 10
    with event.trigger_event("numba:compile", data={"dispatcher": loop()}):
        clock.time += 100
        with event.trigger_event("numba:compile", data={"dispatcher": loop()}):
            clock.time += 100
            assert compiling.clock() == 10
        clock.time += 100
    clock.time += 10
    assert compiling.compilation.seconds == 300
    assert rate(400) == 400 / 20


def test_speed_is_that_of_the_last_half_minute():
    clock = Clock()
    rate = Rate(0, clock)
    clock.time = 100.0
    assert rate(10) == 0.1
    for second in range(1, 41):
        clock.time = 100.0 + second
        found = rate(10 + 1000 * second)
    assert found == pytest.approx(1000)


def test_speed_between_rare_questions_is_that_since_the_last_one():
    clock = Clock()
    rate = Rate(0, clock)
    clock.time = 600.0
    assert rate(600) == 1
    clock.time = 1200.0
    assert rate(1800) == 2


def test_a_window_keeps_few_marks():
    clock = Clock()
    rate = Rate(0, clock)
    for tick in range(100_000):
        clock.time = tick / 100
        rate(tick)
    assert len(rate._marks) <= Rate.MARKS + 2
    assert rate(100_000) == pytest.approx(100, rel=0.02)


def test_progress_forgets_a_slow_start_and_tells_of_compilation(clock, monkeypatch):
    monkeypatch.setattr("marl.logs.progress.LINE_SECONDS", 0.0)
    stream = io.StringIO()
    progress = Progress(100_000, ["team"], stream=stream)
    progress.tick(10)
    clock.time += 100  # 10 steps in 100 seconds
    progress.log({"steps": 20})
    with event.trigger_event("numba:compile", data={"dispatcher": loop()}):
        clock.time += 1_000
    for row in range(1, 41):
        clock.time += 1
        progress.log({"steps": 20 + 1_000 * row})
    progress.close()
    compiling.compilation.notes[-1]("after the end")
    first, told, *_, last = stream.getvalue().splitlines()
    assert first == "steps 20/100,000 (0%)  0.1 steps/s  time left 277:43:20"
    assert told == "compiling spread, once, about 5 s"
    assert last == "steps 40,020/100,000 (40%)  1,000 steps/s  time left 1:00"
