import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rmtland as rl
from tests import oracles

N, C, D = 50, 4, 12
LOGITS, LABELS, GRADIENTS = oracles.examples(N, C, D)


def sources():
    """The same examples from every kind of source."""
    as_torch = [torch.from_numpy(array) for array in (LOGITS, LABELS, GRADIENTS)]
    loss = rl.CrossEntropy()
    return {
        "dense": rl.DenseLogitGradients(LOGITS, LABELS, GRADIENTS),
        "one by one": rl.DenseLogitGradients(LOGITS, LABELS, GRADIENTS, chunk_size=1),
        "chunks of 24, 24, 2": rl.DenseLogitGradients(LOGITS, LABELS, GRADIENTS, chunk_size=24),
        "torch": rl.DenseLogitGradients(*as_torch, chunk_size=7),
        "draw": rl.LandscapeDraw(LOGITS, LABELS, np.zeros((C, D)), GRADIENTS),
        "scratch": oracles.ScratchSource(LOGITS, LABELS, GRADIENTS, loss),
        "scratch, uneven": oracles.ScratchSource(LOGITS, LABELS, GRADIENTS, loss, sizes=(1, 40, 9)),
    }


def numbers(source):
    """Every statistic of a source that does not depend on a seed, as one flat array."""
    q, scales, spectrum = rl.clustering(source), rl.logit_scales(source), rl.gauss_newton_spectrum(source)
    outputs = rl.output_statistics(source)
    v = np.random.default_rng(5).normal(size=(D, 2))
    parts = [
        [q.same_logit_same_class, q.same_logit, q.different_logits],
        [scales.sigma_z, scales.sigma_c, scales.sigma_E],
        np.asarray(scales.mean_gradients).ravel(),
        spectrum.eigenvalues,
        spectrum.powers,
        [spectrum.null_power, spectrum.gradient_norm],
        np.asarray(rl.gradient(source)),
        (rl.gauss_newton(source) @ v).ravel(),
        [outputs.loss, outputs.accuracy, outputs.entropy, outputs.max_probability, outputs.participation],
    ]
    return np.concatenate([np.asarray(part, dtype=float) for part in parts])


@pytest.mark.parametrize("name", sources())
def test_every_source_of_the_same_examples_gives_the_same_numbers(name):
    source = sources()[name]
    assert isinstance(source, rl.LogitGradients)
    np.testing.assert_allclose(numbers(source), numbers(sources()["dense"]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("parts", [(25, 25), (48, 2), (1, 49), (20, 20, 10)])
def test_no_statistic_depends_on_one_process(parts):
    ranks = np.split(np.random.default_rng(1).permutation(N), np.cumsum(parts)[:-1])
    results = oracles.on_ranks(numbers, (LOGITS, LABELS, GRADIENTS), rl.CrossEntropy(), ranks)
    for result in results:
        np.testing.assert_allclose(result, numbers(sources()["dense"]), rtol=1e-9, atol=1e-12)


def test_ranks_agree_on_the_parameter_side_where_one_process_would_take_the_gram_side():
    logits, labels, gradients = oracles.examples(8, 3, 40)
    dense = rl.gauss_newton_spectrum(rl.DenseLogitGradients(logits, labels, gradients))
    assert dense.eigenvalues.shape == (16,)
    parts = [np.arange(5), np.arange(5, 8)]
    for on_rank in oracles.on_ranks(rl.gauss_newton_spectrum, (logits, labels, gradients), rl.CrossEntropy(), parts):
        assert on_rank.eigenvalues.shape == (40,)
        np.testing.assert_allclose(on_rank.eigenvalues[-16:], dense.eigenvalues, rtol=1e-10)
        np.testing.assert_allclose(on_rank.eigenvalues[:-16], 0, atol=1e-13)
        np.testing.assert_allclose(on_rank.powers[-16:], dense.powers, rtol=1e-8)


@given(
    st.integers(2, 20),
    st.integers(2, 5),
    st.integers(1, 9),
    st.integers(1, 25),
    st.sampled_from(["float32", "float64"]),
    st.booleans(),
)
def test_chunk_size_and_library_do_not_matter(n, c, d, chunk_size, dtype, in_torch):
    logits, labels, gradients = oracles.examples(n, c, d)
    logits, gradients = logits.astype(dtype), gradients.astype(dtype)
    wrap = torch.from_numpy if in_torch else np.asarray
    source = rl.DenseLogitGradients(wrap(logits), wrap(labels), wrap(gradients), chunk_size=chunk_size)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == "float32" else {"rtol": 1e-10, "atol": 1e-12}
    q = rl.clustering(source, num_bootstrap=0)
    got = [q.same_logit_same_class, q.same_logit, q.different_logits]
    np.testing.assert_allclose(got, oracles.q_values(gradients.astype(float), labels), **tolerance)
    expected = oracles.gauss_newton(logits.astype(float), gradients.astype(float))
    np.testing.assert_allclose(rl.gauss_newton(source).to_dense(), expected, **tolerance)
    slope = rl.gradient(source)
    assert isinstance(slope, torch.Tensor) == in_torch
    assert str(slope.dtype).removeprefix("torch.") == dtype
    np.testing.assert_allclose(np.asarray(slope), oracles.gradient(logits, labels, gradients), **tolerance)


def test_memory_mapped_arrays_stay_on_disk(tmp_path):
    np.save(tmp_path / "gradients.npy", GRADIENTS.astype(np.float32))
    mapped = np.load(tmp_path / "gradients.npy", mmap_mode="r")
    source = rl.DenseLogitGradients(LOGITS, LABELS, mapped, chunk_size=9)
    assert isinstance(source.gradients, np.memmap)
    np.testing.assert_allclose(numbers(source), numbers(sources()["dense"]), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_logits_and_gradients_may_differ_in_precision(wrap):
    for logits_dtype, gradients_dtype in (("float64", "float32"), ("float32", "float64"), ("float16", "float16")):
        rough = "float16" in (logits_dtype, gradients_dtype)
        source = rl.DenseLogitGradients(
            wrap(LOGITS.astype(logits_dtype)), wrap(LABELS.astype(np.uint8)), wrap(GRADIENTS.astype(gradients_dtype))
        )
        expected = numbers(sources()["dense"])
        tolerance = 0.05 if rough else 2e-4
        np.testing.assert_allclose(numbers(source), expected, rtol=tolerance, atol=tolerance * 0.2)
        assert "16" not in str(next(source.chunks()).dense().dtype)


def test_half_precision_is_summed_in_single():
    # 4,000 ones: a float16 sum of their squares stops at 2,048.
    source = rl.DenseLogitGradients(np.zeros((2, 2)), np.array([0, 1]), np.ones((2, 2, 4000), dtype=np.float16))
    assert rl.clustering(source).same_logit == pytest.approx(1, abs=1e-5)


def test_default_chunks_hold_32_mebibytes():
    gradients = np.zeros((10, 2, 2**18))  # 4 MiB an example
    source = rl.DenseLogitGradients(np.zeros((10, 2)), np.zeros(10, int), gradients)
    assert [len(chunk.labels) for chunk in source.chunks()] == [8, 2]
    assert np.shares_memory(next(source.chunks()).dense(), gradients)
    assert next(source.chunks()).dense(slice(3, 5)).shape == (8, 2, 2)


def test_parameter_groups():
    groups = {"first": slice(0, 5), "second": slice(5, D)}
    source = rl.DenseLogitGradients(LOGITS, LABELS, GRADIENTS, parameter_groups=groups)
    assert source.parameter_groups == groups
    assert rl.DenseLogitGradients(LOGITS, LABELS, GRADIENTS).parameter_groups == {"all": slice(0, D)}
    for wrong in (slice(0, 13), slice(None), slice(-3, 12), slice(0, 12, 2), (0, 3)):
        with pytest.raises(
            ValueError, match=r"`parameter_groups` must map names to contiguous slices of 0..12; got 'x'"
        ):
            rl.DenseLogitGradients(LOGITS, LABELS, GRADIENTS, parameter_groups={"x": wrong})


def with_one(array, value):
    array = array.copy()
    array.flat[-1] = value
    return array


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"gradients": GRADIENTS[:-1]}, ValueError, r"`gradients` must have shape \(50, 4, D\) with D >= 1; got \(49"),
        ({"gradients": GRADIENTS[:, :3]}, ValueError, r"`gradients` must have shape \(50, 4, D\).*got \(50, 3, 12\)"),
        ({"gradients": GRADIENTS[:, :, :0]}, ValueError, r"with D >= 1; got \(50, 4, 0\)"),
        ({"gradients": GRADIENTS[:, :, 0]}, ValueError, r"`gradients` must have shape .* got \(50, 4\)"),
        ({"gradients": GRADIENTS.astype(int)}, TypeError, "`gradients` must be floating point; got int64"),
        ({"gradients": with_one(GRADIENTS, np.nan)}, ValueError, "`gradients` must be finite; got NaN"),
        ({"gradients": with_one(GRADIENTS, np.inf)}, ValueError, "`gradients` must be finite; got NaN"),
        ({"gradients": np.ma.masked_greater(GRADIENTS, 1)}, ValueError, "`gradients` must have no masked entries; got"),
        ({"logits": np.ma.masked_greater(LOGITS, 1)}, ValueError, "`logits` must have no masked entries; got"),
        ({"labels": np.ma.masked_equal(LABELS, 1)}, ValueError, "`labels` must have no masked entries; got"),
        ({"gradients": torch.from_numpy(GRADIENTS)}, TypeError, "all of one library; got Tensor, ndarray"),
        ({"gradients": GRADIENTS.tolist()}, TypeError, "all of one library; got list, ndarray"),
        ({"gradients": None}, TypeError, "all of one library; got NoneType, ndarray"),
        ({"logits": with_one(LOGITS, np.nan)}, ValueError, "`logits` must be finite"),
        ({"labels": LABELS[:-1]}, ValueError, r"`labels` must have shape \(50,\)"),
        ({"labels": LABELS.astype(float)}, TypeError, "`labels` must be integers; got float64"),
        ({"labels": with_one(LABELS, 4)}, ValueError, r"`labels` must be in 0..3; got 4"),
        ({"chunk_size": 0}, ValueError, "`chunk_size` must be >= 1; got 0"),
        ({"chunk_size": 2.0}, TypeError, "`chunk_size` must be an integer; got 2.0"),
        ({"loss": rl.CrossEntropy}, TypeError, r"`loss` must be a loss such as CrossEntropy\(\); got <class"),
        ({"loss": "cross-entropy"}, TypeError, r"`loss` must be a loss such as CrossEntropy\(\); got 'cross"),
    ],
)
def test_bad_arrays(changed, error, message):
    with pytest.raises(error, match=message):
        rl.DenseLogitGradients(**{"logits": LOGITS, "labels": LABELS, "gradients": GRADIENTS} | changed)


def test_one_output():
    rng = np.random.default_rng(0)
    logits, gradients = rng.normal(size=(9, 1)), rng.normal(size=(9, 1, 4))
    labels, targets = rng.integers(0, 2, 9), rng.normal(size=9)
    s = 1 / (1 + np.exp(-logits))
    for loss, given_labels, slopes, weights in (
        (rl.Logistic(), labels, s - labels[:, None], s * (1 - s)),
        (rl.SquaredError(), targets, logits - targets[:, None], np.ones((9, 1))),
    ):
        source = rl.DenseLogitGradients(logits, given_labels, gradients, loss=loss, chunk_size=4)
        slope = np.einsum("nk,nkd->d", slopes, gradients) / 9
        matrix = oracles.gauss_newton(logits, gradients, weights[:, :, None])
        np.testing.assert_allclose(rl.gradient(source), slope, rtol=1e-12)
        np.testing.assert_allclose(rl.gauss_newton(source).to_dense(), matrix, rtol=1e-12, atol=1e-14)
        spectrum = rl.gauss_newton_spectrum(source)
        values, vectors = np.linalg.eigh(matrix)
        np.testing.assert_allclose(spectrum.eigenvalues, values, rtol=1e-9)
        np.testing.assert_allclose(spectrum.powers, (vectors.T @ slope) ** 2 / (slope @ slope), rtol=1e-8)
        q = rl.clustering(source)
        cosine = oracles.cosines(gradients)[:, 0, :, 0]
        assert q.same_logit == pytest.approx(cosine[~np.eye(9, dtype=bool)].mean(), rel=1e-10)
        assert np.isnan([q.same_logit_same_class, q.different_logits]).all()
        assert q.classes_left_out == ()
        with pytest.raises(ValueError, match=r"`source` must have C >= 2 outputs.*got C = 1"):
            rl.logit_scales(source)
