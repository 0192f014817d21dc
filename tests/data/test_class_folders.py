from pathlib import Path

import pytest

from vivit_train.data.class_folders import scan_class_folders
from vivit_train.errors import UserError


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


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
