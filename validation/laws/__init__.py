"""Claims on limit laws of classical ensembles."""
