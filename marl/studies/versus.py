"""Games between two sides: one system's policy in one seat, an opponent in all the others, seat by seat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from marl.adapters.lifecycle import borrow, close_env, open_env
from marl.adapters.resolve import resolve
from marl.config import check_whole
from marl.learners import Random
from marl.playing.single import Agent
from marl.system import MultiAgentSystem
from marl.types import ConfigError

SEATS = 0x5EA7  # seeds of games are spawned from (seed, SEATS, seat): never those of training or evaluation


@dataclass(frozen=True)
class Score:
    """Games of one seat. A game is won by whoever has the highest return; a tie at the top is a draw.

    Args:
        wins: games in which the system had the highest return.
        draws: games with a tie at the top.
        losses: games in which the opponent had the highest return.
        illegal: moves of the system that the action mask forbade.
        opponent_illegal: those of the opponent.
    """

    wins: int
    draws: int
    losses: int
    illegal: int
    opponent_illegal: int

    @property
    def games(self) -> int:
        """All of them."""
        return self.wins + self.draws + self.losses

    @property
    def unbeaten(self) -> float:
        """The share of games that were won or drawn."""
        return (self.wins + self.draws) / self.games

    def __str__(self) -> str:
        """One line of text."""
        won, drawn, lost = (100 * count / self.games for count in (self.wins, self.draws, self.losses))
        shares = f"won {won:.1f} %, drew {drawn:.1f} %, lost {lost:.1f} %"
        return f"{self.games} games: {shares}, {self.illegal} illegal moves"


def versus(
    system: MultiAgentSystem,
    opponent: MultiAgentSystem | None = None,
    games: int = 1000,
    *,
    seats: Sequence[str] | None = None,
    greedy: bool = True,
    seed: int = 0,
    env: Any = None,
) -> dict[str, Score]:
    """Play ``games`` games from each seat of a turn-based (AEC) environment and count how they end.

    Every player acts through its own :class:`~marl.playing.single.Agent`, from what the environment tells that player
    alone, and the mask is read straight from the environment: nothing counted here owes anything to the adapters of
    training.

    Args:
        system: the side whose games are counted.
        opponent: a system for the same environment that takes all other seats; None moves uniformly at random among the
            legal moves.
        games: games from each seat.
        seats: agent ids that ``system`` plays in turn; None means each of them.
        greedy: whether ``system`` takes its most likely move; False samples. An opponent system does the same.
        seed: of the games and of all random moves.
        env: another environment with the same agents; None takes the system's own.

    Returns:
        A score for each seat.

    Raises:
        ConfigError: if the environment is not turn-based, has one agent only, or has no such seat.
    """
    check_whole("games", games, 1)
    own = env is None
    factory, instance = resolve(
        system.environments.source if own else env, system.environments.options.get("env_kwargs") if own else None
    )
    if instance is not None and own:
        raise ConfigError("versus: this system trains on one environment instance; pass env= a function for another")
    if instance is not None:
        borrow(instance, system, keep=False)  # it stays the user's, who closes it
    players = system.spec.agents
    if not system.spec.turn_based or len(players) < 2:
        raise ConfigError(f"versus: {system.spec.env} is no turn-based game of two or more agents; use evaluate")
    scores = {}
    for seat in players if seats is None else seats:
        if seat not in players:
            raise ConfigError(f"versus: no agent {seat!r}; agents: {', '.join(players)}")
        place = players.index(seat)
        streams = np.random.SeedSequence([seed, SEATS, place]).generate_state(len(players) + 1, np.uint32).tolist()
        policies = {
            name: system.agent(name, stream) if name == seat else _opponent(system, opponent, name, stream)
            for name, stream in zip(players, streams, strict=False)
        }
        table = open_env(factory)
        try:
            options = system.setup.reset_options if own else None
            scores[seat] = _play(table, policies, seat, games, streams[-1], greedy, options)
        finally:
            if instance is None:
                close_env(table)
    return scores


def _opponent(system: MultiAgentSystem, opponent: MultiAgentSystem | None, name: str, seed: int) -> Agent:
    if opponent is not None:
        return opponent.agent(name, seed)
    team = next(team for team in system.spec.teams if name in team.agents)
    index = team.agents.index(name)
    net, distribution = Random().build(system.spec, team, 1, np.random.SeedSequence(seed), "cpu").policy(index)
    return Agent(team, index, net, distribution, seed)


def _play(
    env: Any,
    policies: Mapping[str, Agent],
    seat: str,
    games: int,
    seed: int,
    greedy: bool,
    options: Mapping[str, Any] | None,
) -> Score:
    won = drawn = lost = 0
    illegal = {True: 0, False: 0}
    for game in range(games):
        env.reset(seed=seed if game == 0 else None, **({"options": dict(options)} if options else {}))
        returns = dict.fromkeys(policies, 0.0)
        for policy in policies.values():
            policy.reset()
        gone: set[str] = set()
        for name in env.agent_iter():
            observation, reward, terminated, truncated, info = env.last()
            returns[name] += reward
            if terminated or truncated:
                gone.add(name)
                env.step(None)
                continue
            action = policies[name].act(observation, info, explore=not greedy)
            mask = _mask(observation, info)
            if mask is not None and np.ndim(action) == 0 and not mask[int(action)]:
                illegal[name == seat] += 1
            env.step(action)
        for name in returns.keys() - gone:  # let go without a dead turn: what it earned last has not been read
            returns[name] += getattr(env, "_cumulative_rewards", {}).get(name, 0.0)
        others = max(value for name, value in returns.items() if name != seat)
        won += returns[seat] > others
        drawn += returns[seat] == others
        lost += returns[seat] < others
    return Score(won, drawn, lost, illegal[True], illegal[False])


def _mask(observation: Any, info: Mapping[str, Any]) -> Any:
    own = observation.get("action_mask") if isinstance(observation, Mapping) else None
    return own if own is not None else info.get("action_mask")
