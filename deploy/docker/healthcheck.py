"""The image's HEALTHCHECK: exit 0 when the server of this container is ready, else 1 and one line.

It reads the configuration as the server does, so it follows a changed port, a Unix socket and TLS. The
standard library and `nerve.config` only: an image needs no curl for it.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import sys

from nerve.config import ServerConfig, choose_config
from nerve.errors import NerveError

TIMEOUT_SECONDS = 4
_ANY_ADDRESS = {None: "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


def connect(server: ServerConfig) -> socket.socket:
    """Return a connection to the server, with TLS where it speaks TLS."""
    if server.uds:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(server.uds)
    else:
        address = (_ANY_ADDRESS.get(server.host) or server.host, server.port)
        connection = socket.create_connection(address, TIMEOUT_SECONDS)
    if server.tls is None:
        return connection
    # Whether the process answers is the question here, not whom the certificate names.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connection)


def main() -> int:
    """Ask for readiness once."""
    try:
        server = choose_config().server
        with connect(server) as connection:
            if server.tls and server.tls.client_ca:
                return 0  # only clients with a certificate are answered: that it accepts must do
            request = http.client.HTTPConnection("localhost")
            request.sock = connection
            request.request("GET", "/health/ready")
            status = request.getresponse().status
    except (NerveError, OSError, http.client.HTTPException) as error:
        print(f"not healthy: {error}")  # noqa: T201 - Docker keeps the output of the last checks
        return 1
    if status != 200:
        print(f"not healthy: /health/ready answered {status}")  # noqa: T201
    return int(status != 200)


if __name__ == "__main__":
    sys.exit(main())
