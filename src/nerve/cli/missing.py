"""What to install where a module is not there."""

from __future__ import annotations

# Modules that come with an extra, and what to say of it.
_EXTRAS = {
    "onnxruntime": "cpu",
    "torch": "export",
    "transformers": "export",
    "pyarrow": "parquet",
    "ray": "ray",
}


def why_missing(module: str | None) -> str:
    """Return what to do about a module that cannot be imported."""
    name = (module or "a module").partition(".")[0]
    extra = _EXTRAS.get(name, "cpu")
    other = ", or gpu for an NVIDIA card" if name == "onnxruntime" else ""
    return (
        f"{name} is not installed; install nerve with its extra {extra}{other}: pip install '.[{extra}]' in a clone, "
        f"'FILE.whl[{extra}]' with a wheel"
    )
