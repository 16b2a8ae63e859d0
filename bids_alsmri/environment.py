"""Places that libraries write to: kernels compiled beforehand, sockets between processes."""

from __future__ import annotations

import hashlib
import multiprocessing.util
import os
import shutil
import tempfile
from pathlib import Path

# of memory, there wherever processes can share locks, and writable beside a read-only root
SHARED_MEMORY = Path("/dev/shm")


def copy_kernels(compiled: Path, cache: Path) -> Path:
    """Copy compiled kernels to where numba reads them.

    Parameters
    ----------
    compiled : Path
        Folder that numba wrote while an image was built; need not be writable.
    cache : Path
        Writable folder; further runs, also of other versions, may use it at the same time.

    Returns
    -------
    Path
        Folder below `cache` for ``NUMBA_CACHE_DIR``, one for each content of `compiled`.

    Raises
    ------
    OSError
        If `compiled` cannot be read or `cache` not be written.

    Notes
    -----
    numba reads no cache that it cannot write. Its index names data files by number only, so that
    the kernels of two versions in one folder could be taken for each other. What is there already
    stays: numba adds what it compiles later.
    """
    # numba skips a data file that is absent, so each index comes after the data it names
    files = sorted((p for p in compiled.rglob("*") if p.is_file()), key=lambda p: (p.suffix, p))
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(compiled)).encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    own = cache / digest.hexdigest()[:16]
    own.mkdir(parents=True, exist_ok=True)
    for path in files:
        target = own / path.relative_to(compiled)
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            handle, name = tempfile.mkstemp(dir=target.parent)
            os.close(handle)
            shutil.copy2(path, name)
            os.replace(name, target)
    return own


def choose_socket_folder() -> None:
    """Settle where sockets between processes lie, before temporary files move elsewhere.

    Notes
    -----
    Paths of sockets hold 107 bytes, and not every file system of a work folder has sockets. They
    stay in the system's folder for temporary files; where none is writable, in shared memory.
    """
    try:
        multiprocessing.util.get_temp_dir()
    except FileNotFoundError:
        if os.access(SHARED_MEMORY, os.W_OK):
            tempfile.tempdir = str(SHARED_MEMORY)
            multiprocessing.util.get_temp_dir()
