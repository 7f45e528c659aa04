"""Networks measured at checkpoints, after the fact."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import rmtland as rl
from rmtland.nets import measure_checkpoints, mlp
from rmtland.nets.record import load_weights
from tests.nets.records import C, data


def checkpoints(folder, count=3):
    """State_dicts along a training, also in files of several kinds."""
    module, found = mlp([16, 4, C]), []
    for step in range(count):
        rl.nets.train(module, *data(), epochs=1, seed=step)
        found.append({name: value.clone() for name, value in module.state_dict().items()})
    torch.save(found[0], folder / "a.pt")
    torch.save({"model_state_dict": found[1], "epoch": 3}, folder / "b.pt")
    torch.save({"state_dict": {f"module.{name}": value for name, value in found[2].items()}}, folder / "c.pt")
    return found


@pytest.mark.slow
def test_checkpoints_are_measured_as_in_training(tmp_path):
    states = checkpoints(tmp_path)
    build = lambda: mlp([16, 4, C], seed=9)  # noqa: E731
    measured = measure_checkpoints(iter(states), build, data(), test=data(1))
    files = measure_checkpoints([tmp_path / f"{name}.pt" for name in "abc"], build, data(), test=data(1))
    xr.testing.assert_identical(
        files.drop_vars("checkpoint").drop_attrs(), measured.drop_vars("checkpoint").drop_attrs()
    )
    assert files.checkpoint.values.tolist() == ["a.pt", "b.pt", "c.pt"]
    assert measured.checkpoint.values.tolist() == ["0", "1", "2"]
    module = build()
    for place, state in enumerate(states):
        module.load_state_dict(state)
        source = rl.nets.NetworkLogitGradients(module, *data(1))
        assert measured.loss.sel(step=place, split="test").item() == rl.output_statistics(source).loss


def test_measured_checkpoints_are_kept(tmp_path):
    states, seen = checkpoints(tmp_path), []
    build = lambda: mlp([16, 4, C])  # noqa: E731
    arguments = {"path": tmp_path / "record", "statistics": "outputs", "after_checkpoint": seen.append}
    first = measure_checkpoints(states[:2], build, data(), steps=[10, 20], **arguments).load()
    assert first.step.values.tolist() == [10, 20]
    # What is there is not loaded again: the first two are no state_dicts of this network now.
    second = measure_checkpoints([{}, {}, states[2]], build, data(), steps=[10, 20, 40], **arguments)
    assert second.step.values.tolist() == [10, 20, 40]
    xr.testing.assert_identical(
        second.loss.isel(step=slice(2)).drop_vars("checkpoint"), first.loss.drop_vars("checkpoint")
    )
    assert seen == [1, 2, 1, 2, 3]
    with pytest.raises(ValueError, match="`steps` must rise; got 30 after 40"):
        measure_checkpoints(states[:1], build, data(), steps=[30], **arguments)


class Trap:
    def __reduce__(self):
        return (Path("/nowhere/trap").touch, ())


def test_checkpoints_that_cannot_be_measured(tmp_path):
    states = checkpoints(tmp_path)
    build = lambda: mlp([16, 4, C])  # noqa: E731
    torch.save({"state_dict": Trap()}, tmp_path / "trap.pt")
    torch.save(states[0]["1.weight"], tmp_path / "tensor.pt")
    (tmp_path / "text.pt").write_text("no tensors")
    (tmp_path / "hello.pt").write_text("hello")  # letters that the unpickler takes for instructions
    (tmp_path / "empty.pt").touch()
    (tmp_path / "half.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:300])
    torch.save({"model": states[0], "best": np.float64(0.9)}, tmp_path / "scalar.pt")
    for name, reason in (
        ("trap", "it holds .*, which would be run: save the state_dict alone"),
        ("scalar", "it holds numpy.*scalar, which would be run: save the state_dict alone"),
        *((name, "it is none") for name in ("text", "hello", "empty", "half")),
    ):
        message = f"`checkpoint` must be a file of tensors by torch.save; .*{name}.pt: {reason}$"
        with pytest.raises(ValueError, match=message):
            measure_checkpoints([tmp_path / f"{name}.pt"], build, data())
    with pytest.raises(TypeError, match="`checkpoint` must be a path or a state_dict; got Tensor"):
        measure_checkpoints([tmp_path / "tensor.pt"], build, data())
    with pytest.raises(FileNotFoundError, match="nowhere.pt"):
        measure_checkpoints([tmp_path / "nowhere.pt"], build, data())
    with pytest.raises(ValueError, match=r"`checkpoint` must fit the module; state_dict: .* size mismatch"):
        measure_checkpoints(states, lambda: mlp([16, 5, C]), data())
    with pytest.raises(TypeError, match="`module` must be a torch.nn.Module; got int"):
        measure_checkpoints(states, lambda: 3, data())
    with pytest.raises(ValueError, match="`checkpoints` must hold at least one checkpoint; got none"):
        measure_checkpoints([], build, data())
    with pytest.raises(ValueError, match="`steps` must have a step for every checkpoint; got 1"):
        measure_checkpoints(states, build, data(), steps=[3])


class Within(torch.nn.Module):
    """Whose own names begin as a wrapper's do."""

    def __init__(self, seed):
        super().__init__()
        self.module = mlp([3, 2], seed=seed)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("make", [lambda seed: mlp([3, 2], seed=seed), Within])
def test_weights_are_found_under_the_names_that_wrappers_give(make, prefix):
    saved = make(1)
    held = {prefix + name: value for name, value in saved.state_dict().items()}
    for key in (None, "state_dict", "model_state_dict", "model", "module", "network"):
        module = make(2)
        load_weights(module, held if key is None else {key: held, "epoch": 3})
        for name, value in saved.state_dict().items():
            assert torch.equal(module.state_dict()[name], value)
    for wrong in ({}, {"module.": torch.zeros(1)}, {**held, "more": torch.zeros(1)}, {"module.weight": torch.zeros(1)}):
        with pytest.raises(ValueError, match="`checkpoint` must fit the module; state_dict"):
            load_weights(module, wrong)
