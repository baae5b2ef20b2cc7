"""Exact best responses in noughts and crosses: what a perfect opponent wins against a policy.

    python -m tests.league.tictactoe RUN [--greedy]

Both seats of the policy are examined. A seat's exploitability is what the opponent wins a game by playing perfectly
against it (1 for a win, -1 for a loss); 0 means that the seat never loses. Their sum is NashConv: the value is 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch

import marl
from marl.league.members import Member
from marl.memory.base import PolicyInput

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
Board = tuple[int, ...]  # 0 empty, 1 and 2 the players' marks, by field


def winner(board: Board) -> int:
    """1 or 2; 0 for nobody."""
    return next((board[a] for a, b, c in LINES if board[a] and board[a] == board[b] == board[c]), 0)


def positions() -> dict[Board, int]:
    """Every position that is not over, and whose turn it is (0 or 1)."""
    found: dict[Board, int] = {}

    def visit(board: Board, mover: int) -> None:
        if board in found or winner(board) or all(board):
            return
        found[board] = mover
        for field in range(9):
            if not board[field]:
                visit((*board[:field], mover + 1, *board[field + 1 :]), 1 - mover)

    visit((0,) * 9, 0)
    return found


POSITIONS = positions()


def policy_of(system: marl.MultiAgentSystem, greedy: bool) -> dict[Board, np.ndarray]:
    """The system's move probabilities ``(9,)`` in every position, in the seat of whoever is to move."""
    spec = system.spec.teams[0]
    member = Member(0, 0, "it", system.learners[0].policy(None), (), greedy=greedy)
    boards = list(POSITIONS)
    codecs = [system.agent(name).codec for name in spec.agents]
    obs = np.zeros((len(boards), 2, *spec.obs.shape), dtype=np.float32)
    action_mask = np.ones((len(boards), 2, 9), dtype=bool)
    for row, board in enumerate(boards):
        mover, marks = POSITIONS[board], np.array(board).reshape(3, 3)
        planes = np.stack([marks == mover + 1, marks == 2 - mover], axis=-1).astype(np.int8)
        seen = {"observation": planes, "action_mask": (marks.reshape(-1) == 0).astype(np.int8)}
        obs[row, mover], action_mask[row, mover] = codecs[mover].encode(seen, None)
    acting = torch.ones(len(boards), 2, dtype=torch.bool)
    started = torch.zeros(len(boards), dtype=torch.bool)
    inputs = PolicyInput(
        torch.from_numpy(obs), torch.zeros(len(boards), 2, 0), started, acting, torch.from_numpy(action_mask)
    )
    parameters, _ = member.parameters(inputs)
    if greedy:
        moves = member.distribution.mode(parameters, inputs.action_mask)
        chances = torch.nn.functional.one_hot(moves, 9).double()
    else:
        chances = torch.where(inputs.action_mask, parameters, -torch.inf).softmax(-1).double()
    return {board: chances[row, POSITIONS[board]].numpy() for row, board in enumerate(boards)}


def best_response(policy: dict[Board, np.ndarray], player: int) -> float:
    """What ``player`` wins a game by perfect play against the policy in the other seat."""
    known: dict[Board, float] = {}

    def worth(board: Board, mover: int) -> float:
        """To ``player``."""
        if winner(board):
            return 1.0 if winner(board) == player + 1 else -1.0
        if all(board):
            return 0.0
        if board not in known:
            moves = {
                field: worth((*board[:field], mover + 1, *board[field + 1 :]), 1 - mover)
                for field in range(9)
                if not board[field]
            }
            if mover == player:
                known[board] = max(moves.values())
            else:
                known[board] = sum(policy[board][field] * value for field, value in moves.items())
        return known[board]

    return worth((0,) * 9, 0)


def exploitability(system: marl.MultiAgentSystem, greedy: bool = False) -> tuple[float, float]:
    """What a perfect opponent wins against the system as first and as second player."""
    policy = policy_of(system, greedy)
    return float(best_response(policy, 1)), float(best_response(policy, 0))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both seats."""
    from pathlib import Path

    from marl.run import candidates

    parser = argparse.ArgumentParser(prog="python -m tests.league.tictactoe", description=(__doc__ or "").split(":")[0])
    parser.add_argument("run")
    parser.add_argument("--greedy", action="store_true", help="take the most likely moves instead of sampling")
    options = parser.parse_args(arguments)
    with marl.MultiAgentSystem.load(candidates(Path(options.run), "last")[0]) as system:
        first, second = exploitability(system, options.greedy)
    print(f"a perfect opponent wins {first:.3f} against it as first and {second:.3f} as second player")


if __name__ == "__main__":
    main()
