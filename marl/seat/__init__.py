"""A seat for a person among the agents: in the browser (``marl view --play``) or a terminal (``marl play --human``)."""
