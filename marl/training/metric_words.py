"""What metrics are called where people read them, with their units."""

from __future__ import annotations

STEPS = "environment steps (all copies)"
UNITS = {
    "mean_length": "episode length (steps)",
    "steps_per_second": "environment steps per second (1/s)",
    "seconds": "time (s)",
    "episodes": "episodes that ended",
    "entropy": "entropy of policies (nat)",
    "kl": "change of policies, KL (nat)",
    "clip_fraction": "share of clipped ratios",
    "explained_variance": "explained variance of returns",
    "gradient_norm": "norm of gradients",
    "policy_loss": "loss of policies",
    "value_loss": "loss of values",
    "staleness": "updates that policies which played were behind",
    "staleness_max": "the same, at most",
    "discarded_steps": "environment steps thrown away",
}


def words(name: str) -> str:
    """What a metric is, with its unit."""
    team, _, metric = name.rpartition("/")
    if name in ("evaluation_return", "final/evaluation_return"):
        return "return of evaluations (greedy), sum over all agents"
    if metric == "mean_return":
        return f"return, sum over {team or 'all agents'}"
    said = UNITS.get(metric)
    return name if said is None else f"{said}, {team}" if team else said
