"""PopArt: learn the scale of value targets without disturbing the values already learned."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from marl.ops.checks import check

__all__ = [
    "PopArtOutput",
    "PopArtState",
    "art",
    "normalize",
    "pop",
    "popart",
    "unnormalize",
    "unnormalize_linear",
]


class PopArtState(NamedTuple):
    """Statistics of K kinds of target, each (K,)."""

    shift: Tensor
    scale: Tensor
    second_moment: Tensor


class PopArtOutput(NamedTuple):
    """The selected outputs of a linear layer, (*) each."""

    normalized: Tensor
    unnormalized: Tensor


def normalize(state: PopArtState, unnormalized: Tensor, indices: Tensor) -> Tensor:
    """Bring targets to zero mean and unit scale.

        y = (x - shift_k) / scale_k

    Paper: "Learning values across many orders of magnitude", van Hasselt et al. 2016
    (https://arxiv.org/abs/1602.07714).

    Args:
        state: statistics (K,).
        unnormalized: (*).
        indices: (*) integer, which statistics to use.

    Returns:
        (*). Differentiable.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    _check(state, unnormalized=unnormalized, indices=indices)
    return (unnormalized - state.shift[indices]) / state.scale[indices]


def unnormalize(state: PopArtState, normalized: Tensor, indices: Tensor) -> Tensor:
    """Bring normalized values back to the scale of the targets.

        x = scale_k y + shift_k

    Paper: "Learning values across many orders of magnitude", van Hasselt et al. 2016
    (https://arxiv.org/abs/1602.07714).

    Args:
        state: statistics (K,).
        normalized: (*).
        indices: (*) integer, which statistics to use.

    Returns:
        (*). Differentiable.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    _check(state, normalized=normalized, indices=indices)
    return state.scale[indices] * normalized + state.shift[indices]


def unnormalize_linear(state: PopArtState, inputs: Tensor, indices: Tensor) -> PopArtOutput:
    """Select one output of a linear layer per example, and unnormalize it.

        normalized = inputs[..., k],    unnormalized = scale_k normalized + shift_k

    Paper: "Multi-task Deep Reinforcement Learning with PopArt", Hessel et al. 2019 (https://arxiv.org/abs/1809.04474).

    Args:
        state: statistics (K,).
        inputs: (*, K) outputs of the layer.
        indices: (*) integer.

    Returns:
        normalized and unnormalized, (*) each. Differentiable.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(inputs=(inputs, "float * K"), indices=(indices, "int *"), shift=(state.shift, "float K"))
    normalized = inputs.gather(-1, indices.long().unsqueeze(-1)).squeeze(-1)
    return PopArtOutput(normalized, unnormalize(state, normalized, indices))


def art(
    state: PopArtState, targets: Tensor, indices: Tensor, step_size: float, scale_lb: float, scale_ub: float
) -> PopArtState:
    """Move the statistics towards the targets.

        shift_k += step_size sum_i (x_i - shift_k),    second_moment_k += step_size sum_i (x_i^2 - second_moment_k)
        scale_k = clip(sqrt(second_moment_k - shift_k^2), scale_lb, scale_ub)

    with the sums over the targets i of kind k.

    Paper: "Learning values across many orders of magnitude", van Hasselt et al. 2016
    (https://arxiv.org/abs/1602.07714).

    Args:
        state: statistics (K,).
        targets: (*).
        indices: (*) integer, the kind of each target.
        step_size: learning rate of the statistics.
        scale_lb: smallest scale.
        scale_ub: largest scale.

    Returns:
        The new statistics, detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    _check(state, targets=targets, indices=indices)
    with torch.no_grad():
        kind, x = indices.long().flatten(), targets.flatten()
        shift = state.shift.index_add(0, kind, step_size * (x - state.shift[kind]))
        moment = state.second_moment.index_add(0, kind, step_size * (x.square() - state.second_moment[kind]))
        scale = (moment - shift.square()).clamp(scale_lb**2, scale_ub**2).sqrt()
    return PopArtState(shift, scale, moment)


def pop(params: Mapping[str, Tensor], old: PopArtState, new: PopArtState) -> dict[str, Tensor]:
    """Change a linear layer so that its unnormalized outputs stay the same under new statistics.

        w' = w scale_old / scale_new,    b' = (scale_old b + shift_old - shift_new) / scale_new

    Paper: "Learning values across many orders of magnitude", van Hasselt et al. 2016
    (https://arxiv.org/abs/1602.07714).

    Args:
        params: "w": (D, K), inputs first as in RLax (the transpose of `torch.nn.Linear.weight`), and "b": (K,).
        old: statistics (K,) that the layer was learned under.
        new: statistics (K,) that it shall have.

    Returns:
        The new "w" and "b". Differentiable.

    Raises:
        ValueError: a shape or dtype differs from the above, or a name is missing.
    """
    if set(params) != {"w", "b"}:
        raise ValueError(f"params: expected 'w' and 'b', got {sorted(params)}")
    check(
        w=(params["w"], "float D K"),
        b=(params["b"], "float K"),
        **{f"old.{name}": (statistic, "float K") for name, statistic in old._asdict().items()},
        **{f"new.{name}": (statistic, "float K") for name, statistic in new._asdict().items()},
    )
    return {
        "w": params["w"] * (old.scale / new.scale),
        "b": (old.scale * params["b"] + old.shift - new.shift) / new.scale,
    }


InitialState = Callable[[], PopArtState]
Update = Callable[[Mapping[str, Tensor], PopArtState, Tensor, Tensor], tuple[dict[str, Tensor], PopArtState]]


def popart(num_outputs: int, step_size: float, scale_lb: float, scale_ub: float) -> tuple[InitialState, Update]:
    """The initial statistics and the update that learns them and preserves the outputs.

        state' = art(state, targets, indices),    params' = pop(params, state, state')

    Paper: "Learning values across many orders of magnitude", van Hasselt et al. 2016
    (https://arxiv.org/abs/1602.07714).

    Args:
        num_outputs: K.
        step_size: learning rate of the statistics.
        scale_lb: smallest scale.
        scale_ub: largest scale.

    Returns:
        initial_state() -> PopArtState and popart_update(params, state, targets, indices) -> (params, state).

    Raises:
        ValueError: (in the update) as `art` and `pop`.
    """

    def initial_state() -> PopArtState:
        zeros = torch.zeros(num_outputs, dtype=torch.float32)
        return PopArtState(zeros, torch.ones_like(zeros), torch.ones_like(zeros))

    def popart_update(
        params: Mapping[str, Tensor], state: PopArtState, targets: Tensor, indices: Tensor
    ) -> tuple[dict[str, Tensor], PopArtState]:
        new_state = art(state, targets, indices, step_size, scale_lb, scale_ub)
        return pop(params, state, new_state), new_state

    return initial_state, popart_update


def _check(state: PopArtState, **arguments: Tensor) -> None:
    check(
        **{name: (tensor, "int *" if name == "indices" else "float *") for name, tensor in arguments.items()},
        shift=(state.shift, "float K"),
        scale=(state.scale, "float K"),
        second_moment=(state.second_moment, "float K"),
    )
