"""`nerve serve MODEL` is a whole command: no config file, a clean home, a hub or a folder."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import yaml

from builders import ServerProcess, free_port, wait_until_ready, write_lookup_model
from hub_stand_in import COMMIT, HubStandIn, Repository

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
N_POSITIONS = 3000
REPO = "owner/long-ner"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with nothing in it but a config file of another model, which must say nothing."""
    home = tmp_path / "home"
    home.mkdir()
    source = {"source": "HF", "repo": "other/model"}
    other = {"model": {"checkpoint_repository": source, "name": "other"}, "server": {"port": 1}}
    (home / "config.yaml").write_text(yaml.safe_dump(other))
    return home


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """Return a hub with a BERT of many positions."""
    monkeypatch.setitem(tiny.tensor_shapes.__globals__, "N_POSITIONS", N_POSITIONS)
    folder: Path = tiny.write_checkpoint(tmp_path / "long")
    lookup = write_lookup_model(tmp_path / "lookup")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(lookup / name, folder / name)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    with HubStandIn({REPO: Repository(dict(files))}) as hub:
        yield hub


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of somebody who has just installed `nerve`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "NERVE_", "XDG_", "AIP_"))}
    return {**kept, "HOME": str(home), **more}


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of `nerve serve`."""
    return [sys.executable, "-m", "nerve", "serve", *map(str, arguments)]


def serve(home: Path, port: int, *arguments: str | Path, **more: str) -> ServerProcess:
    """Start a server and wait until it is ready."""
    log_path = home / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command(*arguments), stdout=log, stderr=log, env=environment(home, **more), cwd=home
        )
    url = f"http://127.0.0.1:{port}"
    server = ServerProcess(process, url, log_path, httpx.Client(base_url=url, timeout=30))
    wait_until_ready(server)
    return server


def refused(home: Path, *arguments: str | Path, **more: str) -> str:
    """Start a server that cannot start, and return the line that says why."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        check=False,
        env=environment(home, **more),
        cwd=home,
    )
    assert done.returncode == 1, done.stderr
    return done.stderr.splitlines()[-1]


def test_a_name_on_the_hub_is_served(hub: HubStandIn, home: Path) -> None:
    """From nothing but its name; flags win over variables. /info says what is served, and how long windows are."""
    port = free_port()
    more = {"HF_ENDPOINT": hub.url, "NERVE_SERVER__PORT": "1", "NERVE_RUNTIME__WINDOW_TOKENS": "700"}
    server = serve(home, port, f"{REPO}@{COMMIT}", "--port", str(port), "--model-name", "mine", **more)
    try:
        info = server.client.get("/info").json()
        assert (info["model_name"], info["model_id"], info["revision"]) == ("mine", REPO, COMMIT)
        assert (info["max_length"], info["window_tokens"]) == (N_POSITIONS, 700)
        assert info["max_length_from"] == "max_position_embeddings of config.json"
        assert info["window_tokens_from"] == "runtime.window_tokens of the configuration"
        text = "anna " * 5000
        whole = server.predict(text, aggregation_strategy="none")
        assert len(whole.json()[0]) == 5002
        assert int(whole.headers["x-compute-tokens"]) > 5000
        cut = server.predict(text, aggregation_strategy="none", truncate=True)
        assert (cut.headers["x-truncated"], len(cut.json()[0])) == ("0", N_POSITIONS)
    finally:
        server.client.close()
        assert server.stop() == 0
    assert "windows of 700 tokens, from runtime.window_tokens" in server.log()
    assert (home / ".cache" / "huggingface" / "hub" / "models--owner--long-ner").is_dir()


def test_a_folder_is_served(lookup_model: Path, home: Path) -> None:
    """By its path, under its own name."""
    port = free_port()
    flags = ("--host", "127.0.0.1", "--port", str(port), "--rename-labels", "PER=PERSON")
    server = serve(home, port, lookup_model, *flags)
    try:
        assert server.client.get("/info").json()["model_name"] == lookup_model.name
        rows = server.predict("anna lives in paris", aggregation_strategy="simple").json()[0]
        assert [{*row["results"]} for row in rows] == [{"PERSON"}, {"LOC"}]
    finally:
        server.client.close()
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("./nope",), "./nope does not exist; name a config file, a folder"),
        (("owner/none",), "the hub has no repository owner/none"),
        ((f"{REPO}@v9",), "has no revision v9; name a branch, tag or commit"),
        ((REPO, "--port", "70000"), "server.port: "),
        ((REPO, "--model-name", "a/b"), "model.name: "),
        ((REPO, "--config", "nope.yaml"), "no config file at nope.yaml"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    hub: HubStandIn, home: Path, arguments: tuple[str, ...], said: str
) -> None:
    """The last line says what is wrong; nothing is said of a config file that is not in use."""
    line = refused(home, *arguments, HF_ENDPOINT=hub.url)
    assert said in line


def test_a_gated_repository_without_a_token(hub: HubStandIn, home: Path) -> None:
    """The line says where to get access."""
    hub.repositories[REPO].is_gated = True
    line = refused(home, REPO, HF_ENDPOINT=hub.url)
    assert "is gated and no token is set; accept its terms on its hub page, then set HF_TOKEN" in line


def test_the_stand_in_runs_alone(tmp_path: Path, lookup_model: Path, home: Path) -> None:
    """As the README's blocks use it: a process that serves a folder, and prints its address."""
    shutil.copytree(lookup_model, tmp_path / "models" / "owner--lookup")
    stand_in = subprocess.Popen(
        [sys.executable, "-m", "tests.hub_stand_in", str(tmp_path / "models")],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert stand_in.stdout is not None
        url = stand_in.stdout.readline().strip()
        port = free_port()
        server = serve(home, port, "owner/lookup", "--port", str(port), HF_ENDPOINT=url)
        try:
            found = server.predict("anna sees paris", aggregation_strategy="simple").json()
            assert [row["token"] for row in found[0]] == ["anna", "paris"]
        finally:
            server.client.close()
            assert server.stop() == 0
    finally:
        stand_in.terminate()
        stand_in.communicate(timeout=20)
