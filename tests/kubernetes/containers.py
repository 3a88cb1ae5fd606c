"""A rendered pod, started as containers here with the settings that a kubelet would use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from rendering import Manifest, of_kind, pod_spec

ENGINE = os.environ.get("NERVE_TEST_ENGINE") or shutil.which("podman") or shutil.which("docker")
IMAGE = os.environ.get("NERVE_TEST_IMAGE")
# Nginx 1.25.1 or later that stops on SIGQUIT, as the official image does.
NGINX_IMAGE = os.environ.get("NERVE_TEST_NGINX_IMAGE")


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


class Pod:
    """The containers of a rendered pod: the server, and its side-car in the same network and without any other.

    What asks them runs inside the server's.
    """

    def __init__(
        self,
        manifests: list[Manifest],
        folder: Path,
        *,
        secrets: dict[str, dict[str, str]],
        image: str,
        nginx_image: str | None = None,
    ) -> None:
        """Start it. folder: where volumes lie; secrets: contents by name and key."""
        self.spec = pod_spec(manifests)
        self.container = self.spec["containers"][0]
        self.name = f"nerve-pod-{os.getpid()}-{time.monotonic_ns()}"
        self._maps = {each["metadata"]["name"]: each["data"] for each in of_kind(manifests, "ConfigMap")}
        self._folder, self._secrets = folder, secrets
        self._start(self.name, self.container, image, "none")
        self.side_cars = {each["name"]: f"{self.name}-{each['name']}" for each in self.spec["containers"][1:]}
        for each in self.spec["containers"][1:]:
            assert nginx_image is not None
            self._start(self.side_cars[each["name"]], each, nginx_image, f"container:{self.name}")

    def _start(self, name: str, container: dict[str, Any], image: str, network: str) -> None:
        command = container.get("command", [])
        options = ["--network", network, *self._options(container)]
        options += [f"--entrypoint={json.dumps(command)}"] if command else []
        engine("run", "--detach", "--name", name, *options, image, *container.get("args", []))

    def _options(self, container: dict[str, Any]) -> list[str]:
        context = self.spec["securityContext"] | container["securityContext"]
        options = [f"--user={context['runAsUser']}:{context['runAsGroup']}"]
        options += [f"--group-add={context['fsGroup']}", "--stop-timeout", str(self.grace_seconds)]
        if context["readOnlyRootFilesystem"]:
            # podman would add memory at /run, /tmp and /var/tmp, which a kubelet does not.
            options += ["--read-only", "--read-only-tmpfs=false"]
        options += [f"--cap-drop={each}" for each in context["capabilities"]["drop"]]
        if not context["allowPrivilegeEscalation"]:
            options.append("--security-opt=no-new-privileges")
        limits = container["resources"].get("limits", {})
        if "cpu" in limits:
            options.append(f"--cpus={limits['cpu']}")
        if "memory" in limits:
            options.append(f"--memory={limits['memory'].removesuffix('i').lower()}")
        for each in container.get("env", []):
            options += ["--env", f"{each['name']}={each['value']}"]
        volumes = {each["name"]: each for each in self.spec["volumes"]}
        for mount in container["volumeMounts"]:
            options += self._mount(volumes[mount["name"]], mount, context["fsGroup"])
        return options

    def _mount(self, volume: dict[str, Any], mount: dict[str, Any], group: int) -> list[str]:
        """Return the options of a volume, made as a kubelet makes it: owned by root, and by the group."""
        at = mount["mountPath"]
        if volume.get("emptyDir", {}).get("medium") == "Memory":
            return [f"--tmpfs={at}:rw,mode=1777"]
        folder = self._folder / volume["name"]
        folder.mkdir(exist_ok=True)
        if "hostPath" in volume:
            folder = Path(volume["hostPath"]["path"])
        else:
            folder.chmod(0o2775)
        for name, text in self._files(volume).items():
            (folder / name).write_text(text)
            (folder / name).chmod(volume.get("projected", {}).get("defaultMode", 0o644))
        for path in (folder, *folder.iterdir()):
            if "hostPath" not in volume:
                os.chown(path, 0, group)
        return [f"--volume={folder}:{at}:{'ro' if mount.get('readOnly') else 'rw'}"]

    def _files(self, volume: dict[str, Any]) -> dict[str, str]:
        if "configMap" in volume:
            files: dict[str, str] = self._maps[volume["configMap"]["name"]]
            return files
        sources = [each["secret"] for each in volume.get("projected", {}).get("sources", [])]
        return {
            item["path"]: self._secrets[secret["name"]][item["key"]]
            for secret in sources
            for item in secret["items"]
        }

    @property
    def grace_seconds(self) -> int:
        """After SIGTERM the kubelet waits so long, then kills."""
        seconds: int = self.spec["terminationGracePeriodSeconds"]
        return seconds

    def execute(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        return engine("exec", self.name, *command, check=check)

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, *, port: int = 8000
    ) -> tuple[int, str]:
        """Return status and answer of a request, 0 where nobody listens. port: 8080 is the side-car's."""
        program = (
            "import sys, json, urllib.request, urllib.error\n"
            "port, path, body, headers = json.loads(sys.argv[1])\n"
            "data = None if body is None else json.dumps(body).encode()\n"
            "headers = {'content-type': 'application/json', **headers}\n"
            "request = urllib.request.Request(f'http://127.0.0.1:{port}' + path, data, headers)\n"
            "try:\n"
            "    answer = urllib.request.urlopen(request, timeout=20)\n"
            "except urllib.error.HTTPError as error:\n"
            "    answer = error\n"
            "except OSError:\n"
            "    print(0); sys.exit()\n"
            "print(answer.status); print(answer.read().decode())\n"
        )
        said = self.execute("python", "-c", program, json.dumps([port, path, body, headers or {}])).stdout
        status, _, text = said.partition("\n")
        return int(status), text

    def wait_until_ready(self, seconds: float = 120, *, port: int = 8000) -> float:
        """Probe as the start-up probe does; return the seconds until it passes."""
        started = time.monotonic()
        path = self.container["startupProbe"]["httpGet"]["path"]
        while self.ask(path, port=port)[0] != 200:
            assert time.monotonic() - started < seconds, self.log()
            time.sleep(0.2)
        return time.monotonic() - started

    def state(self, name: str | None = None) -> dict[str, Any]:
        """Return what the engine knows of a container, the server's unless it is named."""
        (found,) = json.loads(engine("inspect", name or self.name).stdout)
        state: dict[str, Any] = found["State"]
        return state

    def log(self) -> str:
        """Return what the server has said."""
        return engine("logs", self.name, check=False).stderr

    def remove(self) -> None:
        """Take it away, running or not."""
        for name in (*self.side_cars.values(), self.name):
            engine("kill", name, check=False)
            engine("rm", "--force", name, check=False)
