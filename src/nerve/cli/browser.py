"""Opens the page of a server in a browser, once the server is ready: `nerve serve --open`."""

from __future__ import annotations

import http.client
import ipaddress
import logging
import ssl
import threading
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from nerve.errors import ConfigError

if TYPE_CHECKING:
    from nerve.config import ServerConfig

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.25
# Browsers that Python opens in the terminal.
_OF_TEXT = ("www-browser", "links", "elinks", "lynx", "w3m", "browsh")


def page_address(server: ServerConfig, host: str) -> str:
    """Return the address of the page of a server that listens on `host`. Raises `ConfigError` where there is none."""
    if not server.playground:
        raise ConfigError("--open: there is no page, since server.playground is false; set it to true")
    if server.uds is not None:
        raise ConfigError(
            f"--open: no browser reaches the Unix socket {server.uds} (server.uds); give --port, too"
        )
    if server.tls is not None and server.tls.client_ca is not None:
        raise ConfigError(
            "--open: server.tls.client_ca wants a certificate from each client; open the page in a browser that has one"
        )
    scheme = "http" if server.tls is None else "https"
    return f"{scheme}://{_name_for_browsers(host)}:{server.port}/"


def open_when_ready(address: str) -> None:
    """Open `address` in a browser as soon as the server is ready; returns at once."""
    threading.Thread(target=_open_when_ready, args=(address,), name="nerve-open", daemon=True).start()


def _open_when_ready(address: str) -> None:
    while not is_ready(address):
        time.sleep(_PAUSE_SECONDS)
    if _can_open() and webbrowser.open(address):
        log.info("%s is open in the browser", address)
    else:
        log.warning("there is no browser on this machine; open %s in yours", address)


def is_ready(address: str) -> bool:
    """Ask the server at `SCHEME://HOST:PORT/` whether it is ready.

    Whose certificate it has, does not matter: this very process, or one that it started, is asked.
    """
    scheme, _, rest = address.partition("://")
    where = rest.rstrip("/")
    if scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            where, timeout=5, context=context
        )
    else:
        connection = http.client.HTTPConnection(where, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _can_open() -> bool:
    """Tell whether a browser can be opened: not one of text, which would take the terminal from the server's log."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    return Path(getattr(browser, "name", "")).name not in _OF_TEXT


def _name_for_browsers(host: str) -> str:
    """Return how a browser on this machine calls an address that is listened on."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified or address.is_loopback:
        return "localhost" if address.version == 4 else "[::1]"
    return f"[{host}]" if address.version == 6 else host
