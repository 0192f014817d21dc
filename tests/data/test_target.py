import sys
from pathlib import Path

import pytest

from vivit_train.data.folder import Folder
from vivit_train.data.target import data_class
from vivit_train.errors import UserError


def test_a_data_set() -> None:
    assert data_class("vivit_train.data.folder.Folder") is Folder


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
