from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.tiny import touch
from vivit_train.data.list_records import records_from_list
from vivit_train.data.records import Records
from vivit_train.errors import UserError


def read(
    root: Path, text: str, roots: tuple[Path, ...] = (), **others: str
) -> tuple[Records, list[str]]:
    """The records of a list of that text, beside other lists of the data set."""
    lists = [root / "train.txt"]
    for name, content in others.items():
        lists.append(root / f"{name}.txt")
        lists[-1].write_text(content)
    lists[0].write_text(text)
    return records_from_list(lists[0], roots or (root,), lists, lambda line: None)


def test_names(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.mp4")
    roots = (tmp_path / "elsewhere", tmp_path)
    records, names = read(tmp_path, "x/1.mp4 running\nx/2.mp4 archery\n", roots)
    assert names == ["archery", "running"]
    assert records.labels.tolist() == [1, 0]
    assert records.root == tmp_path


def test_a_list_of_files_is_that_of_their_frames(tmp_path: Path) -> None:
    touch(tmp_path, "x/1/img_1.jpg", "x/v.2/img_1.jpg")
    records, names = read(tmp_path, "x/1.mp4 running\nx/v.2.avi archery\n")
    assert names == ["archery", "running"]
    assert [records.relative_path(row) for row in range(2)] == ["x/1", "x/v.2"]
    touch(tmp_path, "x/1.mp4")  # files come first
    assert read(tmp_path, "x/1.mp4 running\n")[0].relative_path(0) == "x/1.mp4"
    assert read(tmp_path, "x/v.2 running\n")[0].relative_path(0) == "x/v.2"


def test_it_is_told_what_was_understood(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    (tmp_path / "a.csv").write_text("video,class,score\n1.mp4,x,3\n2.mp4,y,4\n")
    told: list[str] = []
    records_from_list(tmp_path / "a.csv", (tmp_path,), [], told.append)
    assert told == [
        f"{tmp_path}/a.csv: 2 rows, columns path (video), label (class); ignored: score; 2 classes"
    ]


def test_segments(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    records, names = read(tmp_path, "path,label,start,end\n1.mp4,a,0,0:05\n1.mp4,b,5,7.5\n")
    assert [records.name(row) for row in range(2)] == ["1.mp4#t=0,5", "1.mp4#t=5,7.5"]
    assert (names, records.labels.tolist()) == (["a", "b"], [0, 1])


def test_numbers_take_names_from_a_class_file(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    (tmp_path / "classes.txt").write_text("zebra\napple\n")
    records, names = read(tmp_path, "1.mp4 1\n2.mp4 0\n")
    assert names == ["zebra", "apple"]  # the file's order, not the alphabet's
    assert records.labels.tolist() == [1, 0]


def test_numbers_from_1_are_told_apart_by_all_lists(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    text = "1.mp4 1\n2.mp4 2\n"
    assert read(tmp_path, text, val="3.mp4 0\n")[0].labels.tolist() == [1, 2]
    assert read(tmp_path, text, val="3.mp4 3\n")[0].labels.tolist() == [0, 1]
    for odd in ("run", "3.2", "9" * 6000):
        assert read(tmp_path, text, val=f"3.mp4 {odd}\n3.mp4 3\n")[0].labels.tolist() == [0, 1]
    with pytest.raises(UserError, match=r"train\.txt: labels begin at 1, and .*classes\.txt does"):
        read(tmp_path, text, val="3.mp4 1\n")


def test_numbers_take_names_from_folders(tmp_path: Path) -> None:
    touch(tmp_path, "run/1.mp4")
    records, names = read(tmp_path, "run/1.mp4 1\narch/2.mp4 2\nrun/3.mp4 1\n")
    assert (names, records.labels.tolist()) == (["run", "arch"], [0, 1, 0])


@pytest.mark.parametrize(
    "text", ["1.mp4 0\n2.mp4 1\n", "a/1.mp4 0\nb/2.mp4 0\n", "a/1.mp4 0\na/2.mp4 1\n"]
)
def test_numbers_without_names(tmp_path: Path, text: str) -> None:
    touch(tmp_path, text.split()[0])
    with pytest.raises(UserError, match="labels videos by number.*classes.txt"):
        read(tmp_path, text)


def test_too_few_names(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    (tmp_path / "classes.txt").write_text("only one\n")
    with pytest.raises(UserError, match="label 1 but .* names only 1 classes, 0 to 0"):
        read(tmp_path, "1.mp4 0\n2.mp4 1\n")


def test_the_lists_of_ucf101(tmp_path: Path) -> None:
    touch(tmp_path, "Archery/v_Archery_g01_c01.avi")
    (tmp_path / "classInd.txt").write_bytes(b"1 Archery\r\n2 Biking\r\n")
    train = "Archery/v_Archery_g01_c01.avi 1\r\nBiking/v_Biking_g08_c01.avi 2\r\n"
    records, names = read(tmp_path, train)
    assert (names, records.labels.tolist()) == (["Archery", "Biking"], [0, 1])
    test = "Biking/v_Biking_g01_c01.avi\r\nArchery/v_Archery_g01_c01.avi\r\n"
    records, names = read(tmp_path, test)
    assert (names, records.labels.tolist()) == (["Archery", "Biking"], [1, 0])
    with pytest.raises(UserError, match=r"line 2: no label, and the folder 'Boxing' is not one of"):
        read(tmp_path, "Archery/v_Archery_g01_c01.avi\nBoxing/x.avi\n")
    with pytest.raises(UserError, match=r"line 2: 1 fields, but line 1 has 2"):
        read(tmp_path, f"{train.splitlines()[0]}\nBiking/x.avi\n")


def test_paths_alone_without_a_class_file(tmp_path: Path) -> None:
    touch(tmp_path, "run/1.mp4")
    with pytest.raises(UserError, match=r"line 1: expected `path label`, got 'run/1.mp4' without"):
        read(tmp_path, "run/1.mp4\nwalk/2.mp4\n")


def test_a_list_of_hmdb51_is_no_list_of_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a.avi")
    path = tmp_path / "brush_hair_test_split1.txt"
    path.write_text("a.avi 1 \nb.avi 0 \nc.avi 2 \n")
    with pytest.raises(UserError, match="is HMDB51's list of one class.*data=hmdb51"):
        records_from_list(path, (tmp_path,), [path], lambda line: None)


def test_several_splits_in_the_list_of_one(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    with pytest.raises(UserError, match=r"rows of the splits train, val, .* name it videos\.csv"):
        read(tmp_path, "1.mp4,a,train\n2.mp4,b,val\n")
    assert len(read(tmp_path, "1.mp4,a,train\n2.mp4,b,train\n")[0]) == 2


def test_videos_that_are_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of the first videos.*'xxx"):
        read(tmp_path, f"{'x' * 5000}.mp4,a\n")  # longer than a name may be
    with pytest.raises(UserError, match=r"none of the first videos.*'1\.mp4'.*data\.root"):
        read(tmp_path, "1.mp4 a\n")


@pytest.mark.parametrize("header", ["foo,bar", "what is it,kind", "source,scene"])
def test_an_unknown_header_is_no_video(tmp_path: Path, header: str) -> None:
    touch(tmp_path, "1.mp4", "without_suffix")
    for row in ("1.mp4,a", "without_suffix,a"):
        with pytest.raises(UserError, match=r"line 1: '.*' is no video. If the line names the col"):
            read(tmp_path, f"{header}\n{row}\n")
    assert len(read(tmp_path, "without_suffix,a\n")[0]) == 1


BASES = {
    "commas": ["a.mp4,run", "b c.mp4,arm wrestling", '"d,e.mp4","lift, then drop"'],
    "tabs": ["a.mp4\trun", "b c.mp4\tlift, then drop", "d.mp4\trun"],
    "spaces": ["a.mp4 run", "b c.mp4 arm wrestling", "d.mp4 run"],
    "numbers": ["a.mp4 0", "b c.mp4 1", "d.mp4 0"],
    "header": ["path,label", "a.mp4,run", "b.mp4,jump"],
    "segments": ["label,start,end,file", "run,0,1,a.mp4", "jump,1,2,a.mp4", "run,0:02,3,b.mp4"],
    "split": ["a.mp4,run,train", "b.mp4,jump,train"],
}
PIECES = ["a.mp4", "x y.mkv", "run", "0", "1", "7", "3.5", "path", "label", "name", "train", "",
          '"', '""', "é", "\x0b", "\u2028", ",", ",", "\t", " ", ";", "\r", "#"]  # fmt: skip


def meaning(root: Path) -> Counter[tuple[str, str]]:
    """The name of each row, with its segment, and that of its class."""
    file = root / "train.txt"
    records, names = records_from_list(file, (root,), [file], lambda line: None)
    return Counter((records.name(row), names[k]) for row, k in enumerate(records.labels.tolist()))


@given(st.sampled_from(list(BASES)), st.integers(0, 4), st.lists(st.sampled_from(PIECES)))
@settings(max_examples=1000, deadline=None)
def test_no_row_changes_what_the_others_mean(
    tmp_path_factory: pytest.TempPathFactory, base: str, place: int, pieces: list[str]
) -> None:
    """Whatever line is put in: it is refused, or all others are read as before."""
    root = tmp_path_factory.getbasetemp() / "one_row"
    touch(root, "a.mp4")
    (root / "classes.txt").write_text("0,run\n1,jump\n")
    lines = list(BASES[base])
    (root / "train.txt").write_text("\n".join(lines), newline="")
    before = meaning(root)
    lines.insert(place, "".join(pieces))
    (root / "train.txt").write_text("\n".join(lines), newline="")
    with suppress(UserError):
        assert not before - meaning(root)


def several(root: Path, text: str, **others: str) -> tuple[list[list[int]], list[str]]:
    """0 or 1 of each class for each row, and the class names."""
    lists = [root / "train.csv", *(root / f"{name}.csv" for name in others)]
    for path, content in zip(lists, (text, *others.values())):
        path.write_text(content)
    touch(root, "1.mp4")
    records, names = records_from_list(lists[0], (root,), lists, lambda line: None, True)
    assert records.multi_label
    return records.labels.tolist(), names


@pytest.mark.parametrize(
    "text",
    [
        "path,label\n1.mp4,run;jump\n2.mp4,\n3.mp4,jump\n",
        "1.mp4,jump; run\n2.mp4,\n3.mp4, jump \n",
        "video\tclass\n1.mp4\trun;jump\n2.mp4\t\n3.mp4\tjump\n",
    ],
)
def test_several_labels_of_a_video_or_none(tmp_path: Path, text: str) -> None:
    assert several(tmp_path, text) == ([[1, 1], [0, 0], [1, 0]], ["jump", "run"])


def test_several_labels_by_name_and_number_beside_a_class_file(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("run\njump\nsit\n")
    expected = [[1, 1, 0], [0, 0, 1]], ["run", "jump", "sit"]
    assert several(tmp_path, "1.mp4,jump;run\n2.mp4,sit\n") == expected
    assert several(tmp_path, "1.mp4,0;1\n2.mp4,2\n") == expected
    # Whether numbers begin at 0 or at 1, all lists say together.
    assert several(tmp_path, "1.mp4,1;2\n2.mp4,3\n") == expected
    shifted = [[0, 1, 1], [0, 1, 0]], expected[1]
    assert several(tmp_path, "1.mp4,1;2\n2.mp4,1\n", val="3.mp4,0;1\n") == shifted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.mp4,a;a\n2.mp4,b\n", r"line 1: the labels 'a;a' name 'a' twice"),
        ("1.mp4,b\n2.mp4,a;;b\n", r"line 2: the labels 'a;;b' have an empty one: remove the ;"),
        ("1.mp4,b\n2.mp4,a;\n", r"line 2: the labels 'a;' have an empty one"),
        ("1.mp4,a\n1.mp4,b\n", r"line 2: '1.mp4' is listed already in line 1\. Give a video one"),
        ("1.mp4,\n2.mp4,\n", r"no video has a label"),
        ("1.mp4\n2.mp4\n", r"has no labels, and data\.multi_label=true needs them"),
        ("1.mp4,0;1\n", r"by number and nothing names the classes"),
        ("1.mp4,a;1\n", r"line 1: the label 'a' is a name, but '1'"),
    ],
)
def test_several_labels_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        several(tmp_path, text)


def test_a_label_that_the_class_file_does_not_name(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("run\njump\n")
    with pytest.raises(UserError, match=r"line 2: 'jmup' is not one of the 2 classes of .*classes"):
        several(tmp_path, "1.mp4,jump\n2.mp4,run;jmup\n")


def test_a_semicolon_where_videos_have_one_label(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    message = r"line 1: the label 'a;b' has a ;\. If it .* set data\.multi_label=true; if not, ren"
    with pytest.raises(UserError, match=message):
        read(tmp_path, "1.mp4,a;b\n2.mp4,a\n")
