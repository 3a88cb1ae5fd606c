"""What is said where CUDA cannot be used. The answers are this machine's: with a driver and without."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from nerve.config import Device
from nerve.errors import ModelError
from nerve.runtime import devices, driver
from nerve.runtime.devices import CPU, CUDA, choose_provider
from nerve.runtime.driver import why_no_cuda

LIBRARIES = Path(onnxruntime.__file__).parent / "capi"


def has_driver() -> bool:
    """Tell whether there is an NVIDIA driver to ask."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def test_what_is_missing_is_named() -> None:
    """Without a driver that is the reason; with one, a device that is not there is."""
    reason = why_no_cuda(LIBRARIES, device_id=1000, cuda=13)
    assert reason is not None
    assert (
        ("devices, counted from 0" in reason or "driver" in reason) if has_driver() else "libcuda" in reason
    )


def test_missing_library_is_named(tmp_path: Path) -> None:
    """The linker's word for it is passed on; a machine without a driver lacks that first."""
    reason = why_no_cuda(tmp_path, device_id=0, cuda=13)
    assert reason is not None
    assert "driver" in reason or "libonnxruntime_providers_shared.so" in reason


class Driver:
    """Stands in for the library of a driver, which no machine without a GPU has; each call has its status."""

    def __init__(self, version: int = 13000, count: int = 1, **statuses: int) -> None:
        self.version, self.count, self.statuses = version, count, statuses
        self.contexts = 0

    def cuDriverGetVersion(self, into: Any) -> None:  # noqa: N802 - the driver's name, as all below
        """Say which CUDA it is for."""
        into._obj.value = self.version

    def cuDeviceGetCount(self, into: Any) -> None:  # noqa: N802
        """Count the devices."""
        into._obj.value = self.count

    def cuGetErrorString(self, status: int, into: Any) -> int:  # noqa: N802
        """Describe a status."""
        into._obj.value = b"broken"
        return 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        """Start."""
        return self.statuses.get("init", 0)

    def cuDeviceGet(self, into: Any, number: int) -> int:  # noqa: N802
        """Find a device."""
        return self.statuses.get("get", 0)

    def cuDevicePrimaryCtxRetain(self, into: Any, device: Any) -> int:  # noqa: N802
        """Take its context."""
        status = self.statuses.get("retain", 0)
        self.contexts += not status
        return status

    def cuDevicePrimaryCtxRelease_v2(self, device: Any) -> int:  # noqa: N802
        """Give it back."""
        self.contexts -= 1
        return 0


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime with CUDA 13, and a device file."""
    monkeypatch.setattr("nerve.runtime.sessions.has_provider", lambda device: True)
    monkeypatch.setattr("nerve.runtime.sessions.ort.cuda_version", "13.0")
    monkeypatch.setattr(devices, "_has_nvidia_device", lambda: True)


@pytest.mark.usefixtures("with_cuda")
@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (Driver(init=100), "does not start: broken (error 100)"),
        (
            Driver(version=12080),
            "too old: it supports CUDA 12.8, and CUDA 13 is needed (driver 580 or newer); "
            "nerve[gpu-cuda12] runs on CUDA 12",
        ),
        (Driver(version=11040), "it supports CUDA 11.4, and CUDA 13 is needed (driver 580 or newer);"),
        (Driver(count=0), "there are 0 devices"),
        (Driver(retain=2), "device 0 cannot be used: broken (error 2)"),
        (Driver(get=101), "device 0 cannot be used: broken (error 101)"),
        (None, "there is no NVIDIA driver"),
    ],
)
def test_gpu_that_cannot_be_used_leaves_auto_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, found: Driver | None, reason: str
) -> None:
    """A device file alone is no device; `cuda` is never the CPU."""

    def load(name: str) -> Driver:
        if found is None:
            raise OSError(f"{name}: no such file")
        return found

    monkeypatch.setattr(driver.ctypes, "CDLL", load)
    assert choose_provider(Device.AUTO) is CPU
    (said,) = caplog.messages
    assert reason in said
    assert "using the CPU" in said
    assert choose_provider(Device.CUDA) is CUDA  # making its session refuses


@pytest.mark.usefixtures("with_cuda")
@pytest.mark.parametrize(
    ("version", "is_taken"), [(12000, True), (12090, True), (13010, True), (11080, False)]
)
def test_libraries_of_cuda_12_run_on_older_drivers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: int, is_taken: bool
) -> None:
    """The build says which CUDA it was built for; any driver of that major version or a later one will do."""
    monkeypatch.setattr("nerve.runtime.sessions.ort.cuda_version", "12.8")
    monkeypatch.setattr(driver.ctypes, "CDLL", lambda name: Driver(version=version))
    assert (choose_provider(Device.AUTO) is CUDA) is is_taken
    assert is_taken or "CUDA 12 is needed (driver 525 or newer)" in caplog.text


@pytest.mark.usefixtures("with_cuda")
def test_gpu_that_can_be_used_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its context is given back: the session takes its own."""
    found = Driver(count=2)
    monkeypatch.setattr(driver.ctypes, "CDLL", lambda name: found)
    assert choose_provider(Device.AUTO, 1) is CUDA
    assert found.contexts == 0
    assert caplog.text == ""
    assert choose_provider(Device.AUTO, 2) is CPU
    assert "model.device_id is 2, but there are 2 devices" in caplog.text


@pytest.mark.usefixtures("with_cuda")
@pytest.mark.skipif(has_driver(), reason="CUDA may be had here")
def test_cuda_that_was_asked_for_is_refused(lookup_model: Path) -> None:
    """One line that says why, and no session on another device."""
    from nerve.runtime.sessions import create_session  # noqa: PLC0415 - after the fixture

    with pytest.raises(
        ModelError, match=r"CUDA cannot be used: there is no NVIDIA driver .*set model\.device to cpu"
    ):
        create_session(lookup_model / "model.onnx", Device.CUDA, 0, 1)
