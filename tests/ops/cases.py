"""Random arguments for every function that takes plain tensors, drawn by a seed: one line per function.

A line is the kind of function and its arguments. `step` functions take transitions (B, ...), `seq` functions
trajectories (T, B, ...). An argument is a letter, `:` and its axes after batch and time; `+` or `-` after the letter
is one time step more or less.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

A, K, L, M = 4, 5, 6, 3


@dataclass(frozen=True)
class Case:
    kind: str
    arguments: tuple[object, ...]
    options: dict[str, object] = field(default_factory=dict)
    differentiable: tuple[int, ...] = ()


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _atoms(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.cumsum(rng.uniform(0.3, 1.0, shape), -1) - 2.0


DRAW: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "v": lambda g, s: g.normal(size=s),  # value, reward, logit, q
    "r": lambda g, s: np.round(g.normal(size=s) * 2, 1),  # reward: negative and repeated numbers
    "d": lambda g, s: g.choice([0.0, 0.9, 1.0, 0.5], size=s),  # discount, zero at terminations
    "t": lambda g, s: g.choice([0.0, 1.0, -1.0], size=s) + 0.0,  # ties
    "p": lambda g, s: _softmax(g.normal(size=s)),  # probabilities over the last axis
    "m": lambda g, s: g.uniform(0.05, 1.0, size=s),  # one probability
    "w": lambda g, s: g.choice([0.0, 1.0, 0.5], size=s),  # weight
    "o": lambda g, s: np.exp(g.normal(size=s)),  # importance ratio, scale
    "z": _atoms,  # increasing atoms
    "b": lambda g, s: g.choice([0.0, 1.0], size=s),  # binary target
    "k": lambda g, s: g.random(size=s) < 0.6,  # mask
    "u": lambda g, s: g.uniform(0.1, 0.9, size=s),  # inside (0, 1)
    "n": lambda g, s: g.uniform(0.0, 1.0, size=s),  # lambda per step
}

V, R, D, W, Q, P, ACT = "v", "r", "d", "w", "v:A", "p:A", "a"
TIES = "t:A"

STEP: dict[str, list[tuple[str, dict[str, object]]]] = {
    "td_learning": [("v r d v", {})],
    "sarsa": [("v:A a r d v:A a", {})],
    "expected_sarsa": [("v:A a r d v:A p:A", {})],
    "q_learning": [("v:A a r d v:A", {}), ("t:A a r d t:A", {})],
    "double_q_learning": [("v:A a r d v:A v:A", {}), ("t:A a r d v:A t:A", {})],
    "persistent_q_learning": [("v:A a r d v:A #0.3", {})],
    "qv_learning": [("v:A a r d v", {})],
    "qv_max": [("v r d v:A", {})],
    "categorical_l2_project": [("z:K p:K z:L", {})],
    "categorical_td_learning": [("z:K v:K r d z:L v:L", {})],
    "categorical_q_learning": [("z:K v:AK a r d z:L v:AL", {})],
    "categorical_double_q_learning": [("z:K v:AK a r d z:L v:AL v:A", {})],
    "quantile_regression_loss": [("v:K u:K v:L", {}), ("v:K u:K v:L #0.5", {}), ("v:K u:K v:L #1.0", {})],
    "quantile_q_learning": [("v:KA u:K a r d v:MA v:LA", {}), ("v:KA u:K a r d v:MA v:LA #0.7", {})],
    "quantile_expected_sarsa": [("v:KA u:K a r d v:LA p:A", {}), ("v:KA u:K a r d v:LA p:A #0.7", {})],
    "dpg_loss": [("v:A v:A", {}), ("v:A v:A #0.5", {})],
    "categorical_importance_sampling_ratios": [("v:A v:A a", {})],
    "categorical_cross_entropy": [("p:A v:A", {})],
    "categorical_kl_divergence": [("v:A v:A", {}), ("v:A v:A #2.0", {})],
    "multivariate_normal_kl_divergence": [("v:A o:A v:A o:A", {})],
    "identity": [("v", {})],
    "signed_hyperbolic": [("v", {}), ("t", {})],
    "signed_logp1": [("v", {}), ("t", {})],
    "signed_expm1": [("v", {}), ("t", {})],
    "power": [("o #0.5", {}), ("v #2.0", {})],
    "logit": [("u", {})],
    "sigmoid": [("v", {})],
    "transform_to_2hot": [("v #-2.0 #2.0 #9", {})],
    "transform_from_2hot": [("p:A #-2.0 #2.0 #4", {})],
    "l2_loss": [("v v", {}), ("v", {})],
    "huber_loss": [("v", {}), ("r #0.5", {})],
    "log_loss": [("u b", {})],
    "likelihood": [("u b", {})],
    "expectile_loss": [("v v #0.3", {})],
    "embed_oar": [("v:K a r #4", {})],
    "batched_index": [("v:A a", {})],
}
SEQ: dict[str, list[tuple[str, dict[str, object]]]] = {
    "td_lambda": [("v r d v #0.8", {}), ("v r d v n", {})],
    "sarsa_lambda": [("v:A a r d v:A a #0.8", {})],
    "q_lambda": [("v:A a r d v:A #0.8", {}), ("t:A a r d t:A n", {})],
    "retrace": [("v:A v:A a a r d p:A m #0.9", {})],
    "retrace_continuous": [("v v- v r d v- #0.9", {}), ("v v- v r d v- n-", {})],
    "discounted_returns": [("r d v", {})],
    "n_step_bootstrapped_returns": [("r d v #1", {}), ("r d v #3", {}), ("r d v #3 #0.7", {}), ("r d v #99", {})],
    "lambda_returns": [("r d v", {}), ("r d v #0.7", {}), ("r d v n", {})],
    "truncated_generalized_advantage_estimation": [("r d #0.9 v+", {}), ("r d n v+", {})],
    "general_off_policy_returns_from_action_values": [("v:A a r d m p:A", {})],
    "general_off_policy_returns_from_q_and_v": [("v- v r d m-", {})],
    "importance_corrected_td_errors": [("r d o #0.9 v+", {}), ("r d o n v+", {})],
    "vtrace": [("v v r d o", {}), ("v v r d o #0.9 #0.5", {}), ("v v r d o n", {}), ("v v r d o", {"sample_mask":
    "k"})], "leaky_vtrace": [("v v r d o", {}), ("v v r d o #0.4 #0.9 #2.0", {}), ("v v r d o #0.4", {"sample_mask":
    "k"})], "vtrace_td_error_and_advantage": [("v v r d o", {}), ("v v r d o #0.9 #0.5 #2.0", {}), ("v v r d o n", {})],
    "leaky_vtrace_td_error_and_advantage": [("v v r d o #0.4 #0.9 #0.5 #2.0", {})],
    "policy_gradient_loss": [("v:A a v w", {})],
    "entropy_loss": [("v:A w", {})],
    "qpg_loss": [("v:A v:A", {})],
    "rm_loss": [("v:A v:A", {})],
    "rpg_loss": [("v:A v:A", {})],
    "clipped_surrogate_pg_loss": [("o v #0.2", {}), ("w v #0.5", {})],
    "pixel_control_rewards": [("u+:EEM #2", {})],
    "feature_control_rewards": [("v+:K #feature", {}), ("v+:K", {}), ("v+:K #increase", {}), ("v+:K #decrease", {}),
                                ("v+:K #potential #0.9", {})],
    "pixel_control_loss": [("u+:EEM a v+:CCA #0.9 #2", {})],
    "transformed_n_step_q_learning": [("v:A a v:A a r d #3", {})],
    "transformed_q_lambda": [("v:A a r d v:A #0.8", {})],
    "transformed_retrace": [("v:A v:A a a r d p:A m #0.9", {})],
}  # fmt: skip
SIZES = {"A": A, "K": K, "L": L, "M": M, "E": 4, "C": 2}


def _constant(text: str) -> object:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def _draw(rng: np.random.Generator, word: str, lead: tuple[int, ...], time: bool) -> np.ndarray:
    letter, _, axes = word.partition(":")
    if letter[-1] in "+-":
        lead = (lead[0] + (1 if letter[-1] == "+" else -1), *lead[1:])
        letter = letter[:-1]
    shape = lead + tuple(SIZES[axis] for axis in axes)
    if letter == "a":
        return rng.integers(0, A, size=shape)
    return DRAW[letter](rng, shape)


def draw(name: str, variant: int, seed: int, lead: tuple[int, ...]) -> Case:
    """Arguments of one function: `lead` is (T, *) for a seq function and (*) for a step function."""
    kind = "seq" if name in SEQ else "step"
    text, options = (SEQ if kind == "seq" else STEP)[name][variant]
    rng = np.random.default_rng([seed, len(name), variant])
    arguments: list[object] = []
    for word in text.split():
        arguments.append(_constant(word[1:]) if word.startswith("#") else _draw(rng, word, lead, kind == "seq"))
    drawn = {key: _draw(rng, str(word), lead, kind == "seq") for key, word in options.items()}
    floats = tuple(i for i, a in enumerate(arguments) if isinstance(a, np.ndarray) and a.dtype == np.float64)
    return Case(kind, tuple(arguments), drawn, floats)


VARIANTS = [(name, i) for table in (STEP, SEQ) for name, variants in table.items() for i in range(len(variants))]
