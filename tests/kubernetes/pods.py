"""A rendered pod, started as containers here with the settings that a kubelet would use."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rendering import Manifest, of_kind, pod_spec

from containers import Container

# Nginx 1.25.1 or later that stops on SIGQUIT, as the official image does.
NGINX_IMAGE = os.environ.get("NERVE_TEST_NGINX_IMAGE")


class Pod(Container):
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
        self._maps = {each["metadata"]["name"]: each["data"] for each in of_kind(manifests, "ConfigMap")}
        self._folder, self._secrets = folder, secrets
        super().__init__(image, ["--network=none", *self._options(self.container)], self.container["args"])
        self.side_cars: dict[str, Container] = {}
        for each in self.spec["containers"][1:]:
            assert nginx_image is not None
            options = [f"--network=container:{self.name}", *self._options(each)]
            if command := each.get("command"):
                options.append(f"--entrypoint={json.dumps(command)}")
            self.side_cars[each["name"]] = Container(nginx_image, options, each.get("args", []))

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

    def wait_until_ready(self, *, port: int = 8000) -> float:
        """Probe as the start-up probe does; return the seconds until it passes. port: 8080 is the side-car's."""
        path = self.container["startupProbe"]["httpGet"]["path"]
        return self.wait_for(lambda: self.ask(path, port=port)[0] == 200)

    def remove(self) -> None:
        """Take it away, running or not."""
        for side_car in self.side_cars.values():
            side_car.remove()
        super().remove()
