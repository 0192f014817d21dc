from pathlib import Path

import pytest

from vivit_train.data.records import (
    Records,
    read_list,
    records_from_list,
    scan_class_folders,
)
from vivit_train.errors import UserError

NAMES = ["b/ü 1.mp4", "a/2.mp4", "a/long name with spaces.webm"]


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def test_records_give_back_what_went_in() -> None:
    records = Records(Path("/data"), NAMES, [1, 0, 0])
    assert len(records) == 3
    assert [records.relative_path(i) for i in range(3)] == NAMES
    assert records.path(1) == Path("/data/a/2.mp4")
    assert records.labels.tolist() == [1, 0, 0]
    assert records.with_labels([5, 7]).labels.tolist() == [7, 5, 5]
    assert records.labels.tolist() == [1, 0, 0]


def test_records_hold_no_object_per_video() -> None:
    records = Records(
        Path("/data"), (f"train/class/{i:07}.mp4" for i in range(50_000)), [0] * 50_000
    )
    arrays = records._bytes.nbytes + records._ends.nbytes + records.labels.nbytes
    assert arrays / len(records) < 40  # bytes per video


def test_fingerprint_depends_on_the_videos_and_their_classes_only() -> None:
    one = Records(Path("/data"), ["a/1.mp4", "b/2.mp4"], [0, 1]).fingerprint(["a", "b"])
    other_order = Records(Path("/x"), ["b/2.mp4", "a/1.mp4"], [0, 1]).fingerprint(["b", "a"])
    other_label = Records(Path("/data"), ["a/1.mp4", "b/2.mp4"], [1, 1]).fingerprint(["a", "b"])
    fewer = Records(Path("/data"), ["a/1.mp4"], [0]).fingerprint(["a", "b"])
    assert one == other_order
    assert len({one, other_label, fewer}) == 3


def test_scan(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.mp4", "b/10.MKV", "a/x.webm", "a/notes.txt", ".hidden/1.mp4")
    assert scan_class_folders(tmp_path) == {"a": ["a/x.webm"], "b": ["b/10.MKV", "b/2.mp4"]}


def test_empty_tree(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no class folders; expected .*<class name>"):
        scan_class_folders(tmp_path)


def test_class_folder_without_video(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/notes.txt")
    with pytest.raises(UserError, match=r"no video file in .*/b: add videos \(.*\.mp4"):
        scan_class_folders(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na 1.mp4,b\nc.mp4,d\n",
        "a 1.mp4\tb\nc.mp4\td\n",
        "a 1.mp4 b\nc.mp4 d\n",
        "\ufeffa 1.mp4, b\r\n\r\nc.mp4, d\r\n",
        '"a 1.mp4",b\nc.mp4,d\n',
    ],
)
def test_lists_in_every_separator(tmp_path: Path, text: str) -> None:
    path = tmp_path / "train.csv"
    path.write_text(text, encoding="utf-8")
    assert read_list(path) == [["a 1.mp4", "b"], ["c.mp4", "d"]]


@pytest.mark.parametrize(("text", "message"), [("", "is empty"), ("a.mp4\nb.mp4\n", "row 1")])
def test_bad_lists(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "train.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_list(path)


def test_list_with_names(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.mp4")
    path = tmp_path / "train.txt"
    path.write_text("x/1.mp4 running\nx/2.mp4 archery\n")
    records, names = records_from_list(path, (tmp_path / "elsewhere", tmp_path))
    assert names == ["archery", "running"]
    assert records.labels.tolist() == [1, 0]
    assert records.root == tmp_path


def test_list_with_numbers_takes_names_from_a_class_file(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    (tmp_path / "train.txt").write_text("1.mp4 1\n2.mp4 0\n")
    (tmp_path / "classes.txt").write_text("zebra\napple\n")
    records, names = records_from_list(tmp_path / "train.txt", (tmp_path,))
    assert names == ["zebra", "apple"]  # the file's order, not the alphabet's
    assert records.labels.tolist() == [1, 0]


def test_list_with_numbers_takes_names_from_folders(tmp_path: Path) -> None:
    touch(tmp_path, "run/1.mp4")
    (tmp_path / "train.txt").write_text("run/1.mp4 0\narch/2.mp4 1\nrun/3.mp4 0\n")
    assert records_from_list(tmp_path / "train.txt", (tmp_path,))[1] == ["run", "arch"]


def test_numbers_without_names(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    (tmp_path / "train.txt").write_text("1.mp4 0\n2.mp4 1\n")
    with pytest.raises(UserError, match="labels videos by number.*classes.txt"):
        records_from_list(tmp_path / "train.txt", (tmp_path,))
    (tmp_path / "classes.txt").write_text("only one\n")
    with pytest.raises(UserError, match="label 1 but .* names only 1 classes"):
        records_from_list(tmp_path / "train.txt", (tmp_path,))


def test_list_whose_videos_are_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1.mp4 a\n")
    with pytest.raises(UserError, match=r"none of the first videos.*'1\.mp4'.*data\.root"):
        records_from_list(tmp_path / "train.txt", (tmp_path,))
