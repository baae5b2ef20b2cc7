"""What is asked of trained systems: tournaments, exploitability, sweeps over links, games by seat, pictures."""
