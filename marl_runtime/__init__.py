"""Trained agents without torch: programs of numpy operations that act as they did in training."""
