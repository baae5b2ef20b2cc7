"""How fast marl steps, acts, learns and trains, beside peers on the same work in the same run.

    python -m tests.benchmarks.throughput --peers sb3 jaxmarl sb3-mpe2 --profile --json rates.json

The work is simple_spread (3 agents, 25 steps, discrete actions) under independent PPO: one actor and one critic for all
agents, two layers of 64 and tanh each, 128 steps of E copies, 4 epochs of 4 minibatches, Adam, clipped gradients. Rates
are environment steps a second; one step moves all agents of one copy. Recurrent variants have a layer and a GRU or an
LSTM of 64 instead, and learn from sequences of 16 (``recurrent``) or from whole rollouts (the others):

    python -m tests.benchmarks.throughput --variants recurrent-shared recurrent-whole --peers jaxmarl-recurrent

Machines are shared and change their speed by the minute. So every contender is a process of its own that waits while
others run, rounds take turns, numbers are medians over rounds, and ratios are medians of the ratios within a round.
A peer runs in the interpreter named for it (``--python sb3=/path/to/python`` or ``MARL_BENCHMARK_PYTHON_SB3``), by
default in this one; a peer that is not installed there is left out, and the output says so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.protocol import Work

ROOT = Path(__file__).parents[2]
MODULES = {
    "sb3": "sb3",
    "jaxmarl": "jaxmarl_ippo",
    "jaxmarl-recurrent": "jaxmarl_recurrent",
    "jaxmarl-recurrent-apart": "jaxmarl_recurrent_apart",
    "sb3-mpe2": "sb3_mpe2",
}
VARIANTS = (
    "ippo", "mappo", "independent", "recurrent", "recurrent-whole", "recurrent-shared", "lstm", "mappo-recurrent"
)  # fmt: skip
GROWTH_AGENTS = (3, 10, 32, 100)
GROWTH_COPIES = (1, 4, 16, 64, 256, 1024, 4096)
PARTS = ("stepping", "acting", "storing", "updating")


class Absent(Exception):
    """A contender that cannot run here, and why."""


def environment() -> dict[str, str]:
    """Variables of a process that imports this tree."""
    path = [str(ROOT), str(ROOT / "envs"), str(ROOT / "scenarios"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}


class Contender:
    """One process to measure; it waits whenever it is not asked."""

    def __init__(self, name: str, module: str, work: Work, python: str = sys.executable, ours: bool = True) -> None:
        """Start it; `ready` waits for it."""
        self.name, self.work, self.ours = name, work, ours
        self.answers: list[dict[str, Any]] = []
        self.count = 1
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
        self.process = subprocess.Popen(
            [python, "-m", f"tests.benchmarks.peers.{module}", work.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=ROOT,
            env=environment(),
            start_new_session=True,
        )

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"{self.name} ended without an answer:\n{self.errors.read()[-2_000:]}")
        heard: dict[str, Any] = json.loads(line)
        if "missing" in heard:
            raise Absent(f"{self.name}: not installed ({heard['missing']})")
        if "failed" in heard:
            raise RuntimeError(f"{self.name} failed:\n{heard['failed']}")
        return heard

    def ready(self) -> None:
        """Wait until it could begin. Raises Absent if it cannot."""
        self.versions: dict[str, str] = self._hear()["versions"]

    def ask(self, count: int) -> dict[str, Any]:
        """Let it run ``count`` iterations."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"iterations": count}) + "\n")
        self.process.stdin.flush()
        return self._hear()

    def warm(self, seconds: float) -> None:
        """Let it compile and settle, and find how many iterations fill a round."""
        took = self.ask(1)["seconds"]
        if took < 10 * seconds:  # compiling may be most of it
            took = self.ask(1)["seconds"]
        self.count = max(1, round(seconds / max(took, 1e-6)))

    def round(self) -> None:
        """One round; the answer is kept."""
        self.answers.append(self.ask(self.count))

    def stop(self) -> None:
        """End it and all that it started."""
        try:
            if self.process.stdin is not None:
                self.process.stdin.close()
            self.process.wait(timeout=5)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            pass  # it is ended below
        with suppress(ProcessLookupError):  # the environment's own processes, if it left any
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.errors.close()

    @property
    def rates(self) -> list[float]:
        """Environment steps a second, of every round."""
        return [answer["steps"] / answer["seconds"] for answer in self.answers]

    @property
    def rate(self) -> float:
        """The median of `rates`."""
        return statistics.median(self.rates)

    @property
    def per_processor_second(self) -> float:
        """Environment steps for a second of processor time: what neighbors on the machine change least."""
        return statistics.median(answer["steps"] / max(answer["processor"], 1e-9) for answer in self.answers)

    def part(self, name: str) -> float:
        """Median seconds of a part per environment step; 0 where it was not measured."""
        return statistics.median(answer.get("parts", {}).get(name, 0.0) / answer["steps"] for answer in self.answers)

    def median(self, name: str) -> float:
        """Median of a number of the answers."""
        return statistics.median(answer[name] for answer in self.answers)

    def against(self, other: Contender) -> float:
        """Median of the ratios of rates within rounds."""
        return statistics.median(a / b for a, b in zip(self.rates, other.rates, strict=True))

    def to_json(self) -> dict[str, Any]:
        """All that was measured."""
        return {
            "name": self.name,
            "ours": self.ours,
            "work": json.loads(self.work.to_json()),
            "rate": self.rate,
            "rates": self.rates,
            "parts": {name: self.part(name) for name in self.answers[0].get("parts", {})},
            "memory": max(answer["memory"] for answer in self.answers),
            "memory_before": self.answers[0]["idle"],
            "per_processor_second": self.per_processor_second,
            "versions": self.versions,
        }


@dataclass
class Run:
    """Options, and what has been found so far."""

    repeats: int
    seconds: float
    pythons: dict[str, str]
    say: Callable[[str], None]
    results: dict[str, Any] = field(default_factory=dict)
    pause: float = 0.0  # seconds before each turn, for contenders whose processes end later what they had begun
    absent: list[str] = field(default_factory=list)

    @contextmanager
    def started(self, starts: Iterable[Callable[[], Contender]]) -> Iterator[list[Contender]]:
        """Start contenders, leave out who cannot run here, and end them."""
        begun: list[Contender] = []
        able: list[Contender] = []
        try:
            for start in starts:
                begun.append(start())
            for contender in begun:
                try:
                    contender.ready()
                    able.append(contender)
                except Absent as absence:
                    self.absent.append(str(absence))
            yield able
        finally:
            for contender in begun:
                contender.stop()

    @contextmanager
    def rounds(self, starts: Iterable[Callable[[], Contender]]) -> Iterator[list[Contender]]:
        """Start contenders, let them take turns for all rounds, and end them."""
        with self.started(starts) as able:
            for contender in able:
                contender.warm(self.seconds)
            for turn in range(self.repeats):
                first = turn % max(1, len(able))  # nobody is always the first after the others' warmth
                for contender in able[first:] + able[:first]:
                    time.sleep(self.pause)
                    contender.round()
            yield able

    def ours(self, name: str, work: Work) -> Callable[[], Contender]:
        """A start of marl."""
        return lambda: Contender(name, "ours", work)

    def peer(self, peer: str, work: Work) -> Callable[[], Contender]:
        """A start of a peer, in its interpreter."""
        python = self.pythons.get(peer, sys.executable)
        return lambda: Contender(f"{peer}, {plural(work.threads)}", MODULES[peer], work, python, ours=False)

    def keep(self, section: str, contenders: Sequence[Contender]) -> None:
        """Remember for the JSON file."""
        self.results.setdefault(section, []).extend(contender.to_json() for contender in contenders)

    def table(self, title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a Markdown table."""
        self.say(f"\n**{title}**\n")
        self.say("| " + " | ".join(head) + " |")
        self.say("|" + "|".join("---" for _ in head) + "|")
        for row in rows:
            self.say("| " + " | ".join(row) + " |")


def plural(threads: int) -> str:
    """In words."""
    return f"{threads} thread" if threads == 1 else f"{threads} threads"


def number(value: float) -> str:
    """Three digits that count, thousands apart."""
    if not math.isfinite(value):
        return "–"
    if value >= 1_000:
        digits = 3 - len(str(int(value)))
        return f"{round(value, digits):,.0f}"
    return f"{value:.3g}"


def seconds(value: float) -> str:
    """Seconds, or that it never came to it."""
    return f"{value:.1f}" if math.isfinite(value) else "never"


def rates(run: Run, options: argparse.Namespace) -> None:
    """Stepping, acting, updating and end to end, ours beside peers on the native world."""
    peers = [peer for peer in options.peers if peer != "sb3-mpe2"]
    for copies in options.copies:
        work = Work(copies=copies, agents=options.agents[0], device=options.device)
        starts = [run.ours("world alone", replace(work, part="world"))]
        gpu = options.device != "cpu"
        for threads in options.threads[:1] if gpu else options.threads:
            for variant in options.variants:
                one = replace(work, variant=variant, threads=threads)
                if gpu:
                    starts.append(run.ours(f"{variant}, {options.device}", one))
                    starts.append(run.ours(f"{variant}, {options.device}, no graphs", replace(one, graphs=False)))
                else:
                    starts.append(run.ours(f"{variant}, {plural(threads)}", one))
        for threads in options.peer_threads or options.threads:
            starts += [run.peer(peer, replace(work, threads=threads)) for peer in peers]
        with run.rounds(starts) as able:
            run.keep("rates", able)
            title = f"{work.agents} agents, E={copies}: environment steps a second"
            trained = [c for c in able if c.work.part == "train" and c.ours]
            base = best(c for c in trained if c.work.variant == "ippo") or best(trained)
            run.table(title, columns(base), [rate_row(contender, base) for contender in able])
            say_ratios(run, f"rates E={copies}", able, base)
    for agents in options.agents[1:]:
        many_agents(run, options, agents)


def best(contenders: Iterable[Contender]) -> Contender | None:
    """The fastest."""
    return max(contenders, key=lambda contender: contender.rate, default=None)


def columns(base: Contender | None) -> list[str]:
    """The head of a table of `rate_row`."""
    ratio = "ratio" if base is None else f"{base.work.variant} / this"
    return ["who", "stepping", "acting", "updating", "end to end", ratio, "per processor second"]


def rate_row(contender: Contender, base: Contender | None) -> list[str]:
    """Its name, the rates of its parts and the whole, and how much faster ``base`` is."""
    name = contender.name if contender.ours else f"*{contender.name}*"
    if contender.work.part == "world":
        return [name, number(contender.rate), "", "", "", "", ""]
    parts = [contender.part(part) for part in ("stepping", "acting", "updating")]
    shown = [number(1 / seconds) if seconds else "" for seconds in parts]
    ratio = "" if base is None else f"{base.against(contender):.2f}"
    return [name, *shown, number(contender.rate), ratio, number(contender.per_processor_second)]


def say_ratios(run: Run, where: str, able: Sequence[Contender], base: Contender | None) -> None:
    """The fastest of each variant of ours against the fastest of each peer, and against ``base`` at its threads."""
    found = run.results.setdefault("ratios", {})
    ours = [c for c in able if c.ours and c.work.part == "train"]
    rivals = fastest((c for c in able if not c.ours), lambda c: c.name.partition(",")[0])
    for variant, contender in fastest(ours, lambda c: c.work.variant).items():
        for peer, rival in rivals.items():
            found[f"{where} {variant} / {peer}"] = ratio = contender.against(rival)
            run.say(f"\n{where}: {contender.name} is {ratio:.2f} times {rival.name}.")
    for contender in ours:
        if (
            base is not None
            and contender.work.variant != base.work.variant
            and contender.work.threads == base.work.threads
        ):
            found[f"{where} {contender.work.variant} / {base.work.variant}"] = ratio = contender.against(base)
            run.say(f"\n{where}: {contender.name} reaches {ratio:.2f} of {base.name}.")


def fastest(contenders: Iterable[Contender], kind: Callable[[Contender], str]) -> dict[str, Contender]:
    """The fastest of each kind."""
    found: dict[str, Contender] = {}
    for contender in contenders:
        found[kind(contender)] = max(found.get(kind(contender), contender), contender, key=lambda c: c.rate)
    return found


def many_agents(run: Run, options: argparse.Namespace, agents: int) -> None:
    """Shared and independent parameters with few and many agents: the cost of one agent's step."""
    copies, threads = min(options.copies), min(options.threads)
    work = Work(copies=copies, threads=threads, device=options.device)
    variants = [variant for variant in options.variants if variant in ("ippo", "independent", "mappo")]
    starts = [
        run.ours(f"{variant}, N={count}", replace(work, variant=variant, agents=count))
        for variant in variants
        for count in (options.agents[0], agents)
    ]
    # The same with observations as wide as those of few agents: what more agents cost when they see no more.
    starts += [
        run.ours(f"{variant}, N={agents}, each sees 2", replace(work, variant=variant, agents=agents, neighbors=2))
        for variant in variants
        if variant == "independent"
    ]
    with run.rounds(starts) as able:
        run.keep("agents", able)
        rows = [
            [
                contender.name,
                number(contender.rate),
                f"{1e6 / contender.rate / contender.work.agents:.1f}",
                number(1e6 * contender.part("updating") / contender.work.agents),
            ]
            for contender in able
        ]
        head = ("who", "environment steps a second", "us per agent-step", "of it updating")
        run.table(f"Few and many agents, E={copies}, {plural(threads)}", head, rows)


def real_mpe2(run: Run, options: argparse.Namespace) -> None:
    """On the real mpe2 environment with worker processes, beside SB3 with SuperSuit."""
    for copies in options.copies:
        work = Work(copies=copies, world="mpe2", workers=options.workers)
        starts = [run.ours(f"ippo, {plural(t)}", replace(work, threads=t)) for t in options.threads]
        starts += [run.peer("sb3-mpe2", replace(work, threads=t)) for t in options.peer_threads or options.threads]
        with run.rounds(starts) as able:
            run.keep("mpe2", able)
            base = best(c for c in able if c.ours)
            title = f"Real mpe2, E={copies}, {options.workers} worker processes: environment steps a second"
            rows = [rate_row(contender, base)[:-1] for contender in able]  # workers use processor time of their own
            run.table(title, columns(base)[:-1], rows)
            say_ratios(run, f"mpe2 E={copies}", able, base)


def beside_busy(run: Run, options: argparse.Namespace) -> None:
    """The same training, alone and beside processes that keep a core busy each."""
    copies = max(options.copies)
    rows: dict[str, list[str]] = {}
    for busy in (0, options.busy):
        spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            starts = [run.ours(plural(t), Work(copies=copies, threads=t)) for t in options.threads]
            with run.rounds(starts) as able:
                run.keep(f"beside {busy} busy", able)
                for contender in able:
                    rows.setdefault(contender.name, [contender.name]).append(number(contender.rate))
        finally:
            for spinner in spinners:
                spinner.kill()
                spinner.wait()
    title = f"IPPO beside {options.busy} busy process(es), E={copies}: environment steps a second"
    run.table(title, ("threads", "alone", "beside"), rows.values())


def profile(run: Run, options: argparse.Namespace) -> None:
    """Where the time of one iteration goes, and what share of the machine's matrix products it reaches."""
    starts = [run.ours(f"E={copies}", Work(copies=copies, part="profile")) for copies in options.copies]
    with run.rounds(starts) as able:
        run.keep("profile", able)
        names = list(able[0].answers[0]["parts"])
        order = sorted(names, key=lambda name: -able[-1].part(name))
        whole = [1 / contender.rate for contender in able]
        rows = [
            [name, *(f"{100 * c.part(name) / total:.1f} %" for c, total in zip(able, whole, strict=True))]
            for name in order
        ]
        rows.append(["**whole, us per environment step**", *(f"{1e6 * total:.1f}" for total in whole)])
        rows.append(["matrix products reach, GFLOP/s", *(f"{c.median('sgemm') / 1e9:.0f}" for c in able)])
        reached = [c.median("flops") / c.median("seconds") / 1e9 for c in able]
        rows.append(["the whole reaches, GFLOP/s", *(f"{value:.0f}" for value in reached)])
        rows.append(["**share of the matrix limit**", *(f"{100 * c.median('fraction'):.0f} %" for c in able)])
        title = "One IPPO iteration on one thread, in processor time"
        run.table(title, ("part", *(contender.name for contender in able)), rows)
        for contender in able:
            contender_lost = contender.answers[0]["lost"]
            if contender_lost:
                run.say(f"\n{contender.name}: no method found for {', '.join(contender_lost)}; see INNER in ours.py")


def growth(run: Run, options: argparse.Namespace) -> None:
    """Cost of one agent's step, in processor time, and memory, over the number of agents and of copies."""
    threads = min(options.threads)
    few = Work(copies=min(16, max(options.growth_copies)), threads=threads)
    by_agents = [replace(few, agents=agents) for agents in options.growth_agents]
    # Who sees two others reads as much in any crowd: what is left is the cost of the agents themselves.
    near = [replace(work, neighbors=2) for work in by_agents]
    by_copies = [Work(copies=copies, threads=threads) for copies in options.growth_copies]
    everyone, two = f"agents that see everybody (E={few.copies})", f"agents that see two others (E={few.copies})"
    drawn = []
    for where, axis, works in (
        (everyone, "agents", by_agents),
        (two, "agents", near),
        ("copies (3 agents)", "copies", by_copies),
    ):
        with run.rounds([run.ours(f"{axis}={getattr(work, axis)}", work) for work in works]) as able:
            run.keep(f"growth in {where}", able)
            cost = [1e6 / c.per_processor_second / c.work.agents for c in able]
            memory = [max(a["memory"] - a["idle"] for a in contender.answers) / 2**20 for contender in able]
            sizes = [getattr(contender.work, axis) for contender in able]
            drawn.append((where, sizes, cost, memory))
            rows = []
            for size, contender, us, mib in zip(sizes, able, cost, memory, strict=True):
                kib = 1024 * mib / (contender.work.steps * contender.work.agents)
                row = [
                    f"{size:,}",
                    number(contender.rate),
                    f"{us:.1f}",
                    f"{us / cost[0]:.2f}",
                    f"{mib:,.0f}",
                    f"{kib:.1f}",
                ]
                rows.append(row)
            head = (
                axis,
                "environment steps/s",
                "processor us per agent-step",
                "times the first",
                "peak MiB",
                "KiB per row",
            )
            run.table(f"Growth in {where}, {plural(threads)}; memory beyond that of starting", head, rows)
    if options.plot:
        draw(drawn, options.plot)
        run.say(f"\nplot: {options.plot}")


def draw(drawn: Sequence[tuple[str, list[int], list[float], list[float]]], path: Path) -> None:
    """One picture for each kind of growth; cost and memory on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(1, len(drawn), figsize=(14, 3.6), constrained_layout=True)
    for axis, (name, sizes, cost, memory) in zip(axes, drawn, strict=True):
        other = axis.twinx()
        axis.loglog(sizes, cost, "o-", color="#1f77b4")
        other.loglog(sizes, memory, "s--", color="#d62728")
        axis.set_xlabel(name)
        axis.set_ylabel("processor µs per agent-step", color="#1f77b4")
        other.set_ylabel("peak memory, MiB", color="#d62728")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        for scale in (axis.yaxis, other.yaxis):
            scale.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            scale.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
        for each in (axis.xaxis, axis.yaxis, other.yaxis):
            each.set_minor_locator(ticker.NullLocator())
        for each in (axis, other):  # what hardly changes shall look so
            low, high = each.get_ylim()
            each.set_ylim(low / 1.5, max(high, 4 * low))
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def quality(run: Run, options: argparse.Namespace) -> None:
    """Seconds of training until greedy play is good, on the twin and on the real environment."""
    threads = max(options.threads)
    contender = Contender("quality", "ours", Work(threads=threads, part="quality", limit=options.quality_steps))
    try:
        contender.ready()
        for seed in range(options.seeds):
            contender.answers.append(answer := contender.ask(seed))
            when = ", ".join(f"{target} after {took:.1f} s" for target, took in answer["reached"].items())
            run.say(f"\nseed {seed}: {when or 'nothing'}; {answer['training_seconds']:.1f} s of training in all")
        run.results["quality"] = contender.answers
    finally:
        contender.stop()
    rows = []
    for target in ("native -36", "mpe2 -36", "native -30", "mpe2 -30"):
        times = [answer["reached"].get(target, math.inf) for answer in contender.answers]
        reached = sum(map(math.isfinite, times))
        each = ", ".join(seconds(t) for t in times)
        rows.append([target, seconds(statistics.median(times)), f"{reached} of {len(times)}", each])
    title = f"Seconds of training to a sum of returns (100 greedy episodes), {options.seeds} seeds, {plural(threads)}"
    run.table(title, ("evaluated on, return", "median", "seeds that got there", "each"), rows)
    for where in ("native", "mpe2"):
        found = [answer["best"][where] for answer in contender.answers if where in answer["best"]]
        if found:
            run.say(f"\nBest evaluation on {where}, median of seeds: {statistics.median(found):.1f}")


def machine() -> dict[str, Any]:
    """What this ran on."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": model, "cores": cores, "python": platform.python_version(), "load": os.getloadavg()[0]}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.throughput", description=about)
    parser.add_argument("--copies", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--peer-threads", type=int, nargs="*", default=[], help="of peers (default: as --threads)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round of one contender (default: 3)")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=["ippo"])
    parser.add_argument("--agents", type=int, nargs="+", default=[3], help="further numbers: few against many agents")
    parser.add_argument("--peers", nargs="*", choices=sorted(MODULES), default=[])
    parser.add_argument("--python", nargs="*", default=[], metavar="PEER=PATH", help="interpreter of a peer")
    parser.add_argument("--workers", type=int, default=2, help="processes that step mpe2 (default: 2)")
    parser.add_argument("--busy", type=int, default=0, metavar="K", help="also measure beside K busy processes")
    parser.add_argument("--profile", action="store_true", help="where the time of an iteration goes")
    parser.add_argument("--growth", action="store_true", help="cost and memory over agents and copies")
    parser.add_argument("--growth-agents", type=int, nargs="+", default=list(GROWTH_AGENTS))
    parser.add_argument("--growth-copies", type=int, nargs="+", default=list(GROWTH_COPIES))
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "img" / "growth.png", help="where growth is drawn")
    parser.add_argument("--quality", action="store_true", help="seconds to a good team")
    parser.add_argument(
        "--quality-steps", type=int, default=0, help="for at most so many steps (default: the scenario's)"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="of our own learners (default: cpu)")
    parser.add_argument("--json", type=Path, help="also write everything measured there")
    options = parser.parse_args(arguments)
    pythons = {peer: os.environ.get(variable(peer), sys.executable) for peer in MODULES}
    for entry in options.python:
        peer, _, path = entry.partition("=")
        if peer not in MODULES or not path:
            parser.error(f"--python: expected PEER=PATH with a peer of {', '.join(MODULES)}, got {entry!r}")
        pythons[peer] = path
    options.pythons = pythons
    return options


def variable(peer: str) -> str:
    """The environment variable that names a peer's interpreter."""
    return "MARL_BENCHMARK_PYTHON_" + peer.upper().replace("-", "_")


def tell(line: str) -> None:
    """Print at once, so that a long run can be watched."""
    print(line, flush=True)


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = tell) -> dict[str, Any]:
    """Measure, print tables, write JSON; returns what was measured."""
    options = parse(arguments)
    run = Run(options.repeats, options.seconds, options.pythons, say)
    here = run.results["machine"] = machine()
    run.results["options"] = {k: str(v) for k, v in vars(options).items()}
    say(f"{here['processor']}, {here['cores']} cores, Python {here['python']}, load {here['load']:.1f} at the start")
    if here["load"] > 0.5 * (here["cores"] or 1):
        say("The machine is busy with something else: trust ratios, not rates.")
    if options.variants:
        rates(run, options)
    if "sb3-mpe2" in options.peers:
        real_mpe2(run, options)
    if options.busy:
        beside_busy(run, options)
    for wanted, section in ((options.profile, profile), (options.growth, growth)):
        if wanted:
            section(run, options)
    if options.quality:
        quality(run, options)
    run.results["absent"] = sorted(set(run.absent))
    for absence in run.results["absent"]:
        say(f"\nleft out: {absence}")
    run.results["load_after"] = os.getloadavg()[0]
    if options.json:
        options.json.write_text(json.dumps(run.results, indent=1))
        say(f"\nJSON: {options.json}")
    return run.results


if __name__ == "__main__":
    main()
