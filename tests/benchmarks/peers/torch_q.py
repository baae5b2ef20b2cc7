"""Recurrent VDN and QMIX in plain torch, as EPyMARL has it: ``nn.GRUCell`` in a loop over time, on our compiled world.

An agent's network is a layer, a GRU cell and a layer, one for all agents; ``work.variant`` is ``qmix`` or ``vdn``. The
copies play whole episodes together; after each of these rounds one update learns from ``BATCH`` whole episodes, target
and network each in a loop over the time steps, the mixer over all of them. Needs marl for the world alone.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from tests.benchmarks.peers.protocol import Contender, Work, serve

BATCH = 32  # episodes of an update
BUFFER = 200  # episodes kept: 5,000 steps
EMBED, HYPERNET = 32, 64
LR, DISCOUNT, MAX_NORM = 5e-4, 0.99, 10.0
EPSILON = 0.05
TARGET_EVERY = 200  # updates


def make(work: Work) -> Contender:
    """Learning from the first question on."""
    import marl_envs
    import torch
    from torch import nn

    torch.set_num_threads(work.threads)
    torch.manual_seed(work.seed)
    rng = np.random.default_rng(work.seed)
    world = marl_envs.Spread(N=work.agents, max_cycles=work.max_cycles).batch_env(work.copies)
    (team,) = world.spec.teams
    copies, agents, length = work.copies, work.agents, work.max_cycles
    width, choices = team.obs.shape[0], team.action.sizes[0]

    class Agent(nn.Module):
        """``Q`` of one agent's actions."""

        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(width + agents, work.hidden)
            self.cell = nn.GRUCell(work.hidden, work.hidden)
            self.leave = nn.Linear(work.hidden, choices)

        def forward(self, x: Any, hidden: Any) -> tuple[Any, Any]:
            hidden = self.cell(torch.relu(self.enter(x)), hidden)
            return self.leave(hidden), hidden

    class Mixer(nn.Module):
        """QMIX's, over all rows at once."""

        def __init__(self, states: int) -> None:
            super().__init__()
            self.weight_1 = nn.Sequential(nn.Linear(states, HYPERNET), nn.ReLU(), nn.Linear(HYPERNET, agents * EMBED))
            self.bias_1 = nn.Linear(states, EMBED)
            self.weight_2 = nn.Sequential(nn.Linear(states, HYPERNET), nn.ReLU(), nn.Linear(HYPERNET, EMBED))
            self.value = nn.Sequential(nn.Linear(states, EMBED), nn.ReLU(), nn.Linear(EMBED, 1))

        def forward(self, values: Any, state: Any) -> Any:
            weight = self.weight_1(state).abs().unflatten(-1, (agents, EMBED))
            hidden = nn.functional.elu((values.unsqueeze(-2) @ weight).squeeze(-2) + self.bias_1(state))
            return (hidden * self.weight_2(state).abs()).sum(-1) + self.value(state).squeeze(-1)

    net = Agent()
    mixer = Mixer(agents * width) if work.variant == "qmix" else None
    target, target_mixer = copy.deepcopy(net), copy.deepcopy(mixer)
    parameters = [*net.parameters(), *([] if mixer is None else mixer.parameters())]
    optimizer = torch.optim.Adam(parameters, lr=LR)
    ids = torch.eye(agents)

    # Whole episodes; observations have one row more, the last successor.
    kept: dict[str, Any] = {
        "obs": torch.zeros(BUFFER, length + 1, agents, width),
        "action": torch.zeros(BUFFER, length, agents, dtype=torch.int64),
        "reward": torch.zeros(BUFFER, length),
    }
    state = {"place": 0, "count": 0, "updates": 0}
    obs = [torch.from_numpy(world.reset(work.seed).teams[0].obs.copy())]

    def unroll(q: Any, episodes: Any) -> Any:
        """Values ``(B, T + 1, N, A)``, one time step after the other."""
        hidden = torch.zeros(len(episodes) * agents, work.hidden)
        found = []
        for t in range(length + 1):
            x = torch.cat((episodes[:, t], ids.expand(len(episodes), -1, -1)), dim=-1)
            values, hidden = q(x.flatten(0, 1), hidden)
            found.append(values.view(len(episodes), agents, choices))
        return torch.stack(found, dim=1)

    def play() -> None:
        """One episode of every copy into the buffer."""
        places = (state["place"] + np.arange(copies)) % BUFFER
        hidden = torch.zeros(copies * agents, work.hidden)
        with torch.no_grad():
            for t in range(length):
                kept["obs"][places, t] = obs[0]
                x = torch.cat((obs[0], ids.expand(copies, -1, -1)), dim=-1)
                values, hidden = net(x.flatten(0, 1), hidden)
                best = values.view(copies, agents, choices).argmax(-1).numpy()
                stray = rng.random(best.shape) < EPSILON
                action = np.where(stray, rng.integers(0, choices, best.shape), best)
                (seen,) = world.step([action]).teams
                kept["action"][places, t] = torch.from_numpy(action)
                kept["reward"][places, t] = torch.from_numpy(seen.reward.mean(-1).astype(np.float32))
                obs[0] = torch.from_numpy(seen.obs.copy())
            kept["obs"][places, length] = torch.from_numpy(seen.next_obs.copy())
        state["place"] = int((state["place"] + copies) % BUFFER)
        state["count"] = min(state["count"] + copies, BUFFER)

    def learn() -> None:
        chosen = torch.from_numpy(rng.integers(0, state["count"], BATCH))
        batch = {name: part[chosen] for name, part in kept.items()}
        values = unroll(net, batch["obs"])
        now = values[:, :-1].gather(-1, batch["action"].unsqueeze(-1)).squeeze(-1)
        states = batch["obs"].flatten(2)
        with torch.no_grad():
            best = values.detach()[:, 1:].argmax(-1, keepdim=True)
            later = unroll(target, batch["obs"])[:, 1:].gather(-1, best).squeeze(-1)
            total = later.sum(-1) if target_mixer is None else target_mixer(later, states[:, 1:])
            aim = batch["reward"] + DISCOUNT * total
        mixed = now.sum(-1) if mixer is None else mixer(now, states[:, :-1])
        loss = (mixed - aim).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()
        state["updates"] += 1
        if state["updates"] % TARGET_EVERY == 0:
            target.load_state_dict(net.state_dict())
            if mixer is not None and target_mixer is not None:
                target_mixer.load_state_dict(mixer.state_dict())

    while state["count"] < BATCH:
        play()

    def iterate(count: int) -> dict[str, Any]:
        for _ in range(count):
            play()
            learn()
        return {"steps": count * copies * length}

    return Contender(iterate, {"torch": torch.__version__}, world.close)


if __name__ == "__main__":
    serve(make)
