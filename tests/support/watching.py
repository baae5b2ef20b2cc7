"""Watchers of a training run."""

from __future__ import annotations


class Watch:
    """Sees every step of a training run."""

    def __init__(self, see=lambda system: None):
        self.see = see

    def log(self, metrics):
        pass

    def tick(self, system):
        self.see(system)
        return False


class StopAt:
    """Ends a training run after so many steps."""

    def __init__(self, steps):
        self.steps = steps

    def log(self, metrics):
        pass

    def tick(self, system):
        return system.steps >= self.steps
