"""Stacked networks: one weight per parameter set, all agents in one product."""

from marl.nets.networks import CNN, MLP, Custom
from marl.nets.q_head import Atoms, Quantiles
from marl.nets.recurrent import GRU, LSTM

__all__ = ["CNN", "GRU", "LSTM", "MLP", "Atoms", "Custom", "Quantiles"]
