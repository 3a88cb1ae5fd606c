#!/usr/bin/env bash
# Builds an image for the side-car where the official one cannot be had: Debian 13's Nginx over an image of Debian 12,
# with the official image's stop signal and user.
#
#   tests/kubernetes/build_nginx.sh [TAG]   (default: nerve-nginx:test; then NERVE_TEST_NGINX_IMAGE=TAG make test-deploy)
#
#   ENGINE=docker   docker or podman (default: the one that answers)
#   BASE_IMAGE=     Debian 12 with libpcre2, libssl3 and zlib (default: that of deploy/Dockerfile)
#   BUILD_OPTS=     further options of `build`
set -euo pipefail
here=$(readlink -f "$(dirname "$0")")
engine=${ENGINE:-$("$here/../../deploy/docker/engine.sh")}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
bash "$here/../deploy/fetch_nginx.sh" "$folder/nginx"
cat >"$folder/Dockerfile" <<END
FROM ${BASE_IMAGE:-python:3.11-slim-bookworm}
COPY nginx/usr/sbin/nginx /usr/sbin/nginx
RUN echo "nginx:x:101:101::/nonexistent:/usr/sbin/nologin" >>/etc/passwd && echo "nginx:x:101:" >>/etc/group
STOPSIGNAL SIGQUIT
END
# Options are words: BUILD_OPTS is split on purpose.
# shellcheck disable=SC2086
"$engine" build ${BUILD_OPTS:-} --tag "${1:-nerve-nginx:test}" "$folder"
