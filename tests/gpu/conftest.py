"""Everything in this folder needs an NVIDIA GPU and onnxruntime-gpu; elsewhere it is skipped, and says why."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from nerve.runtime.driver import why_no_cuda
from nerve.runtime.sessions import cuda_major

FOLDER = Path(__file__).parent


def why_not() -> str | None:
    """Say what is missing for the tests of this folder, or None."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} has no CUDA provider: install nerve[gpu]"
    onnxruntime.preload_dlls()
    return why_no_cuda(Path(onnxruntime.__file__).parent / "capi", device_id=0, cuda=cuda_major())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and skip them where they cannot run."""
    reason = why_not()
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.timeout(300))
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=f"GPU test: {reason}"))
