"""What tar shards hold: which bytes are which video, of which label; read once and kept in a file.

Headers and the small files beside each video are read, the videos are skipped over.
"""

import json
import os
import sys
import tarfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vivit_train.class_names import shorten
from vivit_train.data.shards import THREADS, Stat, is_remote, join, open_shard
from vivit_train.errors import UserError
from vivit_train.io.foreign import OwnLines, from_json, own_lock
from vivit_train.io.terminal import say
from vivit_train.video.container import is_video

FILE_NAME = "vivit_index.jsonl"
SIDECARS = ("json", "cls", "txt")
# Fields of a json that hold a label; a caption only where nothing else does.
LABEL_FIELDS = ("label", "class", "class_name")
LINE_SECONDS = 10
LONGEST_END = 2**20  # bytes


class ShardFault(Exception):
    """A shard that is not as it should be."""


class Fields(NamedTuple):
    """Where the label and the group of a sample are found; another place makes another index.

    Attributes:
        label: See `label_of`.
        group: A field of the json, the source that the video was cut from; ``None``: not asked.
    """

    label: str | None = None
    group: str | None = None


@dataclass
class Shard:
    """The videos of one shard, in its order: a line of the index.

    Attributes:
        name: Relative to the root.
        size: Bytes of the shard.
        version: See `Stat`.
        label_key: Where labels were looked for.
        members: Name of each video in the shard.
        starts: First byte of each.
        sizes: Bytes of each.
        labels: Label of each, as text; ``None`` where there is none.
        sources: Where labels came from, such as ``cls`` or ``json label``.
        skipped: Why samples have no video -> how many.
        group_key: The field of the json in which groups were looked for.
        groups: Group of each, where there is such a field; ``None`` where a sample has none.
    """

    name: str
    size: int
    version: str | None
    label_key: str | None
    members: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    group_key: str | None = None
    groups: list[str | None] = field(default_factory=list)

    @property
    def fields(self) -> Fields:
        """Where labels and groups were looked for."""
        return Fields(self.label_key, self.group_key)

    def is_consistent(self) -> bool:
        """Whether there is one of everything for each video, and all videos lie in the shard."""
        columns: list[list[Any]] = [self.members, self.starts, self.sizes, self.labels]
        if self.group_key is not None:
            columns.append(self.groups)
        counts = {len(column) for column in columns}
        return len(counts) == 1 and all(
            start >= 0 and 0 <= size <= self.size - start
            for start, size in zip(self.starts, self.sizes)
        )


def index_shards(
    root: str, shards: Mapping[str, Stat], fields: Fields, folder: Path
) -> list[Shard]:
    """What some shards hold, from the index as far as it holds, else from the shards.

    One process reads the shards, others that ask meanwhile wait. If it is stopped, the next goes
    on from there.

    Args:
        root: Folder or URL that the shards' names are relative to.
        shards: Name -> what it is now.
        fields: Where labels and groups are.
        folder: Where the index is written; one beside the shards is read as well.

    Returns:
        In the order of ``shards``.

    Raises:
        UserError: If shards are cut off, damaged, or hold ambiguous samples, or if the
            index cannot be written.
    """
    file = folder / FILE_NAME
    files = [file] if is_remote(root) else [Path(root) / FILE_NAME, file]
    known, _ = _known(files, shards, fields)
    if len(known) < len(shards):
        try:
            with own_lock(Path(f"{file}.lock")):
                known = _complete(root, files, shards, fields)
        except OSError as error:
            raise UserError(
                f"the index cannot be written to {file} ({error.strerror or error}): choose "
                "another folder with data.index_dir"
            ) from error
    return [known[name] for name in shards]


def _complete(
    root: str, files: Sequence[Path], shards: Mapping[str, Stat], fields: Fields
) -> dict[str, Shard]:
    """All shards by name: those of the index, and what is not in it from the shards."""
    known, changed = _known(files, shards, fields)
    todo = {name: stat for name, stat in shards.items() if name not in known}
    if changed:
        warnings.warn(
            f"{len(changed)} shards of {root} are not as the index {files[-1]} knows them and are "
            f"indexed again: {shorten(changed)}",
            stacklevel=2,
        )
    if todo:
        known |= {shard.name: shard for shard in _build(root, todo, fields, files[-1])}
    return known


def _known(
    files: Iterable[Path], shards: Mapping[str, Stat], fields: Fields
) -> tuple[dict[str, Shard], list[str]]:
    """The shards whose line holds, and the names of those with lines of which none does."""
    found: dict[str, Shard] = {}
    changed = {}
    for file in files:
        for shard in _lines(file):
            stat = shards.get(shard.name)
            if stat == (shard.size, shard.version) and shard.fields == fields:
                found[shard.name] = shard
            elif stat is not None:
                changed[shard.name] = True
    return found, [name for name in changed if name not in found]


def _lines(file: Path) -> Iterator[Shard]:
    if not file.is_file():
        return
    with file.open("rb") as lines:
        for line in lines:
            shard = from_json(Shard, line)  # None: empty, cut off, or of another version
            if shard is not None and shard.is_consistent():
                yield shard


def _build(root: str, shards: Mapping[str, Stat], fields: Fields, file: Path) -> Iterator[Shard]:
    """Indexes shards in several threads and adds each to the file."""
    start = told = time.monotonic()
    say(f"indexing {len(shards)} shards of {root} into {file}, once", file=sys.stderr)
    pool = ThreadPoolExecutor(THREADS if is_remote(root) else os.cpu_count())
    faults, videos = [], 0
    try:
        tasks: dict[Future[Shard], str] = {
            pool.submit(index_shard, root, name, stat, fields): name
            for name, stat in shards.items()
        }
        with closing(OwnLines(file, begins=b'{"name": ')) as lines:
            for done, task in enumerate(as_completed(tasks), start=1):
                try:
                    shard = task.result()
                except ShardFault as fault:
                    faults.append(f"{tasks[task]}: {fault}")
                    continue
                lines.add(asdict(shard))
                videos += len(shard.members)
                if time.monotonic() - told > LINE_SECONDS:
                    told = time.monotonic()
                    say(f"{done}/{len(shards)} shards, {videos} videos", file=sys.stderr)
                yield shard
    finally:
        pool.shutdown(cancel_futures=True)
    say(f"{videos} videos in {time.monotonic() - start:.1f} s", file=sys.stderr)
    if faults:
        raise UserError(
            f"{len(faults)} of the {len(shards)} shards under {root} cannot be used: "
            f"{'; '.join(sorted(faults)[:5])}{' ...' if len(faults) > 5 else ''}. Write or fetch "
            "them again, or move them away"
        )


def index_shard(root: str, name: str, stat: Stat, fields: Fields) -> Shard:
    """Reads one shard's headers and the small files beside its videos.

    Members with the same name up to the first dot of its last part make a sample, as in the
    webdataset library: a video, and ``.json``, ``.cls`` or ``.txt``.

    Raises:
        ShardFault: If the shard is cut off or damaged, or a sample has several videos or comes
            twice.
    """
    shard = Shard(name, stat.size, stat.version, fields.label, group_key=fields.group)
    try:
        with open_shard(join(root, name), stat.size) as file:
            _read(file, shard)
    except tarfile.TarError as error:
        raise ShardFault(f"{error} (cut off, compressed or no tar)") from None
    except OSError as error:
        raise ShardFault(f"cannot be read: {error}") from error
    return shard


def _read(file: BinaryIO, shard: Shard) -> None:
    videos: list[tarfile.TarInfo] = []
    texts: dict[str, bytes] = {}
    current, seen, end = "", set(), 0

    def finish() -> None:
        if current in seen:
            raise ShardFault(f"the sample {current} is there twice")
        seen.add(current)
        _add(shard, current, videos, texts)
        videos.clear()
        texts.clear()

    with tarfile.open(fileobj=file, mode="r:") as tar:
        while member := tar.next():
            # What is kept here would be most of the memory.
            tar.members = []  # type: ignore[attr-defined]
            end = member.offset_data + -(-member.size // 512) * 512
            folder, base = os.path.split(member.name)
            stem, _, suffix = base.partition(".")
            if member.isdir():
                continue
            if not stem:
                _leave_out(shard, "with a dot at the beginning")
                continue
            key = os.path.join(folder, stem)
            if key != current:
                if current:
                    finish()
                current = key
            if is_video(base):
                if not member.isreg() or member.issparse():
                    raise ShardFault(f"{member.name} is a link or a sparse file")
                videos.append(member)
            elif suffix.lower() in SIDECARS and member.isreg():
                file.seek(member.offset_data)
                texts[suffix.lower()] = file.read(member.size)
        if current:
            finish()
    _check_end(file, end, shard.size)


def _check_end(file: BinaryIO, end: int, size: int) -> None:
    """A tar ends in zeros: without them it was cut off between two members, or is damaged.

    tarfile says nothing of either.
    """
    file.seek(end)
    rest = file.read(min(size - end, LONGEST_END)) if size > end else b""
    if len(rest) < 512:
        raise ShardFault("it is cut off: the end of the archive is missing")
    if any(rest) or size - end > LONGEST_END:
        raise ShardFault(
            f"it is damaged, or several archives in one: no member begins at byte {end}, which is "
            "not the end either"
        )


def _leave_out(shard: Shard, reason: str) -> None:
    shard.skipped[reason] = shard.skipped.get(reason, 0) + 1


def _add(shard: Shard, key: str, videos: list[tarfile.TarInfo], texts: Mapping[str, bytes]) -> None:
    if len(videos) > 1:
        names = shorten([os.path.basename(video.name) for video in videos])
        raise ShardFault(f"the sample {key} has {len(videos)} videos: {names}")
    try:
        fields = json.loads(texts["json"]) if "json" in texts else {}
        plain = {kind: texts[kind].decode("utf-8-sig") for kind in texts if kind != "json"}
    except ValueError as error:
        raise ShardFault(f"the json, cls or txt of {key} is not as it should be: {error}") from None
    if not isinstance(fields, dict):
        raise ShardFault(f"{key}.json holds no fields")
    if not videos:
        _leave_out(shard, str(fields.get("status") or "no video"))
        return
    label, source = label_of(fields, plain, shard.label_key)
    text = _name(label, f"the label of {key} ({source})")
    if text is not None and source not in shard.sources:
        shard.sources.append(source)
    shard.members.append(videos[0].name)
    shard.starts.append(videos[0].offset_data)
    shard.sizes.append(videos[0].size)
    shard.labels.append(text)
    if shard.group_key is not None:
        whose = f"the group of {key} (json {shard.group_key})"
        shard.groups.append(_name(fields.get(shard.group_key), whose))


def _name(value: Any, whose: str) -> str | None:
    """A name, or a number as text; ``None`` where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | str | None):
        raise ShardFault(f"{whose} is {value!r}, not one name or number")
    return None if value is None else str(value).strip() or None


def label_of(
    fields: Mapping[str, Any], texts: Mapping[str, str], label_key: str | None
) -> tuple[Any, str]:
    """A sample's label, and where it was.

    Args:
        fields: The sample's json.
        texts: Its ``cls`` and ``txt``.
        label_key: ``cls``, ``txt`` or a field of the json; ``None``: the first that there is of
            cls, the json's label, class or class_name, txt, and the json's caption.
    """
    if label_key in ("cls", "txt"):
        return texts.get(label_key), label_key
    if label_key is not None:
        return fields.get(label_key), f"json {label_key}"
    if "cls" in texts:
        return texts["cls"], "cls"
    for name in LABEL_FIELDS:
        if fields.get(name) is not None:
            return fields[name], f"json {name}"
    if "txt" in texts:
        return texts["txt"], "txt"
    return fields.get("caption"), "json caption"
