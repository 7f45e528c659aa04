"""Small networks of several data sets at three stages of training, that claims on laws measure."""

from __future__ import annotations

from validation.devices import device
from validation.examples import folder_named

STAGES = ("initialisation", "mid training", "end of training")
NETWORKS = {
    # Data, network, hidden widths or width, epochs, training examples per class (None: all).
    "digits MLP": ("digits", "mlp", (24,), 8, None),
    "MNIST MLP": ("mnist", "mlp", (32, 16), 4, 100),
    "MNIST CNN": ("mnist", "cnn", 0.5, 4, 100),
    "Fashion MLP": ("fashion", "mlp", (64,), 4, 100),
    "Fashion CNN": ("fashion", "cnn", 0.5, 4, 100),
}


def trained_stages(network, examples, seed):
    """Sources by stage, of so many examples."""
    import torch

    import rmtland as rl
    from rmtland.nets.training import network_and_data

    data, kind, size, epochs, per_class = NETWORKS[network]
    dataset = rl.nets.load_dataset(
        data if folder_named() else "digits", per_class=per_class if folder_named() else None
    )
    shape = {"hidden": size} if kind == "mlp" else {"width": size}
    with torch.device("cpu"):
        module, dataset = network_and_data(dataset, kind, seed=seed, **shape)
    return rl.nets.training_stages(
        dataset, network=module.to(device()), epochs=epochs, num_examples=examples, seed=seed
    )
