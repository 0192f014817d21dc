"""The splits of a data set as a subclass reads them: videos, classes, and what holds for them."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import median

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from vivit_train.class_names import check_heads, find_classes, look_alikes, shorten
from vivit_train.data.rates import video_rates
from vivit_train.data.records import Records, count_rows
from vivit_train.data.verdicts import Verdicts
from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.io.terminal import said_if_long, say


class VideoSplits(ABC):
    """The videos of each split and their classes: one each, one per head, or any number.

    Args:
        root: Folder of the data set.
        name: The data set's name, for messages and results.
        splits: Of each role ``train``, ``val`` and ``test`` the split's name.
        verdicts: See `Verdicts`, as ``decoder``.
        decoder: See there.
        picture_rate: See `Records`.
        class_names: The order of classes to use; ``None``: the data set's own. Classes of the
            data set are found in it by name.
        multi_label: Whether a video may have any number of the classes.

    Attributes:
        can_multi_label: Of a class of data sets, whether `read_split` can give such records.
        heads: Where a video has several classes, the name and number of classes of each head, in
            the order in which ``class_names`` has them; else empty. `read_split` sets it.
        records: The rows of each role that was set up.
        keeps_all: Whether training splits keep rows whose video is not on disk, as those of
            evaluation do (`vivit check` wants them).
        verdicts: What an earlier `vivit check` found.
        known_val: Videos that an earlier start of the run held out for validation, by name. A data
            set that holds out a part itself holds out these again.

    Raises:
        UserError: If there is no root, a file of `vivit check` is named and does not exist, or
            the data set cannot be multi-label.
    """

    can_multi_label = False

    def __init__(
        self,
        *,
        root: str | None,
        name: str,
        splits: Mapping[str, str],
        verdicts: str | None,
        decoder: str,
        picture_rate: float | None,
        class_names: Sequence[str] | None,
        multi_label: bool = False,
    ) -> None:
        if root is None:
            raise UserError("data.root is not set: give the folder of the data set, data.root=...")
        if multi_label and not self.can_multi_label:
            raise UserError(
                f"data.multi_label=true: {type(self).__name__} ({name}) has no place for several "
                "labels of a video; data=csv and data=folder read them from lists, data.multi_label"
                "=false trains on what this data set has"
            )
        self.multi_label = multi_label
        self.root = user_path(root)
        self.name = name
        self.splits = dict(splits)
        self.verdicts = Verdicts(verdicts, self.root, decoder)
        self.picture_rate = picture_rate
        self.class_names: list[str] = list(class_names or ())
        self.heads: dict[str, int] = {}
        self.records: dict[str, Records] = {}
        self.keeps_all = False
        self.known_val: frozenset[str] = frozenset()
        self._told: set[str] = set()

    @abstractmethod
    def read_split(self, split: str) -> tuple[Records, list[str]]:
        """What a split holds.

        Args:
            split: The split's name, e.g. ``train``.

        Returns:
            Its records, and the class names in the order of their labels.

        Raises:
            UserError: If the files are not there or not as expected.
        """

    def setup(self, stage: str | None = None) -> None:
        """Reads the splits; called by Lightning, and earlier to learn the class names.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``None`` for all.

        Raises:
            UserError: If the data set is missing, empty or has classes that do not match.
        """
        if not self.root.is_dir():
            raise UserError(
                f"data.root={self.root} is not a folder. Give the folder of {self.name} with "
                "data.root=...; data/README.md says what it should hold"
            )
        roles = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
        wanted = roles.get(stage or "", ("train", "val", "test"))
        if not self.records.keys() >= set(wanted):
            for role in wanted:
                if role not in self.records:
                    self._read(role)
            counts, shown = count_rows(self.records, self.splits), shorten(self.class_names, 5)
            labels = next(iter(self.records.values())).labels
            mean = f", {labels.sum() / len(labels):.2g} a video on average" * self.multi_label
            self.tell(f"{self.name}: {counts}; {len(self.class_names)} classes{mean}: {shown}")

    @property
    def tests_on_validation(self) -> bool:
        """Whether the test is on the videos by which best.ckpt is chosen."""
        return self.splits["test"] == self.splits["val"]

    @rank_zero_only
    def tell(self, line: str) -> None:
        """Says once how the data set was understood."""
        if line not in self._told:
            self._told.add(line)
            say(line, file=sys.stderr)

    def _read(self, role: str) -> None:
        split = self.splits[role]
        done = next((r for r in self.records if self.splits[r] == split and r != "train"), None)
        if done and role != "train":  # validation and test on the same split
            self.records[role] = self.records[done]
            return
        with said_if_long(f"{self.name}: reading the split {split} under {self.root}"):
            records, names = self.read_split(split)
        records.picture_rate = self.picture_rate
        if len(records) == 0:
            raise UserError(f"{self.name}: the split {split!r} under {self.root} lists no video")
        if not self.class_names:
            self.class_names = names
            for group in look_alikes(names):
                rank_zero_warn(f"{self.name}: {group} are different classes: if not, rename them")
        if names != self.class_names:
            places = find_classes(names, self.class_names, "the model")
            check_heads(places, self.heads, self.name)
            records = records.with_labels(places, len(self.class_names))
        if role == "train":
            records = self.verdicts.without_unusable(records, self.name)
        self.records[role] = records

    def rows_to_use(self, split: str, on_disk: Sequence[bool], folder: Path) -> list[int]:
        """Rows of a list of videos of which some may be missing; says how many are.

        In training these are left out; in evaluation they stay, and count as wrong.

        Args:
            split: The split's name.
            on_disk: For each row whether its video is there.
            folder: Where the videos were looked for, for the message.

        Returns:
            Row numbers, in order.

        Raises:
            UserError: If none is there.
        """
        if on_disk and not any(on_disk):
            raise UserError(
                f"{self.name}: none of the {len(on_disk)} videos that the split {split!r} lists is "
                f"under {folder}; data/README.md shows where they should be"
            )
        trains = self.leaves_out(split)
        if not all(on_disk) and not self.keeps_all:
            rank_zero_warn(
                f"{self.name}: {len(on_disk) - sum(on_disk)} of the {len(on_disk)} videos of "
                f"{split} are not on disk and are {'left out' if trains else 'counted as wrong'}"
            )
        return [row for row, there in enumerate(on_disk) if there or not trains]

    @property
    def video_rate(self) -> float | None:
        """Frames per second of the training videos: the median of some; ``None``: unknown."""
        return median(self.train_rates.values()) if self.train_rates else None

    @property
    def train_rates(self) -> dict[str, float]:
        """Frames per second of some training videos, by name; none before they are set up."""
        return self._train_rates if "train" in self.records else {}

    @cached_property
    def _train_rates(self) -> dict[str, float]:
        return video_rates(self.records["train"])

    def leaves_out(self, split: str) -> bool:
        """Whether rows of a split whose video is not on disk are dropped."""
        return split == self.splits["train"] and not self.keeps_all

    def class_counts(self, key: str) -> np.ndarray:
        """Training videos of each class: int64 ``[K]``.

        Args:
            key: Of the configuration, that asks for it.

        Raises:
            UserError: If a video has several classes.
        """
        if self.multi_label:
            raise UserError(
                f"{key} needs one class per video, and with data.multi_label=true a video has any "
                "number of them: leave it out"
            )
        if self.heads:
            raise UserError(
                f"{key} needs one class per video, and a video of {self.name} has "
                f"{len(self.heads)}: {', '.join(self.heads)}"
            )
        return self.records["train"].class_counts(len(self.class_names))
