"""Decrypts a private key with the OpenSSL that Python itself uses, and keeps the plain one in memory only.

Python's `ssl` module can use an encrypted key but not give it away, and Granian 2.8 cannot read one (it takes the
encrypted part for a sequence). So the server process decrypts the key and holds it in a file without a name, which the
workers open through /proc. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import ssl
import sys
from pathlib import Path

# OpenSSL's functions that are called: name, result, arguments.
_POINTER, _TEXT, _INT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
_FUNCTIONS = (
    ("BIO_new_mem_buf", _POINTER, (_TEXT, _INT)),
    ("BIO_s_mem", _POINTER, ()),
    ("BIO_new", _POINTER, (_POINTER,)),
    ("BIO_read", _INT, (_POINTER, _POINTER, _INT)),
    ("BIO_free", _INT, (_POINTER,)),
    ("PEM_read_bio_PrivateKey", _POINTER, (_POINTER, _POINTER, _POINTER, _TEXT)),
    ("PEM_write_bio_PrivateKey", _INT, (*(_POINTER,) * 4, _INT, _POINTER, _POINTER)),
    ("EVP_PKEY_free", None, (_POINTER,)),
    ("ERR_clear_error", None, ()),
)
_MOST_BYTES = 64 * 1024  # of a key


def decrypt_key(content: bytes, password: str) -> bytes:
    """Return an encrypted key (PEM) as a plain one.

    Raises `ValueError` when the password is not the right one or the key is damaged, `OSError` when there is no
    OpenSSL to ask.
    """
    lib = _open_library()
    source = lib.BIO_new_mem_buf(content, len(content))
    target = lib.BIO_new(lib.BIO_s_mem())
    key = lib.PEM_read_bio_PrivateKey(source, None, None, password.encode())
    try:
        if not key:
            raise ValueError("the password is not the right one, or the key is damaged")
        if not lib.PEM_write_bio_PrivateKey(target, key, None, None, 0, None, None):
            raise ValueError("the key cannot be written as a plain one")
        buffer = ctypes.create_string_buffer(_MOST_BYTES)
        n_bytes = lib.BIO_read(target, buffer, _MOST_BYTES)
        return buffer.raw[: max(0, n_bytes)]
    finally:
        lib.EVP_PKEY_free(key)
        lib.BIO_free(source)
        lib.BIO_free(target)
        lib.ERR_clear_error()


def keep_in_memory(content: bytes) -> str:
    """Return the path of a file without a name that holds `content`, for as long as this process lives."""
    descriptor = os.memfd_create("nerve-key")
    os.write(descriptor, content)
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def _open_library() -> ctypes.CDLL:
    """Open the library that Python's `ssl` has loaded; another one could be of another version."""
    if sys.platform != "linux":
        raise OSError("only on Linux")
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    found = sorted({line.split()[-1] for line in lines if "/libcrypto" in line})
    if not found:
        raise OSError(f"Python's {ssl.OPENSSL_VERSION} is built into it")
    lib = ctypes.CDLL(found[0])
    for name, result, arguments in _FUNCTIONS:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib
