"""`deploy/nginx.conf` as it is shipped, run by the real Nginx in front of real servers.

Only paths, ports and upstreams are replaced (`Proxy.render`). Nginx runs without privileges, and its
temporary folders cannot be entered: a body or an answer that spilled to a file would end in a 500 and a
line in the error log, however short-lived the file. NERVE_TEST_NGINX names another Nginx than the installed
one; tests/deploy/fetch_nginx.sh gets Debian 13's.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import pytest
import yaml

from builders import (
    ServerProcess,
    free_port,
    start_server,
    workers_of,
    write_config,
    write_lookup_model,
)
from formats import BODIES, OTHER_BODIES, nested

REPOSITORY = Path(__file__).parent.parent.parent
DEPLOY = REPOSITORY / "deploy"
VARIANTS = DEPLOY / "nginx"
SHIPPED = (DEPLOY / "nginx.conf").read_text()
CONFIG = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
BODY_LIMIT: int = CONFIG["limits"]["max_body_bytes"]
NOBODY = 65534
NGINX = os.environ.get("NERVE_TEST_NGINX") or shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
STREAM_JS = Path("/usr/lib/nginx/modules/ngx_stream_js_module.so")
CURL = shutil.which("curl")
OPENSSL = shutil.which("openssl")

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: nginx-light)")

# Headers that differ from answer to answer, or that belong to one connection.
_CHANGING = {"date", "server", "connection", "transfer-encoding", "server-timing"}
TEXT = "Anna Maria lives in New York."


def setting(name: str, text: str = SHIPPED) -> list[str]:
    """Return the values of every uncommented setting of that name."""
    return re.findall(rf"^\s*{name} ([^;]+);", text, re.MULTILINE)


def seconds(text: str) -> float:
    """Return an Nginx time such as `75s`."""
    assert text.endswith("s")
    return float(text.removesuffix("s"))


class Proxy:
    """A running Nginx with the shipped configuration, and a client of it."""

    def __init__(self, folder: Path, upstreams: list[str], changes: dict[str, str], port: int = 0) -> None:
        self.folder = folder
        self.port = port or free_port()
        self._changes = changes
        self._upstreams = upstreams
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        self._process: subprocess.Popen[bytes] | None = None

    def render(self) -> Path:
        """Write the shipped file with other paths, port and upstreams, and `changes` of its text."""
        text = SHIPPED.replace("/dev/shm/", f"{self.folder}/temp-")  # noqa: S108 - what the file says
        text = text.replace("listen 8080 ", f"listen 127.0.0.1:{self.port} ")
        servers = "\n".join(f"server {one} max_fails=3 fail_timeout=1s;" for one in self._upstreams)
        text = re.sub(r"^\s*server unix:.*$", servers, text, flags=re.MULTILINE)
        for old, new in self._changes.items():
            assert old in text, old
            text = text.replace(old, new)
        path = self.folder / "nginx.conf"
        path.write_text(text)
        return path

    def command(self, *more: str) -> list[str]:
        """Return the command line."""
        settings = ["-p", str(self.folder), "-e", "stderr", "-c", str(self.folder / "nginx.conf")]
        return [str(NGINX), *settings, "-g", f"daemon off; pid {self.folder}/pid;", *more]

    def start(self) -> Proxy:
        """Start, and wait until it accepts."""
        self.render()
        for name in ("body", "proxy", "fastcgi", "uwsgi", "scgi"):
            (self.folder / f"temp-nginx-{name}").mkdir(mode=0o000)
        log = self.folder / "log"
        log.touch()
        who: dict[str, object] = {}
        if os.geteuid() == 0:
            for path in (self.folder, log, *self.folder.glob("temp-*")):
                os.chown(path, NOBODY, NOBODY)
            who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        with log.open("ab") as output:
            self._process = subprocess.Popen(self.command(), stdout=output, stderr=output, **who)  # type: ignore[call-overload]
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None, self.log()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.02)
        raise AssertionError(f"nginx does not accept:\n{self.log()}")

    def log(self) -> str:
        """Return the access and error log."""
        return (self.folder / "log").read_text()

    def requests(self, wanted: int = 1) -> list[dict[str, object]]:
        """Return the access log's lines; Nginx writes them after the answer, so wait for `wanted`."""
        deadline = time.monotonic() + 30
        while True:
            lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
            if len(lines) >= wanted or time.monotonic() > deadline:
                return lines
            time.sleep(0.02)

    def predict(self, inputs: object, **options: object) -> httpx.Response:
        """POST one prediction."""
        return self.client.post("/predict_tokens", json={"inputs": inputs, **options})

    def raw(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send bytes as they are; return status, headers and body of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(data)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def stop(self) -> None:
        """Stop gracefully."""
        self.client.close()
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)


@pytest.fixture
def proxy() -> Iterator[Callable[..., Proxy]]:
    """Start proxies: `proxy("127.0.0.1:8000", changes={"_timeout 35s": "_timeout 1s"})`; they end with the test."""
    running: list[Proxy] = []
    folders: list[str] = []

    def start(*upstreams: str, changes: dict[str, str] | None = None, port: int = 0) -> Proxy:
        # Not tmp_path: that is closed to other users, and Nginx runs as one.
        folders.append(tempfile.mkdtemp(prefix="nerve-nginx-"))
        one = Proxy(Path(folders[-1]), list(upstreams), changes or {}, port)
        running.append(one)
        return one.start()

    yield start
    for one in running:
        one.stop()
    for folder in folders:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def socket_folder() -> Iterator[Path]:
    """Folder for the server's Unix socket that every user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="nerve-socket-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(socket_folder: Path) -> Iterator[ServerProcess]:
    """A server of a lookup model on a Unix socket, shared by the tests that change nothing about it."""
    model = write_lookup_model(socket_folder / "model", max_length=512)
    uds = {"uds": str(socket_folder / "nerve.sock"), "uds_permissions": "666"}
    running = start_server(write_config(socket_folder / "config.yaml", model, server=uds))
    yield running
    running.client.close()
    running.stop()


@pytest.fixture
def front(proxy: Callable[..., Proxy], server: ServerProcess, socket_folder: Path) -> Proxy:
    """The shipped proxy in front of `server`."""
    return proxy(f"unix:{socket_folder}/nerve.sock")


@pytest.fixture
def fake() -> Iterator[Callable[[bytes], tuple[str, list[bytes]]]]:
    """Start fake upstreams that answer every request with fixed bytes and close; b"" answers nothing."""
    listeners: list[socket.socket] = []

    def start(answer: bytes) -> tuple[str, list[bytes]]:
        seen: list[bytes] = []
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    seen.append(connection.recv(65536))
                    if answer == b"hang":
                        time.sleep(3)
                    else:
                        connection.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}", seen

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_shipped_file_is_valid(tmp_path: Path) -> None:
    """`nginx -t` takes the file; only what needs root is elsewhere."""
    one = Proxy(tmp_path, ["unix:/run/nerve/nerve.sock"], {})
    one.render()
    check = subprocess.run(one.command("-t"), capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr
    assert "warn" not in check.stderr


def test_numbers_are_the_servers() -> None:
    """Limits and timeouts agree with config.yaml and with Granian."""
    assert [int(value) for value in setting("client_max_body_size")] == [BODY_LIMIT]
    assert str(BODY_LIMIT) in setting("client_body_buffer_size")
    assert f"limits.max_body_bytes = {BODY_LIMIT};" in SHIPPED
    request_timeout = CONFIG["limits"]["request_timeout_ms"] / 1000
    longest_timeout = CONFIG["limits"]["max_request_timeout_ms"] / 1000
    # The server's own 504 must arrive before Nginx gives up.
    assert longest_timeout < seconds(*setting("proxy_read_timeout")) <= longest_timeout + 5
    assert seconds(*setting("proxy_send_timeout")) == seconds(*setting("send_timeout")) == request_timeout
    # A slow client is given up on by Nginx, which holds its body, before it could be by the server.
    assert seconds(*setting("client_header_timeout")) * 1000 < CONFIG["server"]["client_timeout_ms"]
    assert seconds(*setting("client_body_timeout")) < request_timeout
    assert seconds(*setting("worker_shutdown_timeout")) == CONFIG["server"]["drain_timeout_ms"] / 1000
    upstream, clients = (seconds(value) for value in setting("keepalive_timeout"))
    assert clients > 30
    # Else Nginx reuses what Granian just closed.
    assert upstream < CONFIG["server"]["keep_alive_ms"] / 1000


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("POST", "/predict_tokens", {"json": {"inputs": [TEXT, ""], "aggregation_strategy": "simple"}}),
        ("POST", "/", {"json": {"inputs": TEXT, "raw_scores": True}}),
        (
            "POST",
            "/predict_tokens",
            {
                "content": gzip.compress(json.dumps({"inputs": TEXT}).encode()),
                "headers": {"content-encoding": "gzip"},
            },
        ),
        ("POST", "/predict_tokens", {"content": b"x", "headers": {"content-encoding": "br"}}),
        ("POST", "/predict_tokens?a=b", {"content": iter([b'{"inputs": "Bob', b' sees Paris"}'])}),
        ("POST", "/predict_tokens", {"json": {"inputs": TEXT}, "headers": {"accept": "application/msgpack"}}),
        (
            "POST",
            "/predict_tokens",
            {
                "content": msgspec.msgpack.encode({"inputs": TEXT}),
                "headers": {"content-type": "application/msgpack"},
            },
        ),
        ("POST", "/predict_tokens", {"content": b'{"inputs": '}),
        ("POST", "/predict_tokens", {"content": b""}),
        ("POST", "/predict_tokens", {"json": {"inputs": 1}}),
        ("POST", "/predict_tokens", {"content": b"a", "headers": {"content-type": "text/plain"}}),
        ("POST", "/predict_tokens", {"json": {"inputs": TEXT}, "headers": {"request-timeout-ms": "0"}}),
        ("GET", "/predict_tokens", {}),
        ("GET", "/nowhere/%C3%A4?x", {}),
        ("GET", "/health/ready", {}),
        ("HEAD", "/health", {}),
        ("GET", "/info", {}),
        ("GET", "/openapi.json", {}),
        ("GET", "/", {"headers": {"x-request-id": "", "x-baseten-customer-request-id": "second"}}),
    ],
)
def test_answers_are_the_servers(
    front: Proxy, server: ServerProcess, method: str, path: str, options: dict[str, object]
) -> None:
    """Status, headers and body are those of a direct call."""
    content = b"".join(options.pop("content")) if hasattr(options.get("content"), "__next__") else None  # type: ignore[arg-type]
    answers = []
    for client in (server.client, front.client):
        given = dict(options)
        if content is not None:
            given["content"] = iter([content[:5], content[5:]])
        given["headers"] = {"x-request-id": "the-id", **given.get("headers", {})}  # type: ignore[dict-item]
        answer = client.request(method, path, **given)  # type: ignore[arg-type]
        headers = {k: v for k, v in answer.headers.items() if k not in _CHANGING}
        answers.append((answer.status_code, headers, answer.content))
    assert answers[0] == answers[1]
    assert answers[1][1]["x-request-id"] in ("the-id", "second")


def test_nothing_is_written_to_files(front: Proxy, server: ServerProcess) -> None:
    """Bodies of the largest size, chunks of every size and a slow reader stay in memory."""
    ignored = b'{"inputs": ["Anna"]}'
    largest = ignored + b" " * (BODY_LIMIT - len(ignored))
    expected = server.client.post("/predict_tokens", content=ignored).content
    bodies = {
        "length": largest,
        "one chunk": iter([largest]),
        "chunks of 64 kB": iter([largest[i : i + 65536] for i in range(0, BODY_LIMIT, 65536)]),
        "chunks of 1 byte": iter([bytes([byte]) for byte in largest[:20_000]]),
    }
    for name, body in bodies.items():
        answer = front.client.post("/predict_tokens", content=body)
        assert (name, answer.status_code, answer.content) == (name, 200, expected)
    # An answer that fits into no buffer, to a client that does not read.
    body = json.dumps({"inputs": ["x " * 1000] * 40, "raw_scores": True}).encode()
    expected = server.client.post("/predict_tokens", content=body).content
    assert len(expected) > 6_000_000
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", front.port))
        slow.sendall(
            b"POST /predict_tokens HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        time.sleep(1.5)
        answer_of_slow = http.client.HTTPResponse(slow)
        answer_of_slow.begin()
        assert answer_of_slow.status == 200
        assert answer_of_slow.read() == expected
    assert not re.search(r"\[(warn|error|crit|alert|emerg)\]", front.log()), front.log()


def test_upstream_connections_are_kept(front: Proxy, socket_folder: Path) -> None:
    """The server's side sees one connection, the same one, for hundreds of requests."""
    path = socket_folder / "nerve.sock"
    others = _accepted(path)  # such as that of `server.client`
    assert front.predict(TEXT).status_code == 200
    first = _accepted(path) - others
    for _ in range(200):
        assert front.predict(TEXT).status_code == 200
    assert len(first) == 1
    assert _accepted(path) - others == first
    lines = front.requests(201)
    assert {line["connection_requests"] for line in lines} == set(range(1, 202))  # the client's, too


def _accepted(path: Path) -> set[str]:
    """Return the inodes of the connections that a Unix socket's server has accepted, as the kernel lists them."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    connected = "03"
    return {row[6] for row in rows if row[-1] == str(path) and row[5] == connected}


def test_tcp_upstreams_are_kept_as_well(
    proxy: Callable[..., Proxy], socket_folder: Path, lookup_model: Path
) -> None:
    """The alternative to the Unix socket: the same answers, over no more connections than there were at once."""
    config = write_config(socket_folder / "tcp.yaml", lookup_model)
    server = start_server(config)
    port = int(server.url.rpartition(":")[2])
    expected = server.predict(TEXT).content
    server.client.close()
    one = proxy(f"127.0.0.1:{port}")
    seen: set[str] = set()

    def ask(_: int) -> bytes:
        answer = one.predict(TEXT).content
        seen.update(_accepted_tcp(port))
        return answer

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(400))) == {expected}
    server.stop()
    # Each of the two Nginx workers has connections of its own.
    assert 1 <= len(seen) <= 8


def _accepted_tcp(port: int) -> set[str]:
    """Return the clients' addresses of the connections that a TCP server has open, as the kernel lists them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    established = "01"
    return {row[2] for row in rows if row[1] == f"0100007F:{port:04X}" and row[3] == established}


def test_body_limit_is_the_servers(front: Proxy, server: ServerProcess) -> None:
    """One byte more than the limit is 413 with the server's own words, with a length and chunked."""
    too_long = b" " * (BODY_LIMIT + 1)
    own = server.client.post("/predict_tokens", content=iter([too_long]))
    assert own.status_code == 413
    for body in (too_long, iter([too_long])):
        answer = front.client.post("/predict_tokens", content=body, headers={"x-request-id": "long"})
        assert (answer.status_code, answer.json()) == (413, own.json())
        assert answer.headers["content-type"] == own.headers["content-type"]
        assert answer.headers["x-request-id"] == "long"
    assert front.client.post("/predict_tokens", content=too_long[:-1]).status_code == 400
    assert front.predict(TEXT).status_code == 200


def test_without_a_server_the_answer_is_503(proxy: Callable[..., Proxy]) -> None:
    """A server that cannot be reached is the contract's 503, and the log tells Nginx's reason."""
    one = proxy("unix:/nonexistent/nerve.sock")
    answer = one.predict(TEXT)
    assert answer.status_code == 503
    assert answer.json()["error_type"] == "Unhealthy"
    (line,) = one.requests()
    assert (line["status"], line["upstream_status"]) == (503, "502")
    assert (line["method"], line["route"]) == ("POST", "/predict_tokens")
    assert line["request_id"] == answer.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_a_late_server_is_504_and_not_repeated(
    proxy: Callable[..., Proxy], fake: Callable[[bytes], tuple[str, list[bytes]]]
) -> None:
    """What was slow once is not sent to a second server."""
    hanging = [fake(b"hang"), fake(b"hang")]
    shorter = {
        "proxy_read_timeout 305s": "proxy_read_timeout 1s",
        "upstream_timeout 5s": "upstream_timeout 500ms",
    }
    one = proxy(*(name for name, _ in hanging), changes=shorter)
    answer = one.predict(TEXT)
    assert answer.status_code == 504
    assert answer.json()["error_type"] == "DeadlineExceeded"
    assert answer.headers["x-request-id"]
    assert sum(len(seen) for _, seen in hanging) == 1


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"], ids=["cut", "503"]
)
def test_a_failing_server_is_passed_over(
    front: Proxy,
    proxy: Callable[..., Proxy],
    fake: Callable[[bytes], tuple[str, list[bytes]]],
    socket_folder: Path,
    answer: bytes,
) -> None:
    """Requests that a dying or starting server got are answered by another; it is soon left alone."""
    failing, seen = fake(answer)
    refusing = f"127.0.0.1:{free_port()}"
    for bad in (failing, refusing):
        one = proxy(bad, f"unix:{socket_folder}/nerve.sock")
        answers = [one.predict(TEXT) for _ in range(30)]
        assert {each.status_code for each in answers} == {200}
        assert {each.content for each in answers} == {front.predict(TEXT).content}
    assert 1 <= len(seen) <= 6  # max_fails, seen by two workers at once at most


def test_overload_is_not_repeated(
    proxy: Callable[..., Proxy], fake: Callable[[bytes], tuple[str, list[bytes]]]
) -> None:
    """429 and its retry-after reach the client: asking the next server would only spread the overload."""
    body = b'{"error":"full","error_type":"Overloaded"}'
    head = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 2\r\ncontent-length: %d\r\n\r\n" % len(body)
    full = [fake(head + body), fake(head + body)]
    answer = proxy(*(name for name, _ in full)).predict(TEXT)
    assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (429, body, "2")
    assert sum(len(seen) for _, seen in full) == 1


@pytest.mark.parametrize(
    ("request_bytes", "status", "kind"),
    [
        (b"\x16\x03\x01 nonsense\r\n\r\n", 400, "Validation"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "Validation"),
        (b"GET / HTTP/9.1\r\nhost: a\r\n\r\n", 400, "Validation"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", 400, "Validation"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 400, "Validation"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: odd\r\n\r\n", 400, "Validation"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400, "Validation"),
        (b"TRACE / HTTP/1.1\r\nhost: a\r\n\r\n", 405, "MethodNotAllowed"),
        (b"GET /_error/413 HTTP/1.1\r\nhost: a\r\n\r\n", 404, "NotFound"),
        (b"GET /_stream/info HTTP/1.1\r\nhost: a\r\n\r\n", 404, "NotFound"),
    ],
)
def test_own_errors_have_the_contracts_form(
    front: Proxy, request_bytes: bytes, status: int, kind: str
) -> None:
    """What Nginx refuses by itself has a JSON body and a request id; it does not tell its version."""
    got, headers, body = front.raw(request_bytes)
    assert got == status
    assert json.loads(body)["error_type"] == kind
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"]
    assert headers["server"] == "nginx"


def test_logs_hold_nothing_of_the_client(proxy: Callable[..., Proxy], front: Proxy) -> None:
    """Text in a body, path, query or header is in no log, whether the request succeeds or fails."""
    canary = "canary7f3a"
    down = proxy("unix:/nonexistent/nerve.sock")
    for one in (front, down):
        headers = {"referer": canary, "user-agent": canary, "authorization": canary, "x-other": canary}
        for path in ("/predict_tokens", f"/predict_tokens?q={canary}", f"/{canary}"):
            one.client.post(path, json={"inputs": canary}, headers=headers)
            one.client.post(path, content=iter([canary.encode()]), headers=headers)
            one.client.get(path, headers=headers)
        one.raw(f"GET /{canary} {canary}\r\n\r\n".encode())
        one.raw(f"POST /?{canary} HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\n\r\n".encode())
        assert len(one.requests(11)) == 11
        assert canary not in one.log()


@pytest.mark.timeout(300)  # some 900 requests
def test_no_format_writes_a_text_into_the_logs(front: Proxy) -> None:
    """A marker in each place of each format's bodies, good and hostile: in Nginx's log are routes and numbers only."""
    canary = "canary7f3a"
    for route, body_of in [*BODIES.items(), *OTHER_BODIES]:
        for body in (body_of(canary), *nested(body_of("Anna"), canary)):
            front.client.post(route, json=body)
        for content in (
            f'{{"{canary}": '.encode(),
            canary.encode() + b"\xff",
            canary.encode() * (BODY_LIMIT // 8),
        ):
            front.client.post(route, content=content)
        for name in (
            "content-type",
            "content-encoding",
            "accept",
            "x-request-id",
            "inference-header-content-length",
        ):
            front.client.post(route, json=body_of("Anna"), headers={name: f"{canary} {canary}"})
    front.client.get("/health")
    assert "canary" not in front.log()
    assert {line["route"] for line in front.requests()} >= {
        "/predict_tokens",
        "/redact",
        "/analyze",
        "/bigquery",
    }


def test_routes_are_logged_by_name(front: Proxy) -> None:
    """Each path that is served passes, and is logged as what it is, without the name of a model or anything made up."""
    paths = front.client.get("/openapi.json").json()["paths"]
    routes = {path: re.sub(r"(?<=/models/)[^/:]+", "{name}", path) for path in paths}
    for path, operations in paths.items():
        answer = (
            front.client.get(path)
            if "get" in operations
            else front.client.post(path, json=BODIES[path](TEXT))
        )
        assert answer.status_code == 200, path
    strange = {
        "/v2/models/kanarienvogel/infer?kanarienvogel": "/v2/models/{name}/infer",
        "/v1/models/kanarienvogel:predict": "/v1/models/{name}:predict",
        "/v1/models/kanarien:vogel": "/v1/models/{name}",
        "/v2/models/kanarien/vogel/infer": "other",
        "/v2/models//infer": "other",
        "/analyze/kanarienvogel": "other",
        "/pingkanarienvogel": "other",
    }
    for path in strange:
        front.client.get(path)
    expected = ["/openapi.json", *routes.values(), *strange.values()]
    assert [line["route"] for line in front.requests(len(expected))] == expected
    assert "kanarien" not in front.log()


def nginx_version() -> tuple[int, ...]:
    """Return the version of the Nginx under test."""
    told = subprocess.run([str(NGINX), "-v"], capture_output=True, text=True, check=True).stderr
    return tuple(int(number) for number in re.findall(r"\d+", told)[:3])


def with_http2_on(folder: Path, port: int) -> dict[str, str]:
    """Return the changes of nginx.conf for h2c on one port with Nginx 1.25.1 and later."""
    if nginx_version() < (1, 25, 1):
        pytest.skip("this Nginx does not know `http2 on`; NERVE_TEST_NGINX can name a later one")
    return {"include nginx-http2.conf*": f"include {VARIANTS}/nginx-http2.conf"}


def with_preread(folder: Path, port: int) -> dict[str, str]:
    """Write nginx-h2c.conf and its script to `folder`; return the changes of nginx.conf that it asks for."""
    if nginx_version() >= (1, 25, 1):
        pytest.skip("this Nginx needs no nginx-h2c.conf")
    if not STREAM_JS.exists():
        pytest.skip(f"{STREAM_JS} is missing (Debian: libnginx-mod-stream-js)")
    http1, http2 = free_port(), free_port()
    text = (VARIANTS / "nginx-h2c.conf").read_text()
    places = {"listen 8080": f"listen 127.0.0.1:{port}", "js_path /etc/nginx": f"js_path {folder}"}
    for old, new in {**places, ":8081": f":{http1}", ":8082": f":{http2}"}.items():
        assert old in text, old
        text = text.replace(old, new)
    (folder / "nginx-h2c.conf").write_text(text)
    shutil.copy(VARIANTS / "nginx-h2c.js", folder)
    return {
        "#include nginx-h2c.conf": f"include {folder}/nginx-h2c.conf",
        f"listen 127.0.0.1:{port} default_server": "# taken by nginx-h2c.conf:",
        "#listen 127.0.0.1:8081": f"listen 127.0.0.1:{http1}",
        "#listen 127.0.0.1:8082": f"listen 127.0.0.1:{http2}",
    }


def curl(*arguments: str, body: bytes) -> bytes:
    """Send `body` to a URL over HTTP/2; return the answer, followed by the HTTP version that was spoken."""
    options = ["-sS", "-H", "content-type: application/json", "-w", "%{http_version}"]
    return subprocess.run(
        [str(CURL), *options, *arguments], input=body, capture_output=True, check=True
    ).stdout


def needs_http2_curl() -> None:
    """Skip where curl is missing or cannot speak HTTP/2."""
    known = CURL and subprocess.run([CURL, "-V"], capture_output=True, text=True, check=True).stdout
    if not known or "HTTP2" not in known:
        pytest.skip("curl with HTTP/2 is not installed")


@pytest.mark.parametrize("variant", [with_http2_on, with_preread])
def test_http2_with_prior_knowledge(
    proxy: Callable[..., Proxy],
    server: ServerProcess,
    socket_folder: Path,
    variant: Callable[[Path, int], dict[str, str]],
) -> None:
    """One port answers HTTP/2 without TLS and HTTP/1.1, by either of the two ways that are shipped."""
    needs_http2_curl()
    port = free_port()
    one = proxy(f"unix:{socket_folder}/nerve.sock", changes=variant(socket_folder, port), port=port)
    url = f"http://127.0.0.1:{port}/predict_tokens"
    body = json.dumps({"inputs": TEXT}).encode()
    expected = server.predict(TEXT).content
    # With a length and without, and as many bytes as a body may have.
    for how in (["--data-binary", "@-"], ["-T", "-", "-X", "POST"]):
        for sent in (body, body + b" " * (BODY_LIMIT - len(body))):
            assert curl("--http2-prior-knowledge", *how, url, body=sent) == expected + b"2"
    assert one.predict(TEXT).content == expected  # HTTP/1.1 goes on
    status, _, answer = one.raw(b"PUT /predict_tokens HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (status, json.loads(answer)["error_type"]) == (405, "MethodNotAllowed")
    protocols = [line["protocol"] for line in one.requests(6)]
    assert sorted(protocols) == ["HTTP/1.1"] * 2 + ["HTTP/2.0"] * 4
    assert not re.search(r"\[(warn|error|crit|alert|emerg)\]", one.log()), one.log()


@pytest.mark.parametrize("first_piece", [1, 2, 3, 5])
def test_protocol_is_told_from_pieces(
    proxy: Callable[..., Proxy], server: ServerProcess, socket_folder: Path, first_piece: int
) -> None:
    """nginx-h2c.conf waits for as many bytes as it needs, however few come at once."""
    port = free_port()
    proxy(f"unix:{socket_folder}/nerve.sock", changes=with_preread(socket_folder, port), port=port)
    for request, beginning in (
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]),
            b"\x00\x00",
        ),  # a SETTINGS frame
        (b"POST /predict_tokens HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 400 "),
    ):
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(request[:first_piece])
            time.sleep(0.1)
            connection.sendall(request[first_piece:])
            assert connection.recv(4096).startswith(beginning)


needs_openssl = pytest.mark.skipif(
    OPENSSL is None, reason="openssl, which makes the certificate, is not installed"
)


@needs_openssl
@pytest.mark.parametrize("how", ["TLS 1.3", "TLS 1.2, ticket", "TLS 1.2, id"])
def test_tls_sessions_are_resumed(
    proxy: Callable[..., Proxy], server: ServerProcess, socket_folder: Path, how: str
) -> None:
    """The commented TLS settings work; a second connection resumes the first one's session."""
    port, context = start_tls(proxy, socket_folder)
    if how != "TLS 1.3":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if how == "TLS 1.2, id":
        context.options |= ssl.OP_NO_TICKET
    session, reused = None, []
    for _ in range(2):
        raw = socket.create_connection(("127.0.0.1", port), 10)
        with context.wrap_socket(raw, server_hostname="localhost", session=session) as connection:
            connection.sendall(b"GET /info HTTP/1.1\r\nhost: localhost\r\n\r\n")
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.read() == server.client.get("/info").content
            session = connection.session
            assert session is not None
            assert session.has_ticket == (how != "TLS 1.2, id")
            reused.append(connection.session_reused)
    assert reused == [False, True]


@needs_openssl
def test_http2_over_tls(proxy: Callable[..., Proxy], server: ServerProcess, socket_folder: Path) -> None:
    """With TLS, HTTP/2 is agreed on by ALPN, by the setting that the version of Nginx has."""
    needs_http2_curl()
    later = nginx_version() >= (1, 25, 1)
    changes = {"include nginx-http2.conf*": f"include {VARIANTS}/nginx-http2.conf"} if later else {}
    port, _ = start_tls(proxy, socket_folder, "ssl" if later else "ssl http2", changes)
    url, trust = f"https://localhost:{port}/predict_tokens", ["--cacert", f"{socket_folder}/tls.crt"]
    answer = curl(*trust, "--data-binary", "@-", url, body=json.dumps({"inputs": TEXT}).encode())
    assert answer == server.predict(TEXT).content + b"2"


def start_tls(
    proxy: Callable[..., Proxy], folder: Path, options: str = "ssl", more: dict[str, str] | None = None
) -> tuple[int, ssl.SSLContext]:
    """Start the shipped proxy with its TLS settings uncommented; return its port and what trusts it."""
    key, certificate = folder / "tls.key", folder / "tls.crt"
    command = [
        str(OPENSSL),
        "req",
        "-x509",
        "-nodes",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    key.chmod(0o644)  # Nginx has no privileges here
    port = free_port()
    changes = {
        "#listen 8443 ssl;": f"listen 127.0.0.1:{port} {options};",
        "/etc/nginx/tls/": f"{folder}/",
        "#ssl_": "ssl_",
        **(more or {}),
    }
    proxy(f"unix:{folder}/nerve.sock", changes=changes)
    return port, ssl.create_default_context(cafile=certificate)


def test_rolling_restart_loses_nothing(
    proxy: Callable[..., Proxy], socket_folder: Path, lookup_model: Path
) -> None:
    """Two servers are restarted one after the other under load; every request gets its answer."""
    configs = []
    for name in ("one", "two"):
        uds = {"uds": str(socket_folder / f"{name}.sock"), "uds_permissions": "666"}
        configs.append(write_config(socket_folder / f"{name}.yaml", lookup_model, server=uds))
    with ThreadPoolExecutor(2) as pool:
        servers = list(pool.map(start_server, configs))
    rolling = proxy(*(f"unix:{socket_folder}/{name}.sock" for name in ("one", "two")))
    expected = rolling.predict(TEXT).content
    done = threading.Event()

    def load() -> list[tuple[int, bool]]:
        answers = []
        while not done.is_set():
            answer = rolling.predict(TEXT)
            answers.append((answer.status_code, answer.content == expected))
        return answers

    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load) for _ in range(4)]
        try:
            for index, config in enumerate(configs):
                if index:
                    time.sleep(2.2)  # fail_timeout, which Nginx counts in whole seconds
                assert servers[index].stop() == 0
                servers[index].client.close()
                servers[index] = start_server(config)
        finally:
            done.set()
        answers = [answer for one in loads for answer in one.result()]
    for server in servers:
        server.client.close()
        server.stop()
    assert len(answers) > 100
    assert set(answers) == {(200, True)}


def test_killed_worker_costs_a_client_one_retry_at_most(
    proxy: Callable[..., Proxy], socket_folder: Path, lookup_model: Path
) -> None:
    """One of two workers gets SIGKILL under load: only what it had fails, and the second try is answered."""
    uds = {"uds": str(socket_folder / "pair.sock"), "uds_permissions": "666", "workers": 2}
    running = start_server(write_config(socket_folder / "pair.yaml", lookup_model, server=uds))
    try:
        while running.client.get("/metrics").text.count("nerve_ready_workers 2.0") == 0:
            time.sleep(0.05)
        one = proxy(f"unix:{socket_folder}/pair.sock")
        expected = one.predict(TEXT).content
        done = threading.Event()

        def load() -> list[list[int]]:
            answers = []
            with httpx.Client(base_url=f"http://127.0.0.1:{one.port}", timeout=30) as client:
                while not done.is_set():
                    tries = []
                    while not tries or (tries[-1] != 200 and len(tries) < 2):
                        answer = client.post("/predict_tokens", json={"inputs": TEXT})
                        tries.append(answer.status_code)
                        assert answer.status_code != 200 or answer.content == expected
                    answers.append(tries)
            return answers

        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(load) for _ in range(4)]
            try:
                for _ in range(3):
                    time.sleep(0.5)
                    victim = max(workers_of(running))
                    os.kill(victim, signal.SIGKILL)
                    deadline = time.monotonic() + 30
                    while len(alive := set(workers_of(running)) - {victim}) < 2 or not _serves(running, 2):
                        assert time.monotonic() < deadline, alive
                        time.sleep(0.05)
            finally:
                done.set()
            answers = [tries for each in loads for tries in each.result()]
    finally:
        running.client.close()
        assert running.stop() == 0
    assert len(answers) > 100
    assert {tries[-1] for tries in answers} == {200}
    first_tries = [tries[0] for tries in answers if tries[0] != 200]
    assert set(first_tries) <= {503}
    assert len(first_tries) <= 3 * 4  # four clients, three kills


def _serves(server: ServerProcess, n_workers: int) -> bool:
    """Tell whether that many workers are ready; the one that is asked may be the one that was killed."""
    try:
        return f"nerve_ready_workers {n_workers}.0" in server.client.get("/metrics").text
    except httpx.TransportError:
        return False


def test_pages_and_other_origins(proxy: Callable[..., Proxy], tmp_path: Path, lookup_model: Path) -> None:
    """Pages pass unchanged, are kept by their tag, and are logged by their route; so do questions of other origins."""
    origin = "https://app.example.com"
    server = start_server(
        write_config(tmp_path / "config.yaml", lookup_model, server={"cors_origins": [origin]})
    )
    try:
        front = proxy(server.url.removeprefix("http://"))
        browser = {"accept": "text/html,*/*;q=0.8"}
        for path in ("/", "/docs", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"):
            page, own = front.client.get(path, headers=browser), server.client.get(path, headers=browser)
            assert (page.status_code, page.content) == (200, own.content)
            assert page.headers.get("content-security-policy") == own.headers.get("content-security-policy")
            kept = {**browser, "if-none-match": page.headers["etag"]}
            assert front.client.get(path, headers=kept).status_code == 304
        asks = {"origin": origin, "access-control-request-method": "POST"}
        asked = front.client.options("/predict_tokens", headers=asks)
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, origin)
        routes = [line["route"] for line in front.requests(9)]
        assert routes[::2] == [
            "/",
            "/docs",
            "/docs/swagger-ui.css",
            "/docs/swagger-ui-bundle.js",
            "/predict_tokens",
        ]
    finally:
        server.client.close()
        server.stop()
