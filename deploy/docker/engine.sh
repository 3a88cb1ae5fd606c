#!/usr/bin/env bash
# Prints the container engine to use: docker or podman, the first that answers. A docker without its daemon does not.
set -euo pipefail
for engine in docker podman; do
  if command -v "$engine" >/dev/null && "$engine" info >/dev/null 2>&1; then
    echo "$engine"
    exit
  fi
done
echo "neither docker nor podman answers (\`docker info\`, \`podman info\`): install one, or start docker's daemon" >&2
exit 1
