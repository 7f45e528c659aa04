"""The generalised Marchenko-Pastur equation for atoms that are known: kernels, edges, counts, compiled."""
