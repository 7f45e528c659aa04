"""The hierarchy in a training record, and when its outliers change place."""

import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland.nets.hierarchy_moment import hierarchy_values

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


@pytest.mark.parametrize(("sizes", "fits"), [((4, 3, 4), True), ((4, 3, 4), False), ((3, 2), True)])
def test_the_arrays_of_a_moment_are_those_of_the_hierarchy_and_its_groups(sizes, fits, monkeypatch):
    if not fits:
        monkeypatch.setattr("rmtland.logits.cross_class.PAIRS_BYTES", 0)
    module, classes = rl.nets.mlp(sizes, dtype=torch.float64), sizes[-1]
    labels = torch.arange(6 * classes) % classes
    source = rl.nets.NetworkLogitGradients(module, torch.randn(len(labels), sizes[0]).double(), labels)
    values, found = hierarchy_values(source, np.random.default_rng(0)), rl.hierarchy(source)
    groups = found.by_group()
    assert list(groups) == list(source.parameter_groups)
    nothing = np.full(classes - 1, np.nan)
    places = rl.attribution(found, rng=0) if fits else None
    for part in PARTS:
        each = [group.traces[part] if fits else np.nan for group in groups.values()]
        np.testing.assert_allclose(values.pop(f"trace_{part}")[1], found.traces[part])
        dims, traces = values.pop(f"group_trace_{part}")
        assert dims == ("group",)
        np.testing.assert_allclose(traces, each)
    for part in ("A1", "B1"):
        largest = max([*found.eigenvalues(part), 0.0]) if fits else np.nan
        np.testing.assert_allclose(values.pop(f"top_eigenvalue_{part}")[1], largest, rtol=1e-9, atol=1e-12)
    for place in ("A1", "B1", "rest"):
        for name in ("shares", "overlaps"):
            dims, numbers = values.pop(f"outlier_{name}_{place}")
            assert dims == ("outlier",)
            expected = getattr(places, name)[place] if fits else nothing
            np.testing.assert_allclose(numbers, expected, atol=1e-6)
        np.testing.assert_array_equal(values.pop(f"outliers_in_{place}")[1], places.counts[place] if fits else np.nan)
    assert all(name.startswith("top_eigenvalue") for name in values)
