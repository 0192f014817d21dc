"""Which videos a run's splits hold: as digests in its checkpoints, by name in its folder."""

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.class_names import shorten
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.errors import UserError
from vivit_train.io.files import written_whole
from vivit_train.io.foreign import is_of
from vivit_train.io.layout import VIDEOS_FILE, SplitDigest, SplitDigests

ROLES: tuple[Literal["train", "val"], ...] = ("train", "val")


def digests(data: VideoDataModule) -> dict[str, SplitDigest]:
    """The digest and the number of rows of each split that was read."""
    return {
        role: {"digest": records.digest(), "rows": len(records)}
        for role, records in data.records.items()
    }


def rows_per_class(data: VideoDataModule, role: str) -> dict[str, int]:
    """Class name -> rows of a split; with several heads, of each head's classes."""
    counts = data.records[role].class_counts(len(data.class_names)).tolist()
    return dict(zip(data.class_names, counts))


def check_task(multi_label: bool, data: VideoDataModule, model: str) -> None:
    """Refuses a data set whose labels mean something else than the logits of a trained head.

    Args:
        multi_label: Whether a video of the model has any number of its classes.
        data: The data set.
        model: What the message calls the model.

    Raises:
        UserError: With the key to set.
    """
    if multi_label != data.multi_label:
        kinds = ("one class of each video", "any number of classes of a video")
        raise UserError(
            f"{model} was trained to name {kinds[multi_label]}, and {data.name} with "
            f"data.multi_label={str(data.multi_label).lower()} has {kinds[data.multi_label]}: set "
            f"data.multi_label={str(multi_label).lower()}, or train a new head from it with "
            "model.pretrained"
        )


def write_videos(run_dir: Path, data: VideoDataModule, splits: dict[str, SplitDigest]) -> None:
    """Writes videos.json.gz: the names of the videos, and the digests by which they are found."""
    content = {
        role: {
            **splits[role],
            "classes": rows_per_class(data, role),
            "names": video_names(data, role),
        }
        for role in ROLES
    }
    with written_whole(run_dir / VIDEOS_FILE) as file:
        file.write(gzip.compress(json.dumps(content).encode(), 1))


def known_validation(run_dir: Path) -> frozenset[str]:
    """The validation videos of a run, as far as its folder says.

    What a data set holds out by itself depends on the videos that are there, and on the version of
    this package: a run is resumed and evaluated on those that it did not train on.
    """
    known = _saved(run_dir).get("val", {})
    return frozenset(known.get("names", ()))


def known_splits(run_dir: Path) -> dict[str, SplitDigest]:
    """How many videos a run trained and was validated on, as far as its folder says."""
    saved = _saved(run_dir)
    return {role: saved[role] for role in saved if is_of(saved[role], SplitDigest)}  # type: ignore


def check_same_videos(
    saved: SplitDigests | None, data: VideoDataModule, run_dir: Path, allow_others: bool
) -> None:
    """Refuses to resume a run on other videos, or on the same ones in another order.

    Args:
        saved: What the checkpoint says of its splits; ``None`` in one of an older version.
        data: The DataModule to resume with.
        run_dir: The folder of the run that the checkpoint belongs to.
        allow_others: Whether to warn instead.

    Raises:
        UserError: Naming videos that are new or gone, as far as the run's folder tells.
    """
    now = digests(data)
    for role in ROLES:
        if saved is None or saved[role] == now[role]:
            continue
        known = _saved_names(run_dir, role, saved[role]["digest"])
        if known is None:
            told = f"{saved[role]['rows']} rows before, {now[role]['rows']} now"
        else:
            told = difference(known, video_names(data, role))
        told = f"{data.name}: the {role} split is not the one that the run began with: {told}"
        if not allow_others:
            raise UserError(
                f"{told}. Bring the data back to what it was (where `vivit check` has run since, "
                "data.verdicts=null uses all videos again). Or resume with these videos by "
                "allow_other_videos=true: in the epoch that was interrupted, some are then seen "
                "twice or not at all"
            )
        rank_zero_warn(f"{told}; resuming with it (allow_other_videos=true)")


def difference(before: Sequence[str], now: Sequence[str]) -> str:
    """How two lists of videos differ, in words."""
    old, new = set(before), set(now)
    added = [name for name in now if name not in old]
    gone = [name for name in before if name not in new]
    parts = [
        f"{len(names)} {what} ({shorten(names, 3)})"
        for what, names in (("new", added), ("gone", gone))
        if names
    ]
    return ", ".join(parts) or "the same videos in another order or with other classes"


def video_names(data: VideoDataModule, role: str) -> list[str]:
    """The names of a split's videos, in their order."""
    records = data.records[role]
    return [records.name(row) for row in range(len(records))]


def _saved_names(run_dir: Path, role: str, digest: str) -> list[str] | None:
    """The names of the videos with this digest; ``None`` where the folder does not have them."""
    known = _saved(run_dir).get(role, {})
    return list(known["names"]) if known.get("digest") == digest else None


def _saved(run_dir: Path) -> dict[str, dict[str, Any]]:
    """What videos.json.gz says of each role; nothing where it is not there, or damaged."""
    try:
        content = json.loads(gzip.decompress((run_dir / VIDEOS_FILE).read_bytes()))
        return {role: content[role] for role in ROLES if isinstance(content[role]["names"], list)}
    except (OSError, EOFError, ValueError, LookupError, TypeError, zlib.error):
        return {}
