"""What ``torch.compile`` would gain: the gradient of one minibatch of PPO, four ways, in one run.

    python -m tests.benchmarks.torch_compile --copies 16 128

The work is that of :mod:`tests.benchmarks.throughput` on one thread. The loss that ``torch.compile`` gets is written
out for it, in plain operations on the same parameters, without the masks and options of ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from marl.actor_critic import Batch
from marl.learners.ppo import PPOLearner
from marl.nets.owner import weights_of
from tests.benchmarks.peers.ours import make_system, set_threads
from tests.benchmarks.peers.protocol import Work

CLIP, ENTROPY, VALUE = 0.2, 0.01, 0.5
ROUNDS = 9


def main(arguments: Sequence[str] | None = None) -> None:
    """Print milliseconds of processor time, medians of rounds in turn."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.torch_compile", description=__doc__)
    parser.add_argument("--copies", type=int, nargs="+", default=[16, 128])
    options = parser.parse_args(arguments)
    set_threads(1)
    for copies in options.copies:
        ways = candidates(copies)
        for way in ways.values():
            for _ in range(3):  # compilation among them
                way()
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                began = time.thread_time()
                for _ in range(10):
                    way()
                taken[name].append(1e2 * (time.thread_time() - began))
        print(f"{copies} copies: " + ", ".join(f"{name} {statistics.median(ms):.2f} ms" for name, ms in taken.items()))


def candidates(copies: int) -> dict[str, Callable[[], Tensor]]:
    """The same minibatch's gradient by each way."""
    work = Work(copies=copies)
    system = make_system(work)
    learner = system.learners[0]
    assert isinstance(learner, PPOLearner)
    seen: list[Batch] = []
    begin = learner.begin_update

    def begin_update(clock: object) -> Batch:
        seen.append(begin(clock))
        return seen[-1]

    learner.begin_update = begin_update  # to get hold of a batch
    system.train(steps=2 * work.steps)
    batch = seen[-1]
    rows = batch.seen.shape[1]
    place = np.random.default_rng(0).permutation(rows)[: rows // 4]
    part = batch.select(torch.from_numpy(place))
    weight = weights_of(part.complete, learner.model.owner)
    gradient, index = learner.chosen.gradient, torch.from_numpy(place)
    gradient.begin(batch)

    def ours() -> Tensor:
        gradient.fill(index, CLIP, ENTROPY)
        return learner.flat.gradients

    def ours_by_autograd() -> Tensor:
        loss, *_ = learner.compute_loss(part, weight, CLIP, ENTROPY)
        learner.flat.backward(loss)
        return learner.flat.gradients

    actor = list(learner.model.actor.parameters())
    parameters = [*actor, *learner.model.critic.parameters()]
    given = [x.reshape(-1, *x.shape[3:]) for x in
             (part.seen, part.action, part.log_prob, part.advantage, part.target, weight)]  # fmt: skip

    def plain(*arguments: Tensor) -> Tensor:
        obs, action, old, advantage, target, share = arguments[:6]
        own, critic = arguments[6 : 6 + len(actor)], arguments[6 + len(actor) :]
        log_policy = torch.log_softmax(layers(own, obs), -1)
        ratio = (log_policy.gather(-1, action[:, None]).squeeze(-1) - old).exp()
        gain = torch.min(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
        entropy = -(log_policy.exp() * log_policy).sum(-1)
        miss = (layers(critic, obs).squeeze(-1) - target).square()
        return ((VALUE * 0.5 * miss - gain - ENTROPY * entropy) * share).sum()

    compiled = torch.compile(plain)
    return {
        "marl": ours,
        "marl by autograd": ours_by_autograd,
        "plain torch": lambda: flat(torch.autograd.grad(plain(*given, *parameters), parameters)),
        "torch.compile": lambda: flat(torch.autograd.grad(compiled(*given, *parameters), parameters)),
    }


def flat(parts: Sequence[Tensor]) -> Tensor:
    """All in one row."""
    return torch.cat([part.reshape(1, -1) for part in parts], dim=1)


def layers(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
    """A tanh network of weights ``(1, in, out)`` and biases ``(1, 1, out)`` in turn."""
    *hidden, weight, bias = parameters
    for k in range(0, len(hidden), 2):
        x = torch.tanh(torch.addmm(hidden[k + 1][0], x, hidden[k][0]))
    return torch.addmm(bias[0], x, weight[0])


if __name__ == "__main__":
    main()
