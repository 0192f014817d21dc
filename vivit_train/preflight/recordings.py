"""Clips of one recording that are both trained and evaluated on, as far as file names tell."""

from vivit_train.class_names import shorten
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.folder import Folder
from vivit_train.data.groups import shared_recordings


def of_the_recordings(data: VideoDataModule) -> list[str]:
    """A sentence where evaluation is on recordings that the model is trained on, with the cure.

    Args:
        data: Set up; ``fit`` is enough.
    """
    train = data.records["train"]
    others = [
        records.relative_path(row)
        for role, records in data.records.items()
        if role != "train" and data.splits[role] != data.splits["train"]
        for row in range(len(records))
    ]
    # Groups that are given are kept apart. Several heads are of sets with splits of their own, and
    # multi-label no class says which clips to compare.
    if not others or train.labels.ndim > 1 or getattr(data, "group", None) is not None:
        return []
    paths = [train.relative_path(row) for row in range(len(train))]
    found = shared_recordings((paths, train.labels.tolist()), others)
    if found is None:
        return []
    pattern, shared, evaluated = found
    cure = f"data.group='{pattern}'"
    if not (isinstance(data, Folder) and data.holds_out()):
        cure = "moving them: the data set names its splits"
    return [
        f"{len(shared)} of the {evaluated} recordings that are evaluated on are also trained on, "
        f"by the names of the clips ({shorten(shared, 3)}): the scores then say how well the model "
        "recognises known recordings, and new ones will score lower. Keep all clips of a recording "
        f"in one split by {cure}"
    ]
