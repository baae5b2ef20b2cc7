"""Distributions as tuples of pure functions, and divergences between them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from marl.ops.checks import check
from marl.ops.indexing import batched_index, one_hot
from marl.ranks import drawn

__all__ = [
    "ContinuousDistribution",
    "DiscreteDistribution",
    "categorical_cross_entropy",
    "categorical_importance_sampling_ratios",
    "categorical_kl_divergence",
    "categorical_sample",
    "clipped_entropy_softmax",
    "epsilon_greedy",
    "gaussian_diagonal",
    "greedy",
    "gumbel_softmax_straight_through",
    "multivariate_normal_kl_divergence",
    "softmax",
    "squashed_gaussian",
]


class DiscreteDistribution(NamedTuple):
    """Functions of logits (*, A): sample(generator, logits), probs(logits), logprob(sample, logits), entropy(logits)
    and kl(p_logits, q_logits), which is None where it has no meaning."""

    sample: Callable[..., Tensor]
    probs: Callable[..., Tensor]
    logprob: Callable[..., Tensor]
    entropy: Callable[..., Tensor]
    kl: Callable[..., Tensor] | None


class ContinuousDistribution(NamedTuple):
    """Functions of mean and scale (*, A): sample(generator, mu, sigma), prob(sample, mu, sigma), logprob(sample, mu,
    sigma), entropy(mu, sigma), kl_to_standard_normal(mu, sigma) and kl(mu_0, sigma_0, mu_1, sigma_1)."""

    sample: Callable[..., Tensor]
    prob: Callable[..., Tensor]
    logprob: Callable[..., Tensor]
    entropy: Callable[..., Tensor]
    kl_to_standard_normal: Callable[..., Tensor]
    kl: Callable[..., Tensor]


def _negative_entropy(probs: Tensor) -> Tensor:
    return torch.xlogy(probs, probs).sum(-1)


def categorical_sample(generator: Generator | None, probs: Tensor) -> Tensor:
    """Draw category indices.

        a ~ probs,    by a = argmax_k probs_k / E_k with E_k ~ Exp(1)

    Paper: "Exponential races", as in "A* Sampling", Maddison et al. 2014 (https://arxiv.org/abs/1411.0030).

    Args:
        generator: source of randomness; None for torch's own.
        probs: (*, A) not necessarily normalized; a category of probability 0 is never drawn.

    Returns:
        (*) int64. Detached.

    Raises:
        ValueError: probs is not floating point.
    """
    check(probs=(probs, "float * A"))
    race = torch.empty_like(probs).exponential_(generator=generator)
    return (probs.detach() / race).argmax(-1)


def softmax(temperature: float = 1.0) -> DiscreteDistribution:
    """The softmax distribution of logits at a temperature.

        p = softmax(logits / temperature)

    Paper: "Reinforcement Learning: An Introduction", Sutton & Barto 2018, section 2.8.

    Args:
        temperature: divides the logits.

    Returns:
        Functions of logits (*, A); see `DiscreteDistribution`. Samples are detached, the rest is differentiable.

    Raises:
        ValueError: (in the functions) logits are not floating point, or shapes differ.
    """

    def log_probs(logits: Tensor) -> Tensor:
        check(logits=(logits, "float * A"))
        return (logits / temperature).log_softmax(-1)

    def sample(generator: Generator | None, logits: Tensor) -> Tensor:
        return categorical_sample(generator, probs(logits))

    def probs(logits: Tensor) -> Tensor:
        check(logits=(logits, "float * A"))
        return (logits / temperature).softmax(-1)

    def logprob(sample: Tensor, logits: Tensor) -> Tensor:
        check(logits=(logits, "float * A"), sample=(sample, "int *"))
        return batched_index(log_probs(logits), sample)

    def entropy(logits: Tensor) -> Tensor:
        log_p = log_probs(logits)
        return -(log_p.exp() * log_p).sum(-1)

    def kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
        return categorical_kl_divergence(p_logits, q_logits, temperature)

    return DiscreteDistribution(sample, probs, logprob, entropy, kl)


def clipped_entropy_softmax(temperature: float = 1.0, entropy_clip: float = 1.0) -> DiscreteDistribution:
    """The softmax distribution, whose reported entropy saturates at a share of the largest possible.

        entropy = min(H(p), entropy_clip log A)

    Paper: "Function Optimization using Connectionist Reinforcement Learning Algorithms", Williams & Peng 1991
    (https://doi.org/10.1080/09540099108946587).

    Args:
        temperature: divides the logits.
        entropy_clip: in [0, 1]; 1 clips nothing.

    Returns:
        Functions of logits (*, A); see `DiscreteDistribution`.

    Raises:
        ValueError: (in the functions) logits are not floating point, or shapes differ.
    """
    unclipped = softmax(temperature)

    def entropy(logits: Tensor) -> Tensor:
        full = unclipped.entropy(logits)
        return torch.minimum(full, full.new_full((), entropy_clip * math.log(logits.shape[-1])))

    return unclipped._replace(entropy=entropy)


def _argmax_probs(preferences: Tensor) -> Tensor:
    best = (preferences == preferences.amax(-1, keepdim=True)).to(preferences.dtype)
    return best / best.sum(-1, keepdim=True)


def greedy() -> DiscreteDistribution:
    """The uniform distribution over the best actions.

        p_a = 1[preferences_a = max] / (number of best actions)

    Paper: "Reinforcement Learning: An Introduction", Sutton & Barto 2018, section 2.2.

    Returns:
        Functions of preferences (*, A); see `DiscreteDistribution`. There is no kl.

    Raises:
        ValueError: (in the functions) preferences are not floating point, or shapes differ.
    """

    def sample(generator: Generator | None, preferences: Tensor) -> Tensor:
        return categorical_sample(generator, probs(preferences))

    def probs(preferences: Tensor) -> Tensor:
        check(preferences=(preferences, "float * A"))
        return _argmax_probs(preferences)

    def logprob(sample: Tensor, preferences: Tensor) -> Tensor:
        check(preferences=(preferences, "float * A"), sample=(sample, "int *"))
        return batched_index(probs(preferences), sample).log()

    def entropy(preferences: Tensor) -> Tensor:
        return -_negative_entropy(probs(preferences))

    return DiscreteDistribution(sample, probs, logprob, entropy, None)


def epsilon_greedy(epsilon: float | None = None) -> DiscreteDistribution:
    """Uniform over all actions with probability epsilon, else over the best ones.

        p_a = epsilon / A + (1 - epsilon) 1[preferences_a = max] / (number of best actions)

    Paper: "Reinforcement Learning: An Introduction", Sutton & Barto 2018, section 2.2.

    Args:
        epsilon: the default; each function also takes one as its last argument.

    Returns:
        Functions of preferences (*, A) and epsilon; see `DiscreteDistribution`. There is no kl.

    Raises:
        ValueError: (in the functions) no epsilon was given, preferences are not floating point, or shapes differ.
    """
    default = epsilon

    def sample(generator: Generator | None, preferences: Tensor, epsilon: float | None = None) -> Tensor:
        return categorical_sample(generator, probs(preferences, epsilon))

    def probs(preferences: Tensor, epsilon: float | None = None) -> Tensor:
        check(preferences=(preferences, "float * A"))
        chance = default if epsilon is None else epsilon
        if chance is None:
            raise ValueError("epsilon: expected a number here or in epsilon_greedy(epsilon), got None")
        return chance / preferences.shape[-1] + (1 - chance) * _argmax_probs(preferences)

    def logprob(sample: Tensor, preferences: Tensor, epsilon: float | None = None) -> Tensor:
        check(preferences=(preferences, "float * A"), sample=(sample, "int *"))
        return batched_index(probs(preferences, epsilon), sample).log()

    def entropy(preferences: Tensor, epsilon: float | None = None) -> Tensor:
        return -_negative_entropy(probs(preferences, epsilon))

    return DiscreteDistribution(sample, probs, logprob, entropy, None)


_LOG_2PI = math.log(2 * math.pi)


def _normal_logprob(sample: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    return (-0.5 * ((sample - mu) / sigma).square() - sigma.log() - 0.5 * _LOG_2PI).sum(-1)


def _normal_entropy(sigma: Tensor) -> Tensor:
    return (sigma.log() + 0.5 * (1 + _LOG_2PI)).sum(-1)


def gaussian_diagonal(sigma: float | None = None) -> ContinuousDistribution:
    """The normal distribution with independent dimensions.

        log p(x) = sum_i -((x_i - mu_i) / sigma_i)^2 / 2 - log sigma_i - log(2 pi) / 2

    Paper: "Pattern Recognition and Machine Learning", Bishop 2006, section 2.3.

    Args:
        sigma: the default standard deviation, one number for all dimensions; each function also takes its own (*, A).

    Returns:
        Functions of mu (*, A) and sigma (*, A); see `ContinuousDistribution`. Sums run over the last axis.

    Raises:
        ValueError: (in the functions) no sigma was given, or shapes or dtypes differ.
    """
    default = sigma

    def scale(mu: Tensor, sigma: Tensor | None) -> Tensor:
        if sigma is None:
            if default is None:
                raise ValueError("sigma: expected a tensor here or a number in gaussian_diagonal(sigma), got None")
            check(mu=(mu, "float * A"))
            return torch.full_like(mu, default)
        check(mu=(mu, "float * A"), sigma=(sigma, "float * A"))
        return sigma

    def sample(generator: Generator | None, mu: Tensor, sigma: Tensor | None = None) -> Tensor:
        spread = scale(mu, sigma)
        return mu + spread * torch.empty_like(mu).normal_(generator=generator)

    def logprob(sample: Tensor, mu: Tensor, sigma: Tensor | None = None) -> Tensor:
        check(mu=(mu, "float * A"), sample=(sample, "float * A"))
        return _normal_logprob(sample, mu, scale(mu, sigma))

    def prob(sample: Tensor, mu: Tensor, sigma: Tensor | None = None) -> Tensor:
        return logprob(sample, mu, sigma).exp()

    def entropy(mu: Tensor, sigma: Tensor | None = None) -> Tensor:
        return _normal_entropy(scale(mu, sigma))

    def kl_to_standard_normal(mu: Tensor, sigma: Tensor | None = None) -> Tensor:
        own = scale(mu, sigma)
        return multivariate_normal_kl_divergence(mu, own, torch.zeros_like(mu), torch.ones_like(own))

    return ContinuousDistribution(
        sample, prob, logprob, entropy, kl_to_standard_normal, multivariate_normal_kl_divergence
    )


def squashed_gaussian(sigma_min: float = -4.0, sigma_max: float = 0.0) -> ContinuousDistribution:
    """A normal distribution of squashed mean and log-scale, whose samples a tanh maps into the action bounds.

        m = tanh(mu),    s = exp(sigma_min + (sigma_max - sigma_min) (tanh(sigma) + 1) / 2)
        a = low + (high - low) (tanh(u) + 1) / 2,    u ~ N(m, s)
        log p(a) = log N(u; m, s) - sum_i log((high_i - low_i) / 2 (1 - tanh(u_i)^2))

    The entropy and the divergences are those of u, before the tanh.

    Paper: "Soft Actor-Critic Algorithms and Applications", Haarnoja et al. 2018 (https://arxiv.org/abs/1812.05905).

    Args:
        sigma_min: smallest log standard deviation.
        sigma_max: largest log standard deviation.

    Returns:
        Functions of mu (*, A) and sigma (*, A); sample, prob and logprob also take (low, high), two numbers or
        tensors (A,). See `ContinuousDistribution`.

    Raises:
        ValueError: (in the functions) shapes or dtypes differ.
    """
    Bounds = tuple[float | Tensor, float | Tensor]

    def squash(mu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        check(mu=(mu, "float * A"), sigma=(sigma, "float * A"))
        log_scale = sigma_min + 0.5 * (sigma_max - sigma_min) * (sigma.tanh() + 1)
        return mu.tanh(), log_scale.exp()

    def bounds_like(mu: Tensor, bounds: Bounds) -> Bounds:
        for name, bound in zip(("low", "high"), bounds, strict=True):
            if isinstance(bound, Tensor):
                check(mu=(mu, "float * A"), **{name: (bound, "float A" if bound.dim() else "float")})
        return bounds

    def sample(generator: Generator | None, mu: Tensor, sigma: Tensor, bounds: Bounds) -> Tensor:
        m, s = squash(mu, sigma)
        low, high = bounds_like(mu, bounds)
        u = m + s * torch.empty_like(m).normal_(generator=generator)
        return low + 0.5 * (high - low) * (u.tanh() + 1)

    def logprob(sample: Tensor, mu: Tensor, sigma: Tensor, bounds: Bounds) -> Tensor:
        m, s = squash(mu, sigma)
        low, high = bounds_like(mu, bounds)
        check(mu=(mu, "float * A"), sample=(sample, "float * A"))
        half = torch.as_tensor(0.5 * (high - low), dtype=sample.dtype, device=sample.device)
        # The border itself has infinite u: stay half a rounding step inside.
        inside = 1 - torch.finfo(sample.dtype).eps
        unit = ((sample - low) / half - 1).clamp(-inside, inside)
        stretch = half.log() + torch.log1p(-unit.square())
        return _normal_logprob(unit.atanh(), m, s) - stretch.sum(-1)

    def prob(sample: Tensor, mu: Tensor, sigma: Tensor, bounds: Bounds) -> Tensor:
        return logprob(sample, mu, sigma, bounds).exp()

    def entropy(mu: Tensor, sigma: Tensor) -> Tensor:
        return _normal_entropy(squash(mu, sigma)[1])

    def kl_to_standard_normal(mu: Tensor, sigma: Tensor) -> Tensor:
        m, s = squash(mu, sigma)
        return multivariate_normal_kl_divergence(m, s, torch.zeros_like(m), torch.ones_like(s))

    def kl(mu_0: Tensor, sigma_0: Tensor, mu_1: Tensor, sigma_1: Tensor) -> Tensor:
        check(
            mu_0=(mu_0, "float * A"),
            sigma_0=(sigma_0, "float * A"),
            mu_1=(mu_1, "float * A"),
            sigma_1=(sigma_1, "float * A"),
        )
        return multivariate_normal_kl_divergence(*squash(mu_0, sigma_0), *squash(mu_1, sigma_1))

    return ContinuousDistribution(sample, prob, logprob, entropy, kl_to_standard_normal, kl)


def categorical_importance_sampling_ratios(pi_logits_t: Tensor, mu_logits_t: Tensor, a_t: Tensor) -> Tensor:
    """Ratio of the probabilities two softmax policies give to the actions taken.

        rho_t = pi(a_t) / mu(a_t)

    Paper: "Eligibility Traces for Off-Policy Policy Evaluation", Precup et al. 2000.

    Args:
        pi_logits_t: (*, A) target policy.
        mu_logits_t: (*, A) behavior policy.
        a_t: (*) integer.

    Returns:
        (*). Nothing is detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(pi_logits_t=(pi_logits_t, "float * A"), mu_logits_t=(mu_logits_t, "float * A"), a_t=(a_t, "int *"))
    log_pi_a = batched_index(pi_logits_t.log_softmax(-1), a_t)
    log_mu_a = batched_index(mu_logits_t.log_softmax(-1), a_t)
    return (log_pi_a - log_mu_a).exp()


def categorical_cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy of a softmax under label probabilities.

        loss = -sum_k labels_k / (sum_j labels_j) log softmax(logits)_k

    Paper: "Pattern Recognition and Machine Learning", Bishop 2006, section 4.3.

    Args:
        labels: (*, K) probabilities, or non-negative weights.
        logits: (*, K).

    Returns:
        (*). Nothing is detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(labels=(labels, "float * K"), logits=(logits, "float * K"))
    labels = labels / labels.sum(-1, keepdim=True)
    return -(labels * logits.log_softmax(-1)).sum(-1)


def categorical_kl_divergence(p_logits: Tensor, q_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence between two softmax distributions.

        KL = sum_k p_k (log p_k - log q_k),    p = softmax(p_logits / temperature), q likewise

    Paper: "On Information and Sufficiency", Kullback & Leibler 1951 (https://doi.org/10.1214/aoms/1177729694).

    Args:
        p_logits: (*, K).
        q_logits: (*, K).
        temperature: divides both.

    Returns:
        (*). Nothing is detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(p_logits=(p_logits, "float * K"), q_logits=(q_logits, "float * K"))
    log_p = (p_logits / temperature).log_softmax(-1)
    log_q = (q_logits / temperature).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def multivariate_normal_kl_divergence(mu_0: Tensor, sigma_0: Tensor, mu_1: Tensor, sigma_1: Tensor) -> Tensor:
    """Kullback-Leibler divergence between two normal distributions with independent dimensions.

        KL = sum_i log(sigma_1i / sigma_0i) + (sigma_0i^2 + (mu_0i - mu_1i)^2) / (2 sigma_1i^2) - 1/2

    Paper: "On Information and Sufficiency", Kullback & Leibler 1951 (https://doi.org/10.1214/aoms/1177729694).

    Args:
        mu_0: (*, A) mean of the first.
        sigma_0: (*, A) its standard deviations.
        mu_1: (*, A) mean of the second.
        sigma_1: (*, A) its standard deviations.

    Returns:
        (*). Nothing is detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        mu_0=(mu_0, "float * A"),
        sigma_0=(sigma_0, "float * A"),
        mu_1=(mu_1, "float * A"),
        sigma_1=(sigma_1, "float * A"),
    )
    spread = sigma_1.log() - sigma_0.log() + 0.5 * (sigma_0 / sigma_1).square()
    return (spread + 0.5 * ((mu_0 - mu_1) / sigma_1).square() - 0.5).sum(-1)


def gumbel_softmax_straight_through(
    logits: Tensor, temperature: float, action_mask: Tensor | None = None, generator: Generator | None = None
) -> Tensor:
    """One-hot samples of a softmax distribution whose gradient is that of a relaxed sample.

        soft = softmax((logits + G) / temperature),  G ~ Gumbel(0, 1)
        y = one_hot(argmax soft) + soft - stop_gradient(soft)

    Illegal logits are first replaced by a large negative finite number, so illegal actions are never drawn and get no
    gradient.

    Papers: "Categorical Reparameterization with Gumbel-Softmax", Jang et al. 2017 (https://arxiv.org/abs/1611.01144);
    "Multi-Agent Actor-Critic for Mixed Cooperative-Competitive Environments", Lowe et al. 2017
    (https://arxiv.org/abs/1706.02275).

    Args:
        logits: (*, A).
        temperature: of the relaxation, above 0.
        action_mask: (*, A) bool, or None for all; at least one action must be legal.
        generator: source of randomness; None for torch's own.

    Returns:
        (*, A), exactly one-hot. The gradient is that of `soft`.

    Raises:
        ValueError: a shape or dtype differs from the above, or temperature is not above 0.
    """
    check(logits=(logits, "float * A"))
    if temperature <= 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    if action_mask is not None:
        check(logits=(logits, "float * A"), action_mask=(action_mask, "bool * A"))
        logits = torch.where(action_mask, logits, torch.finfo(logits.dtype).min / 2)
    gumbel = -drawn(lambda x: x.exponential_(generator=generator), logits, generator).log()
    noisy = logits + gumbel
    soft = ((noisy - noisy.detach().amax(-1, keepdim=True)) / temperature).softmax(-1)
    hard = one_hot(noisy.argmax(-1), logits.shape[-1], logits.dtype)
    return hard + (soft - soft.detach())
