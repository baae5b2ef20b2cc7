"""Ourselves as a contender: end to end with the time of its parts, the world alone, a profile, or time to quality."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import marl_envs
import numpy as np
import torch

import marl
from marl import graphs
from marl.nets import LSTM
from marl.scenario import find
from tests.benchmarks.peers.protocol import GAMES, Contender, Work, serve

MPE2 = "mpe2.simple_spread_v3"
# The parts of an iteration: what is called, seen from the system. What lies inside another part counts there only.
OUTER = {
    "stepping": ("env.step", "env.step_into"),
    "acting": ("learner.act",),
    "storing": ("memory.current", "memory.decide", "memory.observe", "memory.restart"),
    "updating": ("learner.update",),
}
INNER = {
    "advantages": ("model.prepare",),
    "backward": ("gradient.fill",),  # with the forward and the loss: see `profile`
    "optimizer": ("optimizer.step",),
}
CHECK = 16_384  # environment steps between two evaluations
THRESHOLDS = (-36.0, -30.0)  # sums of returns


class Stopwatch:
    """Seconds spent in named parts; the time of a part inside another one is the inner one's."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._inside: list[float] = []

    def wrap(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, timed."""

        def timed(*arguments: Any, **keywords: Any) -> Any:
            self._inside.append(0.0)
            began = self.clock()
            try:
                return call(*arguments, **keywords)
            finally:
                took = self.clock() - began
                self.seconds[part] += took - self._inside.pop()
                self.calls[part] += 1
                if self._inside:
                    self._inside[-1] += took

        return timed

    def watch(self, system: marl.MultiAgentSystem, parts: dict[str, tuple[str, ...]]) -> list[str]:
        """Time those parts of a system. Returns the parts of which it has no method at all."""
        learner: Any = system.learners[0]
        places = {
            "env": system.env,
            "learner": learner,
            "memory": learner.memory,
            "model": learner.model,
            "flat": learner.flat,
            "optimizer": learner.optimizer,
            "gradient": learner.chosen.gradient,
        }
        lost = []
        for part, methods in parts.items():
            found = False
            for method in methods:
                place, _, name = method.partition(".")
                if hasattr(places[place], name):
                    setattr(places[place], name, self.wrap(part, getattr(places[place], name)))
                    found = True
            if not found:
                lost.append(part)
        return lost

    def take(self) -> dict[str, float]:
        """Seconds since the last time, which start again at nothing."""
        taken = dict(self.seconds)
        self.seconds.clear()
        self.calls.clear()
        return taken


def settings_of(work: Work) -> dict[str, Any]:
    """The settings of PPO that every contender has, peers included."""
    names = ("rollout", "epochs", "minibatches", "lr", "discount", "gae_lambda", "clip", "value_weight", "entropy")
    settings = {name: getattr(work, name) for name in names}
    return settings | {"max_grad_norm": work.max_grad_norm, "normalize_values": False}


def learner_of(work: Work) -> marl.PPO:
    """The learner that ``work`` asks for."""
    if work.hidden != 64:
        raise ValueError("hidden: the reference work has layers of 64")
    settings = settings_of(work)
    if work.neighbors:
        settings["agent_id"] = False  # ids are as wide as there are agents
    return {
        "ippo": lambda: marl.ippo(**settings),
        "mappo": lambda: marl.mappo(**settings),
        "independent": lambda: marl.ippo(**settings | {"sharing": "none", "agent_id": False}),
        "recurrent": lambda: marl.ippo(network=marl.GRU(64), sequence=16, **settings),
        "recurrent-whole": lambda: marl.ippo(network=marl.GRU(64), sequence=None, **settings),
        "recurrent-shared": lambda: marl.ippo(network=marl.GRU(64), sequence=None, shared_trunk=True, **settings),
        "lstm": lambda: marl.ippo(network=LSTM(64), sequence=None, **settings),
        "mappo-recurrent": lambda: marl.mappo(network=marl.GRU(64), sequence=None, **settings),
    }[work.variant]()


def set_threads(count: int) -> None:
    """As many threads for learning as asked for; 0 leaves it to marl."""
    if count:
        torch.set_num_threads(count)
        try:
            from marl import parallel
        except ImportError:
            return
        parallel.set_threads(count)


def make_system(work: Work, agents: Any = None) -> marl.MultiAgentSystem:
    """The system that ``work`` asks for."""
    near = work.neighbors
    neighbors = {"num_agent_neighbors": near, "num_landmark_neighbors": near + 1} if near else {}
    return marl.MultiAgentSystem(
        agents or learner_of(work),
        MPE2 if work.world == "mpe2" else marl_envs.Spread,
        num_envs=work.copies,
        seed=work.seed,
        workers=work.workers,
        device=work.device,
        env_kwargs={"N": work.agents, "max_cycles": work.max_cycles} | neighbors,
    )


def train(work: Work, make: Callable[[Work], marl.MultiAgentSystem] = make_system) -> Contender:
    """End to end, with the seconds of its outer parts."""
    system, watch = make(work), Stopwatch()
    watch.watch(system, OUTER)

    def iterate(count: int) -> dict[str, Any]:
        watch.take()
        system.train(steps=count * work.steps)
        if work.device != "cpu":
            torch.cuda.synchronize()
        return {"steps": count * work.steps, "parts": watch.take()}

    return Contender(iterate, versions(), system.close)


def world(work: Work) -> Contender:
    """The environment alone, on random actions, a rollout an iteration."""
    system, rng = make_system(work), np.random.default_rng(work.seed)
    env = system.env
    env.reset(work.seed)
    actions = [[rng.integers(0, 5, (work.copies, work.agents))] for _ in range(64)]

    def iterate(count: int) -> dict[str, Any]:
        for turn in range(count * work.rollout):
            env.step(actions[turn % len(actions)])
        return {"steps": count * work.steps}

    return Contender(iterate, versions(), system.close)


def profile(work: Work) -> Contender:
    """One iteration at a time, split finely, beside the matrix products that this machine manages at this moment.

    On one thread, in its processor time: what other programs do to the machine then matters least.
    """
    clock = time.thread_time
    system, watch = make_system(work), Stopwatch(clock)
    lost = watch.watch(system, OUTER | INNER)
    rows = work.steps * work.agents // work.minibatches
    a, b = torch.rand(rows, work.hidden), torch.rand(work.hidden, work.hidden)
    out = torch.empty(rows, work.hidden)
    inputs = torch.rand(1, rows // work.agents, work.agents, system.learners[0].team.obs.shape[0] + work.agents)
    flops = floating_point_operations(work, system)

    def forward() -> float:
        """Seconds of actor and critic on one minibatch."""
        learner: Any = system.learners[0]
        nets = learner.model.actor.compiled(), learner.model.critic.compiled()
        took = []
        for _ in range(5):
            began = clock()
            for net in nets:
                net(inputs)
            took.append(clock() - began)
        return statistics.median(took)

    def limit() -> float:
        """Operations a second of ``(rows, 64) @ (64, 64)``."""
        times = max(1, int(2e9 / (2 * rows * work.hidden**2)))
        began = clock()
        for _ in range(times):
            torch.mm(a, b, out=out)
        return times * 2 * rows * work.hidden**2 / (clock() - began)

    def iterate(count: int) -> dict[str, Any]:
        before = limit()
        watch.take()
        began = clock()
        system.train(steps=count * work.steps)
        seconds = clock() - began
        parts = watch.take()
        parts["shuffling, rest of the update"] = parts.pop("updating")
        parts["the loop around it"] = seconds - sum(parts.values())
        # Forward and backward are one compiled call: a forward of as many rows alone says what is the forward's.
        parts["forward"] = work.epochs * work.minibatches * count * forward()
        parts["backward"] -= parts["forward"]
        sgemm = (before + limit()) / 2
        return {
            "steps": count * work.steps,
            "seconds": seconds,
            "parts": parts,
            "lost": lost,
            "sgemm": sgemm,
            "flops": flops * count,
            "fraction": flops * count / seconds / sgemm,
        }

    return Contender(iterate, versions(), system.close)


def floating_point_operations(work: Work, system: marl.MultiAgentSystem) -> float:
    """Those of the matrix products of one iteration: acting, values, and forward and backward of every epoch."""
    learner: Any = system.learners[0]
    forward, backward = 0, 0
    for net in (learner.model.actor, learner.model.critic):
        shapes = [(p.shape[-2], p.shape[-1]) for name, p in net.named_parameters() if name.endswith("weight")]
        products = [2 * before * after for before, after in shapes]
        forward += sum(products)
        backward += 2 * sum(products) - products[0]  # nobody asks for the gradient of the observations
    return work.steps * work.agents * (forward + work.epochs * (forward + backward))


def quality(work: Work) -> Contender:
    """Seconds until the shipped scenario's greedy play is good, on the native world and on mpe2 with the same policy.

    ``iterate(n)`` trains seed ``work.seed + n`` from the start; evaluations do not count as training time.
    """
    scenario = find("spread")
    original = Mpe2(N=work.agents, max_cycles=work.max_cycles)

    def iterate(which: int) -> dict[str, Any]:
        reached: dict[str, float] = {}
        best: dict[str, float] = {}
        began = time.perf_counter()
        paused = 0.0

        def look(metrics: dict[str, float]) -> bool:
            nonlocal paused
            stopped = time.perf_counter()
            value = system.evaluate(GAMES).mean_return
            note("native", value, stopped)
            if any(value >= threshold and f"mpe2 {threshold:g}" not in reached for threshold in THRESHOLDS):
                note("mpe2", system.evaluate(GAMES, env=original).mean_return, stopped)
            paused += time.perf_counter() - stopped
            return len(reached) == 2 * len(THRESHOLDS)

        def note(where: str, value: float, now: float) -> None:
            best[where] = max(best.get(where, value), value)
            for threshold in THRESHOLDS:
                if value >= threshold:
                    reached.setdefault(f"{where} {threshold:g}", now - began - paused)

        seeded = dataclasses.replace(work, seed=work.seed + which, copies=scenario.num_envs)
        with make_system(seeded, scenario.agents) as system:
            system.train(steps=work.limit or scenario.steps, log_every=CHECK, callback=look)
            spent = time.perf_counter() - began - paused
            return {"steps": system.steps, "training_seconds": spent, "reached": reached, "best": best}

    return Contender(iterate, versions())


class Mpe2:
    """A factory of mpe2's environment with keywords."""

    def __init__(self, **kwargs: Any) -> None:
        self.kwargs = kwargs

    def __call__(self) -> Any:
        from mpe2 import simple_spread_v3

        return simple_spread_v3.parallel_env(**self.kwargs)


def versions() -> dict[str, str]:
    """What ran."""
    return {"torch": torch.__version__, "numpy": np.__version__}


def make(work: Work) -> Contender:
    """The part that ``work`` asks for."""
    set_threads(work.threads)
    graphs.use_graphs(work.graphs)
    return {"train": train, "world": world, "profile": profile, "quality": quality}[work.part](work)


if __name__ == "__main__":
    serve(make)
