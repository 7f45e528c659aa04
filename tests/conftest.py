import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from threadpoolctl import threadpool_limits

# Workers of pytest-xdist share the cores: one thread each, and for the processes that their tests start. Most libraries
# read this when they are loaded; NumPy is, by a plug-in.
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = "1"
    threadpool_limits(1)

# No test depends on timing, a first call compiles a kernel; fixed examples, as all seeds are fixed.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")

# A shell starts jobs in the background with Ctrl-C ignored, and children inherit that: tests that interrupt one would
# wait forever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread():
    # The matrices of the tests are small, and on a busy machine the threads of one product wait for each other: many
    # small products took 17 times longer with two threads than with one.
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="module")
def blank_figures():
    """Figures are files without a picture, whose layout is most of a small `compare`; `tests/plots` draws them."""

    def save(figure, place, **options):
        if isinstance(place, Path):
            place.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", save)
        yield


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`rmtland` in an empty folder and this process, which spares imports: exit code and what it printed."""
    from rmtland.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments):
        arguments = ["rmtland", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as done:
            main()
        stdout, stderr = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, done.value.code, stdout, stderr)

    return call
