"""Training records: what they measure, and that training does not feel them."""

import random

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import rmtland as rl
from rmtland.nets import TrainingRecord, mlp, open_record
from tests.nets.networks import full_hessian
from tests.nets.records import C, data, loop, network, seeded


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


def test_losses_other_than_cross_entropy(tmp_path):
    module, (x, _) = mlp([16, 4, C]), data()
    targets = torch.randn(len(x), C, dtype=torch.float64)
    loss = nn.MSELoss()
    record = TrainingRecord(tmp_path / "record", module, x, targets, steps=[0], loss=loss)
    found = record.dataset().load().isel(step=0, split=0)
    assert "accuracy" not in found
    each = (module(x) - targets).square().mean(dim=1).detach().numpy()
    assert found.loss.item() == pytest.approx(each.mean(), rel=1e-12)
    assert found.loss_error.item() == pytest.approx(each.std(ddof=1) / np.sqrt(len(each)), rel=1e-9)
    source = rl.nets.NetworkLogitGradients(module, x, targets, loss)
    assert found.hessian_trace.item() == pytest.approx(np.trace(rl.nets.hessian(source).to_dense()), rel=1e-9)
    assert found.gauss_newton_trace.item() == pytest.approx(float(rl.gauss_newton_trace(source)), rel=1e-9)
    with pytest.raises(ValueError, match="`source` must have softmax outputs|must be"):
        TrainingRecord(tmp_path / "other", module, x, targets, loss=loss, statistics="hierarchy")


class Margins(rl.SumAccumulator):
    """Mean distance of the own logit above the mean of all, over all examples and by class."""

    def terms(self, chunk):
        margins = (chunk.own * chunk.logits).sum(dim=1) - chunk.logits.mean(dim=1)
        return margins.sum(), chunk.own.T @ margins, chunk.own.sum(dim=0)

    def conclude(self, sums, source):
        return {"mean": sums[0] / source.num_examples, "by_class": sums[1] / sums[2]}


@pytest.mark.parametrize("loader", [False, True])
def test_accumulators_of_ones_own(tmp_path, loader):
    module, (x, y) = mlp([16, C]), data()
    inputs = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=7) if loader else (x, y)
    own = {"margin": Margins(), "q": rl.ClusteringAccumulator(num_bootstrap=0), "slope": rl.GradientAccumulator()}
    record = TrainingRecord(
        tmp_path / "record", module, inputs, test=data(1, 9), every=1, statistics="outputs", accumulators=own
    )
    loop(module, record, steps=2)
    found = record.dataset().sel(step=2)
    for split, (inputs, labels) in (("train", data()), ("test", data(1, 9))):
        with torch.no_grad():
            z = module.eval()(inputs)
        margins = (z[torch.arange(len(labels)), labels] - z.mean(dim=1)).numpy()
        last = found.sel(split=split)
        assert last.margin_mean.item() == pytest.approx(margins.mean(), rel=1e-12)
        by_class = [margins[labels.numpy() == k].mean() for k in range(C)]
        np.testing.assert_allclose(last.margin_by_class, by_class, rtol=1e-12)
        source = rl.nets.NetworkLogitGradients(module, inputs, labels)
        assert last.q_same_logit.item() == pytest.approx(rl.clustering(source).same_logit, rel=1e-9)
        np.testing.assert_allclose(last.slope, rl.gradient(source), rtol=1e-9, atol=1e-14)
    with pytest.raises(ValueError, match=r"the same `accumulators` to go on with, \[\]; .* has \['margin'"):
        TrainingRecord(record.path, module, inputs, test=data(1, 9), statistics="outputs")


class Words(Margins):
    def conclude(self, sums, source):
        return {"said": "much"}


@pytest.mark.parametrize(
    ("accumulators", "error", "message"),
    [
        ([Margins()], TypeError, "`accumulators` must be a mapping of names; got "),
        ({"a b": Margins()}, ValueError, "`accumulators` must have names of letters, digits and _; got 'a b'"),
        ({"margin": Margins}, TypeError, "`accumulators` must be accumulators; got <class"),
        ({"margin": "clustering"}, TypeError, "`accumulators` must be accumulators; got 'clustering'"),
        ({"loss": Margins(), "words": Words()}, TypeError, "`accumulators` must give numbers, .*; got dict"),
        (
            {"loss": rl.GradientAccumulator()},
            ValueError,
            "names that the record does not have; got 'loss'",
        ),
        ({"rank": rl.GradientAccumulator()}, ValueError, "names that the record does not have; got 'rank'"),
    ],
)
def test_accumulators_that_are_none(tmp_path, accumulators, error, message):
    with pytest.raises(error, match=message):
        TrainingRecord(tmp_path / "record", mlp([16, C]), data(), accumulators=accumulators)


def test_a_loader_and_options_of_the_source(tmp_path):
    x, y = data()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=7)
    module = mlp([16, C])
    one = TrainingRecord(tmp_path / "one", module, loader, statistics=["outputs", "hessian"]).dataset()
    two = TrainingRecord(tmp_path / "two", module, x, y, statistics=["outputs", "hessian"], batch_size=5).dataset()
    np.testing.assert_allclose(one.hessian_eigenvalues, two.hessian_eigenvalues, atol=1e-12)
    with pytest.raises(ValueError, match="`batch_size` must be >= 1; got 0"):
        TrainingRecord(tmp_path / "three", module, x, y, batch_size=0)


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
