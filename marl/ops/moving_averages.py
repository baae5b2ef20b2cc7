"""Exponential moving averages of first and second moments."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from marl.ops.checks import check

__all__ = ["EmaMoments", "EmaState", "create_ema"]

Tree = Tensor | Mapping[str, Tensor]


class EmaMoments(NamedTuple):
    """Mean and variance: a scalar tensor for a tensor, a dict of them for a mapping."""

    mean: Tree
    variance: Tree


class EmaState(NamedTuple):
    """Moments not yet corrected for starting at zero, and the product of the decays so far, which corrects them."""

    mu: Tree
    nu: Tree
    decay_product: float


def create_ema(
    decay: float = 0.999,
) -> tuple[Callable[[Tree], EmaState], Callable[[Tree, EmaState], tuple[EmaMoments, EmaState]]]:
    """Track mean and variance of tensors by exponential moving averages without starting bias.

        mu' = decay mu + (1 - decay) mean(x),    nu' = decay nu + (1 - decay) mean(x^2)
        mean = mu' / (1 - decay^n),    variance = max(0, nu' / (1 - decay^n) - mean^2)

    Paper: "Adam: A Method for Stochastic Optimization", Kingma & Ba 2015 (https://arxiv.org/abs/1412.6980), section 3.

    Args:
        decay: share of the old average kept per update.

    Returns:
        init_state(template) -> EmaState and update_moments(x, state) -> (EmaMoments, EmaState), where template and x
        are a tensor (*) or a mapping of tensors. Results are detached.

    Raises:
        ValueError: (in the functions) a tensor is not floating point, or the names differ from the state's.
    """

    def init_state(template_tree: Tree) -> EmaState:
        zeros = _map(lambda x: x.new_zeros(()), template_tree)
        return EmaState(zeros, zeros, 1.0)

    def update_moments(tree: Tree, state: EmaState) -> tuple[EmaMoments, EmaState]:
        with torch.no_grad():
            mu = _map(lambda x, m: decay * m + (1 - decay) * x.mean(), tree, state.mu)
            nu = _map(lambda x, m: decay * m + (1 - decay) * x.square().mean(), tree, state.nu)
            decay_product = state.decay_product * decay
            unbias = 1 / (1 - decay_product)
            mean = _map(lambda m: m * unbias, mu)
            variance = _map(lambda n, m: (n * unbias - m.square()).clamp(min=0), nu, mean)
        return EmaMoments(mean, variance), EmaState(mu, nu, decay_product)

    return init_state, update_moments


def _map(fn: Callable[..., Tensor], tree: Tree, *others: Tree) -> Tree:
    if isinstance(tree, Tensor):
        check(tree=(tree, "float *"))
        return fn(tree, *others)
    result = {}
    for name, leaf in tree.items():
        check(**{name: (leaf, "float *")})
        parts = []
        for other in others:
            if isinstance(other, Tensor) or other.keys() != tree.keys():
                raise ValueError(f"state: expected entries {sorted(tree)}, got another structure")
            parts.append(other[name])
        result[name] = fn(leaf, *parts)
    return result
