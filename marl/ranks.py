"""Processes that train one system together, each with a share of its copies: torchrun's ranks.

``torchrun --nproc-per-node 2 -m marl train spread`` starts them. Every rank holds the same learners and the same random
streams, and draws from them for all copies, of which it uses its own; so the union of what the ranks do is what one
process does. Rank 0 owns the run folder: the others answer when it asks for their part of a checkpoint.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from marl.launched import end_with_launcher
from marl.types import ConfigError, ResourceError

DONE, GATHER = 0, 1  # what rank 0 tells the others
JOIN = timedelta(minutes=2)  # for ranks to find each other: gloo's may miss one another after a restart, and wait on
PATIENCE = timedelta(minutes=30)  # for each other later: rank 0 evaluates and saves while the others wait


class Ranks:
    """The ranks of ``torch.distributed``'s group: the :class:`~marl.reduce.Reduce` of their learners, and their talk.

    rank: which of them this process is.
    size: how many there are, at least 2.
    """

    alone = False
    called: ClassVar[str] = "ranks"
    learns: ClassVar[bool] = True  # as one; others only act

    def __init__(self) -> None:
        """Takes the group as it is."""
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.seconds = 0.0  # in sums, waiting for the slowest rank included

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which owns the run folder."""
        return self.rank == 0

    def share(self, copies: int) -> int:
        """How many of all copies each rank steps. Raises ConfigError if they do not divide."""
        if copies % self.size:
            nearest = max(1, round(copies / self.size)) * self.size
            raise ConfigError(
                f"num_envs: {copies} copies do not divide among {self.size} {self.called}; set num_envs={nearest}, "
                f"which counts those of all {self.called}"
            )
        return copies // self.size

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all ranks, in place."""
        self._all(dist.ReduceOp.SUM, tensors)

    def max(self, *tensors: Tensor) -> None:
        """Replace each tensor by the largest of all ranks, entry by entry, in place."""
        self._all(dist.ReduceOp.MAX, tensors)

    def _all(self, operation: Any, tensors: tuple[Tensor, ...]) -> None:
        """One message for all tensors of a kind: a message costs more than what is in it."""
        began = time.perf_counter()
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault(tensor.dtype, []).append(tensor)
        for same in kinds.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in same])
            with _told():
                dist.all_reduce(flat, operation)
            for tensor, part in zip(same, torch.split(flat, [tensor.numel() for tensor in same]), strict=True):
                tensor.copy_(part.view(tensor.shape))
        self.seconds += time.perf_counter() - began

    def any(self, value: bool) -> bool:
        """Whether any rank says so."""
        said = torch.tensor([int(value)])
        self.max(said)
        return bool(said)

    def tell(self, number: int) -> int:
        """What rank 0 says; the others' argument does not count."""
        said = torch.tensor([number])
        with _told():
            dist.broadcast(said, 0)
        return int(said)

    def tell_json(self, value: Any) -> Any:
        """The same of a JSON value."""
        data = json.dumps(value).encode() if self.first else b""
        said = torch.zeros(self.tell(len(data)), dtype=torch.uint8)
        if self.first:
            said.copy_(_tensor(data))
        with _told():
            dist.broadcast(said, 0)
        return json.loads(_bytes(said))

    def exchange(self, data: bytes) -> list[bytes]:
        """What every rank gives, in their order."""
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(data)
        self.sum(sizes)
        mine = torch.zeros(int(sizes.max()), dtype=torch.uint8)
        mine[: len(data)] = _tensor(data)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with _told():
            dist.all_gather(found, mine)
        return [_bytes(one[:size]) for one, size in zip(found, sizes.tolist(), strict=True)]

    def collect(self, data: bytes) -> list[bytes]:
        """Give rank 0 something: it gets what the others gave, in their order, and they get nothing."""
        if not self.first:
            with _told():
                dist.send(torch.tensor([len(data)]), 0)
                dist.send(_tensor(data), 0)
            return []
        found = []
        for other in range(1, self.size):
            size = torch.zeros(1, dtype=torch.int64)
            with _told():
                dist.recv(size, other)
                received = torch.empty(int(size), dtype=torch.uint8)
                dist.recv(received, other)
            found.append(_bytes(received))
        return found

    def answer(self, state: Callable[[], bytes]) -> None:
        """On other ranks than 0: give ``state()`` as often as rank 0 asks, until it is done."""
        while self.tell(DONE) == GATHER:
            self.collect(state())


class Member(Ranks):
    """One of several processes that act alike, each for its share of the copies; they neither learn nor talk."""

    called, learns = "actors", False

    def __init__(self, rank: int, size: int) -> None:
        """``rank``: which of ``size`` processes this is."""
        self.rank, self.size = rank, size


@dataclass(frozen=True)
class Share:
    """What of an axis that all ranks divide among them lies in this one.

    axis: which axis it is.
    size: entries of all ranks.
    own: (K,) which of them are here, in the order in which they lie here.
    """

    axis: int
    size: int
    own: Tensor


class CopiesGenerator(torch.Generator):
    """A random stream that all ranks draw alike, each for all of them; :func:`drawn` keeps what is this rank's.

    It is told from other streams by its type: torch answers ``isinstance`` of generators in Python.
    """

    ranks: Ranks | None = None
    share: Share | None = None  # what is drawn now belongs to copies or rows of which this rank has a share

    @contextmanager
    def sharing(self, share: Share | None) -> Iterator[None]:
        """Within it :func:`drawn` draws for all ranks; None: as everywhere else."""
        before, self.share = self.share, share
        try:
            yield
        finally:
            self.share = before

    def for_copies(self, copies: int) -> AbstractContextManager[None]:
        """Within it the first axis of what is drawn is that of copies, of which each rank has as many."""
        if self.ranks is None:
            return self.sharing(None)
        first = self.ranks.rank * copies
        return self.sharing(Share(0, self.ranks.size * copies, torch.arange(first, first + copies)))

    def for_rows(self, size: int, own: Tensor | None) -> AbstractContextManager[None]:
        """Within it the second axis is that of a batch of ``size`` rows, of which ``own (B,)`` are here."""
        return self.sharing(None if own is None else Share(1, size, own))


def own_part(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Of a tensor with the copies or rows of all ranks what is this rank's, while ``generator`` draws for them."""
    share = generator.share if type(generator) is CopiesGenerator else None
    return x if share is None else x.index_select(share.axis, share.own.to(x.device))


def drawn(fill: Callable[[Tensor], Tensor], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """A tensor like another one, filled with random numbers from ``generator``.

    Where ranks act, ``like (E, ...)`` or ``(L, B, ...)`` has this rank's copies or rows, and the stream is drawn from
    for those of all ranks.
    """
    if type(generator) is not CopiesGenerator or generator.share is None:
        return fill(torch.empty_like(like, memory_format=torch.contiguous_format))
    shape, share = list(like.shape), generator.share
    shape[share.axis] = share.size
    return own_part(fill(like.new_empty(shape)), generator)


def uniform(
    shape: Sequence[int], generator: torch.Generator | None, device: torch.device | str | None = None
) -> Tensor:
    """Uniform numbers of [0, 1) of a shape that begins with the copies, or has rows second; see :func:`drawn`."""
    if type(generator) is not CopiesGenerator:
        return torch.rand(shape, generator=generator, device=device, dtype=torch.float32)
    like = torch.empty(*shape, device=device, dtype=torch.float32)
    return drawn(lambda x: x.uniform_(generator=generator), like, generator)


def integers(
    below: int, shape: Sequence[int], generator: torch.Generator | None, device: torch.device | str | None = None
) -> Tensor:
    """Whole numbers from 0 to ``below - 1``, likewise."""
    if type(generator) is not CopiesGenerator:
        return torch.randint(below, shape, generator=generator, device=device)
    like = torch.empty(*shape, device=device, dtype=torch.int64)
    return drawn(lambda x: x.random_(0, below, generator=generator), like, generator)


_chosen: list[Ranks | None] = []  # what systems that are made now belong to, the innermost last


def current() -> Ranks | None:
    """The ranks that systems made now train in; None: this process trains alone."""
    if _chosen:
        return _chosen[-1]
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return _of_group()


@functools.cache
def _of_group() -> Ranks:
    return Ranks()


@contextmanager
def among(chosen: Ranks | None) -> Iterator[None]:
    """Systems that are made within it belong to these ranks; None: to this process alone."""
    _chosen.append(chosen)
    try:
        yield
    finally:
        _chosen.pop()


def apart() -> AbstractContextManager[None]:
    """Systems that are made within it belong to this process alone."""
    return among(None)


def join() -> Ranks | None:
    """Begin the group if torchrun started this process; the ranks, or None where there is one process.

    gloo carries what lies in main memory, nccl what lies on GPUs; every local rank takes the GPU of its number.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    if not dist.is_initialized():
        end_with_launcher(os.environ["RANK"] == "0")
        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        if gpus:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        with _told():
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=JOIN)
            group = dist.group.WORLD
            assert group is not None
            group.set_timeout(PATIENCE)
    return current()


def leave() -> None:
    """End the group."""
    if dist.is_available() and dist.is_initialized():
        _of_group.cache_clear()
        dist.destroy_process_group()


@contextmanager
def _told() -> Iterator[None]:
    """Say in one line that another rank is gone."""
    try:
        yield
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise ResourceError(
            f"torchrun: rank {os.environ.get('RANK', '?')} waited for another rank, which is gone or does not answer "
            f"({said:.120}); what it said stands above; the run goes on from its last checkpoint with --resume"
        ) from error


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()
