import errno
import fcntl
import os
import stat

import pytest

from rmtland._files import replace_file, replace_text, unused_name
from rmtland._lock import RunLock


def test_interrupted_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fill(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, fill)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="a file is to be written to .*/folder, which is a folder"):
        replace_text(tmp_path / "folder", "x")
    with pytest.raises(
        FileNotFoundError, match="a file is to be written to .*/none/x, which is in no folder that exis"
    ):
        replace_text(tmp_path / "none" / "x", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_file_is_replaced_whole(tmp_path):
    for text in ("long, with é", "short"):
        replace_text(tmp_path / "file", text)
        assert (tmp_path / "file").read_text(encoding="utf-8") == text
    assert unused_name(tmp_path / "file") != unused_name(tmp_path / "file")


def test_a_lock_that_somebody_took_away_is_let_go_all_the_same(tmp_path):
    lock = RunLock(tmp_path / "store", "sweep")
    for _ in range(2):
        with lock:
            lock.path.unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_in_a_folder_to_be_made_is_a_file_that_all_may_read(tmp_path):
    before = os.umask(0)
    try:
        with RunLock(tmp_path / "a" / "b" / "store", "sweep") as lock:
            assert stat.S_IMODE(lock.path.stat().st_mode) == 0o666  # less what the user's mask takes
    finally:
        os.umask(before)
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_where_nothing_can_be_locked_nothing_runs(tmp_path, monkeypatch):
    """A file that stands for a lock would outlive a run that was killed."""

    def missing(file, operation):
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises((OSError, NotImplementedError)), RunLock(tmp_path / "store", "sweep"):
        pass
