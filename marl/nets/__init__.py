"""Stacked networks: one weight per parameter set, all agents in one product."""

from marl.nets.networks import CNN, GRU, MLP, Custom
from marl.nets.q_head import Atoms, Quantiles

__all__ = ["CNN", "GRU", "MLP", "Atoms", "Custom", "Quantiles"]
