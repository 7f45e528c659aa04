"""An end for all ranks when one ends, and how they go on."""

import os
import re
import signal
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist

import rmtland as rl
from rmtland.nets.ranks import RankError
from tests.nets.processes import run
from tests.nets.shares import D, Failing, data, half, message, network, numbers, share


def failing_pass(rank, size):
    """A loader too large to keep raises on rank 1 in its second pass, and is well again in its third."""
    inputs, labels = half(rank)
    loader = Failing([(inputs[:2], labels[:2]), (inputs[2:], labels[2:])], 0)
    source = rl.nets.shard(network(), loader, memory_budget=0)
    before = numbers(rl.gradient(source))
    loader.fails_from = loader.passes + 1 if rank == 1 else 0
    told = [message(rl.clustering, source), message(lambda: rl.nets.hessian(source) @ torch.ones(D))]
    loader.fails_from = 0
    return told, np.array_equal(before, numbers(rl.gradient(source)))


def test_an_error_inside_a_pass_ends_it_on_all_and_they_stay_in_step(tmp_path):
    outcomes = run(failing_pass, 2, tmp_path)
    assert all(isinstance(outcome, tuple) for outcome in outcomes), outcomes
    (first, again), (second, also_again) = outcomes
    for outcome in second:
        assert outcome == ("OSError", "the disk is gone")
    for kind, text in first:
        assert kind == "RankError"
        assert text == "rank 0 of 2: rank 1 failed, so all give up: OSError: the disk is gone"
    assert again
    assert also_again


class Killed(Failing):
    def __iter__(self):
        for batch in super().__iter__():
            yield batch
            if self.fails_from and self.passes >= self.fails_from:
                os.kill(os.getpid(), signal.SIGKILL)


def killed_rank(rank, size):
    inputs, labels = share(data(), (4, 4, 3), rank)
    loader = Killed([(inputs[:2], labels[:2]), (inputs[2:], labels[2:])], 0)
    source = rl.nets.shard(network(), loader, memory_budget=0)
    operator = rl.gauss_newton(source)
    vector = operator @ torch.ones(D)
    loader.fails_from = loader.passes + 2 if rank == 1 else 0  # in the midst of the second product
    return [message(lambda: [operator @ vector for _ in range(4)]), message(rl.gradient, source)]


def test_a_killed_rank_ends_the_others_with_its_number(tmp_path):
    outcomes = run(killed_rank, 3, tmp_path)  # which does not wait for the half hour of the time-out
    assert outcomes[1] is None
    for told in (outcomes[0], outcomes[2]):  # at once: the time-out would say that rank 1 did not come
        assert told[0][0] == told[1][0] == "RankError"
        assert re.search("rank 1 died or closed the connection", told[0][1])
        assert re.search("ranks were lost earlier; start them all again", told[1][1])


def late_rank(rank, size, events):
    dist.barrier()  # how late a rank starts is no matter of the time-out
    source = rl.nets.shard(network(), *data(), timeout=3)
    events = dist.FileStore(str(events), size)
    if rank == 1:
        events.wait(["rank 0 has given up"])
    told = message(rl.gradient, source)
    if rank == 0:
        events.set("rank 0 has given up", "")
    # Both are alive: a new source makes new connections.
    return told, numbers(rl.gradient(rl.nets.shard(network(), *data())))


@pytest.mark.slow
def test_a_rank_that_does_not_come_in_time_is_named(tmp_path):
    (told, value), (_, other) = run(partial(late_rank, events=tmp_path / "events"), 2, tmp_path)
    assert told == ("RankError", "rank 0 of 2: rank 1 did not come to the sum within 3 s (`timeout`)")
    np.testing.assert_array_equal(value, other)
    expected = numbers(rl.gradient(rl.nets.NetworkLogitGradients(network(), *data())))
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-14)


STEPS = 12


def checkpointed(rank, size, steps_before_crash, path):
    source = rl.nets.shard(network(), *data())
    operator = rl.gauss_newton(source)
    products = 0

    def multiply(block):
        nonlocal products
        products += 1
        if rank == 1 and products > steps_before_crash:
            os.kill(os.getpid(), signal.SIGKILL)
        return operator @ block

    watched = type(operator)(multiply, D, operator.prototype)
    # Rank 0 writes its checkpoint now and then, rank 1 never: they stand at different steps.
    mine = source.checkpoint(path)
    try:
        result = rl.lanczos(watched, STEPS, rng=1, checkpoint=mine, checkpoint_interval=1e9 if rank else 0)
    except RankError as error:
        return str(error), products
    return [np.asarray(result.alpha), np.asarray(result.beta)], products


def test_a_checkpointed_run_goes_on_where_rank_0_stood(tmp_path):
    file = tmp_path / "run.npz"
    for name in ("crash", "resumed"):
        (tmp_path / name).mkdir()
    outcomes = run(partial(checkpointed, steps_before_crash=9, path=file), 2, tmp_path / "crash")
    assert outcomes[1] is None
    assert re.search("rank 1 died", outcomes[0][0])
    with np.load(file) as saved:
        stood = saved["alpha"].size
    assert 1 <= stood < STEPS
    resumed = run(partial(checkpointed, steps_before_crash=99, path=file), 2, tmp_path / "resumed")
    expected = rl.lanczos(rl.gauss_newton(rl.nets.NetworkLogitGradients(network(), *data())), STEPS, rng=1)
    for (alpha, beta), products in resumed:
        assert products == STEPS - stood + 1  # and one of these checks that the operator is the same
        np.testing.assert_allclose(alpha, expected.alpha, rtol=1e-8)
        np.testing.assert_allclose(beta, expected.beta, rtol=1e-8)
