import sys
from pathlib import Path

import pytest

from vivit_train.data.target import data_class
from vivit_train.errors import UserError


@pytest.mark.parametrize(
    "target",
    [
        "vivit_train.data.demo.Demo",
        "vivit_train.data.epic_kitchens.EpicKitchens",
        "vivit_train.data.folder.Folder",
        "vivit_train.data.folder.ListFiles",
        "vivit_train.data.diving48.Diving48",
        "vivit_train.data.hmdb51.Hmdb51",
        "vivit_train.data.ucf101.Ucf101",
        "vivit_train.data.kinetics.Kinetics",
        "vivit_train.data.moments_in_time.MomentsInTime",
        "vivit_train.data.ssv2.SomethingSomethingV2",
        "vivit_train.data.webdataset.WebDataset",
    ],
)
def test_names_in_the_configurations_of_older_runs(target: str) -> None:
    """Of every version: a class that moves leaves its old name behind."""
    assert data_class(target).__name__ == target.rpartition(".")[2]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os.system", "os.system is not the class of a data set: expected a subclass of"),
        ("vivit_train.data.folder.Path", "is not the class of a data set"),
        ("vivit_train.data.folder.Foldr", "is not the class of a data set"),
        ("vivit_train.data.folders.Folder", "cannot be imported: No module named"),
        ("Folder", "cannot be imported"),
        (".x.Folder", "cannot be imported"),
        ("", "cannot be imported"),
    ],
)
def test_what_is_none(target: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        data_class(target)


def test_one_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_videos.py").write_text(
        "from vivit_train.data.folder import Folder\nclass Mine(Folder): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert data_class("my_videos.Mine").__name__ == "Mine"
    del sys.modules["my_videos"]
