"""Theory of the landscape model: z(u) = u + Psi'(-1/u) / D with Psi a sum of levels.

`rmtland.laws.subordination` has what every law shares: the jet (value and two derivatives in m), the level, the point
at which levels are asked, and the equation they add up to. `rmtland.laws.solver` solves it, for laws and landscape
alike.

- `sums`: compiled sums over examples of resolvents of A_mu.
- `examples`, `exchangeable`: averages over given examples, or over a logit law: the same levels, other sums.
- `levels`: residuals, class gradients, means. Each stands on the one below it (eq. (10) of the paper) or on the bare
  examples (eq. (16)): two lists, made by `levels_of`.
- `spikes`: another list near the outliers, every spike apart, for many classes.
- `spectral`: what every theory says, arguments checked; `exact`, `transitions`, `predictions`: what follows from an
  equation; `rmtland.laws.fluctuations` from any.
- `separable`: measured means and residuals of any covariance, two functions of z instead of one, and why that is no
  list of levels; `mean_kernel` what means are to it, `residual_part` without them, `continuation` its solutions,
  `structured` what follows, `structured_fluctuations` its deviations from the covariance of `determinants`.
- `given`, `population`, `band`: theories given logits, over the logit law, averaged over draws.

A new level is a subclass of `Level`: `at` gives its jet and its part of the gradient's quadratic form, `count_above`
its part of the inertia, `rough_atoms` where first guesses come from; `Part.passed` what levels that stand on it see.
"""
