"""What training costs on N workers, in each of the ways that there are, and what breaks first: a model to plan with.

    python -m tests.benchmarks.cost_model                    # the tables of docs/scale.md, from the costs that are kept
    python -m tests.benchmarks.cost_model --fit              # measure the costs here first (two minutes), and keep them
    python -m tests.benchmarks.cost_model --draw docs/img/scaling.png

N workers have a core each and step as many copies each; the learner has a core of its own, or is one of them (ranks).
Nothing here knows of shared caches, clocks that slow down, or other people's jobs: real clusters are slower.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.benchmarks.cost_simulation import simulate

KEPT = Path(__file__).with_name("costs.json")
COUNTS = (1, 2, 8, 32, 128, 512)


@dataclass(frozen=True)
class Costs:
    """Seconds of one core.

    Args:
        step: the environment, for one step of one copy.
        act: the policies, for the same.
        learn: one pass of the learner over one step of one copy.
        pipe: a round trip to a process of this machine; the data are in memory that both see.
        call: a round trip to a Ray actor that carries nothing.
        handle: what of ``call`` the caller itself works, which does not overlap with other actors' calls.
        byte: for each byte that a call carries.
        sum: of a few numbers over two ranks.
        sum_byte: for each byte that ranks sum.
    """

    step: float
    act: float
    learn: float
    pipe: float = 0.0
    call: float = 0.0
    handle: float = 0.0
    byte: float = 0.0
    sum: float = 0.0
    sum_byte: float = 0.0


@dataclass(frozen=True)
class Work:
    """What is trained.

    Args:
        copies: of the environment, on each worker.
        rollout: steps of each copy for an update.
        epochs: passes of the learner over them.
        sums: of gradients in an update.
        row: bytes of a step of one copy.
        weights: bytes of all parameters.
    """

    copies: int = 32
    rollout: int = 128
    epochs: int = 10
    sums: int = 40
    row: int = 300
    weights: int = 100_000

    @property
    def fragment(self) -> int:
        """Steps that one worker brings to an update."""
        return self.copies * self.rollout


# --- throughput: environment steps per second, all copies counted -----------------------------------------------------


def one_process(costs: Costs, work: Work, workers: int = 1) -> float:
    """``1 / (step + act + learn)``: no worker but this process."""
    return 1 / (costs.step + costs.act + work.epochs * costs.learn)


def worker_processes(costs: Costs, work: Work, workers: int) -> float:
    """Workers step, the learner acts for all: Amdahl's law, ``1 / (step / N + pipe / K + act + learn)``."""
    return 1 / (costs.step / workers + costs.pipe / work.copies + costs.act + work.epochs * costs.learn)


def ray_environments(costs: Costs, work: Work, workers: int) -> float:
    """The same over calls: of N calls the latencies overlap, the caller's own work and the bytes do not."""
    calls = costs.call + (workers - 1) * costs.handle
    each = costs.act + work.epochs * costs.learn + work.row * costs.byte
    steps = workers * work.copies
    return steps / (work.copies * costs.step + calls + steps * each)


def ranks(costs: Costs, work: Work, workers: int) -> float:
    """Ranks step, act and learn each for their own; an update has ``sums`` sums of all gradients."""
    own = work.fragment * (costs.step + costs.act + work.epochs * costs.learn)
    return workers * work.fragment / (own + work.sums * summing(costs, work.weights, workers))


def summing(costs: Costs, size: int, workers: int) -> float:
    """Seconds of a sum of ``size`` bytes: ``log2 N`` rounds of messages, ``2 (N - 1) / N`` times the bytes (a ring)."""
    return costs.sum * math.log2(workers) + 2 * (workers - 1) / workers * size * costs.sum_byte


def actors(costs: Costs, work: Work, workers: int) -> float:
    """Asynchronous actors with policies of their own: whichever is slower, all actors or the learner.

    An update has as many fragments as there are actors, those that came first.
    """
    mine = workers * learning(costs, work, fragments=workers)
    return workers * work.fragment / max(collecting(costs, work), mine)


def collecting(costs: Costs, work: Work) -> float:
    """Seconds from an actor's fragment to its next: step and act, send them, fetch the weights."""
    carried = work.fragment * work.row + work.weights
    return work.fragment * (costs.step + costs.act) + costs.call + carried * costs.byte


def learning(costs: Costs, work: Work, fragments: int = 1) -> float:
    """Seconds of the learner for a fragment of an update: a call, bytes, steps, its share of the new weights."""
    taking = work.fragment * (work.epochs * costs.learn + work.row * costs.byte) + costs.handle
    return taking + (costs.handle + work.weights * costs.byte) / fragments


WAYS: Mapping[str, Callable[[Costs, Work, int], float]] = {
    "workers": worker_processes,
    "Ray environments": ray_environments,
    "ranks": ranks,
    "actors": actors,
}


def traffic(work: Work, workers: int) -> dict[str, tuple[int, int]]:
    """Round trips and bytes of an update, by the way."""
    return {
        "workers": (work.rollout * workers, 0),
        "Ray environments": (work.rollout * workers, workers * work.fragment * work.row),
        "ranks": (work.sums, work.sums * 2 * (workers - 1) * work.weights),
        "actors": (workers, workers * (work.fragment * work.row + work.weights)),
    }


# --- published figures ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """Throughput that others report.

    Args:
        what: was run, and where it is reported.
        first: workers that the cost of a step is taken from, and their throughput.
        then: workers that are predicted, and their throughput.
        fragment: steps that a worker sends at a time.
    """

    what: str
    first: tuple[int, float]
    then: tuple[int, float]
    fragment: int

    def predicted(self, costs: Costs) -> float:
        """Throughput of the second by :func:`actors`, from the first's and our calls; the learner costs nothing."""
        count, rate = self.first
        work = Work(copies=1, rollout=self.fragment, row=0, weights=0)
        alone = self.fragment * count / rate - costs.call
        own = replace(costs, step=alone / self.fragment, act=0.0, learn=0.0)
        return actors(own, work, self.then[0])


PUBLISHED = (
    Published("RLlib, Pendulum-v0 on CPUs (Liang et al. 2018, figure 7)", (1, 15e3), (128, 1.5e6), 3200),
    Published("RLlib, Pong, GPUs shared (Liang et al. 2018, figure 7)", (1, 2.4e3), (128, 200e3), 3200),
    Published("IMPALA, DMLab, 375 actors (Espeholt et al. 2018, table 1)", (150, 20e3), (375, 50e3), 100),
    Published("IMPALA, DMLab, 500 actors (Espeholt et al. 2018, table 1)", (150, 20e3), (500, 62.5e3), 100),
)


# --- what is printed --------------------------------------------------------------------------------------------------


def table(costs: Costs, work: Work) -> str:
    """Throughput of every way, by workers, in Markdown."""
    rows = [f"| workers | {' | '.join(WAYS)} |", "|---|" + "---|" * len(WAYS)]
    for count in COUNTS:
        rows.append(f"| {count} | {' | '.join(f'{way(costs, work, count):,.0f}' for way in WAYS.values())} |")
    return "\n".join(rows)


def asynchronous(costs: Costs, work: Work, counts: tuple[int, ...] = (8, 32, 128, 512)) -> str:
    """Simulated actors in Markdown: updates of one fragment, and of as many as there are actors."""
    rows = [
        "| actors | fragments an update | steps/s | learner busy | actors wait | lag, mean | most |",
        "|" + "---|" * 7,
    ]
    for count in counts:
        for fragments in (1, count):
            found = simulate(
                collecting(costs, work), learning(costs, work, fragments), count, fragments=fragments, spread=0.2
            )
            rate = found.rate * work.fragment
            rows.append(
                f"| {count} | {fragments} | {rate:,.0f} | {found.busy:.0%} | {found.waiting:.0%} | {found.lag:.1f} | "
                f"{found.largest_lag} |"
            )
    return "\n".join(rows)


def checks(costs: Costs) -> str:
    """Published figures beside what the model says, in Markdown."""
    rows = ["| published | workers | reported | predicted | predicted / reported |", "|---|---|---|---|---|"]
    for one in PUBLISHED:
        said, count, reported = one.predicted(costs), *one.then
        rows.append(f"| {one.what} | {count} | {reported:,.0f} | {said:,.0f} | {said / reported:.2f} |")
    return "\n".join(rows)


def draw(costs: Costs, ways: Mapping[str, Work], out: Path) -> None:
    """A panel for each kind of work: throughput over workers, a line for each way, and dots where it was simulated."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(ways), 3.6), layout="constrained")
    axes = figure.subplots(1, len(ways), sharey=True, squeeze=False)[0]
    counts = [2**k for k in range(10)]
    for axis, (title, work) in zip(axes, ways.items(), strict=True):
        for name, way in WAYS.items():
            axis.plot(counts, [way(costs, work, count) for count in counts], label=name, linewidth=1.4)
        simulated = [
            simulate(collecting(costs, work), learning(costs, work, count), count, fragments=count, spread=0.2).rate
            for count in counts
        ]
        axis.plot(counts, [rate * work.fragment for rate in simulated], "k.", markersize=5, label="actors, simulated")
        alone = one_process(costs, work)
        axis.plot(counts, [alone * count for count in counts], color="0.7", linestyle=":", label="N times one process")
        axis.set(xscale="log", yscale="log", title=title, xlabel="workers", xticks=counts)
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("environment steps per second")
    axes[0].legend(fontsize="small")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def read(path: Path = KEPT) -> tuple[Costs, Work, str]:
    """Costs that were measured, the work that they were measured in, and where that was."""
    said = json.loads(path.read_text())
    return Costs(**said["costs"]), Work(**said["work"]), said["about"]


def main() -> None:
    """Print what the model says; measure or draw before, if that is asked for."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--fit", action="store_true", help="measure the costs, and keep them")
    asked.add_argument("--draw", type=Path)
    options = asked.parse_args()
    if options.fit:
        from tests.benchmarks.cost_fit import measured

        costs, work, about = measured()
        KEPT.write_text(json.dumps({"about": about, "costs": asdict(costs), "work": asdict(work)}, indent=1) + "\n")
    costs, work, about = read()
    once = replace(work, epochs=1, sums=1)
    print(about, *(f"  {name:<9}{value * 1e6:12.4f} us" for name, value in asdict(costs).items()), sep="\n")
    print(work)
    for title, one in (("PPO", work), ("one pass (IMPALA, A2C)", once)):
        print(f"\n{title}; one process {one_process(costs, one):,.0f}\n{table(costs, one)}")
    print("\nround trips and bytes of an update, 8 workers", *traffic(work, 8).items(), sep="\n  ")
    print(f"\nasynchronous actors, one pass, simulated\n{asynchronous(costs, once)}\n\n{checks(costs)}")
    if options.draw is not None:
        draw(costs, {f"PPO, {work.epochs} epochs": work, "one pass (IMPALA, A2C)": once}, options.draw)


if __name__ == "__main__":
    main()
