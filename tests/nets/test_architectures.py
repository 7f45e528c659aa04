"""Built networks: parameter counts from the papers, shapes, seeds, and that every one of them can be measured."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland.nets.architectures.choose import IMAGE_NETWORKS
from rmtland.nets.architectures.names import NETWORKS
from tests.nets.networks import jacobian


def count(module):
    return sum(p.numel() for p in module.parameters())


def conv(before, after, kernel, bias=True):
    return before * after * kernel**2 + after * bias


def norm(channels):
    return 2 * channels


@pytest.mark.parametrize(("k", "parameters"), [(2, 4022), (5, 4115), (10, 4270), (20, 4580), (50, 5510)])
def test_the_networks_of_sagun_et_al(k, parameters):
    assert count(rl.nets.mlp([100, 30, 30, k])) == parameters


def test_lenet_has_the_published_count():
    assert count(rl.nets.lenet()) == 61_706
    assert count(rl.nets.lenet(image_size=32)) == 61_706  # what 28 pixels are padded to
    by_hand = conv(3, 6, 5) + conv(6, 16, 5) + 400 * 120 + 120 + 120 * 84 + 84 + 84 * 5 + 5
    assert count(rl.nets.lenet(5, channels=3)) == by_hand


def test_alexnet_is_bare():
    by_hand = conv(3, 64, 11) + conv(64, 192, 5) + conv(192, 384, 3) + conv(384, 256, 3) + conv(256, 256, 3) + 2570
    network = rl.nets.alexnet()
    assert count(network) == by_hand
    assert {type(m).__name__ for m in network} == {"Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear"}


def test_vgg11_has_the_published_convolutions_and_batch_norm_for_dropout():
    # Simonyan and Zisserman's A for 224 x 224 images and 1000 classes has 132,863,336 parameters.
    convolutions = 132_863_336 - (25088 * 4096 + 4096) - (4096 * 4096 + 4096) - (4096 * 1000 + 1000)
    head = (512 * 4096 + 4096) + (4096 * 4096 + 4096) + (4096 * 10 + 10)
    norms = sum(map(norm, (64, 128, 256, 256, 512, 512, 512, 512, 4096, 4096)))
    network = rl.nets.vgg11()
    assert count(network) == convolutions + head + norms
    assert 28.0e6 < count(network) < 28.5e6  # Papyan (2018): "28 millions"
    assert not any(isinstance(m, torch.nn.Dropout) for m in network.modules())


def test_residual_networks():
    widths = [16] * 7 + [32] * 6 + [64] * 6
    by_hand = conv(3, 16, 3, bias=False) + sum(map(norm, widths)) + 64 * 10 + 10
    by_hand += sum(conv(a, b, 3, bias=False) for a, b in pairwise(widths))
    assert count(rl.nets.resnet20()) == by_hand
    assert round(by_hand / 1e6, 2) == 0.27  # He et al. (2016), table 6
    widths = [64] * 5 + [128] * 4 + [256] * 4 + [512] * 4
    by_hand = conv(3, 64, 3, bias=False) + sum(map(norm, widths)) + 5130
    by_hand += sum(conv(a, b, 3, bias=False) for a, b in pairwise(widths))
    by_hand += sum(conv(a, 2 * a, 1, bias=False) + norm(2 * a) for a in (64, 128, 256))
    assert count(rl.nets.resnet18()) == by_hand


def test_the_shortcut_of_resnet20_subsamples_and_fills_up_with_zeros():
    from rmtland.nets.architectures.residual import ResidualBlock

    block = ResidualBlock(2, 4, 2, projection=False).eval()
    with torch.no_grad():
        block.norm2.weight.zero_()  # only the shortcut is left
    x = torch.rand(1, 2, 4, 4)
    out = block(x)
    torch.testing.assert_close(out[:, 1:3], x[:, :, ::2, ::2])
    assert out[:, [0, 3]].abs().max() == 0


def test_a_residual_block_adds_its_input():
    from rmtland.nets.architectures.residual import ResidualBlock

    block, x = ResidualBlock(2, 2, 1, projection=True), torch.rand(3, 2, 4, 4)
    assert block.projection is None  # nothing to project
    plain = torch.nn.Sequential(block.conv1, block.norm1, torch.nn.ReLU(), block.conv2, block.norm2)
    torch.testing.assert_close(block(x), torch.relu(x + plain(x)))


@pytest.mark.parametrize("name", ["lenet", "alexnet", "vgg11"])
def test_images_below_32_pixels_have_their_borders_repeated(name):
    build = IMAGE_NETWORKS[name]
    assert isinstance(build(channels=1, image_size=32, width=0.05)[0], torch.nn.Conv2d)
    x = torch.rand(2, 1, 27, 27)
    padded = build(channels=1, image_size=27, width=0.05)[0](x)
    np.testing.assert_array_equal(padded, np.pad(x, ((0, 0), (0, 0), (2, 3), (2, 3)), mode="edge"))


def test_alexnet_takes_sizes_between_those_that_its_strides_divide():
    for size, side in ((31, 1), (60, 1), (61, 2), (64, 2), (92, 2), (93, 3)):
        network = rl.nets.alexnet(2, channels=1, image_size=size, width=0.02)
        assert network[-1].in_features == 5 * side**2  # 60 pixels are 15, 7, 3 and 1; 61 are 16, 8, 4 and 2
        assert network(torch.rand(1, 1, size, size)).shape == (1, 2)


SIDES = {
    "cnn": [32, 16],
    "lenet": [28, 10],
    "alexnet": [8, 4, 2, 2, 2],
    "vgg11": [32, 16, 8, 8, 4, 4, 2, 2],
    "resnet18": [32] * 5 + [16] * 5 + [8] * 5 + [4] * 5,  # first stage without a projection
    "resnet20": [32] * 7 + [16] * 6 + [8] * 6,
    "densenet40": [32] * 14 + [16] * 13 + [8] * 12,  # convolutions between blocks lie before the pooling
}


@pytest.mark.parametrize("name", SIDES)
def test_sides_of_what_convolutions_give(name):
    network, sides = IMAGE_NETWORKS[name](channels=1, image_size=32, width=0.01), []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, outputs: sides.append(tuple(outputs.shape[1:])))
    network(torch.rand(2, 1, 32, 32))
    assert [height for _, height, _ in sides] == [width for _, _, width in sides] == SIDES[name]
    assert sides[0][0] == 1  # a hundredth of 6 to 64 channels, and one at least


def test_densenet40():
    channels, total = 16, conv(3, 16, 3, bias=False)
    for block in range(3):
        if block:
            total += norm(channels) + conv(channels, channels, 1, bias=False)
        for _ in range(12):
            total += norm(channels) + conv(channels, 12, 3, bias=False)
            channels += 12
    total += norm(channels) + channels * 10 + 10
    assert count(rl.nets.densenet40()) == total
    assert round(total / 1e6, 1) == 1.0  # Huang et al. (2017), table 2
    # Forty layers with weights: a first convolution, 36 in blocks, 2 between them, one linear.
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    assert sum(isinstance(m, kinds) for m in rl.nets.densenet40().modules()) == 40


def encoded(layer, x, heads):
    """A pre-norm encoder layer, head by head."""
    attention, units = layer.self_attn, x.shape[2]
    seen = layer.norm1(x) @ attention.in_proj_weight.T + attention.in_proj_bias
    parts = []
    for q, k, v in zip(*(part.split(units // heads, dim=2) for part in seen.split(units, dim=2)), strict=True):
        parts.append(torch.softmax(q @ k.mT / math.sqrt(units // heads), dim=2) @ v)
    x = x + torch.cat(parts, dim=2) @ attention.out_proj.weight.T + attention.out_proj.bias
    return x + layer.linear2(torch.nn.functional.gelu(layer.linear1(layer.norm2(x))))


def test_the_transformer():
    units = 64
    layer = 12 * units**2 + 13 * units
    for depth in (1, 3):
        total = conv(3, units, 4) + 64 * units + depth * layer + norm(units) + units * 10 + 10
        assert count(rl.nets.transformer(depth=depth)) == total
    assert rl.nets.transformer(width=0.3, heads=8).head.in_features == 16
    assert rl.nets.transformer(heads=43, image_size=8, depth=1).head.in_features == 43  # 64 is nearer to 43 than to 86
    assert rl.nets.transformer(depth=1).positions.std().item() == pytest.approx(0.02, rel=0.05)  # 4096 of them
    # Patches as rows of pixels, an embedding of each and of its place, the mean over what the layers make of them.
    network = rl.nets.transformer(image_size=8, channels=3, dtype=torch.float64)
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    patches = torch.stack(
        [x[:, :, i : i + 4, j : j + 4].reshape(2, -1) for i in (0, 4) for j in (0, 4)], dim=1
    )  # fmt: skip
    tokens = patches @ network.embedding.weight.reshape(units, -1).T + network.embedding.bias + network.positions
    for layer in network.layers:
        tokens = encoded(layer, tokens, 4)
    by_hand = network.head(network.norm(tokens).mean(dim=1))
    torch.testing.assert_close(network(x), by_hand)
    # Positions matter: the same patches in another order are another image.
    network = rl.nets.transformer(image_size=8, channels=1)
    x = torch.rand(1, 1, 8, 8)
    assert not torch.allclose(network(x), network(torch.roll(x, 4, dims=3)), atol=1e-4)


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_every_network_takes_every_size_and_seed(name):
    state = torch.random.get_rng_state()
    build = IMAGE_NETWORKS[name]
    for channels, size in ((1, 8), (1, 28), (3, 32), (3, 65)):
        network = build(7, channels=channels, image_size=size, width=0.1)
        assert network(torch.zeros(2, channels, size, size)).shape == (2, 7)
    one, again, other = (build(width=0.1, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    vectors = [torch.nn.utils.parameters_to_vector(m.parameters()) for m in (one, again, other)]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])
    double = build(width=0.1, seed=1, dtype=torch.float64)
    assert torch.equal(torch.nn.utils.parameters_to_vector(double.parameters()), vectors[0].double())
    assert count(build(width=0.5)) > 1.5 * count(build(width=0.25))
    with pytest.raises(ValueError, match=r"`image_size` must be >= 8; got 7"):
        build(image_size=7)
    with pytest.raises(ValueError, match=r"`width` must be > 0 and <= 10000; got 0"):
        build(width=0)
    with pytest.raises(ValueError, match=r"`channels` must be >= 1; got 0"):
        build(channels=0)
    with pytest.raises(ValueError, match=r"`num_classes` must be >= 1; got 0"):
        build(0)
    with pytest.raises(ValueError, match=r"`seed` must be >= 0; got -1"):
        build(seed=-1)


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_every_network_can_be_measured(name):
    network = IMAGE_NETWORKS[name](3, channels=1, image_size=8, width=0.1, dtype=torch.float64)
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    network(x)  # batch norm's running statistics are no longer those of its first day
    source = rl.nets.NetworkLogitGradients(network, x, torch.arange(3))
    expected, _ = jacobian(network, x)
    got = torch.cat([chunk.dense() for chunk in source.chunks()])
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    v = torch.as_tensor(np.random.default_rng(0).normal(size=(source.num_parameters, 1)))
    (chunk,) = source.chunks()
    torch.testing.assert_close(chunk.jvp(v), expected @ v, rtol=1e-8, atol=1e-10)


def test_cnn_options():
    assert count(rl.nets.cnn(batch_norm=False)) == count(rl.nets.cnn()) - norm(16) - norm(32)
    with pytest.raises(ValueError, match=r"`depth` must be >= 1; got 0"):
        rl.nets.transformer(depth=0)
    with pytest.raises(ValueError, match=r"`heads` must be >= 1; got 0"):
        rl.nets.transformer(heads=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_by_name(name):
    network = rl.nets.build_network(name, (1, 8, 8), 4, hidden=(6,), width=0.5, seed=3).eval()
    x = torch.rand(2, 1, 8, 8, dtype=next(network.parameters()).dtype)
    assert network(x).shape == (2, 4)
    if name == "mlp":
        assert count(network) == 64 * 3 + 3 + 3 * 4 + 4
        assert x.dtype == torch.float64
    else:
        twin = IMAGE_NETWORKS[name](4, channels=1, image_size=8, width=0.5, seed=3)
        torch.testing.assert_close(network(x), twin.eval()(x), rtol=0, atol=0)


def test_hidden_layers_are_multiplied_and_have_a_unit_at_least():
    for hidden, width, expected in (((1, 5), 0.1, [1, 1]), ((1, 5), 3.0, [3, 15]), ((2, 5), 1.5, [3, 8])):
        network = rl.nets.build_network("mlp", (1, 1), 1, hidden=hidden, width=width)
        sizes = [layer.out_features for layer in network if isinstance(layer, torch.nn.Linear)]
        assert sizes == [*expected, 1]


def test_every_name_has_a_network():
    assert set(NETWORKS) == {"mlp", *IMAGE_NETWORKS}


def test_networks_that_cannot_be_built():
    with pytest.raises(ValueError, match=r"`network` must be one of 'mlp', 'cnn', .*; got 'resnet19'"):
        rl.nets.build_network("resnet19", (1, 8, 8), 4)
    with pytest.raises(ValueError, match=r"`input_shape` must be \(channels, height, width\) of square .*got \(64,\)"):
        rl.nets.build_network("cnn", (64,), 4)
    with pytest.raises(ValueError, match=r"`input_shape` must be .* for lenet; got \(1, 8, 9\)"):
        rl.nets.build_network("lenet", (1, 8, 9), 4)
    with pytest.raises(ValueError, match=r"`sizes` must name inputs and outputs at least; got \[4\]"):
        rl.nets.mlp([4])
    with pytest.raises(MemoryError, match="1000001000000 parameters needs .* take smaller `sizes` instead"):
        rl.nets.mlp([10**6, 10**6])
    with pytest.raises(ValueError, match=r"`sizes` must be >= 1; got 0"):
        rl.nets.build_network("mlp", (4,), 2, hidden=(0,))
    count = 3073 * 10**5 + (10**5 + 1) * 10**8 + (10**8 + 1) * 10
    with pytest.raises(MemoryError, match=f"training {count:,} parameters needs .* GiB .* narrower hidden layers"):
        rl.nets.build_network("mlp", (math.prod((3, 32, 32)),), 10, hidden=(100_000, 100_000_000))
    with pytest.raises(ValueError, match=r"`num_classes` must be >= 1; got 0"):
        rl.nets.build_network("mlp", (4,), 0)
    with pytest.raises(ValueError, match=r"`input_shape` must be >= 1; got 0"):
        rl.nets.build_network("mlp", (0,), 2)
