import os
import subprocess
import sys
from pathlib import Path


def test_onnxruntime_does_not_report(tmp_path: Path) -> None:
    """Loading the engine writes no device id: ONNX Runtime's telemetry, on by default, is off."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    for switch in ("CI", "GITHUB_ACTIONS", "ORT_RUNNING_UNIT_TESTS"):  # these turn it off, too
        environment.pop(switch, None)
    subprocess.run([sys.executable, "-c", "import nerve.runtime.sessions"], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []
