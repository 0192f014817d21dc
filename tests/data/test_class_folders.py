import os
import re
import warnings
from pathlib import Path

import pytest

from tests.data.tiny import touch
from vivit_train.data.class_folders import count_videos, scan_class_folders, scan_videos
from vivit_train.errors import UserError


def scan(folder: Path) -> tuple[dict[str, list[str]], list[str]]:
    told: list[str] = []
    return scan_class_folders(folder, told.append), told


def test_videos_by_class(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.mp4", "b/10.MKV", "a/x.webm", "notes.txt", "vivit_check.jsonl")
    touch(tmp_path, "a/.DS_Store", "b/Thumbs.db")
    assert scan(tmp_path) == ({"a": ["a/x.webm"], "b": ["b/10.MKV", "b/2.mp4"]}, [])


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "loose.mp4", ".cache/x/1.mp4", "_old/2.mp4", "_older/3.mp4")
    touch(tmp_path, "a/._1.mp4", "a/.2.mp4.part", "a/deeper/4.mp4", "a/clip.divx", "a/notes.txt")
    touch(tmp_path, *(f"a/{i}.jpg" for i in range(5)))
    videos, (told,) = scan(tmp_path)
    assert videos == {"a": ["a/1.mp4"]}
    expected = (
        f"left out under {tmp_path}: "
        "1 folders with a dot at the beginning (.cache); "
        "2 folders with an underscore at the beginning (_old, _older); "
        "2 files with a dot at the beginning (a/.2.mp4.part, a/._1.mp4); "
        "7 files without the suffix of a video (a/0.jpg, a/1.jpg, a/2.jpg and 4 more); "
        "1 folders within a class folder (a/deeper); "
        "1 videos outside a class folder (loose.mp4)"
    )
    assert told == expected


def test_folders_of_pictures_are_videos(tmp_path: Path) -> None:
    """But not beside the file that they were taken from: each video would be there twice."""
    touch(tmp_path, "a/1/img_1.jpg", "a/2/img_1.jpg", "a/2.mp4", "a/3/notes.txt", "b/x/1.png")
    videos, (told,) = scan(tmp_path)
    assert videos == {"a": ["a/1", "a/2.mp4"], "b": ["b/x"]}
    assert "1 folders of pictures beside a video of the same name (a/2)" in told
    assert "1 folders within a class folder (a/3)" in told
    with pytest.warns(UserWarning, match="left out"):
        found = scan_videos(tmp_path)
    assert found == [str(tmp_path / path) for path in ("a/1", "a/2", "a/2.mp4", "b/x")]
    assert count_videos(tmp_path) == 4


def test_empty_tree(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no class folders; expected .*<class name>"):
        scan(tmp_path)
    touch(tmp_path, "1.mp4", "2.mp4")
    with pytest.raises(
        UserError, match=r"class folders.*Left out: 2 videos outside a class folder"
    ):
        scan(tmp_path)


def test_class_folder_without_video(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/notes.txt", "b/in/2.mp4")
    with pytest.raises(UserError, match=r"no video file in .*/b: add videos \(.*\.mp4") as caught:
        scan(tmp_path)
    assert "1 folders within a class folder (b/in)" in str(caught.value)


class TestVideosBelowAFolder:
    def test_all_of_them(self, tmp_path: Path) -> None:
        touch(tmp_path, "b.mp4", "a/x/2.WEBM", "a/1.mkv", "a/.DS_Store", "_old/3.mp4")
        (tmp_path / "outside.mp4").symlink_to(tmp_path / "b.mp4")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = scan_videos(tmp_path)
        names = ("_old/3.mp4", "a/1.mkv", "a/x/2.WEBM", "b.mp4", "outside.mp4")
        assert found == [str(tmp_path / name) for name in names]

    def test_what_is_left_out_is_counted_and_named(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/1.mp4", "a/._1.mp4", "a/notes.txt", ".cache/2.mp4", "b/3.divx")
        (tmp_path / "a" / "again").symlink_to(tmp_path)  # a walk without an end
        expected = (
            f"left out under {tmp_path}: "
            f"1 folders with a dot at the beginning ({tmp_path}/.cache); "
            f"1 folders that a link leads to a second time ({tmp_path}/a/again); "
            f"1 files with a dot at the beginning ({tmp_path}/a/._1.mp4); "
            f"2 files without the suffix of a video ({tmp_path}/a/notes.txt, {tmp_path}/b/3.divx)"
        )
        with pytest.warns(UserWarning, match=re.escape(expected)):
            assert scan_videos(tmp_path) == [str(tmp_path / "a/1.mp4")]

    def test_none(self, tmp_path: Path) -> None:
        touch(tmp_path, "notes.txt")
        with pytest.raises(UserError, match=r"holds no video \(.3gp, .*Left out: 1 files without"):
            scan_videos(tmp_path)

    def test_a_folder_that_cannot_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch(tmp_path, "1.mp4", "locked/2.mp4")
        listed = os.scandir

        def scandir(path: str) -> object:
            if "locked" in str(path):
                raise PermissionError(13, "Permission denied", path)
            return listed(path)

        monkeypatch.setattr(os, "scandir", scandir)  # as root every folder can be read
        with pytest.warns(UserWarning, match="1 folders that cannot be read .*locked"):
            assert scan_videos(tmp_path) == [str(tmp_path / "1.mp4")]
