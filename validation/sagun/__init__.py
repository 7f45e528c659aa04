"""Claims of Sagun et al. (2017), Empirical analysis of the Hessian of over-parametrized neural networks."""
