"""Samplers of the classical ensembles, exact in law from small matrices to a billion dimensions, and their tests."""
