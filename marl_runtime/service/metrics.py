"""What a service has done, as text that Prometheus reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0)  # seconds of an action


class Metrics:
    """Counts: requests by what became of them, messages by theirs, actions and the time that they took."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.requests: Counter[int] = Counter()  # by HTTP status
        self.messages: Counter[str] = Counter()
        self.actions = 0
        self.seconds = 0.0
        self._within = [0] * len(BOUNDS)

    def acted(self, seconds: float, actions: int = 1) -> None:
        """Count actions that were computed together."""
        self.actions += actions
        self.seconds += seconds
        for place, bound in enumerate(BOUNDS):
            self._within[place] += actions * (seconds <= bound)

    def text(self, gauges: Mapping[str, float]) -> str:
        """All of it; ``gauges``: what is now."""
        lines = [line for name, value in gauges.items() for line in (f"# TYPE {name} gauge", f"{name} {value:g}")]
        lines += ["# TYPE marl_requests_total counter"]
        lines += [f'marl_requests_total{{status="{status}"}} {n}' for status, n in sorted(self.requests.items())]
        lines += ["# TYPE marl_messages_total counter"]
        lines += [f'marl_messages_total{{what="{what}"}} {n}' for what, n in sorted(self.messages.items())]
        lines += ["# TYPE marl_action_seconds histogram"]
        for bound, count in zip(BOUNDS, self._within, strict=True):
            lines += [f'marl_action_seconds_bucket{{le="{bound:g}"}} {count}']
        lines += [f'marl_action_seconds_bucket{{le="+Inf"}} {self.actions}']
        lines += [f"marl_action_seconds_sum {self.seconds:.6f}", f"marl_action_seconds_count {self.actions}"]
        return "\n".join(lines) + "\n"
