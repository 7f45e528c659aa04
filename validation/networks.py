"""Trained networks at stages of their training, shared by claims: each is trained once and kept beside the results."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rmtland._arrays import to_numpy
from rmtland.nets.architectures.names import NETWORKS
from validation import stores
from validation.devices import device
from validation.examples import data, folder_named, found_data, told

__all__ = ["data", "folder_named", "told"]  # of examples, which claims of networks ask with them


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a network is made and trained with.

    Parameters
    ----------
    data : {"mnist", "fashion", "cifar10", "digits"}
    side : int
        Images are shrunk to side x side by averaging; 0 leaves them as they are.
    classes, examples : int
        The first so many classes, and how many training examples of them all, the same number of each.
    network : str
        A name of `rmtland.nets`, where "cnn" is without batch norm and in float64; or "convnet", Sagun's: two
        convolutions, each with ReLU and pooling, and two linear layers.
    hidden : tuple of int
        Of "mlp"; of "convnet" the channels of both convolutions and the width of the linear layer.
    activation : {"relu", "tanh"}
    width : float
        Multiplies the channels of all but "mlp" and "convnet".
    weight_scale : float
        Initial parameters times this.
    batch, large_batch : int
        Batch size, 0 for all examples; and that of the first half of the steps, 0 where it is the same.
    learning_rate, momentum, weight_decay : float
    annealed : bool
        Whether the rate falls by ten at one and at two thirds of the steps.
    epochs : int
        Passes over the examples, after which training ends; 0 where the last stage says how many steps there are.
    stages : tuple of int
        Steps at which the network is kept, 0 for the initial one; the last is the end of training.
    """

    data: str = "mnist"
    side: int = 0
    classes: int = 10
    examples: int = 500
    network: str = "mlp"
    hidden: tuple[int, ...] = (12, 12)
    activation: str = "relu"
    width: float = 1.0
    weight_scale: float = 1.0
    batch: int = 0
    large_batch: int = 0
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    annealed: bool = False
    epochs: int = 0
    stages: tuple[int, ...] = (0, 100, 1000)

    @property
    def text(self) -> str:
        """All of it, as a parameter of a sweep; the data set is the one that is really read."""
        fields = {**dataclasses.asdict(self), "data": found_data(self.data)}
        for name in ("weight_decay", "annealed", "epochs"):
            # Seeds follow from this text, and stay what they were for recipes that do without these fields.
            if not fields[name]:
                del fields[name]
        return json.dumps(fields, sort_keys=True)

    @staticmethod
    def of(text: str) -> Recipe:
        """The recipe that has this text."""
        return Recipe(**{name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(str(text)).items()})


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch: products of small matrices gain nothing from more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def build(recipe: Recipe, seed: int, images: Any = None) -> Any:
    """A new network on the device of the run; "mlp", "convnet" and "cnn" in float64, the others in float32.

    It takes images like these, by default those of `data`.
    """
    import torch
    from torch import nn

    import rmtland as rl

    shape = (data(recipe)[0] if images is None else images).shape[1:]
    # Drawn on the CPU and moved, whatever torch's default is: the same weights on every device.
    with torch.device("cpu"):
        if recipe.network == "convnet":
            module = _convnet(*shape[:2], recipe, seed)
        elif recipe.network == "cnn":
            module = rl.nets.cnn(
                recipe.classes, channels=shape[0], image_size=shape[1], width=recipe.width, batch_norm=False, seed=seed,
                dtype=torch.float64,
            )  # fmt: skip
        elif recipe.network in NETWORKS:
            module = rl.nets.build_network(
                recipe.network, shape, recipe.classes, hidden=recipe.hidden, seed=seed,
                width=1.0 if recipe.network == "mlp" else recipe.width,
            )  # fmt: skip
        else:
            raise ValueError(f"`network` must be convnet or one of {', '.join(NETWORKS)}; got {recipe.network!r}")
        if recipe.activation == "tanh":
            module = nn.Sequential(*(nn.Tanh() if isinstance(layer, nn.ReLU) else layer for layer in module))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(recipe.weight_scale)
    return module.to(device())


def _convnet(channels: int, size: int, recipe: Recipe, seed: int) -> Any:
    import torch
    from torch import nn

    first, second, units = recipe.hidden
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(channels, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(second * (size // 4) ** 2, units), nn.ReLU(), nn.Linear(units, recipe.classes),
        ).double()  # fmt: skip


def flat(module: Any) -> Any:
    """All parameters and buffers of a network in one vector."""
    return np.concatenate([to_numpy(value).ravel() for value in module.state_dict().values()])


def fill(module: Any, weights: Any) -> None:
    """Parameters and buffers from such a vector, in place."""
    import torch

    at, state = 0, module.state_dict()
    for name, value in state.items():
        part = np.array(weights[at : at + value.numel()]).reshape(value.shape)
        state[name] = torch.as_tensor(part, device="cpu").to(value.device, value.dtype)
        at += value.numel()
    module.load_state_dict(state)


def training(recipe: Recipe, module: Any, images: Any, labels: Any, seed: int, steps: int = 0) -> Any:
    """The training of a recipe, of its epochs or of at least so many steps; `stepping` goes through it."""
    import rmtland as rl

    batch = min(recipe.batch or len(labels), len(labels))
    return rl.nets.Training(
        module, images, labels, epochs=recipe.epochs or -(-steps * batch // len(labels)) + 1, batch_size=batch,
        learning_rate=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay, seed=seed,
    )  # fmt: skip


def stepping(recipe: Recipe, run: Any, steps: int) -> Iterator[int]:
    """Train, yielding 0 before the first step and then the number of steps done, until `steps`."""
    yield 0
    for step in run if steps else ():
        if recipe.annealed:
            fallen = (3 * step >= steps) + (3 * step >= 2 * steps)
            run.learning_rate = recipe.learning_rate * 0.1**fallen
        yield step
        if step == steps:
            return


def epochs(recipe: Recipe, module: Any, images: Any, labels: Any, seed: int) -> Iterator[int]:
    """Train, yielding 0 before the first epoch of a recipe and then the number of epochs done."""
    run = training(recipe, module, images, labels, seed)
    for step in stepping(recipe, run, run.num_steps):
        if step % run.steps_per_epoch == 0:
            yield step // run.steps_per_epoch


def train(recipe: str, *, rng: np.random.Generator) -> dict[str, Any]:
    """A cell of a sweep: a network trained, its weights at each stage."""
    made = Recipe.of(recipe)
    images, labels = data(made)
    seed = int(rng.integers(2**31))
    with one_thread():
        module = build(made, seed)
        kept, last = [], made.stages[-1]
        parts = [(0, last, made.batch)]
        if made.large_batch:
            parts = [(0, last // 2, made.large_batch), (last // 2, last, made.batch)]
        for start, stop, batch in parts:
            part = dataclasses.replace(made, batch=batch)
            run = training(part, module, images, labels, seed + start, stop - start)
            for step in stepping(part, run, stop - start):
                if start + step in made.stages and (step or not start):
                    kept.append(flat(module))
    return {"weights": (("stage", "parameter"), np.stack(kept))}


def trained(recipe: Recipe, networks: int) -> Any:
    """Weights (networks, stages, parameters); from the folder of the results where they have been trained before."""
    return _trained(recipe, networks, stores.folder(), stores.run_seed(), os.environ.get("RMTLAND_DATA", ""))


@functools.lru_cache(maxsize=64)
def _trained(recipe: Recipe, networks: int, folder: Any, seed: int, where: str) -> Any:
    digest = hashlib.sha256(recipe.text.encode()).hexdigest()[:12]
    rng = np.random.default_rng([seed, int(digest, 16)])
    found = stores.swept(f"networks-{digest}", train, {"recipe": [recipe.text]}, networks, rng)
    return found.weights.to_numpy()[0]


def module_at(recipe: Recipe, network: int, stage: int, networks: int | None = None) -> Any:
    """A network at a stage (a place in `recipe.stages`), of the first `networks` of its recipe."""
    module = build(recipe, 0)
    fill(module, trained(recipe, networks or network + 1)[network, stage])
    return module


def source_at(recipe: Recipe, network: int, stage: int, networks: int, examples: int | None = None) -> Any:
    """The same as a source of its first `examples` training examples, which are balanced."""
    return source_of(module_at(recipe, network, stage, networks), recipe, examples)


def source_of(module: Any, recipe: Recipe, examples: int | None = None) -> Any:
    """A network with weights of any kind as a source of the first `examples` training examples of a recipe."""
    images, labels = data(recipe)
    return source(module, images[:examples], labels[:examples])


def source(module: Any, images: Any, labels: Any) -> Any:
    """A network as a source of these examples, which lie where it lies, in its dtype."""
    import torch

    import rmtland as rl

    one = next(module.parameters())
    x = torch.as_tensor(images, device="cpu").to(one.device, one.dtype)
    return rl.nets.NetworkLogitGradients(module, x, torch.as_tensor(labels, device="cpu").to(one.device))


def measured(
    name: str, function: Any, recipes: Sequence[Recipe], count: int, rng: np.random.Generator, **fixed: Any
) -> Any:
    """A sweep over recipes, so many networks of each, and their stages.

    Parameters
    ----------
    name : str
        Of the store.
    function : callable
        `function(recipe, network, stage, count, **fixed)`, the arguments of `source_at` with the recipe's text: a dict
        of numbers and arrays.
    recipes : sequence of Recipe
        With the same number of stages.
    count : int
    rng : numpy.random.Generator
    **fixed
        Parameters that are the same everywhere.

    Returns
    -------
    xarray.Dataset
        Over (recipe, network, stage, ...).
    """
    grid = {
        "recipe": [recipe.text for recipe in recipes], "network": list(range(count)),
        "stage": list(range(len(recipes[0].stages))),
    }  # fmt: skip
    with one_thread():
        return stores.swept(name, function, grid, 1, rng, shared_axes=2, count=count, **fixed).isel(trial=0)


def padded(values: Any, size: int) -> Any:
    """NaN in front of ascending eigenvalues, so that matrices of several sizes fit into one array."""
    return np.concatenate([np.full(size - len(values), np.nan), values])


def mean_and_error(values: Any, form: str = "{:.2f}") -> str:
    """Mean over networks and its standard error, for conclusions."""
    values = np.asarray(values, dtype=np.float64)
    error = values.std(ddof=1) / values.size**0.5
    return f"{form.format(values.mean())} +- {form.format(error)}"


def logits_of(source: Any) -> Any:
    """All logits of a source, (N, C)."""
    return np.concatenate([to_numpy(chunk.logits).astype(np.float64) for chunk in source.chunks()])


def logit_variance(source: Any) -> float:
    """Variance across classes, mean over examples: sigma_z^2."""
    return float(logits_of(source).var(axis=1, ddof=1).mean())
