"""The hierarchy in a training record, and when its outliers change place."""

import numpy as np
import pytest
import torch

import rmtland as rl

PARTS = ("A1", "A2", "B1", "B2")


def digits():
    data = rl.nets.load_dataset("digits", per_class=8)
    return torch.as_tensor(data.x_train), torch.as_tensor(data.y_train)


def test_a_record_holds_the_hierarchy(tmp_path):
    inputs, labels = digits()
    module = rl.nets.mlp([64, 6, 10])
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
    record = rl.nets.TrainingRecord(
        tmp_path / "r", module, inputs, labels, test=(inputs[::2], labels[::2]), every=2, statistics="hierarchy"
    )
    for _ in range(4):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(inputs), labels).backward()
        optimiser.step()
        record.step()
    dataset = record.dataset().load()
    assert list(dataset.step) == [0, 2, 4]
    assert list(dataset.group.values) == [n for n, _ in module.named_parameters()]
    source = rl.nets.NetworkLogitGradients(module, inputs[::2], labels[::2])  # the last step, the test split
    found, last = rl.hierarchy(source), dataset.isel(step=-1).sel(split="test")
    for part in PARTS:
        assert float(last[f"trace_{part}"]) == pytest.approx(found.traces[part], rel=1e-5)
        np.testing.assert_allclose(last[f"group_trace_{part}"].sum(), found.traces[part], rtol=1e-5)
    places = rl.attribution(found, rng=0)
    for part in ("A1", "B1"):
        assert float(last[f"top_eigenvalue_{part}"]) == pytest.approx(found.eigenvalues(part)[-1], rel=1e-5)
    for place in ("A1", "B1", "rest"):
        np.testing.assert_allclose(last[f"outlier_overlaps_{place}"], places.overlaps[place], atol=0.02)
        np.testing.assert_allclose(last[f"outlier_shares_{place}"], places.shares[place], atol=0.02)
        assert int(last[f"outliers_in_{place}"]) == places.counts[place]
    changes = rl.attribution_changes(dataset.sel(split="train"))
    counts = np.stack([dataset.sel(split="train")[f"outliers_in_{place}"] for place in ("A1", "B1", "rest")], axis=-1)
    assert changes == rl.attribution_changes([0, 2, 4], counts)


def test_what_does_not_fit_is_nan(tmp_path, monkeypatch):
    monkeypatch.setattr("rmtland.logits.cross_class.PAIRS_BYTES", 0)
    inputs, labels = digits()
    record = rl.nets.TrainingRecord(
        tmp_path / "r", rl.nets.mlp([64, 3, 10]), inputs, labels, every=1, statistics="hierarchy"
    )
    dataset = record.dataset()
    assert np.isfinite(dataset.trace_B1).all()
    for name, shape in (
        ("top_eigenvalue_A1", ()), ("outliers_in_B1", ()), ("outlier_overlaps_rest", (9,)),
        ("outlier_shares_A1", (9,)), ("group_trace_A1", (4,)),
    ):  # fmt: skip
        assert np.isnan(dataset[name]).all()
        assert dataset[name].shape[-len(shape) or 2 :] == shape


def test_two_classes_have_one_outlier_and_no_differences_of_cross_classes(tmp_path):
    inputs, labels = digits()
    two, module = labels < 2, rl.nets.mlp([64, 3, 2])
    record = rl.nets.TrainingRecord(tmp_path / "r", module, inputs[two], labels[two], every=1, statistics="hierarchy")
    dataset = record.dataset().load()
    # One cross class for each class: its mean is the mean of the class, and A1 has all there is.
    assert dataset.top_eigenvalue_B1.item() == 0
    assert dataset.trace_B1.item() == pytest.approx(0, abs=1e-12 * dataset.trace_A1.item())
    assert dataset.sizes["outlier"] == 1
    assert sum(dataset[f"outliers_in_{place}"].item() for place in ("A1", "B1", "rest")) == 1


def test_it_is_not_measured_unasked(tmp_path):
    inputs, labels = digits()
    record = rl.nets.TrainingRecord(tmp_path / "r", rl.nets.mlp([64, 3, 10]), inputs, labels)
    assert not any(name.startswith(("trace_A", "outlier")) for name in record.dataset().data_vars)
