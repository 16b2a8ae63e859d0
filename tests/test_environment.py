from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bids_alsmri import environment
from bids_alsmri.environment import choose_socket_folder, copy_kernels

# one second past the epoch in 2001: as an image of that time would hold it
BUILT_S = 1_000_000_001

KERNEL = """
import numba
@numba.njit(cache=True)
def double(value):
    return 2 * value
def report():
    double(1.0)
    return double.stats.cache_hits.total(), double.stats.cache_misses.total()
"""


def compiled_folder(root: Path, content: str = "code") -> Path:
    """A folder as numba leaves it: an index that names a data file."""
    folder = root / "compiled" / "numerics_0a1b"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("fit.nbi", "fit.1.nbc"):
        (folder / name).write_text(content)
        os.utime(folder / name, (BUILT_S, BUILT_S))
    return folder.parent


def test_copied_kernels_keep_their_content_and_times(tmp_path):
    own = copy_kernels(compiled_folder(tmp_path), tmp_path / "cache")
    copies = sorted((own / "numerics_0a1b").iterdir())
    assert [path.name for path in copies] == ["fit.1.nbc", "fit.nbi"]
    assert all(path.read_text() == "code" for path in copies)
    assert all(path.stat().st_mtime == BUILT_S for path in copies)


def test_index_is_copied_after_the_data_that_it_names(tmp_path, monkeypatch):
    placed = []
    replace = os.replace
    monkeypatch.setattr(
        environment.os, "replace", lambda a, b: (placed.append(Path(b).suffix), replace(a, b))
    )
    copy_kernels(compiled_folder(tmp_path), tmp_path / "cache")
    assert placed == [".nbc", ".nbi"]


def test_second_start_leaves_what_numba_added(tmp_path):
    compiled = compiled_folder(tmp_path)
    first = copy_kernels(compiled, tmp_path / "cache")
    (first / "numerics_0a1b" / "fit.nbi").write_text("index of two")
    second = copy_kernels(compiled, tmp_path / "cache")
    assert second == first
    assert (second / "numerics_0a1b" / "fit.nbi").read_text() == "index of two"


def test_kernels_of_two_versions_lie_apart(tmp_path):
    first = copy_kernels(compiled_folder(tmp_path), tmp_path / "cache")
    second = copy_kernels(compiled_folder(tmp_path, "newer"), tmp_path / "cache")
    assert first != second
    assert (first / "numerics_0a1b" / "fit.1.nbc").read_text() == "code"


@pytest.mark.slow
def test_numba_reads_copied_kernels_and_compiles_none(tmp_path):
    (tmp_path / "module").mkdir()
    (tmp_path / "module" / "doubling.py").write_text(KERNEL)

    def counts(folder: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-c", "import doubling; print(*doubling.report())"],
            env={**os.environ, "NUMBA_CACHE_DIR": str(folder), "NUMBA_CPU_NAME": "generic"},
            cwd=tmp_path / "module",
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert counts(tmp_path / "compiled") == "0 1"
    assert counts(copy_kernels(tmp_path / "compiled", tmp_path / "cache")) == "1 0"


@pytest.fixture
def new_process(monkeypatch):
    """Python as it starts, before a folder for temporary files was chosen."""
    config = multiprocessing.current_process()._config
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setitem(config, "tempdir", None)
    return config


def test_sockets_lie_in_the_system_folder(new_process, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    choose_socket_folder()
    assert Path(new_process["tempdir"]).parent == tmp_path


def test_sockets_lie_in_shared_memory_where_no_system_folder_can_be_written(
    new_process, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    monkeypatch.setattr(environment, "SHARED_MEMORY", tmp_path)
    choose_socket_folder()
    assert Path(new_process["tempdir"]).parent == tmp_path
