"""Packs a folder that make_zoo.py wrote: the same bytes from the same files.

usage: python tests/zoo/pack.py FOLDER tests/zoo/zoo.tar.xz
"""

import sys
import tarfile
from pathlib import Path


def pack(folder: Path, target: Path) -> None:
    """Write every file below `folder` into an archive, without what depends on the machine."""
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(file.relative_to(folder).as_posix())
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                archive.addfile(entry, content)


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
