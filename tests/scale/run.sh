#!/usr/bin/env bash
# Runs the tests of this folder in a network that has a loopback only. Elsewhere Ray looks for its own address outside, and
# nodes on one machine then do not find each other. Usage: tests/scale/run.sh PYTHON [PYTEST ARGUMENTS]
set -euo pipefail
# A busy machine needs longer than the default to start a node.
export RAY_USAGE_STATS_ENABLED=0 RAY_raylet_start_wait_time_s=120 PYTHONPATH="$PWD/src"
command='ip link set lo up && exec "$@"'
for unshare in "unshare --net" "unshare --map-root-user --net"; do
  if $unshare bash -c "ip link set lo up" 2>/dev/null; then
    exec $unshare bash -c "$command" bash "$1" -m pytest -c tests/scale/pytest.ini --rootdir=tests/scale tests/scale "${@:2}"
  fi
done
echo "no network namespace can be made here (unshare, ip): the tests of Ray and Spark are skipped"
