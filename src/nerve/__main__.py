"""Entry point of the `nerve` command."""

from __future__ import annotations

import sys

from nerve.cli import main

if __name__ == "__main__":
    sys.exit(main())
