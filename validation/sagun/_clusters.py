"""The networks of table 1: 100-30-30-k, trained on k Gaussian clusters."""

from __future__ import annotations

import numpy as np

from validation import networks
from validation.networks import Recipe

ROWS = (
    # algorithm, activation, parameters, covariance, clusters, and the paper's counts: gap, ratio, heuristic.
    ("GD", "tanh", 4022, 1.0, 2, 2, 3, None),
    ("GD", "tanh", 4115, 1.0, 5, 2, 17, None),
    ("GD", "tanh", 4270, 1.0, 10, 2, 4, None),
    ("GD", "tanh", 4580, 1.0, 20, 3, 4, None),
    ("GD", "ReLU", 4022, 1.0, 2, 3, 4, 2),
    ("GD", "ReLU", 4115, 1.0, 5, 6, 7, 5),
    ("GD", "ReLU", 4270, 1.0, 10, 11, 12, 10),
    ("GD", "ReLU", 4580, 1.0, 20, 4, 21, 21),
    ("GD", "ReLU", 5510, 1.0, 50, 50, 51, 49),
    ("SGD", "ReLU", 4022, 1.0, 2, 3, 4, 2),
    ("SGD", "ReLU", 4115, 1.0, 5, 6, 7, 7),
    ("SGD", "ReLU", 4270, 1.0, 10, 2, 14, 15),
    ("SGD", "ReLU", 4580, 1.0, 20, 2, 3, 21),
    ("SGD", "ReLU", 5510, 1.0, 50, 50, 51, 49),
    ("SGD", "ReLU", 4022, 10.0, 2, 2, 4, 2),
    ("SGD", "ReLU", 4115, 10.0, 5, 5, 6, 5),
    ("SGD", "ReLU", 4270, 10.0, 10, 2, 11, 9),
    ("SGD", "ReLU", 4580, 10.0, 20, 20, 21, 19),
    ("SGD", "ReLU", 5510, 10.0, 50, 50, 51, 49),
)
"""Table 1."""
RULES = ("gap", "ratio", "elbow")
WIDTHS = (100, 30, 30)
EXAMPLES, BATCH = 1000, 50
STEPS = {"smoke": {"GD": 200, "SGD": 600}, "full": {"GD": 600, "SGD": 600}}
MEASURED = {"smoke": 500, "full": EXAMPLES}
"""Training examples, the first so many, that the Hessian is of where there are ten clusters or more: these have most of
the eigenpairs, and fewer clusters cannot be counted by half of the examples."""
LEARNING_RATES = {"GD": 0.3, "SGD": 0.1}
"""The paper tells neither these nor when it stopped. Plain gradient descent, without momentum, all examples or 50."""


def trained(algorithm, activation, clusters, covariance, scale, seed):
    """The network after `STEPS` steps, as a source of its training examples."""
    from rmtland.nets import gaussian_clusters

    data = gaussian_clusters(clusters, num_examples=EXAMPLES, covariance=covariance, seed=seed)
    recipe = Recipe(
        classes=clusters, hidden=WIDTHS[1:], activation=activation.lower(), learning_rate=LEARNING_RATES[algorithm],
        batch=EXAMPLES if algorithm == "GD" else BATCH,
    )  # fmt: skip
    module = networks.build(recipe, seed, data.x_train)
    run = networks.training(recipe, module, data.x_train, data.y_train, seed, STEPS[scale][algorithm])
    for _ in networks.stepping(recipe, run, STEPS[scale][algorithm]):
        pass
    few = slice(MEASURED[scale] if clusters >= 10 else None)
    return networks.source(module, data.x_train[few], data.y_train[few])


def counted(row, scale, *, rng):
    """Counts of outliers of one row of the table, and what else it prints."""
    import rmtland as rl

    algorithm, activation, _, covariance, clusters, *_ = ROWS[int(row)]
    with networks.one_thread():
        source = trained(algorithm, activation, clusters, covariance, scale, int(rng.integers(2**31)))
        # The rules need the top of the spectrum alone; a quarter more than k + 12 shows where the bulk begins.
        k = 5 * (clusters + 12) // 4
        pairs = rl.top_eigenpairs(rl.nets.hessian(source), k, tolerance=1e-4, rng=rng)
        outputs = rl.output_statistics(source)
        eigenvalues = np.full(80, np.nan)
        eigenvalues[:k] = pairs.eigenvalues[::-1]
        counts = {rule: float(rl.count_outliers(pairs, rule, max_outliers=k - 1)) for rule in RULES}
        return {
            **counts, "parameters": float(source.num_parameters), "loss": outputs.loss, "accuracy": outputs.accuracy,
            "mean_eigenvalue": rl.gauss_newton_trace(source) / source.num_parameters,
            "eigenvalues": (("rank",), eigenvalues),
        }  # fmt: skip
