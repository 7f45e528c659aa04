import threading

import numpy as np
import pytest

from rmtland.ensembles.replicates import Streams, _dsterf, in_chunks, in_threads, tridiagonal_eigenvalues
from rmtland.ensembles.sample_covariance import SampleCovariance
from rmtland.ensembles.transition import bbp_transition
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


@pytest.mark.parametrize("draw", [
    lambda rng: Wishart(50, 90).largest(size=3, rng=rng),
    lambda rng: Wishart(20, 30).eigenvalues(rng=rng),
    lambda rng: SampleCovariance(np.ones(20), 30).eigenvalues(2, rng=rng),
    lambda rng: np.concatenate(list(GaussianEnsemble(30).iterate_eigenvalues(5, rng=rng, chunk_size=2))),
    lambda rng: bbp_transition(0.5, [1.2, 3.0], 100, 4, rng).eigenvalues,
    lambda rng: Wishart(2**23, 2**23, beta=2).smallest(size=3, rng=rng),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["Generator", "BitGenerator", "RandomState"])
def test_what_has_a_state_moves_on_and_repeats_when_it_is_restored(draw, kind):
    made = {
        "Generator": lambda: np.random.default_rng(1),
        "BitGenerator": lambda: np.random.Philox(1),
        "RandomState": lambda: np.random.RandomState(1),
    }[kind]
    rng = made()
    holder = getattr(rng, "bit_generator", getattr(rng, "_bit_generator", rng))
    state = holder.state
    first, second = draw(rng), draw(rng)
    assert not np.array_equal(first, second)
    holder.state = state
    np.testing.assert_array_equal(draw(rng), first)
    np.testing.assert_array_equal(draw(rng), second)
    np.testing.assert_array_equal(draw(made()), first)
    holder.state = state
    holder.random_raw()  # a state that nobody made from a seed
    assert not np.array_equal(draw(rng), first)


def test_integer_seeds_are_numpys_own_children():
    """As they have been: no release may change what an integer seed gives."""
    model, seeds = Wishart(50, 90), np.random.SeedSequence(1)
    first, second = model.largest(size=3, rng=seeds), model.largest(size=3, rng=seeds)
    np.testing.assert_array_equal(np.concatenate([first, second]), model.largest(size=6, rng=1))
    children = np.random.SeedSequence(1).spawn(2)
    np.testing.assert_array_equal(Streams.of(1, 2).generator(1).random(3), np.random.default_rng(children[1]).random(3))
    transition = bbp_transition(0.5, [1.2, 3.0], 100, 4, 7)
    spiked = [SpikedCovariance(100, 200, spikes=[spike]) for spike in (1.2, 3.0)]
    np.testing.assert_array_equal(transition.eigenvalues[0], spiked[0].largest(size=4, rng=7)[:, 0])
    np.testing.assert_array_equal(transition.eigenvalues[1], spiked[1].largest(size=8, rng=7)[4:, 0])
    assert not np.array_equal(model.largest(), model.largest())


def test_seeds_of_every_kind():
    model = Wishart(5, 9)
    same = model.largest(size=2, rng=3)
    for seed in (np.int64(3), np.random.SeedSequence(3), [3]):
        np.testing.assert_array_equal(model.largest(size=2, rng=seed), same)
    unusual = np.random.SeedSequence(3, pool_size=8)
    assert not np.array_equal(model.largest(size=2, rng=unusual), same)
    np.testing.assert_array_equal(
        model.largest(size=2, rng=np.random.SeedSequence(3, pool_size=8)),
        model.largest(size=2, rng=np.random.SeedSequence(3, pool_size=8)),
    )


def test_a_seed_of_another_pool_gives_one_child_to_each_call():
    model = Wishart(5, 9)
    used, spawned = (np.random.SeedSequence(3, pool_size=8) for _ in range(2))
    model.largest(rng=used)
    spawned.spawn(1)
    assert model.largest(rng=used) == model.largest(rng=spawned)
    # What NumPy draws from the words of the first child.
    child = np.random.SeedSequence(np.random.SeedSequence(3, pool_size=8).spawn(1)[0].generate_state(8).tolist())
    streams = Streams.of(np.random.SeedSequence(3, pool_size=8), 2)
    assert streams.generator(1).random() == np.random.default_rng(child.spawn(2)[1]).random()


def test_generators_of_replicates_are_those_of_the_children():
    child = np.random.SeedSequence(8).spawn(3)[2]
    assert Streams.of(8, 3).generator(2).random() == np.random.default_rng(child).random()


def test_one_thread_is_the_callers_and_more_are_others():
    def where(start, stop):
        return threading.get_ident()

    assert set(in_threads(where, 100, 1)) == set(in_threads(where, 1, 2)) == {threading.get_ident()}
    assert threading.get_ident() not in in_threads(where, 100, 2)


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
    _dsterf.cache_clear()  # found here, whatever ran before
    generator = np.random.default_rng(0)
    for m in (1, 2, 30):
        d, e = generator.standard_normal(m), generator.standard_normal(m - 1)
        expected = np.linalg.eigvalsh(np.diag(d) + np.diag(e, 1) + np.diag(e, -1))
        np.testing.assert_allclose(tridiagonal_eigenvalues(d, e), expected, atol=1e-13)


@pytest.mark.parametrize("seed", [[[1, 2], [3, 4]], np.array([[1, 2], [3, 4]]), [[1], [2, 3], 4], range(1, 5)])
def test_seeds_in_sequences_of_any_depth_are_those_of_numpy(seed):
    np.testing.assert_array_equal(np.random.default_rng(seed).random(3), np.random.default_rng([1, 2, 3, 4]).random(3))
    wishart = Wishart(5, 9)
    np.testing.assert_array_equal(wishart.largest(size=3, rng=seed), wishart.largest(size=3, rng=[1, 2, 3, 4]))


def test_a_piece_holds_a_million_eigenvalues_by_default():
    asked = []

    def draw(streams, start, stop):
        asked.append((start, stop))
        return np.zeros((stop - start, 1))

    for num_eigenvalues, chunk_size, expected in ((2**18, None, 4), (2**21, None, 1), (2**18, 3, 3), (1, None, 9)):
        del asked[:]
        assert len(list(in_chunks(draw, num_eigenvalues, 9, chunk_size, 0))) == -(-9 // expected)
        assert asked == [(start, min(start + expected, 9)) for start in range(0, 9, expected)]
