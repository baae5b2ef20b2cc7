"""What tests/test_ranks.py has two ranks do: a process of its own for each of them."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from marl_envs.kuhn import Kuhn
from marl_envs.reach import Reach
from marl_envs.spread import Spread
from safetensors.torch import save_file
from torch import Tensor

import marl
from marl.compiled import backend, use
from marl.exploration import BoltzmannGumbel, EpsilonGreedy, OrnsteinUhlenbeck
from marl.memory.hindsight import Hindsight
from marl.memory.priorities import Prioritized

SMALL: dict[str, Any] = {"rollout": 16, "network": marl.MLP((16,))}
WHOLE: dict[str, Any] = {**SMALL, "normalize_obs": True, "normalize_values": True}
GRU: dict[str, Any] = {"rollout": 16, "sequence": 8, "network": marl.GRU(8, encoder=marl.MLP((8,)))}
# 20 updates in as many steps, from a ring that is filled twice. Of two rows often none lies in a rank. What does not
# normalize, of SAC, and what has neither mixer nor memory nor streams of values, of DQN, is compiled.
OFF: dict[str, Any] = {
    **{"network": marl.MLP((16,)), "buffer": 640, "batch": 24, "learning_starts": 32, "updates_per_step": 1 / 62},
    "normalize_obs": True,
}
OWN: dict[str, Any] = {**OFF, "sharing": "none"}
GOALS = Hindsight("marl_envs.reach:compute_reward")
CASES: dict[str, tuple[Any, Any]] = {
    "ppo": (marl.PPO(**WHOLE, epochs=2, minibatches=4), Spread),
    "ppo-own-parameters": (marl.PPO(**WHOLE, epochs=2, minibatches=4, sharing="none"), Spread),
    "mappo-kl": (marl.PPO(**WHOLE, critic=marl.Joint(), epochs=4, minibatches=2, target_kl=0.002, lr=1e-3), Spread),
    "mappo-gru": (marl.PPO(**GRU, critic=marl.Joint(), epochs=2, minibatches=8), Spread),
    "a2c": (marl.A2C(**WHOLE), Spread),
    "ppo-box": (marl.PPO(**SMALL, epochs=2, minibatches=2), Reach),
    "dqn": (marl.DQN(**OFF, dueling=True, leniency=0.3), Spread),
    "dqn-own-parameters": (marl.DQN(**OWN, exploration=EpsilonGreedy(0.5, spread=2.0)), Spread),
    "dqn-batch-of-two": (marl.DQN(**{**OFF, "batch": 2}, n_step=3), Spread),
    "qmix": (marl.DQN(**OFF, credit=marl.QMix()), Spread),
    "qmix-own-parameters": (marl.DQN(**OWN, credit=marl.QMix()), Spread),
    "dqn-gru": (marl.DQN(**{**OFF, "network": marl.GRU(8), "batch": 6}, sequence=8, burn_in=2), Spread),
    "maddpg": (marl.DDPG(**OFF, critic=marl.Joint()), Spread),
    "maddpg-own-parameters": (marl.DDPG(**OWN, critic=marl.Joint()), Spread),
    "ddpg-goals": (marl.DDPG(**{**OFF, "batch": 2}, exploration=OrnsteinUhlenbeck(), hindsight=GOALS), Reach),
    "td3": (marl.TD3(**OWN), Reach),
    "sac": (marl.SAC(**OFF), Reach),
    "sac-own-parameters": (marl.SAC(**{**OWN, "normalize_obs": False, "batch": 2}), Reach),
    "dqn-in-turns": (marl.DQN(**OFF), Kuhn),
}
COPIES, UPDATES = 4, 20
RESUMED = ("mappo-gru", "sac", "dqn-in-turns")
REFUSED: dict[str, dict[str, Any]] = {
    "do not divide": {"num_envs": 3},
    "league=": {"league": marl.League()},
    "workers=": {"workers": 2},
    "prioritized=": {"agents": marl.DQN(prioritized=Prioritized())},
    "BoltzmannGumbel": {"agents": marl.DQN(exploration=BoltzmannGumbel())},
    "sequential=True": {"agents": marl.PPO(sharing="none", sequential=True)},
    "channel=": {"agents": marl.PPO(channel=marl.CommNet())},
}


def system(name: str, **others: Any) -> marl.MultiAgentSystem:
    """The system of a case."""
    agents, env = CASES[name]
    return marl.MultiAgentSystem(agents, env, **{"num_envs": COPIES, "seed": 3, **others})


def found(trained: marl.MultiAgentSystem) -> dict[str, Tensor]:
    """What is compared: parameters, normalizers, the last row of metrics, episodes."""
    numbers = {}
    for place, learner in enumerate(trained.learners):
        state = learner.state_dict()
        for name, module in (state["modules"] if "modules" in state else {"model": state["model"]}).items():
            numbers |= {f"model/{place}/{name}/{key}": x.clone() for key, x in module.items() if "carry" not in key}
        numbers[f"generator/{place}"] = state["generator"]
        if "log_temperature" in state:
            numbers[f"model/{place}/temperature"] = state["log_temperature"].clone()
    history = trained.history
    numbers |= {f"history/{key}": torch.tensor(list(history[key])) for key in history if "per_second" not in key}
    return numbers


def loaded(folder: Path, name: str) -> marl.MultiAgentSystem:
    """What ranks saved in the middle of a case."""
    return marl.MultiAgentSystem.load(folder / f"saved-{name}", env=CASES[name][1])


def trained(name: str, updates: int = UPDATES) -> dict[str, Tensor]:
    """Train a case from its beginning."""
    with quickly(name), system(name) as one:
        one.train(steps=updates * 16 * COPIES, log_every=16 * COPIES)
        return found(one)


def quickly(name: str) -> AbstractContextManager[None]:
    """Within it recurrent gradients are torch's: to compile them takes longer than everything else here."""
    return use("off" if "gru" in name else backend.word)


def refusals() -> list[str]:
    """What is said of what ranks cannot train."""
    said = []
    for wrong in REFUSED.values():
        given = {"agents": marl.PPO(**SMALL), "num_envs": COPIES, **wrong}
        try:
            marl.MultiAgentSystem(given.pop("agents"), Spread, **given).close()
            said.append("nothing was refused")
        except marl.ConfigError as error:
            said.append(str(error))
    return said


def main(folder: Path, rank: int, size: int) -> None:
    """Do everything that is asked in the test file, and write what came of it."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(folder / "store"), size), rank=rank, world_size=size,
        timeout=timedelta(seconds=300),
    )  # fmt: skip
    for name in CASES:
        save_file(trained(name), folder / f"{name}-{rank}.safetensors")
    (folder / f"refused-{rank}.txt").write_text("\n".join(refusals()))
    steps = 16 * COPIES
    for name in RESUMED:
        with quickly(name), system(name) as one:
            one.train(steps=4 * steps + 20, log_every=steps)  # in the middle of a rollout
            one.save(folder / f"saved-{name}")
            one.train(steps=4 * steps, log_every=steps)
            save_file(found(one), folder / f"straight-{name}-{rank}.safetensors")
        dist.barrier()
        with quickly(name), loaded(folder, name) as one:
            one.train(steps=4 * steps, log_every=steps)
            save_file(found(one), folder / f"resumed-{name}-{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
