"""What the random model has that a network has, and what it has not."""
