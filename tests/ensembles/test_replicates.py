import numpy as np
import pytest

from rmtland.ensembles.replicates import Streams, in_threads, tridiagonal_eigenvalues
from rmtland.ensembles.wigner import GaussianEnsemble, SpikedWigner
from rmtland.ensembles.wishart import SpikedCovariance, Wishart

MODELS = [
    Wishart(300, 700),
    Wishart(50, 30, beta=2),
    SpikedCovariance(300, 700, spikes=[3.0]),
    SpikedCovariance(40, 70, spikes=[3.0, 2.0]),
    GaussianEnsemble(80, beta=4),
    SpikedWigner(80, spikes=[2.0, -2.0], beta=2),
]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_any_number_of_threads_gives_the_same_bits(model):
    for call in (
        lambda threads: model.eigenvalues(9, rng=5, threads=threads),
        lambda threads: model.largest(2, 150, rng=5, threads=threads),
        lambda threads: model.smallest(2, 150, rng=5, threads=threads),
    ):
        one = call(1)
        for threads in (2, 3, 7):
            np.testing.assert_array_equal(call(threads), one)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_replicate_depends_on_its_seed_alone(model):
    many = model.largest(size=20, rng=6)
    np.testing.assert_array_equal(many[:3], model.largest(size=3, rng=6))
    np.testing.assert_array_equal(many[0], model.largest(rng=6))
    chunks = np.concatenate(list(model.iterate_eigenvalues(10, rng=6, chunk_size=3)))
    np.testing.assert_array_equal(chunks, model.eigenvalues(10, rng=6))
    child = np.random.SeedSequence(6)
    child.spawn(4)
    np.testing.assert_array_equal(model.largest(size=2, rng=child), many[4:6])
    assert not np.array_equal(many[0], many[1])


def test_a_generator_moves_on():
    model, generator = Wishart(50, 90), np.random.default_rng(1)
    first, second = model.largest(size=3, rng=generator), model.largest(size=3, rng=generator)
    np.testing.assert_array_equal(np.concatenate([first, second]), model.largest(size=6, rng=1))
    assert not np.array_equal(model.largest(), model.largest())


def test_seeds_of_every_kind():
    model = Wishart(5, 9)
    same = model.largest(size=2, rng=3)
    for seed in (np.int64(3), np.random.SeedSequence(3), np.random.PCG64(3), np.random.Philox(3)):
        np.testing.assert_array_equal(model.largest(size=2, rng=seed), same)
    unusual = np.random.SeedSequence(3, pool_size=8)
    assert not np.array_equal(model.largest(size=2, rng=unusual), same)
    np.testing.assert_array_equal(
        model.largest(size=2, rng=np.random.SeedSequence(3, pool_size=8)),
        model.largest(size=2, rng=np.random.SeedSequence(3, pool_size=8)),
    )


def test_generators_of_replicates_are_those_of_the_children():
    child = np.random.SeedSequence(8).spawn(3)[2]
    assert Streams.of(8, 3).generator(2).random() == np.random.default_rng(child).random()


def test_pieces_cover_everything_and_an_error_ends_the_run():
    for count in (1, 5, 64, 65, 1000):
        pieces = in_threads(lambda start, stop: (start, stop), count, 2)
        assert [i for piece in pieces for i in range(*piece)] == list(range(count))
    longest = max(stop - start for start, stop in in_threads(lambda start, stop: (start, stop), 10**6, 2))
    assert longest <= 1025  # an interrupt waits for no more than a piece
    seen = []

    def fail(start, stop):
        seen.append(start)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_threads(fail, 1000, 2)
    assert len(seen) < 64


def test_sterf_against_numpy():
    generator = np.random.default_rng(0)
    for m in (1, 2, 30):
        d, e = generator.standard_normal(m), generator.standard_normal(m - 1)
        expected = np.linalg.eigvalsh(np.diag(d) + np.diag(e, 1) + np.diag(e, -1))
        np.testing.assert_allclose(tridiagonal_eigenvalues(d, e), expected, atol=1e-13)
