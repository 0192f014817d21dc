import os
import pickle
import pickletools
from pathlib import Path

from tests.data.tiny import touch
from vivit_train.data.records import Records, by_stem, list_videos, size_and_mtime

NAMES = ["b/ü 1.mp4", "a/2.mp4", "a/long name with spaces.webm"]


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


def test_a_digest_is_that_of_the_rows_in_order() -> None:
    def digest(root="/data", paths=("a/1", "b/2"), labels=(0, 1), segments=None) -> str:
        return Records(Path(root), paths, labels, segments).digest()

    assert digest() == digest("/elsewhere")
    others = [
        digest(),
        digest(paths=("b/2", "a/1")),
        digest(paths=("a/1b", "/2")),
        digest(labels=(1, 0)),
        digest(labels=((0, 1), (1, 1))),
        digest(segments=((0, 1), (0, 2))),
        digest(paths=("a/1",), labels=(0,)),
    ]
    assert len(set(others)) == len(others)


def test_fingerprint_depends_on_the_videos_and_their_classes_only() -> None:
    one = Records(Path("/data"), ["a/1.mp4", "b/2.mp4"], [0, 1]).fingerprint(["a", "b"])
    other_order = Records(Path("/x"), ["b/2.mp4", "a/1.mp4"], [0, 1]).fingerprint(["b", "a"])
    other_label = Records(Path("/data"), ["a/1.mp4", "b/2.mp4"], [1, 1]).fingerprint(["a", "b"])
    fewer = Records(Path("/data"), ["a/1.mp4"], [0]).fingerprint(["a", "b"])
    assert one == other_order
    assert len({one, other_label, fewer}) == 3


def test_segments_and_a_label_per_head() -> None:
    records = Records(Path("/data"), ["a.mp4", "a.mp4"], [(1, 3), (0, 2)], [(0.5, 3600.25), (7, 8)])
    assert len(records) == 2
    assert records.labels.tolist() == [[1, 3], [0, 2]]
    assert records.segment(0) == (0.5, 3600.25)
    assert [records.name(i) for i in range(2)] == ["a.mp4#t=0.5,3600.25", "a.mp4#t=7,8"]
    other = records.with_labels([1, 0, 2, 3])
    assert other.labels.tolist() == [[0, 3], [1, 2]]
    assert other.segment(1) == (7, 8)
    whole = Records(Path("/data"), ["a.mp4"], [0])
    assert (whole.segment(0), whole.name(0)) == (None, "a.mp4")


def test_fingerprint_of_segments() -> None:
    def fingerprint(labels: list, segments: list) -> str:
        return Records(Path("/"), ["a", "a"], labels, segments).fingerprint(["t", "p", "take"])

    one = fingerprint([(0, 2), (1, 2)], [(0, 1), (1, 2)])
    assert one == fingerprint([(1, 2), (0, 2)], [(1, 2), (0, 1)])
    assert one != fingerprint([(1, 2), (0, 2)], [(0, 1), (1, 2)])
    assert one != fingerprint([(0, 2), (1, 2)], [(0, 1), (1, 2.5)])


def test_segments_hold_no_object_per_row() -> None:
    count = 50_000
    records = Records(
        Path("/"), ["P01/videos/P01_01.MP4"] * count, [(0, 1)] * count, [(0.0, 1.0)] * count
    )
    arrays = (records._bytes, records._ends, records.labels, records._segments)
    assert sum(array.nbytes for array in arrays) / count < 60  # bytes per row
    assert Records(Path("/"), ["a"], [0])._segments is None


def test_list_videos(tmp_path: Path) -> None:
    touch(
        tmp_path, "b.webm", "a.MP4", "x/1.mp4", "x/y/2.mkv", "rgb_frames/3.mp4", "notes.txt",
        ".b.partial-1.mp4", ".cache/4.mp4",
    )  # fmt: skip
    assert list(list_videos(tmp_path, 0)) == ["a.MP4", "b.webm"]
    assert set(list_videos(tmp_path, 1)) == {"a.MP4", "b.webm", "x/1.mp4", "rgb_frames/3.mp4"}
    found = ["a.MP4", "b.webm", "x/1.mp4", "x/y/2.mkv"]
    assert list(list_videos(tmp_path, 2, skip=["rgb_frames"])) == found


def test_folders_of_pictures_are_listed_as_videos(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "v1/img_1.jpg", "x/v2/img_1.jpg", "x/y/v3/1.jpg", "x/notes/a.txt")
    assert list(list_videos(tmp_path, 0)) == ["a.mp4", "v1"]
    assert list(list_videos(tmp_path, 1)) == ["a.mp4", "v1", "x/v2"]
    assert list(list_videos(tmp_path, 2)) == ["a.mp4", "v1", "x/v2", "x/y/v3"]
    assert list(list_videos(tmp_path, 2, skip=["x"])) == ["a.mp4", "v1"]
    assert by_stem(["b/1", "a/1.mp4", "c/1", "c/v.2"]) == {"1": "a/1.mp4", "v.2": "c/v.2"}
    assert by_stem(["x/c/1.mp4", "y/c/1"], 2) == {"c/1": "x/c/1.mp4"}


def test_a_folder_of_pictures_changes_when_one_of_them_does(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"12")
    before = size_and_mtime(tmp_path)
    assert before[0] == 6
    os.utime(tmp_path / "1.jpg", ns=(0, (before[1] or 0) + 10**9))
    assert size_and_mtime(tmp_path) == (6, (before[1] or 0) + 10**9)
    (tmp_path / "2.jpg").unlink()
    assert size_and_mtime(tmp_path)[0] == 4


def test_a_subset_keeps_paths_labels_and_segments(tmp_path: Path) -> None:
    times = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.5)]
    records = Records(tmp_path, ["a.mp4", "ä b.mp4", "c.mp4"], [[0, 2], [1, 2], [1, 3]], times)
    records.picture_rate = 25.0
    part = records.subset([2, 1])
    assert part.picture_rate == part.with_labels(range(4)).picture_rate == 25
    assert [part.name(row) for row in range(2)] == ["c.mp4#t=2,3.5", "ä b.mp4#t=1,2"]
    assert part.labels.tolist() == [[1, 3], [1, 2]]
    assert part.path(1) == tmp_path / "ä b.mp4"
    plain = Records(tmp_path, ["a.mp4", "b.mp4"], [0, 1]).subset([1])
    assert (len(plain), plain.relative_path(0), plain.segment(0)) == (1, "b.mp4", None)


def test_objects_do_not_grow_with_rows(tmp_path: Path) -> None:
    """Each would be copied, a page at a time, into every worker that counts a reference to it."""

    def objects(num_rows: int) -> int:
        paths = [f"class {row % 7}/{row}.mp4" for row in range(num_rows)]
        segments = [(row, row + 1.5) for row in range(num_rows)]
        records = Records(tmp_path, paths, [row % 7 for row in range(num_rows)], segments)
        parts = pickletools.genops(pickle.dumps(records, protocol=5))
        return sum(1 for part, _, _ in parts if part.name not in ("FRAME", "MEMOIZE"))

    assert objects(5000) == objects(300)


def test_rows_with_any_number_of_classes() -> None:
    names = ["b", "a", "c"]
    table = [[1, 1, 0], [0, 0, 0], [0, 1, 0]]
    rows = Records(Path("/data"), ["1.mp4", "2.mp4", "3.mp4"], table, multi_label=True)
    assert [rows.classes(i) for i in range(3)] == [[0, 1], [], [1]]
    assert rows.class_counts(3).tolist() == [1, 2, 0]
    part = rows.subset([2, 0])
    assert (part.multi_label, part.labels.tolist()) == (True, [[0, 1, 0], [1, 1, 0]])
    other = rows.with_labels([3, 0, 1], 4)
    assert other.labels.tolist() == [[1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
    # By name, whatever the order of the classes; the digest is of the rows as they are.
    assert rows.fingerprint(names) == other.fingerprint(["a", "c", "x", "b"])
    assert rows.digest() != other.digest()
    fewer = Records(Path(), ["1.mp4", "2.mp4", "3.mp4"], [[1, 0, 0], *table[1:]], multi_label=True)
    assert fewer.fingerprint(names) != rows.fingerprint(names)


def test_classes_of_one_head_and_of_several() -> None:
    one = Records(Path(), ["1.mp4", "2.mp4"], [1, 0])
    assert [one.classes(i) for i in range(2)] == [[1], [0]]
    assert one.class_counts(3).tolist() == [1, 1, 0]
    several = Records(Path(), ["1.mp4", "2.mp4"], [[0, 2], [0, 3]])
    assert several.classes(1) == [0, 3]
    assert several.class_counts(4).tolist() == [2, 0, 1, 1]
