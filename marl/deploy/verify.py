"""Certificates: whether a bundle acts as what was trained, what it returns, how fast it is, and how large."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marl.compiled import backend
from marl.config import check_whole
from marl.deploy.export import write_bundle
from marl.deploy.playing import BundlePlayers, open_bundle
from marl.nets.distributions import Distribution
from marl.nets.q_head import QHead
from marl.playing.episodes import evaluation_seeds, play_episodes
from marl.playing.evaluate import EVALUATION_COPIES, EvaluationPlan, Players, evaluate
from marl.playing.experiment import Experiment
from marl.playing.intervals import Difference
from marl.playing.report import Agreement, Report
from marl.playing.single import Agent, MixedAgent
from marl.playing.streams import global_streams_kept
from marl.spaces import has_mask
from marl.training.trained import Trained
from marl.types import Array, CheckpointError, TeamSpec
from marl_runtime import Agent as Exported
from marl_runtime import Team
from marl_runtime.bundle import read
from marl_runtime.seat import Heard, LocalPlayer, Turn
from marl_runtime.wire import Field, Layout

TIE = 1e-6  # two best choices that are no further apart, as a share of numbers beyond 1, are as good as equal
WARM_UP = 100  # calls before any is timed


@dataclass
class Comparison:
    """Greedy actions of one agent beside those of its torch network, in states that the trained team visited.

    compared: how many; equal: choices that are the same, numbers of boxes to ``Agreement.TOLERANCE``; ties: of those
    that differ, how many were between choices as good as equal; difference: the largest of outputs and messages, as a
    share of numbers beyond 1.
    """

    compared: int = 0
    equal: int = 0
    ties: int = 0
    difference: float = 0.0

    def numbers(self, wanted: Array, found: Array) -> None:
        """Compare what networks computed."""
        apart = np.abs(wanted - found) / np.maximum(1.0, np.abs(wanted))
        self.difference = max(self.difference, float(apart.max(initial=0.0)))

    def action(self, wanted: Array, found: Array, worth: Array | None) -> None:
        """Compare actions; ``worth`` of each choice to the trained network, if it is known."""
        wanted, found = np.asarray(wanted), np.asarray(found)
        self.compared += 1
        if wanted.dtype.kind == "f":
            same = bool((np.abs(wanted - found) <= Agreement.TOLERANCE * np.maximum(1.0, np.abs(wanted))).all())
        else:
            same = bool((wanted == found).all())
        self.equal += same
        if not same and worth is not None and wanted.ndim == 0 and max(int(wanted), int(found)) < len(worth):
            one, other = float(worth[int(wanted)]), float(worth[int(found)])
            self.ties += abs(one - other) <= TIE * max(1.0, abs(one))


class Pair:
    """A trained agent that plays, and the exported one that is asked on the very same inputs."""

    def __init__(self, trained: Agent, exported: Exported, comparison: Comparison) -> None:
        """Both have an episode of their own."""
        self.trained, self.exported, self.comparison = trained, exported, comparison
        self.size = trained.size

    @property
    def action(self) -> Field:
        """Shape and type of an encoded action."""
        return self.trained.action

    def layout(self, copies: int) -> Layout:
        """As the trained one's."""
        return self.trained.layout(copies)

    def twin(self, seed: int | None = None) -> Pair:
        """A copy with episodes of its own."""
        return Pair(self.trained.twin(seed), self.exported.twin(seed), self.comparison)

    def reset(self) -> None:
        """Begin an episode; of a mixture both play the same policy."""
        self.trained.reset()
        self.exported.reset()
        if isinstance(self.trained, MixedAgent):
            members = [member for _, member in self.trained.strategy]
            self.exported.play(next(k for k, one in enumerate(members) if one is self.trained.member))

    def turn(self, row: Array, action_mask: Array | None, explore: bool = False, heard: Heard | None = None) -> Turn:
        """One step of both, each with its own memory, and the trained one's messages."""
        ours = self.exported.turn(row, action_mask, False, heard)
        theirs = self.trained.turn(row, action_mask, explore, heard)
        answer: Heard | None = None
        self.trained.outputs = None
        while True:
            try:
                said = theirs.send(answer)
            except StopIteration as end:
                wanted: Array = end.value
                break
            own = ours.send(answer)
            self.comparison.numbers(np.append(said[0], said[1]), np.append(own[0], own[1]))
            answer = yield said
        try:
            ours.send(answer)
        except StopIteration as end:
            found: Array = end.value
        if not self.exported.draws:
            outputs = self.trained.outputs
            if outputs is not None and self.exported.outputs is not None:
                self.comparison.numbers(outputs, self.exported.outputs)
            self.comparison.action(wanted, found, worth(self.trained.distribution, outputs))
        return wanted


def worth(head: Distribution, outputs: Array | None) -> Array | None:
    """What the greedy choice is the largest of, ``(A,)``: the values of actions where outputs ``(K,)`` are others."""
    if outputs is None or not isinstance(head, QHead):
        return outputs
    values: Array = head.values(torch.from_numpy(outputs)).numpy()
    return values


@dataclass(frozen=True)
class Return:
    """The mean return of whole episodes (sum over agents), with its 95 % interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, report: Report) -> Return:
        """From an evaluation."""
        return cls(report.mean_return, *report.confidence_interval)

    @classmethod
    def of_difference(cls, found: Difference) -> Return:
        """Of two evaluations of the same episodes."""
        return cls(found.mean, *found.confidence_interval)

    def __str__(self) -> str:
        """One line."""
        return f"{self.mean:.2f} (95 % CI over episodes {self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Certificate:
    """What a bundle costs, and what it changed.

    Args:
        engine: what computed it.
        precision: of its weights.
        episodes: of each return.
        processes: whether every exported agent played in a process of its own, without torch.
        agents: its greedy actions beside those of the trained network, by agent.
        trained: the return of the trained team in the same episodes; None where there was none to be asked.
        exported: that of the exported one.
        random: that of uniformly random agents.
        change: exported less trained, with its interval.
        latency: microseconds of one action, one thread: the median and the 99th percentile.
        sizes: bytes of each file.
    """

    engine: str
    precision: str
    episodes: int
    processes: bool
    agents: dict[str, Comparison]
    trained: Return
    exported: Return
    random: Return
    change: Return
    latency: tuple[float, float]
    sizes: dict[str, int]

    @property
    def agreement(self) -> float:
        """The least share of equal greedy actions of an agent."""
        return min((one.equal / max(one.compared, 1) for one in self.agents.values()), default=1.0)

    @property
    def difference(self) -> float:
        """The largest difference of outputs."""
        return max((one.difference for one in self.agents.values()), default=0.0)

    @property
    def drop(self) -> float:
        """The share of the gap between random and trained agents that was lost; below 0: gained."""
        gap = self.trained.mean - self.random.mean
        return -self.change.mean / gap if gap else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """A few lines of text."""
        where = "in processes without torch" if self.processes else "in one process"
        lines = [f"{self.engine}, {self.precision}: {sum(self.sizes.values()):,} bytes in {len(self.sizes)} files"]
        lines.append(f"  trained   {self.trained}")
        lines.append(f"  exported  {self.exported}, {self.episodes} episodes {where}")
        lines.append(f"  change    {self.change}")
        lines.append(f"  lost      {100 * self.drop:z.1f} % of the gap to random agents ({self.random.mean:.2f})")
        for name, one in self.agents.items():
            share = 100 * one.equal / max(one.compared, 1)
            ties = f", {one.ties:,} of the others were ties" if one.equal < one.compared else ""
            lines.append(
                f"  {name}: {share:.2f} % of {one.compared:,} greedy actions equal{ties}, "
                f"outputs differ by {one.difference:.1e} at most"
            )
        lines.append(f"  latency   {self.latency[0]:.1f} us, 99th percentile {self.latency[1]:.1f} us")
        return "\n".join(lines)

    def check(self, agreement: float | None, difference: float | None, drop: float | None) -> None:
        """Raise CheckpointError, naming the first bound that is not met."""
        for what, found, bound, right in (
            ("agreement", self.agreement, agreement, agreement is None or self.agreement >= agreement),
            ("difference of outputs", self.difference, difference, difference is None or self.difference <= difference),
            ("share of the return that is lost", self.drop, drop, drop is None or self.drop <= drop),
        ):
            if not right:
                raise CheckpointError(f"not verified: {what} is {found:.4g}, and {bound:g} was asked for")


def verify(
    path: str | Path,
    system: Trained,
    *,
    engine: str = "numpy",
    states: int = 10_000,
    episodes: int = 100,
    calls: int = 10_000,
    seed: int | None = None,
    processes: bool = True,
    keep: bool = True,
) -> Certificate:
    """Play a bundle beside the system that it was exported from.

    Args:
        path: the bundle.
        system: what was trained; nothing in it changes.
        engine: ``"numpy"``, ``"onnx"`` or ``"torch"``.
        states: in which each agent's greedy actions are compared with its torch network's, at least.
        episodes: of each return.
        calls: timed actions of each agent.
        seed: of the episodes; None: one that training never uses.
        processes: the exported agents play in processes of their own, which never import torch.
        keep: write the certificate into the bundle's manifest.

    Raises:
        CheckpointError: if the bundle is damaged, or holds other agents than the system.
    """
    for name, value in (("states", states), ("episodes", episodes), ("calls", calls)):
        check_whole(name, value, 1)
    team = open_bundle(path, engine)
    players = system.training.players
    exported = BundlePlayers.of(players, team, engine, trained=True)
    chosen = system.seed if seed is None else seed
    plan = EvaluationPlan(episodes, chosen, "processes" if processes else True, task=system.target).checked()
    lender, entries = system.environments.lender(None, False, False), system.environments.message_entries
    agents = _compared(system, players, team, states, chosen)
    report = evaluate(exported, plan, lender, entries)
    together = dataclasses.replace(plan, decentralized=False)
    trained = report.batched or evaluate(players, together, lender, entries)
    nobody = dataclasses.replace(together, experiment=Experiment(remove=system.spec.agents))
    certificate = Certificate(
        engine=engine,
        precision=team.manifest["precision"],
        episodes=episodes,
        processes=processes,
        agents=agents,
        trained=Return.of(trained),
        exported=Return.of(report),
        random=Return.of(evaluate(players, nobody, lender, entries)),
        change=Return.of_difference(report.minus(trained)),
        latency=latency(team, system.spec.teams, calls),
        sizes={name: said["bytes"] for name, said in team.manifest["files"].items()},
    )
    if keep:
        bundle = read(team.path)
        write_bundle(bundle.path.absolute(), bundle.manifest | {"certificate": certificate.to_dict()}, bundle.contents)
    return certificate


def _compared(system: Trained, players: Players, team: Team, states: int, seed: int) -> dict[str, Comparison]:
    """Every agent's greedy actions beside those of its torch network."""
    found = {name: Comparison() for name in system.spec.agents}
    env_seed, act_seed, _ = evaluation_seeds(seed)
    lend = system.environments.lender(None, False, False)
    with global_streams_kept(), backend.use("off"), lend(EVALUATION_COPIES, None) as batch:
        copies = batch.num_envs
        actor = players.apart(copies, act_seed, True, players.links(None, None))
        for seats, spec in zip(actor.players, system.spec.teams, strict=True):
            for n, name in enumerate(spec.agents):
                seat = seats[n]
                assert isinstance(seat, LocalPlayer)
                twins = [team[name].twin(e) for e in range(copies)]
                pairs = zip(seat.agents, twins, strict=True)
                seat.agents = [Pair(one, twin, found[name]) for one, twin in pairs if isinstance(one, Agent)]
        for _ in play_episodes(batch, actor, states, env_seed):
            if min(one.compared for one in found.values()) >= states:
                break
    return found


def latency(team: Team, teams: Sequence[TeamSpec], calls: int) -> tuple[float, float]:
    """Microseconds of ``agent.act``, over all agents: the median and the 99th percentile."""
    times: list[int] = []
    for one in teams:
        for name, space in zip(one.agents, one.observation_spaces, strict=True):
            if name not in team:
                continue
            drawn = copy.deepcopy(space)
            drawn.seed(0)
            rows: list[Any] = [drawn.sample() for _ in range(WARM_UP)]
            if has_mask(space):
                rows = [{**row, "action_mask": np.ones_like(row["action_mask"])} for row in rows]
            agent = team[name].twin(0)
            for row in rows:
                agent.act(row)
            for k in range(calls):
                row = rows[k % WARM_UP]
                began = time.perf_counter_ns()
                agent.act(row)
                times.append(time.perf_counter_ns() - began)
    middle, late = np.quantile(np.array(times) / 1e3, [0.5, 0.99]).tolist() if times else (0.0, 0.0)
    return middle, late
