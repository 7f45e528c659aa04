"""Measure a network, match the random model to it, set both side by side."""
