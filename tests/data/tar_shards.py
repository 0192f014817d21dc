"""Tar shards made by hand, so that what is wrong in one can be chosen."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vivit_train.data.shards import connect

Members = Iterable[tuple[str, bytes | str | dict[str, Any]]]


def write_tar(path: Path, members: Members, **options: Any) -> Path:
    """A tar of (name, content); text is encoded, a dict is written as json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            if isinstance(content, dict):
                content = json.dumps(content)
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(video: bytes, labels: Iterable[str | int], first: int = 0) -> list[tuple[str, Any]]:
    """Samples as video2dataset writes them: keys count on, the json holds the label."""
    return [
        (f"{key:08}.{suffix}", content)
        for key, label in enumerate(labels, start=first)
        for suffix, content in (
            ("json", {"key": f"{key:08}", "status": "success", "label": label}),
            ("mp4", video),
        )
    ]


def put_into_store(folder: Path, url: str, which: str = "*.tar") -> None:
    """Copies the shards of a folder to a URL."""
    files, base = connect(url)
    for path in folder.rglob(which):
        files.pipe(f"{base}/{path.relative_to(folder).as_posix()}", path.read_bytes())
