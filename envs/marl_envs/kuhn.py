"""Kuhn poker, turn by turn, and its exact numbers: values, best responses, NashConv.

Two players put in 1 each and get one of three cards, 0 to 2. In turn they pass or bet 1; after a bet the other folds
(passes) or calls (bets). The higher card wins what is in. With perfect play the first player loses 1/18 a game.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import AECEnv

from marl.types import Array

PASS, BET = 0, 1
CARDS = 3
DEALS = tuple(permutations(range(CARDS), 2))
PLAYERS = ("player_0", "player_1")
# What has been played when somebody is to move; then who moves.
HISTORIES = {"": 0, "p": 1, "b": 1, "pb": 0}
# What a finished game pays to the first player: sign (None: of the cards) and size.
PAYOFFS: dict[str, tuple[int | None, int]] = {
    "pp": (None, 1),
    "bp": (1, 1),
    "bb": (None, 2),
    "pbp": (-1, 1),
    "pbb": (None, 2),
}

InformationSet = tuple[int, str]  # own card, history
Policy = Mapping[InformationSet, float]  # the probability of a bet


class Kuhn(AECEnv[str, Any, Any]):
    """Kuhn poker as a PettingZoo environment: ``player_0`` and ``player_1``; action 0 passes, 1 bets.

    Observation ``(7,)``: own card one-hot, then the first and the second action one-hot (zeros: not played yet).
    """

    metadata = {"name": "kuhn_v0", "is_parallelizable": False, "render_modes": ["ansi"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        """Create the environment; the class documents the arguments."""
        self.possible_agents = list(PLAYERS)
        self.observation_spaces = {agent: Box(0, 1, (7,), np.float32) for agent in PLAYERS}
        self.action_spaces = {agent: Discrete(2) for agent in PLAYERS}
        self.render_mode = render_mode
        self.random = np.random.default_rng()

    def observation_space(self, agent: str) -> gymnasium.Space[Any]:
        """The same for both."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        """Pass or bet."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> None:
        """Deal."""
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.cards = DEALS[int(self.random.integers(len(DEALS)))]
        self.history = ""
        self.agents = list(PLAYERS)
        self.rewards = dict.fromkeys(PLAYERS, 0.0)
        self._cumulative_rewards = dict.fromkeys(PLAYERS, 0.0)
        self.terminations = dict.fromkeys(PLAYERS, False)
        self.truncations = dict.fromkeys(PLAYERS, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in PLAYERS}
        self.agent_selection = PLAYERS[0]

    def observe(self, agent: str) -> Array:
        """What a player knows."""
        return observation(self.cards[PLAYERS.index(agent)], self.history)

    def step(self, action: int | None) -> None:
        """Pass or bet."""
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        self.history += "pb"[int(action or 0)]
        if self.history in PAYOFFS:
            paid = float(payoff(self.cards, self.history))
            self.rewards = {PLAYERS[0]: paid, PLAYERS[1]: -paid}
            self.terminations = dict.fromkeys(PLAYERS, True)
        self.agent_selection = PLAYERS[len(self.history) % 2]
        self._accumulate_rewards()

    def render(self) -> str | None:
        """Cards and what was played."""
        return f"{self.cards} {self.history or '-'}" if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Nothing to release."""


def observation(card: int, history: str) -> Array:
    """What a player with this card sees, ``(7,)``."""
    seen = np.zeros(7, dtype=np.float32)
    seen[card] = 1
    for turn, action in enumerate(history[:2]):
        seen[CARDS + 2 * turn + "pb".index(action)] = 1
    return seen


def payoff(cards: Sequence[int], history: str) -> int:
    """What a finished game pays to the first player."""
    sign, size = PAYOFFS[history]
    return size * (sign if sign is not None else 1 if cards[0] > cards[1] else -1)


def information_sets(player: int) -> list[InformationSet]:
    """All situations in which a player may have to move."""
    return [(card, history) for history, mover in HISTORIES.items() if mover == player for card in range(CARDS)]


def value(policies: Sequence[Policy]) -> float:
    """What the first player wins per game on average."""

    def play(cards: Sequence[int], history: str) -> float:
        if history in PAYOFFS:
            return payoff(cards, history)
        mover = HISTORIES[history]
        bet = policies[mover][cards[mover], history]
        return (1 - bet) * play(cards, history + "p") + bet * play(cards, history + "b")

    return sum(play(cards, "") for cards in DEALS) / len(DEALS)


def best_response(player: int, policies: Sequence[Policy]) -> tuple[float, dict[InformationSet, float]]:
    """What a player could win per game against the other's policy, and a pure policy that does."""
    sign = 1 if player == 0 else -1
    answer: dict[InformationSet, float] = {}

    def play(cards: Sequence[int], history: str) -> float:
        """What a game from here pays to the player."""
        if history in PAYOFFS:
            return sign * payoff(cards, history)
        mover = HISTORIES[history]
        bet = (answer if mover == player else policies[mover])[cards[mover], history]
        return (1 - bet) * play(cards, history + "p") + bet * play(cards, history + "b")

    def reach(cards: Sequence[int], history: str) -> float:
        """How likely the other lets it come to this."""
        chance = 1.0
        for turn, action in enumerate(history):
            if turn % 2 != player:
                bet = policies[1 - player][cards[1 - player], history[:turn]]
                chance *= bet if action == "b" else 1 - bet
        return chance

    # The last moves first: what an earlier one is worth depends on them.
    for card, history in sorted(information_sets(player), key=lambda known: -len(known[1])):
        deals = [cards for cards in DEALS if cards[player] == card]

        def worth(action: str, deals: Sequence[Sequence[int]] = deals, history: str = history) -> float:
            return sum(reach(cards, history) * play(cards, history + action) for cards in deals)

        answer[card, history] = float(worth("b") > worth("p"))
    return sum(play(cards, "") for cards in DEALS) / len(DEALS), answer


def nash_conv(policies: Sequence[Policy]) -> float:
    """What both players could gain together by best responses; 0 at equilibria, 11/12 for uniform play."""
    return best_response(0, policies)[0] + best_response(1, policies)[0]


def tabulate(player: int, bets: Callable[[Array], Array]) -> dict[InformationSet, float]:
    """The policy that ``bets(observations (K, 7)) -> (K,)`` says, probabilities of a bet."""
    known = information_sets(player)
    chances = np.asarray(bets(np.stack([observation(card, history) for card, history in known])))
    return dict(zip(known, chances.tolist(), strict=True))


def mix(player: int, weights: Sequence[float], policies: Sequence[Policy]) -> dict[InformationSet, float]:
    """The policy that plays as one that is drawn before each game (Kuhn 1953).

    A component counts in a situation as much as its own moves make it likely.
    """
    mixed = {}
    for card, history in information_sets(player):
        own = [turn for turn in range(len(history)) if turn % 2 == player]
        reaches = []
        for weight, policy in zip(weights, policies, strict=True):
            for turn in own:
                bet = policy[card, history[:turn]]
                weight *= bet if history[turn] == "b" else 1 - bet
            reaches.append(weight)
        total = sum(reaches)
        bets = [policy[card, history] for policy in policies]
        mixed[card, history] = float(np.dot(reaches, bets) / total) if total > 0 else 0.5
    return mixed
