"""A fully connected network at initialisation, from its architecture alone: kernels at large width."""
