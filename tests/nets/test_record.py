"""Training records: what they measure, that training does not feel them, and that no kill hurts them."""

import gc
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import rmtland as rl
from rmtland.nets import TrainingRecord, measure_checkpoints, mlp, moment, open_record, record_store
from rmtland.spectra import partial
from tests.nets.networks import full_hessian

N, C = 24, 3


def data(seed=0, n=N, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % C
    return torch.randn(n, 1, 4, 4, generator=generator, dtype=dtype) + 2 * y[:, None, None, None], y


def network(dtype=torch.float64):
    """With everything that notices being looked at: batch norm's buffers, dropout's random numbers, a frozen layer."""
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(12, 6).requires_grad_(False), nn.Tanh(), nn.Linear(6, C),
    )  # fmt: skip
    return module.to(dtype)


def loop(module, record=None, steps=6, start=0):
    x, y = data()
    optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    module.train()
    module[1].eval()  # modes differ from layer to layer
    for step in range(start + 1, steps + 1):
        optimiser.zero_grad()
        noise = 0.01 * torch.randn(x.shape, dtype=x.dtype) * random.random() * np.random.rand()
        nn.functional.cross_entropy(module(x + noise), y).backward()
        optimiser.step()
        if record is not None:
            record.step(step)


def seeded():
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)


def test_training_with_a_record_is_bit_for_bit_training_without(tmp_path):
    runs = []
    for recorded in (False, True):
        module = network()
        module[1].momentum = 0.2
        seeded()
        record = TrainingRecord(tmp_path / "record", module, data(), test=data(1, 9), every=2) if recorded else None
        loop(module, record)
        runs.append((module, torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()))
    (plain, *states), (watched, *others) = runs
    assert record.steps == [0, 2, 4, 6]
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    for (name, p), q in zip(plain.named_parameters(), watched.parameters(), strict=True):
        assert p.requires_grad == q.requires_grad
        assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad), name
    assert [m.training for m in plain.modules()] == [m.training for m in watched.modules()]
    assert torch.equal(states[0], others[0])
    assert states[1:] == others[1:]


def test_what_is_recorded_is_what_the_functions_say(tmp_path):
    module = network()
    train, test = data(), data(1, 10)
    record = TrainingRecord(tmp_path / "record", module, *train, test=test, steps=[0, 3], k=4, seed=7)
    loop(module, record, steps=3)
    found = xr.open_zarr(tmp_path / "record", chunks=None).load()
    assert found.step.values.tolist() == [0, 3]
    assert found.step.dtype == np.int64
    assert found.split.values.tolist() == ["train", "test"]
    assert found["rank"].values.tolist() == [4, 3, 2, 1]
    trainable = [p for p in module.parameters() if p.requires_grad]
    norm = torch.cat([p.reshape(-1) for p in trainable]).norm().item()
    assert found.weight_norm.sel(step=3).item() == pytest.approx(norm, rel=1e-12)
    for split, (x, y) in (("train", train), ("test", test)):
        last = found.sel(step=3, split=split)
        source = rl.nets.NetworkLogitGradients(module, x, y)
        outputs, scales = rl.output_statistics(source), rl.logit_scales(source)
        for name in ("loss", "accuracy", "entropy", "max_probability", "participation"):
            assert last[name].item() == pytest.approx(getattr(outputs, name), rel=1e-12), name
            assert last[f"{name}_error"].item() == pytest.approx(getattr(outputs, f"{name}_error"), rel=1e-9), name
        assert last.logit_variance.item() == pytest.approx(scales.sigma_z**2, rel=1e-12)
        assert last.logit_variance_error.item() == pytest.approx(2 * scales.sigma_z * scales.sigma_z_error, rel=1e-9)
        for name in ("sigma_c", "sigma_E", "snr"):
            assert last[name].item() == pytest.approx(getattr(scales, name), rel=1e-9), name
            assert last[f"{name}_error"].item() == pytest.approx(getattr(scales, f"{name}_error"), rel=1e-9), name
        q = rl.clustering(source)
        for name in ("same_logit_same_class", "same_logit", "different_logits"):
            assert last[f"q_{name}"].item() == pytest.approx(getattr(q, name), rel=1e-9, abs=1e-12)
            assert last[f"q_{name}_error"].item() == pytest.approx(getattr(q, f"{name}_error"), rel=1e-9, abs=1e-12)
        dense = torch.cat([chunk.dense() for chunk in source.chunks()]).norm(dim=2).numpy()
        np.testing.assert_allclose(last.logit_gradient_length, dense.mean(axis=0))
        spread = dense.std(axis=0, ddof=1) / np.sqrt(len(dense))
        np.testing.assert_allclose(last.logit_gradient_length_error, spread)
        own = [dense[y.numpy() == k, k].mean() for k in range(C)]
        np.testing.assert_allclose(last.own_class_length, own)
        slope = rl.gradient(source).numpy()
        assert last.gradient_norm.item() == pytest.approx(np.linalg.norm(slope), rel=1e-12)
        for name, matrix in (
            ("hessian", full_hessian(module, x, y).numpy()),
            ("gauss_newton", rl.gauss_newton(source).to_dense()),
        ):
            values, vectors = np.linalg.eigh(np.asarray(matrix))
            powers = (vectors.T @ slope / np.linalg.norm(slope)) ** 2
            np.testing.assert_allclose(last[f"{name}_eigenvalues"], values[-4:], atol=1e-10)
            np.testing.assert_allclose(last[f"{name}_powers"], powers[-4:], atol=1e-8)
            assert last[f"{name}_gradient_power"].item() == pytest.approx(powers[-2:].sum(), rel=1e-6)
            ratio = values.sum() / np.linalg.norm(values)
            assert last[f"{name}_goldilocks_ratio"].item() == pytest.approx(ratio, rel=1e-8)
            assert last[f"{name}_trace"].item() == pytest.approx(values.sum(), rel=1e-9)
            assert last[f"{name}_frobenius_norm"].item() == pytest.approx(np.linalg.norm(values), rel=1e-9)
            for quantity in ("goldilocks_ratio", "trace", "frobenius_norm", "gradient_power"):
                assert last[f"{name}_{quantity}_error"].item() == 0


def test_large_networks_take_the_same_numbers_from_products(tmp_path, monkeypatch):
    module = mlp([16, 12, C], seed=2)
    exact = TrainingRecord(tmp_path / "exact", module, data(), steps=[0]).dataset().load()
    monkeypatch.setattr(moment, "EXACT", 10)
    estimated = TrainingRecord(tmp_path / "estimated", module, data(), steps=[0]).dataset().load()
    assert set(estimated) == set(exact)
    for name in ("hessian", "gauss_newton"):
        # An eigenvalue is off by the square of its residual over a gap, far less than the residual that is its error.
        np.testing.assert_allclose(estimated[f"{name}_eigenvalues"], exact[f"{name}_eigenvalues"], rtol=1e-6)
        np.testing.assert_allclose(estimated[f"{name}_powers"], exact[f"{name}_powers"], rtol=1e-3, atol=1e-8)
        errors = estimated[f"{name}_eigenvalues_error"]
        assert bool((errors > 0).all())
        assert bool((errors < 1e-4 * estimated[f"{name}_eigenvalues"]).all())
        assert bool((exact[f"{name}_eigenvalues_error"] == 0).all())
        for quantity in ("trace", "frobenius_norm", "goldilocks_ratio", "gradient_power"):
            value, error = (estimated[f"{name}_{quantity}{end}"].item() for end in ("", "_error"))
            right = exact[f"{name}_{quantity}"].item()
            assert exact[f"{name}_{quantity}_error"].item() == 0
            if (name, quantity) == ("gauss_newton", "trace"):  # from the lengths of logit gradients, in the one pass
                assert error == 0
                assert value == pytest.approx(right, rel=1e-12)
            else:
                assert 0 < error < 0.3 * right, (name, quantity)
                assert abs(value - right) < 5 * error, (name, quantity)
    # Probes have their own numbers at every step and seed.
    other = TrainingRecord(tmp_path / "other", module, data(), steps=[0], seed=1).dataset().load()
    again = TrainingRecord(tmp_path / "again", module, data(), steps=[0]).dataset().load()
    xr.testing.assert_identical(again.drop_attrs(), estimated.drop_attrs())
    assert not other.hessian_goldilocks_ratio.equals(estimated.hessian_goldilocks_ratio)


def test_all_but_one_eigenvalue_can_be_asked_for_by_products(tmp_path, monkeypatch):
    module = mlp([16, C], seed=2)
    size = sum(p.numel() for p in module.parameters())
    exact = TrainingRecord(tmp_path / "exact", module, data(), steps=[0], statistics="hessian", k=size)
    monkeypatch.setattr(moment, "EXACT", 10)
    found = TrainingRecord(tmp_path / "all", module, data(), steps=[0], statistics="hessian", k=size)
    values, right = (record.dataset().load().hessian_eigenvalues.to_numpy().ravel() for record in (found, exact))
    assert values.size == right.size == size
    assert np.isnan(values[0])  # one short of all, as solvers of this kind are
    np.testing.assert_allclose(values[1:], right[1:], atol=1e-6 * right[-1])


def test_the_gauss_newton_matrix_of_a_large_network_is_exact_while_its_rows_are_few(tmp_path, monkeypatch):
    monkeypatch.setattr(moment, "EXACT", 10)
    errors = []
    for large, rows in ((1, N * (C - 1)), (1, N * (C - 1) - 1), (10**5, N * (C - 1))):
        monkeypatch.setattr(moment, "LARGE", large)
        monkeypatch.setattr(moment, "EXACT_ROWS", rows)
        path = tmp_path / f"{large} {rows}"
        found = TrainingRecord(path, mlp([16, 12, C]), data(), steps=[0], statistics="gauss_newton").dataset().load()
        errors.append(found.gauss_newton_frobenius_norm_error.item())
    assert errors[0] == 0
    assert min(errors[1:]) > 0


def test_statistics_come_from_one_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(moment, "EXACT", 10)
    passes = []
    chunks = rl.nets.NetworkLogitGradients.chunks

    def counted(source):
        passes.append(source)
        return chunks(source)

    monkeypatch.setattr(rl.nets.NetworkLogitGradients, "chunks", counted)
    names = ["outputs", "logit_scales", "lengths", "clustering"]
    TrainingRecord(tmp_path / "record", mlp([16, 12, C]), data(), steps=[0], statistics=names)
    few = len(passes)
    passes.clear()
    TrainingRecord(tmp_path / "one", mlp([16, 12, C]), data(), steps=[0], statistics=["outputs"])
    assert few == len(passes)


def test_an_eigenvalue_that_does_not_converge_says_so_by_its_error(tmp_path, monkeypatch):
    monkeypatch.setattr(moment, "EXACT", 10)
    module = mlp([16, 12, C], seed=2)
    whole = partial.top_eigenpairs
    few = {"max_products": 5, "basis_size": 8}
    monkeypatch.setattr(partial, "top_eigenpairs", lambda *a, **k: whole(*a, **k | few))
    found = TrainingRecord(tmp_path / "record", module, data(), steps=[0], statistics="hessian").dataset().load()
    values, errors = found.hessian_eigenvalues[0, 0].to_numpy(), found.hessian_eigenvalues_error[0, 0].to_numpy()
    assert errors.max() > 0.01 * abs(values).max()
    assert found.hessian_gradient_power_error.item() > 0.01
    right = np.linalg.eigvalsh(full_hessian(module, *data()).numpy())
    for value, error in zip(values, errors, strict=True):
        assert abs(right - value).min() <= error  # what a residual promises


def test_the_error_of_gradient_power_is_a_bound_and_no_idle_one():
    rng, tightness = np.random.default_rng(0), []
    spectrum = np.array([0.1, 0.2, 0.3, 0.5, 2.0, 3.0, 4.0])
    for trial in range(300):
        turn, _ = np.linalg.qr(rng.normal(size=(7, 7)))
        matrix = turn * spectrum @ turn.T
        vector = turn @ (rng.normal(size=7) * np.array([1, 1, 1, 1, 3, 3, 3]) ** (trial % 3))
        vector /= np.linalg.norm(vector)
        found, _ = np.linalg.qr(turn[:, 3:] + 10.0 ** rng.uniform(-6, -1.5) * rng.normal(size=(7, 4)))
        values, inner = np.linalg.eigh(found.T @ matrix @ found)
        found = found @ inner
        residuals = np.linalg.norm(matrix @ found - found * values, axis=0)
        powers = (found.T @ vector) ** 2
        off = abs(powers[-3:].sum() - ((turn[:, -3:].T @ vector) ** 2).sum())
        bound = moment.power_error(powers[-3:].sum(), residuals, values, 3)
        assert off <= bound + 1e-15
        tightness.append(off / bound)
    assert max(tightness) > 0.3
    assert moment.power_error(0.5, np.array([0.0, 3.0, 0.0]), np.array([1.0, 2.0, 3.0]), 2) == 1
    assert np.isnan(moment.power_error(np.nan, residuals, values, 3))


@pytest.mark.parametrize(
    ("settings", "calls", "expected"),
    [
        ({}, range(1, 20), [0, 1, 2, 4, 8, 16]),
        ({"every": 5}, range(1, 12), [0, 5, 10]),
        ({"every": 5}, [3, 7, 9, 12, 30], [0, 7, 12, 30]),  # calls by the epoch: at the first after each
        ({"steps": [2, 3, 7]}, range(1, 9), [2, 3, 7]),
        ({"steps": [2, 3, 7]}, [5, 10], [5, 10]),
        ({"steps": [0]}, [1, 2], [0]),
        ({}, [100], [0, 100]),
    ],
)
def test_steps(tmp_path, settings, calls, expected):
    record = TrainingRecord(tmp_path / "record", mlp([16, C]), data(), statistics="outputs", **settings)
    answers = [record.step(number) for number in calls]
    assert record.steps == expected
    assert sum(answers) == len([step for step in expected if step > 0])
    if expected == [0]:
        assert open_record(tmp_path / "record").sizes["step"] == 1


def test_steps_are_counted_without_a_number_and_only_rise(tmp_path):
    record = TrainingRecord(tmp_path / "record", mlp([16, C]), data(), statistics="outputs", every=2)
    assert [record.step() for _ in range(4)] == [False, True, False, True]
    with pytest.raises(ValueError, match="`number` must be >= 5; got 4"):
        record.step(4)


def test_statistics_are_chosen_by_name(tmp_path):
    record = TrainingRecord(tmp_path / "record", mlp([16, C]), data(), statistics=["lengths"])
    names = {"weight_norm", "gradient_norm", "logit_gradient_length", "own_class_length"}
    names |= {"logit_gradient_length_error", "own_class_length_error"}
    assert set(record.dataset().data_vars) == names
    assert "rank" not in record.dataset().coords


def test_a_loader_and_options_of_the_source(tmp_path):
    x, y = data()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=7)
    module = mlp([16, C])
    one = TrainingRecord(tmp_path / "one", module, loader, statistics=["outputs", "hessian"]).dataset()
    two = TrainingRecord(tmp_path / "two", module, x, y, statistics=["outputs", "hessian"], batch_size=5).dataset()
    np.testing.assert_allclose(one.hessian_eigenvalues, two.hessian_eigenvalues, atol=1e-12)
    with pytest.raises(ValueError, match="`batch_size` must be >= 1; got 0"):
        TrainingRecord(tmp_path / "three", module, x, y, batch_size=0)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment_of_death", ["array", "commit", "measure"])
def test_a_death_in_the_middle_of_a_row_loses_that_row_alone(tmp_path, monkeypatch, moment_of_death):
    def whole(path, seed=5):
        module = mlp([16, C], seed=seed)
        record = TrainingRecord(path, module, data(), every=1, statistics=["outputs", "hessian"])
        plain(module, record)
        return record

    def plain(module, record, start=0):
        x, y = data()
        for _ in range(start, 4):
            loss = nn.functional.cross_entropy(module(x), y)
            gradients = torch.autograd.grad(loss, list(module.parameters()))
            with torch.no_grad():
                for p, g in zip(module.parameters(), gradients, strict=True):
                    p -= 0.1 * g
            record.step()

    reference = whole(tmp_path / "reference").dataset().load()
    deaths = 0

    def die_late(function):
        def dying(*arguments, **options):
            nonlocal deaths
            deaths += 1
            if deaths == {"array": 40, "commit": 5, "measure": 4}[moment_of_death]:
                raise Killed
            return function(*arguments, **options)

        return dying

    import zarr

    with monkeypatch.context() as patch:
        where, name = {
            "array": (zarr, "open_array"), "commit": (record_store, "_commit"), "measure": (moment, "hessian"),
        }[moment_of_death]  # fmt: skip
        patch.setattr(where, name, die_late(getattr(where, name)))
        with pytest.raises(Killed):
            whole(tmp_path / "record")
    half = xr.open_zarr(tmp_path / "record", chunks=None).load()
    assert 1 <= half.sizes["step"] < 5
    xr.testing.assert_identical(half.drop_attrs(), reference.isel(step=slice(half.sizes["step"])).drop_attrs())
    # Training starts again from the beginning; what is there is not measured again.
    (tmp_path / "record" / "loss" / "c.partial").write_text("half a file")
    record = whole(tmp_path / "record")
    assert record.steps == [0, 1, 2, 3, 4]
    xr.testing.assert_identical(record.dataset().load().drop_attrs(), reference.drop_attrs())
    assert not list((tmp_path / "record").rglob("*.partial"))


SCRIPT = """
import sys, torch
import rmtland as rl
from rmtland.nets import moment
moment.EXACT = 10  # eigenpairs and traces from products and random probes
digits = rl.nets.load_dataset("digits", per_class=4)
module = rl.nets.mlp([64, 6, 10])
training = rl.nets.Training(module, digits.x_train, digits.y_train, epochs=5, batch_size=8)
record = rl.nets.TrainingRecord(sys.argv[1], module, digits.x_train, digits.y_train, every=1,
                                statistics=["outputs", "clustering", "hessian"])
for step in training:
    record.step(step)
    print(step, flush=True)
"""


@pytest.mark.slow
def test_a_record_outlives_sigkill(tmp_path):
    script = tmp_path / "loop.py"
    script.write_text(SCRIPT)
    for lines in (2, 9):
        process = subprocess.Popen([sys.executable, script, tmp_path / "killed"], stdout=subprocess.PIPE, text=True)
        for _ in range(lines):
            last = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        steps = xr.open_zarr(tmp_path / "killed", chunks=None).load().step.values.tolist()
        assert steps == list(range(len(steps)))
        assert len(steps) >= last + 1
    for name in ("killed", "whole"):
        subprocess.run([sys.executable, script, tmp_path / name], check=True, capture_output=True)
    found, expected = (open_record(tmp_path / name).load().drop_attrs() for name in ("killed", "whole"))
    xr.testing.assert_identical(found, expected)
    assert found.sizes["step"] == 26


def test_going_on_from_a_checkpoint(tmp_path):
    module = mlp([16, C])
    record = TrainingRecord(tmp_path / "record", module, data(), every=2, statistics="outputs")
    for _ in range(5):
        record.step()
    again = TrainingRecord(tmp_path / "record", module, data(), every=2, statistics="outputs", start=3)
    assert [again.step() for _ in range(5)] == [False, False, True, False, True]
    assert again.steps == [0, 2, 4, 6, 8]
    # One that begins late has no step 0.
    late = TrainingRecord(tmp_path / "late", module, data(), every=2, statistics="outputs", start=3)
    late.step()
    assert late.steps == [4]


def test_nothing_else_is_touched(tmp_path):
    module = mlp([16, C])
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    store = tmp_path / "sweep"
    rl.sweep(lambda a, rng: {"x": a}, {"a": [1.0]}, 1, store=store, workers=1)
    for path in (file, folder, store):
        with pytest.raises(ValueError, match="`path` must be new, an empty folder or a training record; got .*"):
            TrainingRecord(path, module, data())
    assert file.read_text() == (folder / "mine.txt").read_text() == "mine"
    assert float(rl.open_sweep(store).x.mean()) == 1
    with pytest.raises(ValueError, match="`path` must be new, an empty folder or a training record"):
        open_record(folder)
    (tmp_path / "empty").mkdir()
    TrainingRecord(tmp_path / "empty", module, data(), statistics="outputs")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "folder", "sweep"]


def test_a_record_of_other_settings_is_not_gone_on_with(tmp_path):
    module, path = mlp([16, C]), tmp_path / "record"
    TrainingRecord(path, module, data(), statistics="outputs")
    for options, message in (
        ({"statistics": "lengths"}, r"the same `statistics` to go on with, \['lengths'\]; .* has \['outputs'\]"),
        ({"seed": 1}, "the same `seed` to go on with, 1; .* has 0"),
        ({"k": 2}, "the same `k` to go on with, 2; .* has None"),
        ({"test": data()}, r"the same `splits` to go on with, \['train', 'test'\]; .* has \['train'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainingRecord(path, module, data(), **{"statistics": "outputs", **options})
    with pytest.raises(ValueError, match="the same `num_parameters` to go on with, 77; .* has 51"):
        TrainingRecord(path, mlp([16, 3, 5, 1]), data(), statistics="outputs")
    lengths = TrainingRecord(tmp_path / "lengths", mlp([15, 4]), (torch.zeros(4, 15), torch.arange(4)), every=1,
                             statistics="lengths")  # fmt: skip
    other = TrainingRecord(lengths.path, mlp([63, 1]), (torch.zeros(4, 63), torch.arange(4) % 2), every=1,
                           statistics="lengths", loss=rl.Logistic(), start=1)  # fmt: skip
    with pytest.raises(ValueError, match="record of the same network and examples; .* of shape"):
        other.step()


def test_weights_that_are_not_finite_are_a_row_of_nan(tmp_path):
    module = mlp([16, C])
    record = TrainingRecord(tmp_path / "record", module, data(), every=1)
    with torch.no_grad():
        module[1].weight[0, 0] = torch.nan
    assert record.step()
    found = record.dataset()
    assert found.sizes["step"] == 2
    for name, values in found.data_vars.items():
        assert bool(values.isel(step=0).notnull().any()), name
        assert not bool(values.isel(step=1).notnull().any()), name
    with pytest.raises(ValueError, match="`module` must have finite parameters when its record begins"):
        TrainingRecord(tmp_path / "other", module, data())


def test_memory_does_not_grow_with_the_steps(tmp_path):
    record = TrainingRecord(tmp_path / "record", network(), data(), every=1)

    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    counts = []
    for _ in range(4):
        record.step()
        counts.append(tensors())
    assert counts[-1] <= counts[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": [1], "every": 2}, "`steps` and `every` must not both be given; got every = 2"),
        ({"steps": []}, "`steps` must name at least one step; got none"),
        ({"steps": [-1]}, "`steps` must be >= 0; got -1"),
        ({"every": 0}, "`every` must be >= 1; got 0"),
        ({"start": -1}, "`start` must be >= 0; got -1"),
        ({"seed": -1}, "`seed` must be >= 0; got -1"),
        ({"k": 0}, "`k` must be >= 1; got 0"),
        ({"statistics": ["colour"]}, "`statistics` must be one of 'outputs', .*; got 'colour'"),
        ({"statistics": []}, "`statistics` must name at least one of outputs, .*; got none"),
    ],
)
def test_bad_settings(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        TrainingRecord(tmp_path / "record", mlp([16, C]), data(), **options)
    assert list(tmp_path.iterdir()) == []


def test_no_module(tmp_path):
    with pytest.raises(TypeError, match="`module` must be a torch.nn.Module; got int"):
        TrainingRecord(tmp_path / "record", 3, data())


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
    (tmp_path / "empty.pt").touch()
    (tmp_path / "half.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:300])
    for name in ("trap", "text", "empty", "half"):
        with pytest.raises(ValueError, match=f"`checkpoint` must be a file of tensors by torch.save; .*{name}.pt: "):
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
