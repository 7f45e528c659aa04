"""Theory of the landscape model."""
