"""A real scheduler and worker processes on loopback."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import rmtland as rl

from .functions import held_noise, noise, sometimes, store_bytes

pytest.importorskip("distributed")
ROOT = Path(__file__).parents[2]
SCHEDULER = "from distributed.cli.dask_scheduler import main; main()"
WORKER = "from distributed.cli.dask_worker import main; main()"
BARE_WORKER = "import sys; sys.modules['rmtland'] = None; " + WORKER


@contextlib.contextmanager
def process(code, *arguments, **variables):
    command = [sys.executable, "-c", code, *arguments]
    child = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@pytest.fixture(scope="module")
def scheduler():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with process(SCHEDULER, "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"):
        yield f"tcp://127.0.0.1:{port}"


def worker(address, code=WORKER, **variables):
    return process(code, address, "--nthreads", "1", "--no-nanny", "--no-dashboard", **variables)


def wait_for_workers(address, count):
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        deadline = time.monotonic() + 60
        while len(client.nthreads()) != count:
            assert time.monotonic() < deadline, f"{client.nthreads()} where {count} should be"
            time.sleep(0.05)


def test_two_workers_and_one_that_is_killed(scheduler, tmp_path):
    """The first worker's cells beyond a = 2 never end, so it holds some when it is killed."""
    grid = {"a": np.arange(6.0), "b": [0, 1]}
    with worker(scheduler, SWEEP_TEST_HOLD="1") as lost, worker(scheduler):
        wait_for_workers(scheduler, 2)
        stored = []

        def kill_once_stored(done, failed, total):
            stored.append(done)
            if done >= 12:
                lost.send_signal(signal.SIGKILL)

        result = rl.sweep(held_noise, grid, 8, 3, tmp_path / "c", scheduler=scheduler, progress=kill_once_stored)
        assert lost.poll() is not None
        rl.sweep(held_noise, grid, 8, 3, tmp_path / "l", workers=1)
        assert store_bytes(tmp_path / "c") == store_bytes(tmp_path / "l")
        assert (result.status == 1).all()
        with pytest.warns(RuntimeWarning, match="2 of 6 cells failed.*ZeroDivisionError: two is hard"):
            rl.sweep(sometimes, {"a": [1, 2, 3]}, 2, scheduler=scheduler)
    wait_for_workers(scheduler, 0)


def test_a_worker_without_the_package_is_named(scheduler, tmp_path):
    with worker(scheduler, BARE_WORKER):
        wait_for_workers(scheduler, 1)
        with pytest.raises(RuntimeError, match="1 of 1 workers cannot import rmtland, tcp://127.0.0.1:.*install it"):
            rl.sweep(noise, {"a": [1.0, 2.0]}, 2, 3, tmp_path / "s", scheduler=scheduler)
    wait_for_workers(scheduler, 0)
    result = rl.sweep(noise, {"a": [1.0, 2.0]}, 2, 3, tmp_path / "s", workers=1)
    assert np.isfinite(result.x).all()


def test_a_scheduler_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("rmtland.sweeps.engines.CONNECT_SECONDS", 0.5)
    with pytest.raises(ConnectionError, match="`scheduler` tcp://127.0.0.1:9 cannot be reached"):
        rl.sweep(noise, {"a": [1.0, 2.0]}, 2, 3, tmp_path / "s", scheduler="tcp://127.0.0.1:9")
    for address in ("nonsense://x", "host", "tcp://", "tcp://host:port", "inproc://"):
        with pytest.raises(ValueError, match=f"`scheduler` must be an address like tcp://host:8786; got '{address}'"):
            rl.sweep(noise, {"a": [1.0, 2.0]}, 2, 3, tmp_path / "s", scheduler=address)
    assert int((rl.open_sweep(tmp_path / "s").status == 0).sum()) == 4


@pytest.mark.parametrize("answers", [False, True])
def test_a_scheduler_that_is_silent_or_none(tmp_path, monkeypatch, answers):
    """Who accepts and says nothing held a sweep for ever."""
    monkeypatch.setattr("rmtland.sweeps.engines.CONNECT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def web_server():
            with server.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9)
                connection.recv(1000)

        thread = threading.Thread(target=web_server)
        if answers:
            thread.start()
        told = r"what answers there is no scheduler \(.*MemoryError" if answers else "no answer in 1 s"
        with pytest.raises(ConnectionError, match=f"`scheduler` tcp://127.0.0.1:{port} cannot be reached: {told}"):
            rl.sweep(noise, {"a": [1.0, 2.0]}, 2, 3, tmp_path / "s", scheduler=f"tcp://127.0.0.1:{port}")
        if answers:
            thread.join()


def test_a_worker_is_no_scheduler(scheduler, tmp_path):
    with worker(scheduler):
        wait_for_workers(scheduler, 1)
        from distributed import Client

        with Client(scheduler, set_as_default=False) as client:
            address = next(iter(client.nthreads()))
        with pytest.raises(ConnectionError, match=f"{address} cannot be reached: what answers there is no scheduler"):
            rl.sweep(noise, {"a": [1.0, 2.0]}, 2, 3, tmp_path / "s", scheduler=address)
    wait_for_workers(scheduler, 0)


@pytest.mark.slow
def test_a_scheduler_that_goes_away(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    arguments = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    with process(SCHEDULER, *arguments) as lost, worker(address, SWEEP_TEST_HOLD="1"):
        wait_for_workers(address, 1)
        with pytest.raises(ConnectionError, match="the connection was lost to the scheduler at"):
            rl.sweep(
                held_noise, {"a": np.arange(6.0)}, 4, 3, tmp_path / "s", scheduler=address,
                progress=lambda done, failed, total: lost.kill() if done >= 4 else None,
            )  # fmt: skip
    assert int((rl.open_sweep(tmp_path / "s").status == 1).sum()) >= 4
    rl.sweep(held_noise, {"a": np.arange(6.0)}, 4, 3, tmp_path / "s", workers=1)
    rl.sweep(held_noise, {"a": np.arange(6.0)}, 4, 3, tmp_path / "l", workers=1)
    assert store_bytes(tmp_path / "s") == store_bytes(tmp_path / "l")


@pytest.mark.slow
def test_a_cluster_that_grows_from_nothing(tmp_path):
    """An adaptive cluster starts workers only once there is work."""
    code = """
import sys
import distributed
import rmtland as rl
from tests.sweeps.functions import noise
if __name__ == "__main__":
    with distributed.LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None) as cluster:
        cluster.adapt(minimum=0, maximum=2, interval="200ms")
        rl.sweep(noise, {"a": [1.0, 2.0, 3.0]}, 20, 1, sys.argv[1], scheduler=cluster.scheduler_address)
"""
    script = tmp_path / "adaptive.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(script), str(tmp_path / "c")], cwd=ROOT, env=environment, check=True,
                   timeout=120, capture_output=True)  # fmt: skip
    rl.sweep(noise, {"a": [1.0, 2.0, 3.0]}, 20, 1, tmp_path / "l", workers=1)
    assert store_bytes(tmp_path / "c") == store_bytes(tmp_path / "l")
