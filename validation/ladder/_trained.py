"""Small networks of several data sets at three stages of training, that claims on laws measure."""

from __future__ import annotations

import functools
import os

from validation import examples
from validation.devices import device

STAGES = ("initialisation", "mid training", "end of training")
NETWORKS = {
    # Data, network, hidden widths or width, epochs, training examples per class (None: all).
    "digits MLP": ("digits", "mlp", (24,), 8, None),
    "MNIST MLP": ("mnist", "mlp", (32, 16), 4, 100),
    "MNIST CNN": ("mnist", "cnn", 0.5, 4, 100),
    "Fashion MLP": ("fashion", "mlp", (64,), 4, 100),
    "Fashion CNN": ("fashion", "cnn", 0.5, 4, 100),
}


@functools.lru_cache(maxsize=1)
def _dataset(data, per_class, where):
    """Read once for all seeds of a network, from the folder that is named."""
    import rmtland as rl

    return examples.load(data, per_class) if where and data != "digits" else rl.nets.load_dataset("digits")


def trained_stages(network, examples, seed):
    """Sources by stage, of so many examples."""
    import torch

    import rmtland as rl
    from rmtland.nets.training import network_and_data

    data, kind, size, epochs, per_class = NETWORKS[network]
    dataset = _dataset(data, per_class, os.environ.get("RMTLAND_DATA", ""))
    shape = {"hidden": size} if kind == "mlp" else {"width": size}
    with torch.device("cpu"):
        module, dataset = network_and_data(dataset, kind, seed=seed, **shape)
    return rl.nets.training_stages(
        dataset, network=module.to(device()), epochs=epochs, num_examples=examples, seed=seed
    )
