"""Experiments: each reproduces one published result, from training to a figure and its numbers."""
