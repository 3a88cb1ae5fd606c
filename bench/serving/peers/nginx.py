"""Run `nerve serve` with a real Nginx in front of it, as one server of the bench.

The configuration is deploy/nginx.conf as it is shipped, but for paths, port and upstream; with `--defaults` the
settings in DEFAULTED are left out, so that Nginx's own defaults hold: no kept connections to the server,
HTTP/1.0, one worker, buffers of 16 kB.

usage: python nginx.py --port PORT --config NERVE_CONFIG [--tcp] [--defaults] [--h2c]
"""

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

DEPLOY = Path(__file__).parents[3] / "deploy"
STREAM_JS = Path("/usr/lib/nginx/modules/ngx_stream_js_module.so")
DEFAULTED = """
worker_processes keepalive keepalive_requests keepalive_timeout proxy_http_version client_body_buffer_size
proxy_request_buffering proxy_buffering proxy_buffer_size proxy_buffers proxy_busy_buffers_size
proxy_max_temp_file_size
"""


def find_nginx() -> str:
    """Return the path of Nginx; NERVE_TEST_NGINX names another than the installed one."""
    found = os.environ.get("NERVE_TEST_NGINX") or shutil.which(
        "nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin"
    )
    if found is None:
        sys.exit("nginx is not installed (Debian: nginx-light)")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def render(folder: Path, port: int, upstream: str, defaults: bool) -> str:
    """Return the shipped configuration for this port and upstream, without DEFAULTED if asked."""
    text = (DEPLOY / "nginx.conf").read_text()
    text = text.replace("/dev/shm/", f"{folder}/temp-")  # noqa: S108 - what the file says
    text = text.replace("listen 8080 ", f"listen 127.0.0.1:{port} ")
    text = re.sub(r"^\s*server unix:\S+", f"server {upstream}", text, flags=re.MULTILINE)
    if defaults:
        text = re.sub(rf"^\s*({'|'.join(DEFAULTED.split())}) [^;]*;", "", text, flags=re.MULTILINE)
        text = text.replace('proxy_set_header Connection "";', "")
    return text


def put_h2c_in_front(text: str, folder: Path, port: int, behind: int) -> str:
    """Write nginx-h2c.conf for `port`; return nginx.conf, which listens on `behind`, changed as it asks for."""
    behind_http2 = free_port()
    front = (DEPLOY / "nginx/nginx-h2c.conf").read_text()
    front = front.replace("js_path /etc/nginx", f"js_path {DEPLOY}/nginx")
    front = front.replace("listen 8080", f"listen 127.0.0.1:{port}")
    front = front.replace(":8081", f":{behind}").replace(":8082", f":{behind_http2}")
    (folder / "nginx-h2c.conf").write_text(front)
    text = text.replace("#include nginx-h2c.conf", f"include {folder}/nginx-h2c.conf")
    return text.replace("#listen 127.0.0.1:8082", f"listen 127.0.0.1:{behind_http2}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--tcp", action="store_true", help="a TCP upstream instead of a Unix socket")
    parser.add_argument("--defaults", action="store_true", help="Nginx's defaults instead of what is tuned")
    parser.add_argument("--h2c", action="store_true", help="with nginx-h2c.conf in front")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="nerve-bench-nginx-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # started by root, Nginx's workers are somebody else
        if arguments.tcp:
            own = free_port()
            where, upstream = {"NERVE_SERVER__PORT": str(own)}, f"127.0.0.1:{own}"
        else:
            path = folder / "nerve.sock"
            where = {"NERVE_SERVER__UDS": str(path), "NERVE_SERVER__UDS_PERMISSIONS": "666"}
            upstream = f"unix:{path}"
        conf = folder / "nginx.conf"
        port = free_port() if arguments.h2c else arguments.port
        text = render(folder, port, upstream, arguments.defaults)
        if arguments.h2c:
            text = put_h2c_in_front(text, folder, arguments.port, port)
        conf.write_text(text)
        nerve = Path(sys.executable).with_name("nerve")
        server = subprocess.Popen([nerve, "serve", "--config", arguments.config], env={**os.environ, **where})
        settings = f"daemon off; pid {folder}/pid;"
        proxy = subprocess.Popen([find_nginx(), "-p", folder, "-e", "stderr", "-c", conf, "-g", settings])
        try:
            return server.wait()
        finally:
            for process in (server, proxy):
                process.terminate()
            for process in (server, proxy):
                process.wait(10)


if __name__ == "__main__":
    sys.exit(main())
