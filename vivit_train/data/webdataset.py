"""Videos in tar shards, as video2dataset and the webdataset library write them."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.class_names import shorten
from vivit_train.data.class_files import (
    CLASS_FILES,
    as_numbers,
    number_names,
    numbers_among,
    read_classes,
)
from vivit_train.data.folder import Folder
from vivit_train.data.records import Records
from vivit_train.data.shard_index import Fields, Shard, index_shards
from vivit_train.data.shards import ShardRecords, Stat, find_shards, is_remote, join, read_text
from vivit_train.errors import UserError
from vivit_train.io.files import user_path

# Where labels may be captions: as many names as this part of the videos are not classes.
MOST_NAMES = 0.5
_IS_PATTERN = re.compile(r"[*?[{]|\.tar$")  # of shards, not the name of a split


class WebDataset(Folder):
    """Videos in tar shards on disk or in an object store, each with its label beside it.

    No stream: an index of what the shards hold is made once, and a video is then read by one
    request for its bytes. So orders are as random, runs resume as exactly and ranks share as
    evenly as with files.

    The shards of a split, the first of these that the root holds:

    - those that its name is a pattern of, as ``train-{000..146}.tar`` or ``a/*.tar``;
    - ``<split>/*.tar``, ``<split>-*.tar``, ``<split>_*.tar`` or ``<split>.tar``;
    - where that is so of no split, all ``*.tar``.

    Where the validation split is not there, ``val_fraction`` is held out as in `Folder`.

    Args:
        root: A folder, or a URL that fsspec knows, such as ``s3://bucket/folder``.
        label_key: ``cls``, ``txt`` or a field of the json; ``None``: see `label_of`.
        index_dir: Folder for the index, and of a remote data set for the results of `vivit
            check`; ``None``: beside the shards where that can be written, else a folder of the
            data set's own in ``~/.cache/vivit_train``.
        **kwargs: As for `Folder`; ``group`` without parentheses is a field of the json.

    Attributes:
        root: The folder of the shards; where these are remote, the one that stands for it.
        url: The folder or URL of the shards.
    """

    def __init__(
        self,
        *,
        root: str | None,
        label_key: str | None = None,
        index_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        url = os.path.expanduser(root or "")
        self.index_dir = _index_dir(url, index_dir)
        super().__init__(root=str(self.index_dir) if is_remote(url) else root, **kwargs)
        self.url = url
        self.label_key = label_key

    def setup(self, stage: str | None = None) -> None:
        """See `VideoDataModule.setup`."""
        if is_remote(self.url) or self.root.is_dir():
            try:
                self.index_dir.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"the folder for the index, {self.index_dir}, cannot be made "
                    f"({error.strerror}): choose another with data.index_dir"
                ) from None
        super().setup(stage)

    def finds_test(self) -> bool:
        """See `Folder.finds_test`."""
        train = self.splits["train"]
        return not _IS_PATTERN.search(train) and all(map(self.has_split, (train, "test")))

    def has_split(self, split: str) -> bool:
        """See `Folder.has_split`."""
        return bool(find_shards(self.url, _patterns(split)))

    def read_named(self, split: str) -> tuple[Records, list[str], Sequence[str] | None]:
        """See `Folder.read_named`."""
        found = self._find(split)
        shards = self._indexed(found)
        self._report_skipped(split, shards)
        self._check_labels(shards)
        labels, names = self._number_labels(shards)
        members = [
            (shard.name, *member)
            for shard in shards
            for member in zip(shard.members, shard.starts, shard.sizes)
        ]
        records = ShardRecords(self.root, self.url, found, members, labels)
        return records, names, self._groups(shards)

    def _indexed(self, shards: Mapping[str, Stat]) -> list[Shard]:
        fields = Fields(self.label_key, self._group_key)
        return index_shards(self.url, shards, fields, self.index_dir)

    @property
    def _group_key(self) -> str | None:
        """The field that ``group`` names, if it is no regular expression with a group."""
        return None if self.group is None or "(" in self.group else self.group

    def _groups(self, shards: Sequence[Shard]) -> list[str] | None:
        """The json's field that ``group`` names, of every video."""
        if self._group_key is None:
            return None
        groups = {
            f"{shard.name}/{member}": group
            for shard in shards
            for member, group in zip(shard.members, shard.groups)
        }
        bare = [name for name, group in groups.items() if group is None]
        if bare:
            raise UserError(
                f"data.group={self.group}: the json of {len(bare)} of {len(groups)} videos has no "
                f"such field: {shorten(bare, 3)}. Name one that all have, or a regular expression "
                r"with a group in parentheses, such as '(.*)_\d+\.mp4'"
            )
        return [group for group in groups.values() if group is not None]

    def _find(self, split: str) -> dict[str, Stat]:
        """A split's shards, or all there are where none is named after a split."""
        found = find_shards(self.url, _patterns(split))
        if found:
            return found
        if _IS_PATTERN.search(split):
            raise UserError(f"no shard under {self.url} matches {split!r}")
        train = self.splits["train"]
        if split != train and find_shards(self.url, _patterns(train)):
            raise UserError(
                f"{self.url} has shards of {train} but none of {split}: expected {split}/*.tar or "
                f"{split}-*.tar, or name yours with data.train_split, data.val_split and "
                "data.test_split, as in data.val_split='held-{000..012}.tar'"
            )
        found = find_shards(self.url, ["*.tar"])
        if not found:
            packed = find_shards(self.url, ["*.tar.*", "*.tgz", f"{train}/*.tar.*"])
            hint = (
                f"; {shorten(list(packed))} are compressed, which rules out reading parts: unpack"
                if packed
                else ""
            )
            raise UserError(
                f"data.root={self.url} holds no tar shards. Expected {train}/*.tar, "
                f"{train}-*.tar or *.tar, or a pattern such as "
                f"data.train_split='{train}-{{000..146}}.tar', which a server that cannot list "
                f"its files needs{hint}"
            )
        return found

    def _report_skipped(self, split: str, shards: Sequence[Shard]) -> None:
        counts = sum((Counter(shard.skipped) for shard in shards), Counter[str]())
        if counts:
            every = counts.total() + sum(len(shard.members) for shard in shards)
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common(5))
            rank_zero_warn(
                f"{self.name}: {counts.total()} of the {every} samples in the shards of {split} "
                f"are left out: {reasons}"
            )

    def _check_labels(self, shards: Sequence[Shard]) -> None:
        """Every video has a label, all of them from the same place."""
        where = self.label_key or "cls, json label, class or class_name, txt, or json caption"
        bare = [
            f"{shard.name}/{member}"
            for shard in shards
            for member, label in zip(shard.members, shard.labels)
            if label is None
        ]
        if bare:
            raise UserError(
                f"{self.name}: {len(bare)} videos have no label: {shorten(bare)}. Looked for "
                f"{where} beside each; data.label_key names another field of the json"
            )
        sources = sorted({source for shard in shards for source in shard.sources})
        if len(sources) > 1:
            raise UserError(
                f"{self.name}: some videos have their label from {sources[0]}, others from "
                f"{', '.join(sources[1:])}: choose one with data.label_key"
            )
        names = {label for shard in shards for label in shard.labels}
        num_videos = sum(len(shard.members) for shard in shards)
        maybe_captions = self.label_key is None and sources in (["txt"], ["json caption"])
        if maybe_captions and len(names) > max(2, MOST_NAMES * num_videos):
            raise UserError(
                f"{self.name}: {num_videos} videos have {len(names)} different {sources[0]}: these "
                "are captions, not classes. data.label_key names the field of the json that holds "
                f"the class, or data.label_key={sources[0].split()[-1]} if this is it"
            )

    def _number_labels(self, shards: Sequence[Shard]) -> tuple[list[int], list[str]]:
        """A number for each label, and the names of the numbers."""
        labels = [label for shard in shards for label in shard.labels if label is not None]
        members = [f"{shard.name}/{member}" for shard in shards for member in shard.members]
        numbers = as_numbers(labels, lambda i: f"{self.name}: {members[i]}")
        if numbers is not None:
            return self._name_numbers(numbers, os.path.dirname(shards[0].name))
        names = sorted(set(labels))
        index = {name: i for i, name in enumerate(names)}
        return [index[label] for label in labels], names

    def _name_numbers(self, numbers: Sequence[int], folder: str) -> tuple[list[int], list[str]]:
        """Class index of each number, named by a class file beside the shards or in the root."""
        places = [join(folder, name) if folder else name for name in CLASS_FILES]
        for place in dict.fromkeys([*places, *CLASS_FILES]):
            text = read_text(join(self.url, place))
            if text is None:
                continue
            classes = read_classes(text, join(self.url, place))
            return number_names(numbers, classes, self.name, self._all_numbers), classes.names
        raise UserError(
            f"{self.name}: labels are numbers and nothing names the classes: put a file "
            f"{CLASS_FILES[0]} into {self.url}, one class name per line in the order of the "
            "numbers, or take names from another field of the json with data.label_key"
        )

    def _all_numbers(self) -> list[int]:
        """Labels that are numbers in the shards of all splits that are there."""
        labels: list[str | None] = []
        for split in dict.fromkeys(self.splits.values()):
            with suppress(UserError):
                found = self._find(split)
                for shard in self._indexed(found):
                    labels += shard.labels
        return numbers_among(labels)


def _patterns(split: str) -> list[str]:
    """What shards of a split are called; the split itself where it is a pattern."""
    if _IS_PATTERN.search(split):
        return [split]
    # The last is a wildcard, too, as it need not be there.
    return [f"{split}/*.tar", f"{split}[-_]*.tar", f"{split}.[t]ar"]


def _index_dir(url: str, choice: str | None) -> Path:
    """The folder for what is known of a data set."""
    if choice is not None:
        return user_path(choice)
    if not is_remote(url) and os.access(url, os.W_OK):
        return Path(url)
    url = url if is_remote(url) else os.path.abspath(url)
    readable = re.sub(r"[^\w.-]+", "_", url).strip("_")[-60:]
    digest = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:8]
    cache = user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return cache / "vivit_train" / f"{readable}-{digest}"
