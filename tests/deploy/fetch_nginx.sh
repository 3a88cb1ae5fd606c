#!/usr/bin/env bash
# Unpacks Debian 13's Nginx (1.26) into a folder, for tests on Debian 12: its program needs no library that Debian
# 12 lacks. apt checks the signatures; nothing is installed and apt's own lists stay as they are.
#
#   tests/deploy/fetch_nginx.sh FOLDER && NERVE_TEST_NGINX=FOLDER/usr/sbin/nginx pytest tests/deploy/test_nginx.py
set -euo pipefail
mkdir -p "$1"
cd "$1"
mkdir -p apt/lists/partial apt/archives/partial
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keyring] http://deb.debian.org/debian trixie main" >apt/sources.list
options=(-q -o Dir::Etc::SourceList="$PWD/apt/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$PWD/apt/lists"
  -o Dir::Cache="$PWD/apt" -o APT::Sandbox::User=root)
apt-get "${options[@]}" update
apt-get "${options[@]}" download nginx
dpkg-deb --extract nginx_*.deb .
rm -r apt nginx_*.deb
usr/sbin/nginx -v
