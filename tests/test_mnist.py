"""MNIST: contents decide, the lookup has an order, downloads are all or nothing.

A distribution of four tiny files with sums of their own stands in for the real one; a web server
on 127.0.0.1 for the mirrors. The last tests read the real files where EQUICERT_DATA_DIR has them.
"""

import errno
import gzip
import hashlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from equicert.errors import DataError
from equicert.mnist import MNIST_FILES, IdxFile, read_mnist


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def table_of(contents: dict[str, bytes], arrays: dict[str, NDArray[np.uint8]]) -> list[IdxFile]:
    return [
        IdxFile(name, arrays[name].shape, hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    ]


_RANDOM = np.random.default_rng(0)
ARRAYS: dict[str, NDArray[np.uint8]] = {
    "train-images": _RANDOM.integers(0, 256, (5, 2, 3), np.uint8),
    "train-labels": _RANDOM.integers(0, 10, 5, np.uint8),
    "test-images": _RANDOM.integers(0, 256, (3, 2, 3), np.uint8),
    "test-labels": _RANDOM.integers(0, 10, 3, np.uint8),
}
CONTENTS = {name: idx(array) for name, array in ARRAYS.items()}
GZIPPED = {f"{name}.gz": gzip.compress(content) for name, content in CONTENTS.items()}
FILES = table_of(CONTENTS, ARRAYS)
FIRST = FILES[0]


def write(folder: Path, files: dict[str, bytes] = GZIPPED) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)


def assert_complete(arrays: list[NDArray[np.uint8]]) -> None:
    assert len(arrays) == len(ARRAYS)
    for found, expected in zip(arrays, ARRAYS.values(), strict=True):
        assert found.dtype == np.uint8
        assert np.array_equal(found, expected)


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


class Server:
    """A mirror on this machine: what it answers to each file name, and what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                server.asked.append(name)
                if name in server.answers:
                    server.answers[name](self)
                else:
                    self.send_error(404)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Keep standard error for what the tests look at."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/mnist/"

    def serve(self, files: dict[str, bytes], claimed: int | None = None) -> None:
        """Answer with these bodies; `claimed` is a Content-Length that is not theirs."""
        for name, body in files.items():
            self.answers[name] = _answer(body, len(body) if claimed is None else claimed)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _answer(body: bytes, length: int) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        if length >= 0:
            request.send_header("Content-Length", str(length))
        request.end_headers()
        request.wfile.write(body)

    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def mirror(server: Server) -> Server:
    """A mirror that serves the four files as they should be."""
    server.serve(GZIPPED)
    return server


@pytest.fixture
def dead() -> str:
    """The address of a port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/mnist/"


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """No data folder of this machine, and no proxy between the tests and 127.0.0.1."""
    monkeypatch.delenv("EQUICERT_DATA_DIR", raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


def read(cache: Path, *mirrors: str, progress: bool = False) -> list[NDArray[np.uint8]]:
    return read_mnist(progress=progress, files=FILES, mirrors=mirrors, cache=cache)


# --- local files ---------------------------------------------------------------------------------


def _members(content: bytes) -> bytes:
    return gzip.compress(content[:7]) + gzip.compress(content[7:])


PACKINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": (".gz", gzip.compress),
    "plain": ("", lambda content: content),
    "gzip, another level and date": (".gz", lambda content: gzip.compress(content, 1, mtime=1)),
    "gzip, not compressed": (".gz", lambda content: gzip.compress(content, 0)),
    "gzip of two members": (".gz", _members),
    "gzip with zeros behind": (".gz", lambda content: gzip.compress(content) + bytes(9)),
    "unpacked under the packed name": (".gz", lambda content: content),
    "packed under the unpacked name": ("", gzip.compress),
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_contents_decide_whatever_the_wrapper(packing: str, tmp_path: Path) -> None:
    suffix, pack = PACKINGS[packing]
    write(tmp_path, {f"{name}{suffix}": pack(content) for name, content in CONTENTS.items()})
    assert_complete(read(tmp_path))


def places(root: Path) -> list[Path]:
    """Where files are looked up, in order."""
    return [root / "data" / "mnist", root / "data", root / "variable" / "mnist", root / "cache"]


def look_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[NDArray[np.uint8]]:
    (root / "data").mkdir(exist_ok=True)
    monkeypatch.setenv("EQUICERT_DATA_DIR", str(root / "variable"))
    return read_mnist(root / "data", download=False, files=FILES, cache=root / "cache")


@pytest.mark.parametrize("place", range(4))
def test_first_place_wins(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(places(tmp_path)[place])
    for later in places(tmp_path)[place + 1 :]:
        write(later, dict.fromkeys(GZIPPED, b"bad"))
    assert_complete(look_up(tmp_path, monkeypatch))


@pytest.mark.parametrize("place", range(4))
def test_bad_file_is_not_skipped(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in places(tmp_path):
        write(folder)
    bad = places(tmp_path)[place] / f"{FIRST.name}.gz"
    for folder in places(tmp_path)[:place]:
        (folder / bad.name).unlink()
    bad.write_bytes(b"bad")
    with pytest.raises(DataError) as error:
        look_up(tmp_path, monkeypatch)
    assert one_line(error).startswith(f"{bad} ")


def test_each_file_is_looked_up_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, (name, raw) in zip(places(tmp_path), GZIPPED.items(), strict=True):
        write(folder, {name: raw})
    assert_complete(look_up(tmp_path, monkeypatch))


def test_missing_files_are_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "cache", {"train-images.gz": GZIPPED["train-images.gz"]})
    with pytest.raises(DataError) as error:
        look_up(tmp_path, monkeypatch)
    message = one_line(error)
    assert "train-images" not in message
    for part in ("train-labels", "test-images", "test-labels", "$EQUICERT_DATA_DIR/mnist"):
        assert part in message
    for place in places(tmp_path):
        assert str(place) in message


def test_data_folder_must_exist(tmp_path: Path, mirror: Server) -> None:
    with pytest.raises(DataError) as error:
        read_mnist(tmp_path / "none", files=FILES, mirrors=[mirror.url], cache=tmp_path / "cache")
    assert f"{tmp_path / 'none'} does not exist" in one_line(error)
    assert mirror.asked == []


_CONTENT = CONTENTS[FIRST.name]
_PACKED = GZIPPED[f"{FIRST.name}.gz"]
_TAMPERED = _CONTENT[:-1] + bytes([_CONTENT[-1] ^ 1])

# What lies there instead of the first file, and of which bytes the sum should be reported.
BAD_FILES: dict[str, tuple[bytes, bytes | None]] = {
    "tampered": (gzip.compress(_TAMPERED), _TAMPERED),
    "tampered, plain": (_TAMPERED, _TAMPERED),
    "truncated contents": (gzip.compress(_CONTENT[:-1]), _CONTENT[:-1]),
    "truncated, plain": (_CONTENT[:20], _CONTENT[:20]),
    "truncated stream": (_PACKED[:-15], None),
    "nothing but the magic number": (_PACKED[:2], b""),
    "broken stream": (_PACKED[:10] + b"\xff" + _PACKED[11:], b""),
    "longer": (gzip.compress(_CONTENT + b"\0"), _CONTENT + b"\0"),
    "empty": (b"", b""),
    "a web page": (b"<html>please log in</html>", b"<html>please log in</html>"),
    "another file of the four": (GZIPPED["test-images.gz"], CONTENTS["test-images"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_named_with_sums_and_remedy(case: str, tmp_path: Path, mirror: Server) -> None:
    raw, contents = BAD_FILES[case]
    write(tmp_path, {f"{FIRST.name}.gz": raw})
    with pytest.raises(DataError) as error:
        read(tmp_path, mirror.url)
    message = one_line(error)
    assert message.startswith(f"{tmp_path / FIRST.name}.gz ")
    assert f"expected {FIRST.sha256} over {len(_CONTENT)} bytes" in message
    if contents is not None:
        assert f"found SHA-256 {hashlib.sha256(contents).hexdigest()}" in message
    assert "delete it" in message
    assert mirror.asked == []  # a bad file is reported before anything is fetched


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / f"{FIRST.name}.gz").mkdir()
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert f"{FIRST.name}.gz cannot be read" in one_line(error)


@pytest.mark.parametrize("shape", [(5, 3, 2), (5, 2, 2), (30,)])
def test_header_must_state_the_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    write(tmp_path)
    files = [IdxFile(FIRST.name, shape, FIRST.sha256), *FILES[1:]]
    with pytest.raises(DataError) as error:
        read_mnist(download=False, files=files, cache=tmp_path)
    assert f"no IDX array of shape {shape}" in one_line(error)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_no_flipped_byte_gives_other_numbers(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"{FIRST.name}{suffix}"
    good = _PACKED if suffix else _CONTENT
    refused = 0
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
        try:
            (array,) = read_mnist(download=False, files=[FIRST], cache=tmp_path)
            assert np.array_equal(array, ARRAYS[FIRST.name])
        except DataError as error:
            assert FIRST.sha256 in str(error)  # noqa: PT017
            refused += 1
    assert refused == len(good) if suffix == "" else refused > len(good) // 2


def test_swelling_stream_is_left_early(tmp_path: Path) -> None:
    write(tmp_path, {f"{FIRST.name}.gz": gzip.compress(bytes(1 << 26), 1)})
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="or more, expected"):
            read(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 22


# --- downloads -----------------------------------------------------------------------------------


def test_download_fills_the_cache_once(tmp_path: Path, mirror: Server) -> None:
    cache = tmp_path / "new" / "cache"
    assert_complete(read(cache, mirror.url))
    assert sorted(mirror.asked) == sorted(GZIPPED)
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == GZIPPED
    mirror.asked.clear()
    assert_complete(read(cache, mirror.url))
    assert mirror.asked == []


def test_only_what_is_missing_is_fetched(tmp_path: Path, mirror: Server) -> None:
    write(tmp_path, {name: raw for name, raw in GZIPPED.items() if name != "test-labels.gz"})
    assert_complete(read(tmp_path, mirror.url))
    assert mirror.asked == ["test-labels.gz"]


@pytest.mark.parametrize("packing", PACKINGS)
def test_mirrors_may_wrap_differently(packing: str, tmp_path: Path, server: Server) -> None:
    pack = PACKINGS[packing][1]
    server.serve({f"{name}.gz": pack(content) for name, content in CONTENTS.items()})
    assert_complete(read(tmp_path, server.url))
    assert_complete(read(tmp_path))


def _nothing(server: Server) -> None:
    del server  # every request is a 404


def _tampered(server: Server) -> None:
    server.serve(dict.fromkeys(GZIPPED, gzip.compress(_TAMPERED)))


def _web_page(server: Server) -> None:
    server.serve(dict.fromkeys(GZIPPED, b"<html>please log in</html>"))


def _half_body(server: Server) -> None:
    server.serve({name: raw[: len(raw) // 2] for name, raw in GZIPPED.items()}, claimed=1000)


def _half_body_unannounced(server: Server) -> None:
    server.serve({name: raw[: len(raw) // 2] for name, raw in GZIPPED.items()}, claimed=-1)


def _empty(server: Server) -> None:
    server.serve(dict.fromkeys(GZIPPED, b""))


FAULTS = [_nothing, _tampered, _web_page, _half_body, _half_body_unannounced, _empty]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.strip("_"))
def test_faulty_mirror_is_passed_over(
    fault: Callable[[Server], None], tmp_path: Path, mirror: Server
) -> None:
    faulty = Server()
    try:
        fault(faulty)
        assert_complete(read(tmp_path, faulty.url, mirror.url))
        assert sorted(faulty.asked) == sorted(GZIPPED)
    finally:
        faulty.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == GZIPPED


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.strip("_"))
def test_all_mirrors_faulty_is_one_error(
    fault: Callable[[Server], None], tmp_path: Path, server: Server, dead: str
) -> None:
    fault(server)
    with pytest.raises(DataError) as error:
        read(tmp_path, dead, server.url)
    message = one_line(error)
    for part in (f"{dead}{FIRST.name}.gz", f"{server.url}{FIRST.name}.gz", "$EQUICERT_DATA_DIR"):
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_dead_mirror_is_passed_over(tmp_path: Path, mirror: Server, dead: str) -> None:
    assert_complete(read(tmp_path, dead, mirror.url))


def test_no_download_without_leave(tmp_path: Path, mirror: Server) -> None:
    with pytest.raises(DataError, match="or allow the download"):
        read_mnist(download=False, files=FILES, mirrors=[mirror.url], cache=tmp_path)
    assert mirror.asked == []


def test_cache_that_cannot_be_written(tmp_path: Path, mirror: Server) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError) as error:
        read(tmp_path / "file" / "cache", mirror.url)
    assert "cannot be stored" in one_line(error)


@pytest.mark.parametrize("interruption", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()])
def test_interrupted_store_leaves_nothing(
    interruption: BaseException,
    tmp_path: Path,
    mirror: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(descriptor: int) -> None:
        del descriptor
        raise interruption

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises((DataError, KeyboardInterrupt)):
        read(tmp_path, mirror.url)
    assert list(tmp_path.iterdir()) == []


DOWNLOADER = """
import os, signal, sys
from pathlib import Path
from equicert.mnist import IdxFile, read_mnist
if sys.argv[5] == "kill":
    os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
shape = tuple(map(int, sys.argv[2].split(",")))
files = [IdxFile(sys.argv[1], shape, sys.argv[3])]
read_mnist(files=files, mirrors=[sys.argv[4]], cache=Path(sys.argv[6]))
"""


def downloader(url: str, cache: Path, manner: str) -> subprocess.Popen[bytes]:
    shape = ",".join(map(str, FIRST.shape))
    arguments = [FIRST.name, shape, FIRST.sha256, url, manner, str(cache)]
    return subprocess.Popen([sys.executable, "-c", DOWNLOADER, *arguments])


def test_killed_in_the_middle_of_a_body(tmp_path: Path, server: Server) -> None:
    half_sent, killed = threading.Event(), threading.Event()

    def half(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(_PACKED)))
        request.end_headers()
        request.wfile.write(_PACKED[:20])
        request.wfile.flush()
        half_sent.set()
        killed.wait(30)

    server.answers[f"{FIRST.name}.gz"] = half
    process = downloader(server.url, tmp_path, "run")
    try:
        assert half_sent.wait(30)
        time.sleep(0.1)  # long enough for the half to arrive
    finally:
        process.kill()
        process.wait()
        killed.set()
    assert list(tmp_path.iterdir()) == []


def test_killed_before_the_file_is_in_place(tmp_path: Path, mirror: Server) -> None:
    assert downloader(mirror.url, tmp_path, "kill").wait() == -signal.SIGKILL
    assert not (tmp_path / f"{FIRST.name}.gz").exists()
    assert_complete(read(tmp_path, mirror.url))


@pytest.mark.parametrize("claimed", [None, -1])
def test_progress_only_when_asked(
    claimed: int | None, tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    server.serve(GZIPPED, claimed)
    read(tmp_path / "quiet", server.url)
    assert capfd.readouterr() == ("", "")
    assert_complete(read(tmp_path / "shown", server.url, progress=True))
    out, err = capfd.readouterr()
    assert out == ""
    assert all(name in err for name in GZIPPED)


# --- the real files ------------------------------------------------------------------------------


@pytest.fixture
def real(mnist_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EQUICERT_DATA_DIR", str(mnist_dir.parent))
    return mnist_dir


def test_real_labels_belong_to_their_images(real: Path, tmp_path: Path) -> None:
    assert real.is_dir()
    x_train, y_train, x_test, y_test = read_mnist(download=False, cache=tmp_path)
    assert (x_train.shape, y_train.shape) == ((60000, 28, 28), (60000,))
    assert (x_test.shape, y_test.shape) == ((10000, 28, 28), (10000,))
    train, test = (x.reshape(len(x), -1)[:10000].astype(np.float64) for x in (x_train, x_test))
    centres = np.stack([train[y_train[:10000] == digit].mean(axis=0) for digit in range(10)])
    nearest = (test @ centres.T - (centres**2).sum(axis=1) / 2).argmax(axis=1)
    assert (nearest == y_test).mean() > 0.75


@pytest.mark.parametrize("file", MNIST_FILES[1::2], ids=lambda file: file.name)
def test_tampered_real_file_is_refused(file: IdxFile, real: Path, tmp_path: Path) -> None:
    content = bytearray(gzip.decompress((real / f"{file.name}.gz").read_bytes()))
    assert len(content) == file.size
    content[-1] = (content[-1] + 1) % 10  # a label changed into another valid one
    (tmp_path / file.name).write_bytes(content)
    with pytest.raises(DataError, match=f"expected {file.sha256}"):
        read_mnist(tmp_path, download=False, cache=tmp_path / "cache")


def test_real_file_cut_short_is_refused(real: Path, tmp_path: Path) -> None:
    file = MNIST_FILES[2]
    path = tmp_path / f"{file.name}.gz"
    shutil.copyfile(real / path.name, path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataError, match="before its gzip stream broke"):
        read_mnist(tmp_path, download=False, cache=tmp_path / "cache")
