"""What is asked of trained systems: tournaments, exploitability, sweeps over links, games by seat, pictures."""

from marl.film import Played, play
from marl.studies.exploit import Exploitation, exploit
from marl.studies.sweep import Sweep, sweep
from marl.studies.tournament import Tournament, tournament
from marl.studies.versus import Score, versus

__all__ = [
    "Exploitation",
    "Played",
    "Score",
    "Sweep",
    "Tournament",
    "exploit",
    "play",
    "sweep",
    "tournament",
    "versus",
]
