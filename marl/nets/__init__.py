"""Stacked networks: one weight per parameter set, all agents in one product."""

from marl.nets.networks import CNN, GRU, MLP, Custom

__all__ = ["CNN", "GRU", "MLP", "Custom"]
