"""Files that are written as a whole: whoever opens one finds the old content or the new, never a part of either."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

PathLike = str | os.PathLike[str]

_ACTIVE: set[str] = set()  # names of the temporary files that this process is writing
_TEMPORARY = re.compile(r"\.nnframe-([0-9a-f]{8})-([0-9]+)-[0-9a-f]{8}\.tmp")
_DAY = 86400.0


def as_path(path: PathLike, name: str = "path") -> Path:
    """`path` with ~ expanded; TypeError, which names the argument, where it is no path."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name}: expected a path, got {path!r}")
    given = Path(path)
    try:
        return given.expanduser()
    except RuntimeError:  # there is no such user: a shell leaves it as it is, too
        return given


def read_file(path: PathLike) -> bytes:
    """Return what a file holds; OSError for what is none, such as a device, which might never end."""
    given = as_path(path)
    _refuse_other_kinds(given, given.stat().st_mode)
    return given.read_bytes()


def write_atomically(path: PathLike, content: bytes) -> None:
    """Put `content` into a file, which keeps its mode if it is there; of a symbolic link, the target is replaced.

    Raises
    ------
    OSError
        No such folder; a directory, a device or a FIFO; a file that is write-protected. Nothing has been changed.
    """
    write_together({path: content})


def write_together(contents: Mapping[PathLike, bytes | None]) -> None:
    """Write files that belong together, as `write_atomically` does; those whose content is None are removed.

    All are on disk under other names before the first is replaced, and old ones are removed before that: wherever this
    ends early, the files that are there belong together.
    """
    targets = {replaceable(path): content for path, content in contents.items()}
    for folder in {target.parent for target in targets}:
        _sweep(folder)
    temporaries: dict[Path, Path] = {}
    try:
        for target, content in targets.items():
            if content is not None:
                temporaries[target] = _temporary_name(target.parent)
                _write(temporaries[target], target, content)
        first = next(iter(temporaries), None)
        for target in targets:
            if target != first:
                target.unlink(missing_ok=True)
        for target, temporary in temporaries.items():
            temporary.replace(target)
    except BaseException:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
        raise
    finally:
        _ACTIVE.difference_update(temporary.name for temporary in temporaries.values())


def replaceable(path: PathLike) -> Path:
    """Return the file that `path` stands for, links followed; OSError, which names it, where it cannot be replaced."""
    given = as_path(path)
    target = Path(os.path.realpath(given))
    folder = target.parent
    try:
        _refuse_other_kinds(given, target.stat().st_mode)
    except FileNotFoundError:
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "expected an existing folder, got none", str(folder)) from None
    else:
        _refuse_write_protected(given, "file")
    _refuse_write_protected(folder, "folder")
    return target


def _refuse_write_protected(path: Path, kind: str) -> None:
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, f"expected a {kind} to write to, got a write-protected one", str(path))


def _refuse_other_kinds(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    kind = kinds.get(stat.S_IFMT(mode), "device")
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(number, f"expected a regular file, got a {kind}", str(path))


def _temporary_name(folder: Path) -> Path:
    name = f".nnframe-{_machine()}-{os.getpid()}-{os.urandom(4).hex()}.tmp"
    _ACTIVE.add(name)
    return folder / name


def _write(temporary: Path, target: Path, content: bytes) -> None:
    """Write a new file with the mode and owner of the one that it is to replace, if there is one."""
    before = target.stat() if target.exists() else None
    mode = 0o666 if before is None else stat.S_IMODE(before.st_mode)  # the umask takes its part from either
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
        file.write(content)
        file.flush()
        if before is not None:
            with contextlib.suppress(OSError, AttributeError):  # only root may give a file away
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            temporary.chmod(mode)
        os.fsync(file.fileno())


def _machine() -> str:
    import platform

    return f"{zlib.crc32(platform.node().encode()):08x}"


def _sweep(folder: Path) -> None:
    """Remove temporary files whose process has died while it wrote; those of other machines after a day."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry, match) for entry in entries if (match := _TEMPORARY.fullmatch(entry.name))]
    except OSError:  # a folder that may be written to, but not listed
        return
    for entry, match in found:
        with contextlib.suppress(OSError):
            if _is_abandoned(entry, match[1], int(match[2])):
                Path(entry.path).unlink()


def _is_abandoned(entry: os.DirEntry[str], machine: str, process: int) -> bool:
    if entry.name in _ACTIVE:
        return False
    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _DAY:
        return True
    if machine != _machine() or os.name != "posix":
        return False
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)  # sends nothing: fails where there is no such process
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False
