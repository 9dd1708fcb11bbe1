"""Files are replaced as a whole, keep what is theirs, and leave nothing behind, whatever ends the writing."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnframe import _files
from nnframe._files import as_path, read_file, write_atomically, write_together


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_a_new_file_has_the_mode_of_any_new_file(tmp_path, umask):
    write_atomically(tmp_path / "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert oct(mode(tmp_path / "a")) == oct(0o640), "0666 less the umask 0027"
    assert names(tmp_path) == ["a"], "nothing else stays"


@pytest.mark.parametrize("kept", [0o600, 0o644, 0o666, 0o700])
def test_a_replaced_file_keeps_its_mode(tmp_path, umask, kept):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(kept)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert oct(mode(path)) == oct(kept)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root gives files away")
def test_a_replaced_file_keeps_its_owner(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    os.chown(path, 1234, 5678)
    write_atomically(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 5678)


def test_of_a_link_the_target_is_replaced(tmp_path):
    (tmp_path / "inner").mkdir()
    target, link, chain = tmp_path / "inner" / "target", tmp_path / "link", tmp_path / "chain"
    target.write_bytes(b"old")
    link.symlink_to("inner/target")
    chain.symlink_to(link)
    write_atomically(chain, b"new")
    assert target.read_bytes() == b"new"
    assert chain.is_symlink(), "the link itself stays"
    assert link.is_symlink(), "also in the middle of a chain"
    target.unlink()
    write_atomically(link, b"again")
    assert target.read_bytes() == b"again", "a link to a file that is not there yet"
    assert names(tmp_path / "inner") == ["target"]


def test_what_is_no_file_is_refused_by_name(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        before = names(tmp_path)
        for path, kind in (
            (tmp_path / "folder", "directory"),
            (tmp_path / "fifo", "FIFO"),
            (tmp_path / "socket", "socket"),
            (Path("/dev/null"), "device"),
        ):
            for use in (lambda p: write_atomically(p, b"new"), read_file):
                with pytest.raises(OSError, match=f"expected a regular file, got a {kind}: '{path}'"):
                    use(path)
        with pytest.raises(IsADirectoryError):
            write_atomically("", b"new")
    with pytest.raises(OSError, match="loop"):
        write_atomically(tmp_path / "loop", b"new")
    with pytest.raises(FileNotFoundError, match=f"expected an existing folder, got none: '{tmp_path}/none'"):
        write_atomically(tmp_path / "none" / "a", b"new")
    with pytest.raises(TypeError, match="path: expected a path, got 3"):
        write_atomically(3, b"new")
    assert names(tmp_path) == before, "and nothing has been written"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_write_protected_is_not_replaced(tmp_path, monkeypatch, kind):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    protected = path if kind == "file" else tmp_path
    monkeypatch.setattr(os, "access", lambda asked, mode: asked != protected)  # root may write everything
    with pytest.raises(PermissionError, match=f"expected a {kind} to write to, got a .*: '{protected}'"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_atomically("~/a", b"new")
    assert (tmp_path / "a").read_bytes() == read_file("~/a") == b"new"
    assert as_path("~nobody-of-this-name/a") == Path("~nobody-of-this-name/a")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    (tmp_path / "a").write_bytes(b"old")

    def fail(*args):
        raise error

    for function in ("fsync", "fdopen"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            with pytest.raises(type(error)):
                write_atomically(tmp_path / "a", b"new")
        assert names(tmp_path) == ["a"], f"{function} failed"
        assert (tmp_path / "a").read_bytes() == b"old", f"{function} failed"
    assert not _files._ACTIVE


def test_files_that_belong_together(tmp_path, monkeypatch):
    a, b, c = (tmp_path / name for name in "abc")
    write_together({a: b"1", b: b"1", c: b"1"})
    assert [path.read_bytes() for path in (a, b, c)] == [b"1"] * 3
    write_together({a: b"2", b: b"2", c: None})
    assert names(tmp_path) == ["a", "b"], "what the later run does not have is not left there from the earlier one"
    write_together({a: b"3", b: b"3", c: b"3"})
    (tmp_path / "d").mkdir()
    with pytest.raises(IsADirectoryError):
        write_together({a: b"4", b: b"4", tmp_path / "d": b"4"})
    assert [path.read_bytes() for path in (a, b, c)] == [b"3"] * 3, "one of them cannot be written: none is"
    replace = Path.replace
    for last in range(3):  # the process ends after `last` of the replacements
        write_together({a: b"5", b: b"5", c: b"5"})
        done = []

        def end(self, target, done=done, last=last):
            if len(done) == last:
                raise SystemExit
            done.append(target)
            return replace(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", end)
            with pytest.raises(SystemExit):
                write_together({a: b"6", b: b"6", c: b"6"})
        assert len({path.read_bytes() for path in (a, b, c) if path.exists()}) == 1, f"a mixture after {last}"
        assert a.exists()


SAVE_FOR_EVER = """
import sys
from nnframe._files import write_atomically
print("ready", flush=True)
while True:
    write_atomically(sys.argv[1], b"x" * 1_000_000)
"""


def test_kill_leaves_a_whole_file_and_the_next_writer_cleans_up(tmp_path):
    path, left = tmp_path / "a", 0
    for pause in (0.0, 0.002, 0.005, 0.01):
        with subprocess.Popen([sys.executable, "-P", "-c", SAVE_FOR_EVER, path], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            while not path.exists():
                time.sleep(0.001)
            time.sleep(pause)
            process.kill()
        left += len(names(tmp_path)) - 1
        assert path.stat().st_size == 1_000_000, "never a part"
    write_atomically(path, b"new")
    assert names(tmp_path) == ["a"], f"{left} temporary files had been left"


def test_only_abandoned_files_are_cleaned_up(tmp_path):
    machine, dead = _files._machine(), 2**22 + 1  # more than any process has as its number
    own = f".nnframe-{machine}-{os.getpid()}-00000000.tmp"
    parent = f".nnframe-{machine}-{os.getppid()}-00000000.tmp"
    other, old = (f".nnframe-{'0' * 8}-{dead}-{n:08}.tmp" for n in (1, 2))
    for name in (own, parent, other, old, f".nnframe-{machine}-{dead}-00000000.tmp", ".nnframe-x.tmp", "b.tmp"):
        (tmp_path / name).write_bytes(b"")
    os.utime(tmp_path / old, (0, 0))
    _files._ACTIVE.add(own)  # another thread writes it
    try:
        write_atomically(tmp_path / "a", b"new")
    finally:
        _files._ACTIVE.remove(own)
    kept = sorted([own, parent, other, ".nnframe-x.tmp", "a", "b.tmp"])
    assert names(tmp_path) == kept, "those of live processes, of another machine, and all that is not ours"
    write_atomically(tmp_path / "a", b"new")
    assert own not in names(tmp_path), "this process has stopped writing it"


# Between the moment that Python opens a file and the one that it enters `with`, it may only be left to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment_leaves_one_whole_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"")

    def ring(*_):
        raise KeyboardInterrupt

    before, interrupted = signal.signal(signal.SIGALRM, ring), 0
    try:
        for round_ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + 1e-3 * (round_ % 50) / 50)
                write_atomically(path, b"%d" % round_ * 1000)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            content = path.read_bytes()
            assert len(content) % 1000 == 0, "a part of a file"
            assert names(tmp_path) == ["a"], "something was left behind"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 10, "the test interrupts too rarely to tell anything"
