import itertools

import numpy as np
import pytest
from scipy.integrate import dblquad
from torch import nn

import rmtland as rl
from rmtland._arguments import spawn
from rmtland.landscape.mean_field import activations as module
from rmtland.landscape.mean_field.activations import ACTIVATIONS, activation_of
from rmtland.landscape.mean_field.kernels import MeanFieldKernels
from tests import oracles
from tests.statistical import assert_mean

INPUTS = np.random.default_rng(5).normal(size=(6, 7)) + 0.5


def by_two_dimensional_quadrature(function, q1, q2, c):
    """E[f(u) f(v)] by adaptive quadrature over the plane."""
    rho = c / np.sqrt(q1 * q2)

    def integrand(y, x):
        u, v = np.sqrt(q1) * x, np.sqrt(q2) * (rho * x + np.sqrt(1 - rho**2) * y)
        return float(function(np.array(u)) * function(np.array(v)) * np.exp(-(x**2 + y**2) / 2) / (2 * np.pi))

    # Where the second argument changes sign ReLU has its kink.
    halves = [(-9, 0), (0, 9)]
    edge = -rho / np.sqrt(1 - rho**2)
    total = 0.0
    for low, high in halves:
        for bounds in ((-9, lambda x: edge * x), (lambda x: edge * x, 9)):
            total += dblquad(integrand, low, high, *bounds, epsabs=1e-9)[0]
    return total


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_gaussian_averages_against_quadrature_over_the_plane(name):
    covariance = np.array([[0.7, 0.5], [0.5, 1.9]])
    value, slope = activation_of(name).averages(covariance)
    for matrix, function in ((value, ACTIVATIONS[name].function), (slope, ACTIVATIONS[name].derivative)):
        assert matrix[0, 1] == pytest.approx(by_two_dimensional_quadrature(function, 0.7, 1.9, 0.5), rel=1e-6)
        assert matrix[0, 1] == pytest.approx(matrix[1, 0], rel=1e-12)
        nodes, weights = np.polynomial.hermite_e.hermegauss(200)
        own = weights @ function(np.sqrt(0.7) * nodes) ** 2 / weights.sum()
        assert matrix[0, 0] == pytest.approx(own, rel=1e-4)


@pytest.mark.parametrize("name", ["relu", "erf", "linear"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_closed_forms_are_what_quadrature_gives(name, scale):
    root = np.random.default_rng(0).normal(size=(5, 5))
    covariance = scale * root @ root.T
    known = ACTIVATIONS[name]
    other = rl.Activation("other", known.function, known.derivative)
    for exact, numeric in zip(known.averages(covariance), other.averages(covariance), strict=True):
        # ReLU and its step are no analytic functions: the trapezoidal rule errs by its step there.
        np.testing.assert_allclose(numeric, exact, atol=(3e-3 if name == "relu" else 1e-7) * np.abs(exact).max())


def test_nearly_equal_and_opposite_inputs():
    for name in ("tanh", "relu", "erf"):
        for rho in (1.0, 0.999, -1.0):
            covariance = np.array([[2.0, 2 * rho], [2 * rho, 2.0]])
            value, slope = activation_of(name).averages(covariance)
            nodes = np.random.default_rng(0).normal(size=400_000)
            u = np.sqrt(2) * nodes
            v = np.sqrt(2) * (rho * nodes + np.sqrt(1 - rho**2) * np.random.default_rng(1).normal(size=nodes.size))
            function, derivative = ACTIVATIONS[name].function, ACTIVATIONS[name].derivative
            assert value[0, 1] == pytest.approx(np.mean(function(u) * function(v)), abs=0.01)
            assert slope[0, 1] == pytest.approx(np.mean(derivative(u) * derivative(v)), abs=0.01)
    zero = activation_of("tanh").averages(np.zeros((2, 2)))
    np.testing.assert_allclose(zero[0], 0, atol=1e-15)
    np.testing.assert_allclose(zero[1], 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_long_inputs_that_are_alike_but_for_rounding(sign):
    """E erf(u) erf(+-u) = (2 / pi) arcsin(2 q / (1 + 2 q)) -> +-1, and E erf'(u)^2 = (4 / pi) / sqrt(1 + 4 q)."""
    q = 1e20
    alike = sign * q * (1 + 4e-16)
    value, slope = activation_of("erf").averages(np.array([[q, alike], [alike, q]]))
    np.testing.assert_allclose(value, [[1, sign], [sign, 1]], rtol=1e-7)
    np.testing.assert_allclose(slope, (4 / np.pi) / np.sqrt(1 + 4 * q), rtol=1e-7)
    # Half of u^2 where both are positive, which opposite ones never are.
    value, slope = activation_of("relu").averages(np.array([[q, alike], [alike, q]]))
    both = np.array([[0.5, max(sign, 0) / 2], [max(sign, 0) / 2, 0.5]])
    np.testing.assert_allclose(value / q, both, atol=1e-7)
    np.testing.assert_allclose(slope, both, atol=1e-7)


def test_an_input_of_zeros_gives_relu_nothing():
    value, slope = activation_of("relu").averages(np.diag([0.0, 2.0]))
    np.testing.assert_allclose(value, [[0, 0], [0, 1]], atol=1e-15)
    assert slope[1, 1] == 0.5
    assert np.isfinite(slope).all()


def test_more_hermite_terms_where_inputs_are_alike(monkeypatch):
    covariance = 9.0 * np.array([[1.0, 0.99], [0.99, 1.0]])
    full = activation_of("tanh").averages(covariance)[0][0, 1]
    assert full == pytest.approx(by_two_dimensional_quadrature(np.tanh, 9.0, 9.0, 8.91), abs=2e-6)
    monkeypatch.setattr(module, "TERMS", 4)
    assert abs(activation_of("tanh").averages(covariance)[0][0, 1] - full) > 1e-3


def test_a_polynomial_has_as_many_hermite_terms_as_its_degree(monkeypatch):
    """Whatever the inputs have in common: nothing is left after them."""
    sums, outer = [], np.outer
    monkeypatch.setattr(module.np, "outer", lambda a, b: sums.append(1) or outer(a, b))
    value = module.by_quadrature(lambda x: x**3, np.ones(2), np.array([[1.0, 0.9999], [0.9999, 1.0]]))
    assert len(sums) == 4
    assert not module.by_quadrature(np.zeros_like, np.ones(2), np.ones((2, 2))).any()
    assert len(sums) == 4
    mixed = 9 * 0.9999 + 6 * 0.9999**3
    np.testing.assert_allclose(value, [[15, mixed], [mixed, 15]], rtol=1e-10)


def network_draw(widths, activation, seed, scale=1.0):
    """Logits and J J^T, (N, C, N, C), of one network with PyTorch's initialisation, by backpropagation written out."""
    rng, act = np.random.default_rng(seed), ACTIVATIONS[activation]
    features, slopes, below, weights = INPUTS, [], [], []
    for a, b in itertools.pairwise(widths):
        bound = 1 / np.sqrt(a)
        weights.append(scale * rng.uniform(-bound, bound, (b, a)))
        z = features @ weights[-1].T + scale * rng.uniform(-bound, bound, b)
        below.append(features @ features.T + 1)
        slopes.append(act.derivative(z))
        features = act.function(z)
    signal = np.broadcast_to(np.eye(widths[-1]), (len(INPUTS), widths[-1], widths[-1]))  # dz_k / dz^l
    matrix = 0.0
    for layer in range(len(weights) - 1, -1, -1):
        matrix = matrix + below[layer][:, None, :, None] * np.einsum("mkj,nlj->mknl", signal, signal, optimize=True)
        if layer:
            signal = (signal @ weights[layer]) * slopes[layer - 1][:, None, :]
    return z, matrix


def source_of(z, matrix, labels):
    """A source with these logits and inner products, in N C dimensions."""
    size = z.size
    values, vectors = np.linalg.eigh(matrix.reshape(size, size))
    rows = vectors * np.sqrt(np.maximum(values, 0))
    return rl.DenseLogitGradients(z, np.asarray(labels), rows.reshape(*z.shape, size))


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_one_hidden_layer_at_any_width_has_the_kernels_as_exact_means(activation):
    # Not only at large width: E J J^T = theta (x) I and E z z^T = covariance hold for one hidden layer of 8.
    widths = [7, 8, 3]
    network = rl.MeanFieldNetwork(widths, activation).scaled(1.5)
    kernels = network.kernels(INPUTS)
    draws = [network_draw(widths, activation, seed, 1.5) for seed in range(1500)]
    pairs = [(0, 0), (0, 1), (2, 5)]
    found = np.array([[np.trace(matrix[m, :, n]) / 3 for m, n in pairs] for _, matrix in draws])
    expected = np.array([kernels.theta[m, n] for m, n in pairs])
    assert_mean(found, expected, detect=0.4 * np.abs(expected))
    # The mutants: each layer's weights too large by sqrt 2, biases left out of the parameters.
    weights, biases = np.array(network.weight_variances), network.bias_variances
    for wrong in (
        rl.MeanFieldNetwork(widths, activation, weights * [2, 1], biases),
        rl.MeanFieldNetwork(widths, activation, weights * [1, 2], biases),
        rl.MeanFieldNetwork(widths, activation, weights, biases=False),
    ):
        with pytest.raises(AssertionError, match="against"):
            assert_mean(found, [wrong.kernels(INPUTS).theta[m, n] for m, n in pairs], detect=0.4 * np.abs(expected))
    products = np.array([[np.mean(z[m] * z[n]) for m, n in pairs] for z, _ in draws])
    expected = np.array([kernels.covariance[m, n] for m, n in pairs])
    assert_mean(products, expected, detect=0.3 * kernels.logit_variance)
    different = np.array([[matrix[m, 0, n, 1] for m, n in pairs] for _, matrix in draws])
    assert_mean(different, 0.0, detect=0.3 * kernels.theta.max())


def test_two_hidden_layers_approach_the_kernel_as_one_over_the_width():
    errors = []
    for width in (8, 32):
        kernels = rl.MeanFieldNetwork([7, width, width, 3], "relu").scaled(1.5).kernels(INPUTS)
        draws = (network_draw([7, width, width, 3], "relu", seed, 1.5)[1] for seed in range(800))
        traces = np.mean([np.einsum("mknk->mn", matrix) / 3 for matrix in draws], axis=0)
        errors.append(np.mean(traces) / np.mean(kernels.theta) - 1)
    assert abs(errors[1]) < 0.05


def test_scales_and_clustering_are_those_of_wide_networks():
    widths, labels = [7, 600, 4], np.array([0, 0, 1, 1, 2, 3])
    kernels = rl.MeanFieldNetwork(widths, "relu").kernels(INPUTS)
    variances, lengths, clusters = [], [], []
    for seed in range(20):
        source = source_of(*network_draw(widths, "relu", seed), labels)
        variances.append(rl.logit_scales(source).sigma_z ** 2)
        lengths.append(rl.logit_gradient_lengths(source).overall.mean())
        q = rl.clustering(source, num_groups=3)
        clusters.append([q.same_logit_same_class, q.same_logit, q.different_logits])
    assert np.mean(variances) == pytest.approx(kernels.logit_variance, abs=4 * np.std(variances) / np.sqrt(20))
    assert np.mean(lengths) == pytest.approx(kernels.gradient_lengths.mean(), rel=0.02)
    np.testing.assert_allclose(np.mean(clusters, axis=0), kernels.q_values(labels), atol=0.03)
    assert kernels.q_values(labels).same_logit == kernels.q_values().same_logit
    assert abs(kernels.q_values(labels).same_logit_same_class - kernels.q_values().same_logit) > 0.05
    assert np.isnan(rl.MeanFieldNetwork(widths).kernels(INPUTS[:1]).q_values().same_logit)


def test_clustering_is_that_of_all_pairs_that_have_lengths():
    """By loops; one example has no gradient, one is alone in its class, and lengths are well below 1."""
    root = np.random.default_rng(0).normal(0.2, 0.1, (6, 4)) * [[1], [2], [0], [1], [3], [1]]
    labels = np.array([0, 1, 0, 0, 1, 2])
    layers = np.array([0.25 * root @ root.T, 0.75 * root @ root.T])
    kernels = rl.MeanFieldKernels(np.eye(6), layers, np.ones((1, 5)), (4, 10, 4), 94)
    of_class, every = {}, []
    for m, n in itertools.permutations([0, 1, 3, 4, 5], 2):
        cosine = root[m] @ root[n] / (np.linalg.norm(root[m]) * np.linalg.norm(root[n]))
        every.append(cosine)
        if labels[m] == labels[n]:
            of_class.setdefault(labels[m], []).append(cosine)
    own = np.mean([np.mean(pairs) for pairs in of_class.values()])
    assert sorted(of_class) == [0, 1]
    assert kernels.q_values(labels) == pytest.approx((own, np.mean(every), 0.0), rel=1e-12)
    assert kernels.q_values() == pytest.approx((np.mean(every), np.mean(every), 0.0), rel=1e-12)


def test_every_hidden_layer_spreads_the_outputs_kernel():
    """As drawn: a layer's parameters pass through all hidden layers above it, whose units weigh unequally."""
    units = np.array([np.full(4, 1.0), [0.0, 0.0, 2.0, 2.0]])
    layers = np.array([4.0, 1.0, 2.0])[:, None, None] * np.array([[1.0, 0.5], [0.5, 1.0]])
    kernels = rl.MeanFieldKernels(np.eye(2), layers, units, (7, 1500, 4000, 30), 10**6)
    np.testing.assert_allclose(kernels.effective_widths, [1500, 2000])
    drawn = [np.linalg.eigvalsh(kernels.effective_output_kernel(seed)) for seed in range(8)]
    relative = [(values / values.mean()).var() for values in drawn]
    assert np.sqrt(np.mean(relative)) == pytest.approx(kernels.output_kernel_std, rel=0.03)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_outputs_kernel_spreads_as_in_networks(activation):
    widths, num_classes = [7, 120, 6], 6
    kernels = rl.MeanFieldNetwork(widths, activation).kernels(INPUTS)
    spreads = []
    for seed in range(60):
        outputs = network_draw(widths, activation, seed)[1].mean(axis=(0, 2))
        spreads.append(np.linalg.eigvalsh(outputs * num_classes / np.trace(outputs)).var())
    assert np.sqrt(np.mean(spreads)) == pytest.approx(kernels.output_kernel_std, rel=0.12)
    drawn = [np.linalg.eigvalsh(kernels.effective_output_kernel(seed)) for seed in range(200)]
    relative = [(values / values.mean()).var() for values in drawn]
    assert np.sqrt(np.mean(relative)) == pytest.approx(kernels.output_kernel_std, rel=0.08)
    assert np.mean(drawn) == pytest.approx(1, abs=0.02)
    if activation == "relu":  # the mutant: units counted as if all of them carried the same
        plain = kernels.output_kernel_std * np.sqrt(kernels.effective_widths[0] / 120)
        assert plain < 0.88 * np.sqrt(np.mean(spreads))


def test_the_goldilocks_ratio_is_that_of_the_dense_matrix_and_of_networks():
    widths, labels = [7, 300, 4], np.arange(6) % 4
    kernels = rl.MeanFieldNetwork(widths, "relu").scaled(3.0).kernels(INPUTS)
    sources = [source_of(*network_draw(widths, "relu", seed, 3.0), labels) for seed in range(40)]
    ratios = [rl.gauss_newton_spectrum(source).goldilocks_ratio() for source in sources]
    error = np.std(ratios) / np.sqrt(len(ratios))
    assert kernels.goldilocks_ratio(num_draws=100) == pytest.approx(np.mean(ratios), abs=4 * error)
    # Against the matrix written out, of one draw.
    rng = spawn(3, 1)[0]
    logits, _ = rl.GaussianProcessLogits(kernels.covariance).draw_logits(6, 4, rng)
    outputs = kernels.output_kernels(rng)
    gram = sum(np.kron(theta, k) for theta, k in zip(kernels.layers, outputs, strict=True))
    curvature = np.zeros((24, 24))
    for mu in range(6):
        curvature[4 * mu : 4 * mu + 4, 4 * mu : 4 * mu + 4] = oracles.curvature(logits[mu])
    dense = curvature @ gram
    expected = np.trace(dense) / np.sqrt(np.trace(dense @ dense))
    assert kernels.goldilocks_ratio(num_draws=1, rng=3) == pytest.approx(expected, rel=1e-10)


def test_draws_together_are_draws_one_by_one(monkeypatch):
    kernels = rl.MeanFieldNetwork([7, 30, 20, 4], "relu").scaled(3.0).kernels(INPUTS)
    size = 3 * 6 * 4**2 + 6**2  # two hidden layers and the output's
    assert len(kernels.layers) == 3
    law, ratios, counts, expected = rl.GaussianProcessLogits(kernels.covariance), MeanFieldKernels._ratios, [], []
    for child in spawn(2, 5):
        logits, _ = law.draw_logits(6, 4, child)
        expected.append(kernels._ratios(logits[None], kernels.output_kernels(child)[None])[0])
    monkeypatch.setattr(MeanFieldKernels, "_ratios", lambda self, z, k: counts.append(len(z)) or ratios(self, z, k))
    for block, together in ((size, [1] * 5), (2 * size, [2, 2, 1]), (10**9, [5])):
        counts.clear()
        monkeypatch.setattr("rmtland.landscape.mean_field.kernels._BLOCK", block)
        assert kernels.goldilocks_ratio(5, rng=2) == pytest.approx(np.mean(expected), rel=1e-13)
        assert counts == together


def test_no_goldilocks_ratio_without_curvature():
    assert np.isnan(rl.MeanFieldNetwork([7, 20, 3]).scaled(1e4).kernels(INPUTS).goldilocks_ratio(num_draws=3))


def test_a_model_by_one_call_has_the_spectrum_of_networks():
    labels, widths = np.arange(6) % 3, [7, 60, 3]
    kernels = rl.MeanFieldNetwork(widths, "relu").kernels(INPUTS)
    model = kernels.model(labels, rng=0)
    assert (model.num_examples, model.num_classes, model.num_parameters) == (6, 3, 663)
    np.testing.assert_array_equal(model.sample(0).labels, labels)
    spectra = [kernels.model(labels, rng=seed).spectrum(rng=seed) for seed in range(150)]
    expected = [rl.gauss_newton_spectrum(source_of(*network_draw(widths, "relu", s), labels)) for s in range(300)]
    found = np.array([s.outliers() for s in spectra])
    real = np.array([s.outliers(2) for s in expected])
    error = np.hypot(found.std(axis=0) / np.sqrt(150), real.std(axis=0) / np.sqrt(300))
    assert np.all(np.abs(found.mean(axis=0) - real.mean(axis=0)) < 4 * error + 0.03 * real.mean(axis=0))
    assert np.all(error < 0.05 * real.mean(axis=0))
    powers = np.mean([s.gradient_power(2) for s in spectra])
    assert powers == pytest.approx(np.mean([s.gradient_power(2) for s in expected]), abs=0.05)
    # The gradients of a draw have the kernel as their inner products.
    gram = rl.logit_gradient_gram(model.sample(1)).matrix
    np.testing.assert_allclose(np.einsum("mknk->mn", gram) / 3, kernels.theta, rtol=0.5)
    free = kernels.model(rng=0)
    assert not np.array_equal(free.sample(0).labels, free.sample(1).labels)
    outputs = [np.asarray(kernels.model(labels, rng=seed).gradients.terms[0][1]) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


def test_initialisations_widths_and_radius():
    widths = [10, 20, 5]
    named = {name: rl.MeanFieldNetwork(widths, weight_variances=name) for name in ("torch", "he", "glorot", "lecun")}
    assert named["torch"].weight_variances == pytest.approx((1 / 30, 1 / 60))
    assert named["torch"].bias_variances == pytest.approx((1 / 30, 1 / 60))
    assert named["he"].weight_variances == pytest.approx((1 / 5, 1 / 10))
    assert named["glorot"].weight_variances == pytest.approx((2 / 30, 2 / 25))
    assert named["lecun"].weight_variances == pytest.approx((1 / 10, 1 / 20))
    assert rl.MeanFieldNetwork(widths, weight_variances=0.5, bias_variances=0).weight_variances == (0.5, 0.5)
    for biases in (True, False):
        network = rl.MeanFieldNetwork(widths, biases=biases)
        module_ = nn.Sequential(nn.Linear(10, 20, bias=biases), nn.Linear(20, 5, bias=biases))
        assert network.num_parameters == sum(p.numel() for p in module_.parameters())
    # ReLU without biases: z grows as radius^L, exactly.
    plain = rl.MeanFieldNetwork([7, 20, 5], biases=False)
    ratio = plain.scaled(2.0).kernels(INPUTS).logit_variance / plain.kernels(INPUTS).logit_variance
    assert ratio == pytest.approx(16)
    drawn = nn.Linear(400, 300).weight.detach().numpy()
    assert rl.MeanFieldNetwork([400, 300]).weight_variances[0] == pytest.approx(drawn.var(), rel=0.05)


@pytest.mark.parametrize("radius", [0.5, 3.0])
def test_a_radius_multiplies_all_parameters(radius):
    network = rl.MeanFieldNetwork([7, 20, 5], weight_variances=[0.2, 1.5], bias_variances=[0.1, 0.0])
    moved = network.scaled(radius)
    np.testing.assert_allclose(moved.weight_variances, [0.2 * radius * radius, 1.5 * radius * radius])
    np.testing.assert_allclose(moved.bias_variances, [0.1 * radius * radius, 0.0])
    assert (moved.widths, moved.num_parameters) == (network.widths, network.num_parameters)


def test_gaussian_process_logits_have_their_covariance():
    covariance = np.array([[2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    law = rl.GaussianProcessLogits(covariance)
    rng = np.random.default_rng(0)
    draws = np.array([law.draw_logits(3, 4, rng)[0] for _ in range(4000)])
    products = np.einsum("smk,snk->smn", draws, draws) / 4
    assert_mean(products.reshape(4000, 9)[:, [0, 1, 4]], [2.0, 1.0, 1.0], detect=0.3)
    np.testing.assert_allclose(draws[:, 2], 0, atol=1e-7)
    assert_mean(draws[:, 0, 0] * draws[:, 0, 1], 0.0, detect=0.5)


def test_bad_input():
    with pytest.raises(ValueError, match="`widths` must name inputs and outputs"):
        rl.MeanFieldNetwork([3])
    with pytest.raises(ValueError, match="C >= 2 outputs; got 1"):
        rl.MeanFieldNetwork([3, 4, 1])
    with pytest.raises(ValueError, match="`activation` must be one of"):
        rl.MeanFieldNetwork([3, 4, 2], "swish")
    with pytest.raises(TypeError, match="`activation` must be a name or an Activation"):
        rl.MeanFieldNetwork([3, 4, 2], np.tanh)
    with pytest.raises(ValueError, match="`weight_variances` must be one of"):
        rl.MeanFieldNetwork([3, 4, 2], weight_variances="kaiming")
    with pytest.raises(ValueError, match="`weight_variances` must be >= 0"):
        rl.MeanFieldNetwork([3, 4, 2], weight_variances=[1.0, -1.0])
    with pytest.raises(ValueError, match="`bias_variances` must have 2 entries"):
        rl.MeanFieldNetwork([3, 4, 2], bias_variances=[1.0])
    with pytest.raises(ValueError, match="must be left out without biases"):
        rl.MeanFieldNetwork([3, 4, 2], bias_variances=1.0, biases=False)
    network = rl.MeanFieldNetwork([3, 4, 2])
    with pytest.raises(ValueError, match=r"`inputs` must have shape \(N, 3\)"):
        network.kernels(np.zeros((5, 4)))
    with pytest.raises(ValueError, match="`inputs` must be finite"):
        network.kernels(np.full((5, 3), np.nan))
    with pytest.raises(ValueError, match="`radius` must be > 0"):
        network.scaled(0)
    kernels = network.kernels(np.eye(3))
    with pytest.raises(ValueError, match="labels"):
        kernels.q_values([0, 1])
    with pytest.raises(ValueError, match="labels"):
        kernels.model([0, 1, 2])
    with pytest.raises(ValueError, match="`num_draws` must be >= 1"):
        kernels.goldilocks_ratio(num_draws=0)
    with pytest.raises(ValueError, match="must be square"):
        rl.GaussianProcessLogits(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="must be symmetric"):
        rl.GaussianProcessLogits([[1.0, 0.5], [0.0, 1.0]])
    with pytest.raises(ValueError, match="no negative eigenvalue"):
        rl.GaussianProcessLogits([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ValueError, match=r"`labels` must have shape \(2,\)"):
        rl.GaussianProcessLogits(np.eye(2), [0])
    with pytest.raises(ValueError, match="must be that of N = 5 examples; got 2"):
        rl.GaussianProcessLogits(np.eye(2)).draw_logits(5, 2, np.random.default_rng(0))


def test_the_ratio_of_a_single_example():
    """Its logit gradients are at right angles and of equal length, so that equal probabilities make G's C - 1
    eigenvalues equal: the sum of their squares is below 1.
    """
    kernels = rl.MeanFieldNetwork([4, 100_000, 3], bias_variances=0.0).kernels(1e-5 * np.ones((1, 4)))
    assert kernels.goldilocks_ratio(4) == pytest.approx(2**0.5, rel=0.01)
