#!/usr/bin/env bash
# Builds the image and serves a config file with it, hardened: read-only root, no capabilities, no root.
#
#   deploy/docker/build-and-run.sh [CONFIG] [-- options of `run` ...]
#
#   CONFIG          config file to serve (default: config.yaml of this repository)
#   ENGINE=docker   docker or podman (default: the one that answers, see engine.sh)
#   EXTRA=cpu       cpu or gpu; gpu runs with --gpus all (podman: --device nvidia.com/gpu=all)
#   PORT=8000       port on this machine
#   BAKE=           config file at the top of the repository whose checkpoint goes into the image
#   BASE_IMAGE=     base image (default: see the Dockerfile)
#   BUILD_OPTS=     further options of `build`
#   RUN=1           0: only build
set -euo pipefail
cd "$(dirname "$0")/../.."

config=config.yaml
if [ $# -gt 0 ] && [ "$1" != -- ]; then config=$1; shift; fi
if [ "${1:-}" = -- ]; then shift; fi
config=$(readlink -f -- "$config")
[ -r "$config" ] || { echo "no config file at $config" >&2; exit 1; }

engine=${ENGINE:-$(deploy/docker/engine.sh)}
extra=${EXTRA:-cpu}
name=nerve:$extra

build=(--file deploy/Dockerfile --tag "$name" --build-arg "EXTRA=$extra" --build-arg "BAKE=${BAKE:-}")
build+=(--build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
[ -z "${BASE_IMAGE:-}" ] || build+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
# Without it podman drops the HEALTHCHECK.
case $engine in *podman*) build+=(--format docker);; esac
# Options are words: BUILD_OPTS is split on purpose.
# shellcheck disable=SC2086
"$engine" build "${build[@]}" ${BUILD_OPTS:-} .
[ "${RUN:-1}" = 1 ] || exit 0

run=(--rm --name "nerve-$extra" --publish "${PORT:-8000}:8000" --volume "$config:/etc/nerve/config.yaml:ro")
run+=(--volume "nerve-cache:/var/cache/nerve" --read-only --tmpfs /tmp --cap-drop ALL)
run+=(--security-opt no-new-privileges --stop-timeout 40 --env NERVE_API_KEY --env HF_TOKEN)
if [ "$extra" = gpu ]; then
  case $engine in *podman*) run+=(--device nvidia.com/gpu=all);; *) run+=(--gpus all);; esac
fi
exec "$engine" run "${run[@]}" "$@" "$name"
