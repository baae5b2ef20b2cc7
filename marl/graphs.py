"""Functions of tensors as CUDA graphs: recorded once, then replayed in one launch instead of dozens.

A small network on a GPU spends its time on being launched: acting is some thirty kernels of a few microseconds of work
and as much of waiting each. A recording has fixed addresses, so inputs are copied to where it reads them and its
outputs are overwritten by the next call.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

Flags = tuple[bool, ...]
Input = Tensor | float | Flags | None

_enabled = True


def use_graphs(enabled: bool) -> None:
    """Turn CUDA graphs on or off for learners on a GPU; results are the same."""
    global _enabled
    _enabled = enabled


def recording(device: torch.device) -> bool:
    """Whether computations on a device are recorded as CUDA graphs."""
    return _enabled and device.type == "cuda"


class Recorded(Generic[T]):
    """``function`` of tensors, numbers, flags and None; on a GPU it is recorded once it has been called ``WARM`` times.

    Flags say what is to be done: each combination has a recording of its own. The function must not wait for the GPU,
    must give the same shapes for the same shapes, and keeps what it changes where it is. Elsewhere than on a GPU it is
    called as it is. What it returns is good until the next call.
    """

    WARM = 2  # calls before recording, which libraries use to set themselves up
    SHAPES = 8  # recordings kept; further shapes are not recorded

    def __init__(
        self,
        function: Callable[..., T],
        device: torch.device | str,
        generators: Sequence[torch.Generator] = (),
        stay: bool = False,
    ) -> None:
        """Computes on ``device``.

        Args:
            function: what to record.
            device: where its inputs are.
            generators: every random stream that it draws from.
            stay: inputs are the same tensors every time, and read where they are.
        """
        self.function, self.device, self.generators, self.stay = function, torch.device(device), generators, stay
        self._calls: dict[tuple[Any, ...], int] = {}
        self._recordings: dict[tuple[Any, ...], _Recording[T]] = {}
        self._refused = False

    def __call__(self, *inputs: Input) -> T:
        """The function's result."""
        device = self.device
        if self._refused or not recording(device):
            return self.function(*inputs)
        shapes = tuple(map(_kind, inputs))
        found = self._recordings.get(shapes)
        if found is None:
            calls = self._calls[shapes] = self._calls.get(shapes, 0) + 1
            if calls <= self.WARM or len(self._recordings) >= self.SHAPES:
                return self._aside(inputs)
            try:
                found = _Recording(self.function, inputs, device, self.generators, self.stay)
            except RuntimeError as error:
                self._refused = True
                # Random streams still wait for the end of what failed: a recording that succeeds is one.
                _Recording(lambda: torch.zeros(1, device=device), (), device, self.generators, stay=True)
                reason = str(error).partition("\n")[0]
                warnings.warn(f"not recorded as a CUDA graph, and slower for it: {reason}", stacklevel=2)
                return self.function(*inputs)
            self._recordings[shapes] = found
        return found(inputs)

    def _aside(self, inputs: Sequence[Input]) -> T:
        """An ordinary call, on a stream of its own as recording will be."""
        device = self.device
        current, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            result = self.function(*(_as_tensor(x, device) for x in inputs))
        current.wait_stream(aside)
        return result


class _Recording(Generic[T]):
    """One graph with the places of its inputs and outputs."""

    def __init__(
        self,
        function: Callable[..., T],
        inputs: Sequence[Input],
        device: torch.device,
        generators: Sequence[torch.Generator],
        stay: bool,
    ) -> None:
        with torch.inference_mode(False), torch.no_grad():
            places = [_as_tensor(x, device) for x in inputs]
            self.places = [x if stay or not isinstance(x, Tensor) else x.clone() for x in places]
        self.graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self.graph.register_generator_state(generator)
        # A stream of the device at hand, which need not be the first one.
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.graph(self.graph, stream=stream):
            self.outputs = function(*self.places)

    def __call__(self, inputs: Sequence[Input]) -> T:
        with torch.no_grad():
            for place, x in zip(self.places, inputs, strict=True):
                if x is place or not isinstance(place, Tensor):
                    continue
                if isinstance(x, Tensor):
                    place.copy_(x, non_blocking=True)
                elif isinstance(x, int | float):
                    place.fill_(x)
        self.graph.replay()
        return self.outputs


def _kind(x: Input) -> Any:
    """The key under which a recording is kept."""
    if isinstance(x, Tensor):
        return x.shape, x.dtype
    return x if isinstance(x, tuple) else type(x)


def _as_tensor(x: Input, device: torch.device) -> Tensor | Flags | None:
    """Numbers as tensors, so that a call rounds as a recording does."""
    return torch.full((), float(x), device=device, dtype=torch.float32) if isinstance(x, int | float) else x
