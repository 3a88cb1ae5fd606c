"""A stand-in of the Hugging Face hub's HTTP interface, on loopback: what a client of it can meet, and nothing else.

In a test: `with HubStandIn({"owner/name": Repository(files)}) as hub: ... HF_ENDPOINT=hub.url`. On the command line,
from the top of the repository, for a folder with repositories (OWNER/NAME/ or OWNER--NAME/, other revisions of one as
OWNER--NAME@REVISION/ with "/" written as "%2F"):

    python -m tests.hub_stand_in FOLDER --port 0 [--gated NAME] [--private NAME] [--renamed OLD=NEW] [--token TOKEN]

It prints its address, for HF_ENDPOINT, and serves until it is stopped. The standard library only.

What it follows (huggingface_hub 2.4, `hf_api.py` and `file_download.py`; the hub's own answers): listings of a
revision; `resolve` with ETag, X-Repo-Commit, Range; large files by a redirect to another host, as the CDN, with
X-Linked-ETag and X-Linked-Size; 401 and 403 with X-Error-Code; 307 with a relative address for a repository that was
renamed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote

LARGE = (".safetensors", ".bin", ".onnx", ".onnx_data", ".h5", ".model")
COMMIT = "a" * 40

Content = bytes | Path


@dataclass
class Repository:
    """One repository. files: of every revision, but for those that `others` has.

    refs: commit of each branch, tag, pull request and commit. is_gated: all may list it, only the hub's token may read
    it. is_private: only the hub's token may know of it.
    """

    files: dict[str, Content]
    refs: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, COMMIT: COMMIT})
    others: dict[str, dict[str, Content]] = field(default_factory=dict)
    is_gated: bool = False
    is_private: bool = False

    def files_at(self, commit: str) -> dict[str, Content]:
        """Return the files of a commit."""
        return self.others.get(commit, self.files)


@dataclass
class Troubles:
    """What goes wrong; each can be changed between requests.

    refusal: status and X-Error-Code of every answer. gate: holds the download of a large file half-way until it is set;
    half_sent tells that one is held. delay_seconds: before each answer. n_cuts: large files that are cut half-way.
    has_ranges: False sends whole files whatever part is asked for, as some mirrors do.
    """

    refusal: tuple[int, str] | None = None
    gate: threading.Event | None = None
    half_sent: threading.Event = field(default_factory=threading.Event)
    delay_seconds: float = 0.0
    n_cuts: int = 0
    has_ranges: bool = True


class HubStandIn:
    """A hub and its CDN, each on a host and port of its own; what they hold can be changed between requests.

    prefix: path below which the hub is served, as a mirror's. requests: "METHOD PATH" of each request to the hub.
    tokens: the Authorization of each request, by "hub" and "cdn". downloaded: names of the files that were sent.
    part_bytes: by name, bytes of the parts that were sent.
    """

    def __init__(self, repositories: Mapping[str, Repository], *, port: int = 0, prefix: str = "") -> None:
        self.repositories = dict(repositories)
        self.renamed: dict[str, str] = {}
        self.token: str | None = None
        self.troubles = Troubles()
        self.requests: list[str] = []
        self.downloaded: set[str] = set()
        self.part_bytes: Counter[str] = Counter()
        self.tokens: dict[str, list[str | None]] = {"hub": [], "cdn": []}
        self._prefix = prefix
        self._digests: dict[Path, str] = {}
        self._servers = [self._listen(self._answer, port), self._listen(self._answer_as_cdn, 0)]
        self.url = f"http://127.0.0.1:{self._servers[0].server_port}{prefix}"
        self._cdn_url = f"http://localhost:{self._servers[1].server_port}"
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.05,)) for server in self._servers
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Let every download go and stop; twice is as good as once."""
        if self.troubles.gate is not None:
            self.troubles.gate.set()
        for server, thread in zip(self._servers, self._threads, strict=True):
            if thread.is_alive():
                server.shutdown()
                thread.join()
                server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self, answer: Callable[[BaseHTTPRequestHandler], None], port: int) -> ThreadingHTTPServer:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            do_HEAD = do_GET  # noqa: N815 - the name of the base class

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True  # the client was killed on purpose

            def log_message(self, format: str, *args: Any) -> None:
                pass

        ThreadingHTTPServer.daemon_threads = True
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer as the hub does: listing of a revision, or metadata or content of a file."""
        whole, _, query = request.path.partition("?")
        path = unquote(whole).removeprefix(self._prefix)
        self.requests.append(f"{request.command} {path}")
        self.tokens["hub"].append(request.headers.get("Authorization"))
        time.sleep(self.troubles.delay_seconds)
        if self.troubles.refusal is not None:
            return _refuse(request, *self.troubles.refusal)
        match = re.fullmatch(r"/api/models/([^/]+(?:/(?!revision/)[^/]+)?)(?:/revision/(.+))?", path)
        if match is not None:
            name, rest = match[1], "blobs" in query
            return self._for_repository(
                request, name, lambda found: self._list(request, name, found, match[2] or "main", rest)
            )
        # A revision is one part of the path, in which "/" is written as "%2F".
        raw = re.fullmatch(
            r"/([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)", whole.removeprefix(quote(self._prefix))
        )
        if raw is not None:
            name, revision, file = (unquote(part) for part in raw.groups())
            return self._for_repository(
                request, name, lambda found: self._send_file(request, name, found, revision, file)
            )
        return _refuse(request, 404, "RepoNotFound")

    def _for_repository(
        self, request: BaseHTTPRequestHandler, name: str, answer: Callable[[Repository], None]
    ) -> None:
        if name in self.renamed:
            # Relative, as the hub's; a mirror below a path puts that before it.
            target = request.path.replace(name, self.renamed[name], 1)
            return _send(request, 307, {"Location": target}, b"")
        found = self.repositories.get(name)
        if found is None or (found.is_private and not self._may_read(request)):
            return _refuse(request, 404 if request.headers.get("Authorization") else 401, "RepoNotFound")
        return answer(found)

    def _may_read(self, request: BaseHTTPRequestHandler) -> bool:
        return self.token is not None and request.headers.get("Authorization") == f"Bearer {self.token}"

    def _list(
        self, request: BaseHTTPRequestHandler, name: str, found: Repository, revision: str, with_sizes: bool
    ) -> None:
        """Send commit and files of a revision."""
        commit = found.refs.get(revision)
        if commit is None:
            return _refuse(request, 404, "RevisionNotFound")
        files = found.files_at(commit)
        siblings = [
            {"rfilename": file, **({"size": _size(files[file]), "blobId": "0" * 40} if with_sizes else {})}
            for file in files
        ]
        body = {"_id": "1", "id": name, "modelId": name, "sha": commit, "siblings": siblings}
        return _send(request, 200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _send_file(
        self, request: BaseHTTPRequestHandler, name: str, found: Repository, revision: str, file: str
    ) -> None:
        """Send a file, or from its middle when the client takes up a download again; a large one is on the CDN."""
        commit = found.refs.get(revision)
        if commit is None:
            return _refuse(request, 404, "RevisionNotFound")
        if found.is_gated and not self._may_read(request):
            return _refuse(request, 403 if request.headers.get("Authorization") else 401, "GatedRepo")
        content = found.files_at(commit).get(file)
        if content is None:
            return _refuse(request, 404, "EntryNotFound")
        headers = {"ETag": f'"{self._digest(content)}"', "X-Repo-Commit": commit}
        if not file.endswith(LARGE):
            self._note(request, file)
            return self._send_part(request, file, content, headers, is_large=False)
        headers |= {
            "Location": f"{self._cdn_url}/{quote(name, safe='')}/{commit}/{quote(file)}?signature=1",
            "X-Linked-ETag": headers["ETag"],
            "X-Linked-Size": str(_size(content)),
        }
        return _send(request, 302, headers, b"")

    def _answer_as_cdn(self, request: BaseHTTPRequestHandler) -> None:
        """Send a large file to whoever has its address."""
        self.tokens["cdn"].append(request.headers.get("Authorization"))
        time.sleep(self.troubles.delay_seconds)
        name, commit, file = request.path.partition("?")[0].removeprefix("/").split("/", 2)
        content = self.repositories[unquote(name)].files_at(commit)[unquote(file)]
        self._note(request, unquote(file))
        headers = {"ETag": f'"{self._digest(content)}"'}
        return self._send_part(request, unquote(file), content, headers, is_large=True)

    def _note(self, request: BaseHTTPRequestHandler, file: str) -> None:
        if request.command == "GET" and "Range" not in request.headers:
            self.downloaded.add(file)

    def _send_part(
        self,
        request: BaseHTTPRequestHandler,
        file: str,
        content: Content,
        headers: dict[str, str],
        *,
        is_large: bool,
    ) -> None:
        data = content if isinstance(content, bytes) else content.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
        if asked is None or not self.troubles.has_ranges:
            return _send(request, 200, headers, data, self._middle(is_large, len(data)))
        begin, end = int(asked[1]), min(len(data), int(asked[2] or len(data)) + 1)
        self.part_bytes[file] += end - begin
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
        return _send(request, 206, headers, data[begin:end], self._middle(is_large, end - begin))

    def _middle(self, is_large: bool, length: int) -> Callable[[], bool]:
        """Return what is done half-way through a body; it says whether to go on."""

        def meanwhile() -> bool:
            troubles = self.troubles
            if not is_large or not length:
                return True
            if troubles.gate is not None:
                troubles.half_sent.set()
                troubles.gate.wait()
            if troubles.n_cuts:
                troubles.n_cuts -= 1
                return False
            return True

        return meanwhile

    def _digest(self, content: Content) -> str:
        if isinstance(content, bytes):
            return hashlib.sha256(content).hexdigest()
        if content not in self._digests:
            self._digests[content] = hashlib.sha256(content.read_bytes()).hexdigest()
        return self._digests[content]


def read_folder(folder: Path) -> dict[str, Repository]:
    """Return the repositories below a folder, each with one commit, that of its names, sizes and times."""
    found: dict[str, Repository] = {}
    others: list[tuple[str, str, Repository]] = []
    for config in sorted(_model_configs(folder)):
        path = config.parent.relative_to(folder).as_posix()
        name, _, revision = path.replace("--", "/", 1).partition("@")
        files: dict[str, Content] = {
            file.relative_to(config.parent).as_posix(): file
            for file in sorted(config.parent.rglob("*"))
            if file.is_file()
        }
        facts = [(file, path.stat().st_size, path.stat().st_mtime_ns) for file, path in files.items()]  # type: ignore[union-attr]
        commit = hashlib.sha1(json.dumps([name, facts]).encode()).hexdigest()  # noqa: S324 - as git names commits
        if revision:
            others.append((name, unquote(revision), Repository(files, {commit: commit})))
        else:
            found[name] = Repository(files, {"main": commit, commit: commit})
    for name, revision, other in others:
        (commit,) = other.refs
        found[name].others[commit] = other.files
        found[name].refs |= {commit: commit, revision: commit}
    return found


def _model_configs(folder: Path) -> Iterator[Path]:
    """Yield the config.json of each repository: one or two folders down."""
    for pattern in ("*/config.json", "*/*/config.json"):
        for config in folder.glob(pattern):
            if not (config.parent.parent / "config.json").exists():
                yield config


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _refuse(request: BaseHTTPRequestHandler, status: int, code: str) -> None:
    """Send an error with the hub's own code."""
    _send(request, status, {"X-Error-Code": code, "X-Error-Message": code}, b"")


def _send(
    request: BaseHTTPRequestHandler,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    meanwhile: Callable[[], bool] = lambda: True,
) -> None:
    """Send one answer; `meanwhile` is done half-way, and says whether to go on."""
    request.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command == "HEAD":
        return
    half = len(body) // 2
    request.wfile.write(body[:half])
    request.wfile.flush()
    if meanwhile():
        request.wfile.write(body[half:])
    else:
        request.close_connection = True


def main() -> None:
    """Serve a folder until stopped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="holds OWNER/NAME or OWNER--NAME")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--prefix", default="", help="path below which it is served, as /mirror")
    parser.add_argument("--gated", action="append", default=[], metavar="NAME")
    parser.add_argument("--private", action="append", default=[], metavar="NAME")
    parser.add_argument("--renamed", action="append", default=[], metavar="OLD=NEW")
    parser.add_argument("--token", help="the one that may read gated and private repositories")
    options = parser.parse_args()
    repositories = read_folder(options.folder)
    for name in options.gated:
        repositories[name].is_gated = True
    for name in options.private:
        repositories[name].is_private = True
    with HubStandIn(repositories, port=options.port, prefix=options.prefix) as hub:
        hub.token = options.token
        hub.renamed = dict(pair.split("=", 1) for pair in options.renamed)
        print(hub.url, flush=True)  # noqa: T201
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
