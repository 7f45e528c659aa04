"""Matrix-free numerics on any symmetric operator."""
