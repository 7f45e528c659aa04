"""Limit laws: parameters in, numbers out. No randomness in constructors, no torch, no plots."""
