#!/usr/bin/env bash
# Tests, checks and measures the GPU path; needs an NVIDIA GPU, and wheels in a folder. No network.
#
#   bench/gpu.sh WHEELS [OPTIONS]     wheels from the folder WHEELS (docs/gpu.md says how to fill it)
#   bench/gpu.sh --installed [OPTIONS]  this python3 has everything already
#
# OPTIONS go to bench/gpu.py: --device cpu is a smoke test of this script itself, without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ $# -lt 1 ]]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
python=${PYTHON:-python3}
work=bench/.work
wheels=$1
shift
mkdir -p "$work"
export PYTHONPATH=$PWD/src ORT_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1
if [[ $wheels == --installed ]]; then
    exec "$python" bench/gpu.py "$@"
fi

# Two environments: onnxruntime-gpu and PyTorch may want different CUDA libraries.
make_env() { # NAME REQUIREMENT...
    local env=$work/$1
    shift
    [[ -x $env/bin/python ]] || "$python" -m venv "$env"
    "$env/bin/python" -m pip install --quiet --no-index --find-links "$wheels" "$@"
}
requirements() {
    "$python" - <<'PY'
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["gpu"]]
tools = ("httpx", "hypothesis", "pytest")
wanted += [line for line in project["dependency-groups"]["dev"] if line.startswith(tools)]
print("\n".join(wanted))
PY
}
mapfile -t needed < <(requirements)
make_env gpu-nerve "${needed[@]}"
"$work/gpu-nerve/bin/python" -m pip install --quiet --no-index --find-links "$wheels" matplotlib \
    || echo "no matplotlib among the wheels: no plot" >&2
peer=()
if make_env gpu-peer torch transformers fastapi uvicorn uvloop httptools orjson pydantic; then
    peer=(--peer-python "$work/gpu-peer/bin/python")
else
    echo "PyTorch or transformers is missing among the wheels: no peer" >&2
fi
exec "$work/gpu-nerve/bin/python" bench/gpu.py --wheels "$wheels" "${peer[@]}" "$@"
