"""Train a shipped scenario from several seeds and say what came of it: the numbers of ``docs/benchmarks.md``.

    python -m tests.benchmarks.learning spread_mappo --seeds 0 1 2

Each seed trains for the scenario's own number of steps, then plays 100 greedy episodes in environments of their own,
from seeds that training never saw. Two-player games play 2,000 games from each seat against a random opponent instead.
``--keep FOLDER`` leaves a run folder of each seed there, from which ``marl play`` draws episodes.
``--random`` trains nothing: what random play comes to in the same episodes.
``--curves FOLDER`` also evaluates 20 times on the way and keeps the learning curves there; `curves` draws them.
``--actors 2 --staleness 4`` lets actors of a Ray cluster that begins for it collect rollouts, or without
``--staleness`` step the copies. Ranks train together where torchrun starts them:

    torchrun --nproc-per-node 2 -m tests.benchmarks.learning cartpole --seeds 0
    python -m tests.benchmarks.learning cartpole_impala --seeds 0 --actors 2 --staleness 4

Where a task asks for a mean return, a row also has the step, and the seconds, at which the newest 100 training episodes
reached it first.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marl_envs import kuhn

import marl
from marl import parallel, ranks
from marl.cluster import LOCAL
from marl.scenario import find, names
from marl.studies.versus import versus
from tests.benchmarks import curves, riddle
from tests.league.mixtures import kuhn_mixtures, throws_exploitability


@dataclass(frozen=True)
class Task:
    """A scenario, what it has to reach, and what others reached.

    at_least: of the mean return of greedy ``episodes`` (sum over agents, or one team's if ``team`` is named);
    of the share of games that the first player wins or draws where ``games`` is set; of ``measure(system)`` where there
    is one. wins: the least share of games that each seat wins.
    """

    scenario: str
    at_least: float | None = None
    needed: float = 1.0  # the share of seeds that have to reach it
    team: str | None = None
    episodes: int = 100  # fewer where steps are slow
    games: int = 0
    wins: tuple[float, ...] = ()
    measure: Callable[[marl.MultiAgentSystem], float] | None = None
    also: Callable[[marl.MultiAgentSystem], dict[str, float]] | None = None  # further figures, without a threshold
    critic: marl.Local | marl.Joint | None = None  # instead of the scenario's own
    original: str | None = None  # where a policy trained on a compiled twin is measured
    at_most: float | None = None  # what shows that the task is hard: of the mean return, as at_least
    curriculum: bool = True  # False: train without the scenario's, on its target alone
    channel: bool = True  # likewise
    hindsight: bool = True  # False: the same of goals relabeled
    change: Callable[[marl.Scenario], marl.Scenario] | None = None  # of the scenario, before all these

    @property
    def of_episodes(self) -> bool:
        """Whether it asks for the mean return of whole episodes, as training has them too."""
        return self.at_least is not None and self.measure is None and self.team is None and not self.games

    def make(self) -> marl.Scenario:
        """The scenario to train."""
        scenario = find(self.scenario)
        if self.change is not None:
            scenario = self.change(scenario)
        if not self.curriculum:
            chosen = scenario.curriculum
            target = (
                marl.curriculum.DomainRandomization(chosen.target)
                if isinstance(chosen, marl.curriculum.Stages)
                else None
            )
            scenario = dataclasses.replace(scenario, curriculum=target)
        if not self.channel and isinstance(scenario.agents, marl.PPO):
            scenario = dataclasses.replace(scenario, agents=dataclasses.replace(scenario.agents, channel=None))
        if not self.hindsight and isinstance(scenario.agents, marl.DDPG):
            scenario = dataclasses.replace(scenario, agents=dataclasses.replace(scenario.agents, hindsight=None))
        if self.critic is None or not isinstance(scenario.agents, marl.PPO):
            return scenario
        return dataclasses.replace(scenario, agents=dataclasses.replace(scenario.agents, critic=self.critic))


def corrected(scenario: marl.Scenario) -> marl.Scenario:
    """Its PPO with V-trace, which is APPO."""
    assert isinstance(scenario.agents, marl.PPO)
    return dataclasses.replace(scenario, agents=dataclasses.replace(scenario.agents, correction=marl.VTrace()))


def impala(scenario: marl.Scenario) -> marl.Scenario:
    """CartPole by IMPALA."""
    agents = marl.impala(rollout=16, lr=marl.Linear(2e-3, 0.0), entropy=0.01)
    return dataclasses.replace(scenario, agents=agents, num_envs=16, steps=200_000)


def poker(system: marl.MultiAgentSystem) -> float:
    """NashConv of the mixtures, exactly; negative, so that more is better."""
    return -kuhn.nash_conv(kuhn_mixtures(system))


def throws(system: marl.MultiAgentSystem) -> float:
    """Exploitability of the mixtures, likewise."""
    return -throws_exploitability(system)


def levers(system: marl.MultiAgentSystem, **messages: Any) -> float:
    """The share of the levers that five agents pull."""
    return system.evaluate(episodes=20_000, num_envs=500, **messages).mean_return / 5


def crossing(system: marl.MultiAgentSystem, **messages: Any) -> float:
    """The share of episodes without a collision."""
    return system.evaluate(episodes=2_000, num_envs=250, **messages).info["success"]


def goals_told(system: marl.MultiAgentSystem, **messages: Any) -> float:
    """The mean return of two agents that know each other's goals, on the original."""
    return system.evaluate(episodes=100, env="mpe2.simple_reference_v3", **messages).mean_return


def goal_named(system: marl.MultiAgentSystem, **messages: Any) -> float:
    """The mean return of a speaker and a listener."""
    return system.evaluate(episodes=500, **messages).mean_return


def worth(
    measure: Callable[..., float], speakers: Sequence[str] = ()
) -> Callable[[marl.MultiAgentSystem], dict[str, float]]:
    """The same measure if nobody (of ``speakers``) says anything, and if all hear what is said in another episode."""
    return lambda system: {
        "silent": round(measure(system, silence=speakers or system.spec.agents), 3),
        "shuffled": round(measure(system, shuffle_messages=True), 3),
    }


def arrived(system: marl.MultiAgentSystem) -> float:
    """The share of 100 greedy episodes that end at the goal."""
    return system.evaluate(episodes=100).info["success"]


def against_random(system: marl.MultiAgentSystem, side: str, episodes: int = 100) -> float:
    """What one army earns together against soldiers that act at random."""
    strangers = [agent for agent in system.spec.agents if not agent.startswith(side)]
    returns = system.evaluate(episodes=episodes, remove=strangers).returns_per_agent
    return sum(value for agent, value in returns.items() if agent.startswith(side))


def red(system: marl.MultiAgentSystem) -> float:
    """The red army's return against a random blue one."""
    return against_random(system, "red")


def blue(system: marl.MultiAgentSystem) -> dict[str, float]:
    """The other way round."""
    return {"blue against random": round(against_random(system, "blue"), 2)}


def hunt(system: marl.MultiAgentSystem, **messages: Any) -> float:
    """Steps until all predators are on the prey; negative, so that more is better."""
    lengths = system.evaluate(episodes=1_000, num_envs=250, **messages).episode_lengths
    return -sum(lengths) / len(lengths)


def message(system: marl.MultiAgentSystem) -> dict[str, float]:
    """How often the listener arrives, and what it earns when the message is another episode's."""
    from tests.benchmarks import messages

    return messages.measure(system)


def pairings(system: marl.MultiAgentSystem) -> dict[str, float]:
    """What predators earn with and against random play."""
    from tests.benchmarks import chase

    return chase.measure(system)


TASKS = {
    "cartpole": Task("cartpole", 475, needed=0.8),
    "cartpole_a2c": Task("cartpole_a2c", 475),
    "cartpole_appo": Task("cartpole", 475, needed=0.8, change=corrected),
    "cartpole_impala": Task("cartpole", 475, needed=0.8, change=impala),
    "acrobot": Task("acrobot", -95),
    "pendulum": Task("pendulum", -250),
    "spread_ippo": Task("spread", -36, critic=marl.Local()),
    "spread_mappo": Task("spread", -36, critic=marl.Joint()),
    "spread_native_ippo": Task("spread_native", -36, critic=marl.Local(), original="mpe2.simple_spread_v3"),
    "spread_native_mappo": Task("spread_native", -36, critic=marl.Joint(), original="mpe2.simple_spread_v3"),
    "spread_native_appo": Task(
        "spread_native", -36, critic=marl.Local(), original="mpe2.simple_spread_v3", change=corrected
    ),
    "pendulum_ddpg": Task("pendulum_ddpg", -190, original="Pendulum-v1"),
    "pendulum_td3": Task("pendulum_td3", -190, original="Pendulum-v1"),
    "pendulum_sac": Task("pendulum_sac", -190, original="Pendulum-v1"),
    "cartpole_dqn": Task("cartpole_dqn", 475, original="CartPole-v1"),
    "connect_four_dqn": Task("connect_four_dqn", games=2_000, wins=(0.86, 0.86)),
    "acrobot_dqn": Task("acrobot_dqn", -95, original="Acrobot-v1"),
    "mountain_car": Task("mountain_car", -120, needed=0.8),
    "mountain_car_continuous_sac": Task("mountain_car_continuous_sac", 90, original="MountainCarContinuous-v0"),
    "switch_riddle": Task("switch_riddle", 0.99, needed=0.8, measure=riddle.share, also=worth(riddle.share)),
    "switch_riddle_rial": Task("switch_riddle_rial", 0.97, needed=0.8, measure=riddle.share, also=worth(riddle.share)),
    "reference_tarmac": Task("reference_tarmac", -30, measure=goals_told, also=worth(goals_told)),
    "predator_prey": Task("predator_prey", -10, measure=hunt, also=worth(hunt)),
    "predator_prey_silent": Task("predator_prey", at_most=-11, measure=hunt, channel=False),
    "lever": Task("lever", 0.94, measure=levers, also=worth(levers)),
    "lever_silent": Task("lever", at_most=0.7, measure=levers, channel=False),
    "traffic_junction": Task("traffic_junction", 0.93, measure=crossing, also=worth(crossing)),
    "traffic_junction_silent": Task("traffic_junction", at_most=0.85, measure=crossing, channel=False),
    "catch": Task("catch", 0.95),
    "t_maze": Task("t_maze", 0.99, needed=0.8),
    "cartpole_masked": Task("cartpole_masked", 475, needed=0.8),
    "reach": Task("reach", 0.95, measure=arrived),
    "reach_plain": Task("reach", at_most=0.3, measure=arrived, hindsight=False),
    "gridworld_curriculum": Task("gridworld_curriculum", 0.9),
    "gridworld_plain": Task("gridworld_curriculum", at_most=0.2, curriculum=False),
    "gridworld_adaptive": Task("gridworld_adaptive", 0.9),
    "gridworld_growing": Task("gridworld_growing", 5.0),
    "spread_growing": Task("spread_growing"),
    "spread_growing_plain": Task("spread_growing", curriculum=False),
    "pursuit_vision": Task("pursuit_vision", 3.0),
    "pursuit_vision_plain": Task("pursuit_vision", at_most=1.5, curriculum=False),
    "spread_vdn": Task("spread_vdn", -34, original="mpe2.simple_spread_v3"),
    "spread_qmix": Task("spread_qmix", -34, original="mpe2.simple_spread_v3"),
    "spread_iql": Task("spread_iql", -34, original="mpe2.simple_spread_v3"),
    "spread_masac": Task("spread_masac", -34, original="mpe2.simple_spread_v3"),
    "spread_maddpg": Task("spread_maddpg", -34, original="mpe2.simple_spread_v3"),
    "spread_matd3": Task("spread_matd3", -34, original="mpe2.simple_spread_v3"),
    "speaker_listener": Task("speaker_listener", -25, measure=goal_named, also=worth(goal_named, ["speaker_0"])),
    "speaker_listener_maddpg": Task(
        "speaker_listener_maddpg", -19.5, original="mpe2.simple_speaker_listener_v4", also=message
    ),
    "tag_maddpg": Task("tag_maddpg", original="mpe2.simple_tag_v3", also=pairings),
    "foraging": Task("foraging", 0.98, original="Foraging-8x8-2p-2f-coop-v3"),
    "pistonball": Task("pistonball", episodes=20),
    "cooperative_pong": Task("cooperative_pong", episodes=20),
    "multiwalker": Task("multiwalker", episodes=10),
    "battle": Task("battle", measure=red, also=blue),
    "rware": Task("rware", episodes=40),
    "mamujoco": Task("mamujoco", episodes=5),
    "tictactoe": Task("tictactoe", 1.0, games=2_000, wins=(0.96, 0.85)),
    "connect_four": Task("connect_four", 0.95, games=2_000, wins=(0.9, 0.874)),
    "lewis": Task("lewis", 2.0),
    "kuhn": Task("kuhn", -0.1, measure=poker),
    "rock_paper_scissors": Task("rock_paper_scissors", -0.01, measure=throws),
}


def run(
    task: Task,
    seed: int,
    steps: int | None,
    curve: list[curves.Point] | None = None,
    *,
    random: bool = False,
    keep: Path | None = None,
    measure: bool = True,
    **place: Any,
) -> dict[str, float]:
    """Train one seed and measure it.

    Args:
        task: what to train.
        seed: of everything.
        steps: environment steps; None: the scenario's.
        curve: measurements on the way, in the training environment, are appended to it.
        random: measure random play instead.
        keep: a folder for the run.
        measure: False: train alone, as ranks other than 0 do.
        place: where the copies are, as in ``MultiAgentSystem(ray=, actors=, staleness=)``.
    """
    scenario = task.make()
    if random:
        teams = scenario.agents if isinstance(scenario.agents, Mapping) else {"*": scenario.agents}
        agents = dict.fromkeys(teams, marl.Random())
        scenario = dataclasses.replace(scenario, agents=agents, algorithms={}, shaping=())
    every = None if curve is None else (steps or scenario.steps) // curves.POINTS

    first: dict[str, float] = {}

    def note(metrics: Mapping[str, float]) -> None:
        long = task.of_episodes and metrics["episodes"] >= 100
        if long and not first and metrics.get("mean_return", -math.inf) >= task.at_least:
            first.update({"reached at": int(metrics["steps"]), "after": round(time.perf_counter() - began, 1)})
        if curve is not None and "evaluation_return" in metrics:
            curve.append(curves.Point(seed, int(metrics["steps"]), round(metrics["evaluation_return"], 3)))

    with marl.MultiAgentSystem(None, scenario, seed=seed, **place) as system:
        began = time.perf_counter()
        if not random:
            folder = keep and keep / f"{task.scenario}-{seed}"
            system.train(steps=steps, callback=note, evaluate_every=every, evaluate_episodes=100, run_dir=folder)
        row: dict[str, float] = {"seed": seed, "steps": system.steps, "seconds": round(time.perf_counter() - began, 1)}
        row |= first
        if not measure:
            return row
        if task.games:
            for seat, score in versus(system, games=task.games).items():
                row[f"{seat} wins"], row[f"{seat} draws"], row[f"{seat} losses"] = score.wins, score.draws, score.losses
                row[f"{seat} illegal"] = score.illegal
            row["result"] = versus_share(row, system.spec.agents[0])
        elif task.measure is not None:
            row["result"] = round(task.measure(system), 4)
        else:
            report = system.evaluate(episodes=task.episodes, env=task.original)
            row["result"] = round(report.teams[task.team].mean_return if task.team else report.mean_return, 2)
            if len(report.teams) > 1:
                row |= {name: round(team.mean_return, 2) for name, team in report.teams.items()}
        if task.also is not None:
            row |= task.also(system)
    return row


def versus_share(row: dict[str, float], seat: str) -> float:
    """The share of its games that a seat won or drew."""
    unbeaten = row[f"{seat} wins"] + row[f"{seat} draws"]
    return round(unbeaten / (unbeaten + row[f"{seat} losses"]), 4)


def reached(task: Task, row: dict[str, float]) -> bool:
    """Whether a seed reaches everything that the task asks for."""
    shares = [row[name] / task.games for name in row if name.endswith(" wins")]
    low, high = task.at_least, task.at_most
    within = (low is None or row["result"] >= low) and (high is None or row["result"] <= high)
    return within and all(share >= least for share, least in zip(shares, task.wins, strict=False))


def main(arguments: Sequence[str] | None = None) -> bool:
    """Print one line per seed and a verdict; True if the task is met or has no threshold."""
    about = (__doc__ or "").split(":")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.learning", description=about)
    known = sorted({*TASKS, *names()} - {"spread"})  # each algorithm of a scenario is a task here
    parser.add_argument("task", choices=known)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="environment steps of each seed (default: the scenario's)")
    parser.add_argument("--threads", type=int, default=1, help="threads that learners use, 1 or 2 (default: 1)")
    parser.add_argument("--curves", type=Path, help="folder for the learning curves, such as docs/curves")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave a run folder of each seed there")
    parser.add_argument("--random", action="store_true", help="train nothing: measure random play")
    parser.add_argument("--actors", type=int, metavar="N", help="actors of a Ray cluster that step the copies")
    parser.add_argument("--staleness", type=int, metavar="S", help="they collect rollouts, at most so many updates old")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    options = parser.parse_args(arguments)
    parallel.set_threads(options.threads)
    task = TASKS.get(options.task) or Task(options.task)
    place = {"ray": options.actors and LOCAL, "actors": options.actors, "staleness": options.staleness}
    how: dict[str, Any] = {"random": options.random, "keep": options.keep, **place}
    together = ranks.join()
    if together is not None and not together.first:
        for seed in options.seeds:
            run(task, seed, options.steps, measure=False, **how)
        ranks.leave()
        return True  # rank 0 says it
    rows = []
    for seed in options.seeds:
        curve: list[curves.Point] | None = [] if options.curves else None
        rows.append(run(task, seed, options.steps, curve, **how))
        if curve:
            curves.keep(options.curves / f"{options.task}.csv", curve)
        if not options.json:
            print("  ".join(f"{name} {value:g}" for name, value in rows[-1].items()), flush=True)
    ranks.leave()
    results = [row["result"] for row in rows]
    met = sum(reached(task, row) for row in rows) >= task.needed * len(rows)
    if options.json:
        print(json.dumps({"task": options.task, "at_least": task.at_least, "met": met, "rows": rows}))
    else:
        limits = [
            f"{word} {limit:g}" for word, limit in (("at least", task.at_least), ("at most", task.at_most)) if limit
        ]
        if task.wins:
            limits.append(f"won {' and '.join(f'{share:.1%}' for share in task.wins)} by seat")
        wanted = f", wanted {' and '.join(limits)}: {'met' if met else 'MISSED'}" if limits else ""
        print(f"{options.task}: mean {sum(results) / len(results):.2f} over {len(rows)} seeds{wanted}")
    return met


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
