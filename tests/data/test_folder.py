from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.tiny import TINY
from tests.data.torture import evil_decoder
from vivit_train.data.folder import Folder, ListFiles, check_readable
from vivit_train.errors import UserError
from vivit_train.video.write import write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The smallest whole video."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, np.zeros((2, 16, 16, 3), np.uint8))
    return path.read_bytes()


def build(root: Path, **kwargs: Any) -> Folder:
    return Folder(root=root, name="mine", **TINY | kwargs)


def fill(root: Path, content: bytes, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def listed(data: Folder, role: str) -> list[tuple[str, str]]:
    """(path, class name) of every video of a split."""
    records = data.records[role]
    return sorted(
        (records.relative_path(i), data.class_names[label])
        for i, label in enumerate(records.labels)
    )


def parts(data: Folder) -> tuple[set[str], set[str]]:
    data.setup()
    train, val = ({path for path, _ in listed(data, role)} for role in ("train", "val"))
    return train, val


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".list"])
def test_list_files(tmp_path: Path, clip: bytes, suffix: str) -> None:
    fill(tmp_path, clip, "a/1.mp4", "b/2.mp4", "b/3.mp4")
    (tmp_path / f"train{suffix}").write_text("a/1.mp4,run\nb/2.mp4,jump\n")
    (tmp_path / f"val{suffix}").write_text("b/3.mp4,run\n")
    data = build(tmp_path)
    data.setup()
    assert data.class_names == ["jump", "run"]
    assert listed(data, "train") == [("a/1.mp4", "run"), ("b/2.mp4", "jump")]
    assert listed(data, "val") == [("b/3.mp4", "run")]
    assert data.records["val"].path(0) == tmp_path / "b/3.mp4"


def test_one_list_with_a_split_column(tmp_path: Path, clip: bytes) -> None:
    fill(tmp_path, clip, "1.mp4", "2.mp4", "3.mp4", "4.mp4")
    (tmp_path / "videos.csv").write_text(
        "path,label,split\n1.mp4,run,train\n2.mp4,jump,val\n3.mp4,jump,train\n4.mp4,run,held\n"
    )
    data = build(tmp_path, test_split="held")
    data.setup()
    assert listed(data, "train") == [("1.mp4", "run"), ("3.mp4", "jump")]
    assert listed(data, "val") == [("2.mp4", "jump")]
    assert listed(data, "test") == [("4.mp4", "run")]


def test_one_list_without_splits(tmp_path: Path, clip: bytes) -> None:
    names = [f"{i}.mp4" for i in range(20)]
    fill(tmp_path, clip, *names)
    rows = [f"{name},{'run' if i % 2 else 'jump'}" for i, name in enumerate(names)]
    (tmp_path / "videos.csv").write_text("\n".join(rows))
    data = build(tmp_path)
    train, val = parts(data)
    assert train | val == set(names)
    assert not train & val
    for role in ("train", "val"):
        for path, name in listed(data, role):
            assert name == ("run" if int(path[:-4]) % 2 else "jump")
        assert {name for _, name in listed(data, role)} == {"jump", "run"}


def test_one_list_of_numbers_takes_names_from_a_class_file(tmp_path: Path, clip: bytes) -> None:
    fill(tmp_path, clip, "1.mp4", "2.mp4")
    (tmp_path / "classes.txt").write_text("0,run\n1,jump\n")
    (tmp_path / "videos.csv").write_text("1.mp4,1,train\n2.mp4,0,val\n")
    data = build(tmp_path)
    data.setup()
    assert data.class_names == ["run", "jump"]
    assert listed(data, "train") == [("1.mp4", "jump")]


def test_class_names_that_differ_in_case_alone_are_named(tmp_path: Path, clip: bytes) -> None:
    fill(tmp_path, clip, "1.mp4")
    (tmp_path / "videos.csv").write_text("1.mp4,run,train\n2.mp4,Run,train\n3.mp4,run,val\n")
    with pytest.warns(UserWarning, match="mine: 'Run', 'run' are different classes: if not, re"):
        build(tmp_path).setup()


def test_a_split_that_the_one_list_has_not(tmp_path: Path, clip: bytes) -> None:
    fill(tmp_path, clip, "1.mp4")
    (tmp_path / "videos.csv").write_text("path,label,split\n1.mp4,run,train\n2.mp4,run,held\n")
    with pytest.raises(UserError, match="named held, but none named val: set data.val_split=held"):
        build(tmp_path).setup()
    with pytest.raises(UserError, match="no row of the split 'valid', only of held, train: set da"):
        build(tmp_path, val_split="valid").setup()


def test_segments_of_one_video_stay_on_one_side(tmp_path: Path, clip: bytes) -> None:
    rows = [f"{i // 5}.mp4,{i % 5},{i % 5 + 1},run" for i in range(100)]
    (tmp_path / "videos.csv").write_text("\n".join(["path,start,end,label", *rows]))
    data = build(tmp_path)
    train, val = parts(data)
    assert len(train | val) == 20
    assert not train & val
    assert sum(len(data.records[role]) for role in ("train", "val")) == 100


def test_what_was_understood_is_said(
    tmp_path: Path, clip: bytes, capsys: pytest.CaptureFixture
) -> None:
    fill(tmp_path, clip, "1.mp4")
    (tmp_path / "train.csv").write_text("file_name,label,author\n1.mp4,run,x\n2.mp4,jump,y\n")
    (tmp_path / "val.csv").write_text("1.mp4,run\n")
    data = build(tmp_path)
    data.setup()
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}/train.csv: 2 rows, columns path (file_name), label; ignored: author; "
        "2 classes",
        f"{tmp_path}/val.csv: 1 rows, path, label without a header; 1 classes",
        "mine: train 2, val 1, test 1 (split val) videos; 2 classes: jump, run",
    ]
    data.setup("fit")
    assert capsys.readouterr().err == ""


def test_folders_per_split(tmp_path: Path, clip: bytes) -> None:
    fill(tmp_path, clip, "train/a/1.mp4", "train/b/2.webm", "val/b/3.mp4", "val/a/4.mp4")
    data = build(tmp_path)
    data.setup()
    assert data.class_names == ["a", "b"]
    assert listed(data, "train") == [("train/a/1.mp4", "a"), ("train/b/2.webm", "b")]
    assert listed(data, "val") == [("val/a/4.mp4", "a"), ("val/b/3.mp4", "b")]
    assert data.records["val"].path(0).is_file()


def test_renamed_split_folders(tmp_path: Path, clip: bytes) -> None:
    fill(tmp_path, clip, "training/a/1.mp4", "validation/a/2.mp4")
    data = build(
        tmp_path, train_split="training", val_split="validation", test_split="validation"
    )  # fmt: skip
    data.setup()
    assert listed(data, "train") == [("training/a/1.mp4", "a")]
    assert listed(data, "test") == [("validation/a/2.mp4", "a")]


@pytest.mark.parametrize("form", ["folders", "lists", "one list"])
def test_a_test_split_is_used_where_there_is_one(tmp_path: Path, clip: bytes, form: str) -> None:
    splits = ("train", "val", "test")
    fill(tmp_path, clip, *(f"{split}/{name}/1.mp4" for split in splits for name in "ab"))
    if form == "lists":
        for split in splits:
            (tmp_path / f"{split}.csv").write_text(f"{split}/a/1.mp4,a\n{split}/b/1.mp4,b\n")
    elif form == "one list":
        rows = [f"{split}/{name}/1.mp4,{name},{split}" for split in splits for name in "ab"]
        (tmp_path / "videos.csv").write_text("\n".join(rows))
    data = build(tmp_path)
    data.setup("test")
    assert listed(data, "test") == [("test/a/1.mp4", "a"), ("test/b/1.mp4", "b")]
    assert not data.tests_on_validation
    asked = build(tmp_path, test_split="val")
    asked.setup()
    assert listed(asked, "test") == [("val/a/1.mp4", "a"), ("val/b/1.mp4", "b")]
    assert asked.tests_on_validation


def test_a_list_of_the_test_beside_folders(tmp_path: Path, clip: bytes) -> None:
    fill(tmp_path, clip, "train/a/1.mp4", "val/a/2.mp4", "new/3.mp4")
    (tmp_path / "test.csv").write_text("new/3.mp4,a\n")
    data = build(tmp_path)
    data.setup()
    assert listed(data, "test") == [("new/3.mp4", "a")]


def test_a_test_folder_without_classes_is_not_used(
    tmp_path: Path, clip: bytes, capsys: pytest.CaptureFixture
) -> None:
    fill(tmp_path, clip, "train/a/1.mp4", "val/a/2.mp4", "test/3.mp4")
    data = build(tmp_path)
    data.setup()
    assert data.tests_on_validation
    assert listed(data, "test") == [("val/a/2.mp4", "a")]
    assert f"{tmp_path}/test holds no class folders and is not used" in capsys.readouterr().err


def test_a_folder_beside_the_splits_is_named(
    tmp_path: Path, clip: bytes, capsys: pytest.CaptureFixture
) -> None:
    fill(tmp_path, clip, "train/a/1.mp4", "val/a/2.mp4", "extra/a/3.mp4", "extra/b/deep/4.webm")
    fill(tmp_path, clip, "notes/read.me", "_old/a/5.mp4", ".cache/6.mp4", "test/a/7.mp4")
    for data in (build(tmp_path), build(tmp_path)):  # once by each
        data.setup()
        data.setup("test")
        told = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
        assert told == [
            f"left out under {tmp_path}, as data.train_split, data.val_split and data.test_split "
            "do not name them: extra (2 videos)"
        ]
    build(tmp_path, test_split="val").setup()
    assert "do not name them: extra (2 videos), test (1 videos)" in capsys.readouterr().err


FORMS = ("folders", "lists", "one list")


def with_splits(root: Path, clip: bytes, form: str, **sizes: int) -> None:
    """A data set with so many videos of each of two classes in each split."""
    names = {
        split: [f"{split}/{name}/{i}.mp4" for name in "ab" for i in range(size)]
        for split, size in sizes.items()
    }
    fill(root, clip, *chain.from_iterable(names.values()))
    if form == "lists":
        for split, paths in names.items():
            (root / f"{split}.csv").write_text("".join(f"{p},{p.split('/')[1]}\n" for p in paths))
    elif form == "one list":
        rows = [f"{p},{p.split('/')[1]},{split}" for split, paths in names.items() for p in paths]
        (root / "videos.csv").write_text("\n".join(rows))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("test", [0, 3])
def test_validation_is_held_out_from_train(
    tmp_path: Path, clip: bytes, form: str, test: int, capsys: pytest.CaptureFixture
) -> None:
    with_splits(tmp_path, clip, form, train=10, **({"test": test} if test else {}))
    data = build(tmp_path)
    train, val = parts(data)
    assert not train & val
    assert {len(train), len(val)} == {16, 4}
    assert {path[:7] for path in train} == {path[:7] for path in val} == {"train/a", "train/b"}
    assert data.tests_on_validation == (not test)
    assert {path for path, _ in listed(data, "test")} == (
        {f"test/{name}/{i}.mp4" for name in "ab" for i in range(test)} or val
    )
    told = "held out for validation (data.val_fraction=0.2), of each class: 2 of 10"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("form", FORMS)
def test_a_validation_split_of_another_name_is_not_passed_over(
    tmp_path: Path, clip: bytes, form: str
) -> None:
    with_splits(tmp_path, clip, form, train=2, validation=1)
    with pytest.raises(UserError, match="one named validation, .*: set data.val_split=validation"):
        build(tmp_path).setup()
    data = build(tmp_path, val_split="validation")
    assert [len(part) for part in parts(data)] == [4, 2]


def test_a_split_that_is_asked_for_must_be_there(tmp_path: Path, clip: bytes) -> None:
    with_splits(tmp_path / "named", clip, "folders", train=2)
    with pytest.raises(UserError, match=r"has a folder train but none named held: .*data.val_spl"):
        build(tmp_path / "named", val_split="held").setup()
    class_folders(tmp_path / "bare", clip, a=2)
    with pytest.raises(UserError, match="bare names a split 'held': leave data.train_split, data"):
        build(tmp_path / "bare", test_split="held").setup()


def test_a_class_of_the_validation_folder_that_training_has_not(
    tmp_path: Path, clip: bytes
) -> None:
    fill(tmp_path, clip, "train/a/1.mp4", "val/a/2.mp4", "val/typo/3.mp4")
    with pytest.raises(UserError, match="1 of the data set's 2 classes .*: typo"):
        build(tmp_path).setup()


def class_folders(root: Path, clip: bytes, **sizes: int) -> None:
    for name, size in sizes.items():
        fill(root, clip, *(f"{name}/{i}.mp4" for i in range(size)))


def test_class_folders_are_split(
    tmp_path: Path, clip: bytes, capsys: pytest.CaptureFixture
) -> None:
    class_folders(tmp_path, clip, one=1, two=2, seven=7, eight=8, many=200)
    data = build(tmp_path)
    train, val = parts(data)
    assert not train & val
    assert len(train | val) == 218
    assert Counter(path.split("/")[0] for path in val) == {
        "two": 1, "seven": 1, "eight": 2, "many": 40,
    }  # fmt: skip
    assert parts(build(tmp_path)) == (train, val)
    told = "of each class: eight 2 of 8, many 40 of 200, one 0 of 1, seven 1 of 7, two 1 of 2"
    assert told in capsys.readouterr().err


def test_the_split_does_not_depend_on_where_the_folder_lies(tmp_path: Path, clip: bytes) -> None:
    class_folders(tmp_path / "here", clip, a=10, b=10)
    class_folders(tmp_path / "moved", clip, a=10, b=10)
    assert parts(build(tmp_path / "here")) == parts(build(tmp_path / "moved"))


def test_the_videos_that_a_run_has_held_out_are_held_out_again(tmp_path: Path, clip: bytes) -> None:
    class_folders(tmp_path, clip, a=10, b=10)
    train, _ = parts(build(tmp_path))
    held = sorted(train)[:3]
    again = build(tmp_path)
    again.known_val = frozenset([*held, "a/gone.mp4"])
    assert parts(again)[1] == set(held)
    elsewhere = build(tmp_path)
    elsewhere.known_val = frozenset(["of/another.mp4"])
    assert parts(elsewhere)[0] == train


def recordings(root: Path, clip: bytes) -> None:
    """Two classes of 5 recordings of 4 clips."""
    fill(
        root, clip, *(f"{k}/v_{k}_g0{g}_c0{c}.mp4" for k in "ab" for g in range(5) for c in "1234")
    )


def test_clips_of_one_recording_stay_together(tmp_path: Path, clip: bytes) -> None:
    recordings(tmp_path, clip)
    train, val = parts(build(tmp_path, group=r"(v_.*_g\d+)_"))
    assert Counter(path[0] for path in val) == {"a": 4, "b": 4}
    assert not {path[:9] for path in train} & {path[:9] for path in val}
    # Recordings of the same number are one group, whatever their class.
    train, val = parts(build(tmp_path, group=r"_g(\d+)_"))
    assert len({path.split("_")[2] for path in val}) == 1
    assert len(val) == 8


def test_a_column_says_what_stays_together(tmp_path: Path, clip: bytes) -> None:
    fill(tmp_path, clip, "0.mp4")
    rows = [f"{i}.mp4,{'ab'[i % 2]},film {i // 4}" for i in range(40)]
    (tmp_path / "videos.csv").write_text("\n".join(["path,label,Source Film", *rows]))
    _, val = parts(build(tmp_path, group="source_film"))
    assert len(val) == 8
    assert len({int(path[:-4]) // 4 for path in val}) == 2
    (tmp_path / "videos.csv").write_text("path,label,film\n0.mp4,a,x\n1.mp4,a,\n")
    with pytest.raises(UserError, match="videos.csv, line 3: the film is empty"):
        build(tmp_path, group="film").setup()


def test_a_group_on_both_sides_of_named_splits_is_refused(tmp_path: Path, clip: bytes) -> None:
    fill(tmp_path, clip, *(f"{s}/a/film{i}_{s}.mp4" for s in ("train", "val") for i in range(3)))
    told = "are in the split val and in train: film0, film1, film2. The data set names these splits"
    with pytest.raises(UserError, match=told):
        build(tmp_path, group=r"(film\d)").setup()
    assert len(parts(build(tmp_path, group=r"(film\d_\w+)\."))[1]) == 3


@pytest.mark.parametrize("val_fraction", [0.01, 0.99])
def test_no_part_of_a_class_is_empty(tmp_path: Path, clip: bytes, val_fraction: float) -> None:
    class_folders(tmp_path, clip, a=2, b=3)
    train, val = parts(build(tmp_path, val_fraction=val_fraction))
    assert {path[0] for path in train} == {path[0] for path in val} == {"a", "b"}


@pytest.mark.parametrize("val_fraction", [0, 1, -0.1, 20])
def test_val_fraction_out_of_range(tmp_path: Path, val_fraction: float) -> None:
    with pytest.raises(UserError, match=f"between 0 and 1, got {val_fraction}"):
        build(tmp_path, val_fraction=val_fraction)


def test_each_fold_is_held_out_in_turn(
    tmp_path: Path, clip: bytes, capsys: pytest.CaptureFixture
) -> None:
    recordings(tmp_path, clip)
    held = [parts(build(tmp_path, fold=fold, group=r"(v_.*_g\d+)_"))[1] for fold in range(5)]
    assert sorted(path for part in held for path in part) == sorted(
        path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*")
    )
    assert [Counter(path[0] for path in part) for part in held] == [{"a": 4, "b": 4}] * 5
    assert all(len({path[:9] for path in part}) == 2 for part in held)
    assert "(data.fold=4 of 5), of each class: 4 of 20" in capsys.readouterr().err


def test_folds_that_are_none(tmp_path: Path, clip: bytes) -> None:
    for words in ({"fold": 5}, {"fold": -1}, {"fold": 0, "num_folds": 1}):
        with pytest.raises(UserError, match="expected 2 or more folds, and one of them, counted"):
            build(tmp_path, **words)
    fill(tmp_path, clip, "train/a/1.mp4", "train/a/2.mp4", "val/a/1.mp4")
    with pytest.raises(UserError, match="names the split val to validate on: set data.fold=null"):
        build(tmp_path, fold=0).setup()


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_a_class_that_cannot_be_read(tmp_path: Path, clip: bytes, prefix: str) -> None:
    fill(tmp_path, clip, f"{prefix}good/1.mp4", f"{prefix}good/2.mp4", "val/good/1.mp4")
    fill(tmp_path, b"GIF89a", f"{prefix}half/1.mp4")
    fill(tmp_path, clip, f"{prefix}half/2.mp4", f"{prefix}half/3.mp4")
    fill(tmp_path, b"no video", f"{prefix}bad ones/1.mp4", f"{prefix}bad ones/2.mp4")
    if not prefix:
        (tmp_path / "val/good/1.mp4").unlink()
        (tmp_path / "val/good").rmdir()
        (tmp_path / "val").rmdir()
    with pytest.raises(UserError) as caught:
        build(tmp_path).setup()
    message = str(caught.value)
    folder = tmp_path / prefix / "bad ones"
    assert message.startswith(f"none of the 2 videos in {folder} can be read, the first: ")
    assert f"{folder / '1.mp4'}: Invalid data found" in message
    assert message.endswith("Replace the files or remove the folder")


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_one_readable_video_is_enough(tmp_path: Path, clip: bytes, timeout: float | None) -> None:
    fill(tmp_path, b"no video", "a/1.mp4")
    fill(tmp_path, clip, "a/2.mp4")
    check_readable(tmp_path, {"a": ["a/1.mp4", "a/2.mp4"]}, "auto", timeout)
    (tmp_path / "a/2.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 2 videos"):
        check_readable(tmp_path, {"a": ["a/1.mp4", "a/2.mp4"]}, "auto", timeout)


def test_a_video_that_hangs_does_not_hold_up_the_start(
    tmp_path: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil_decoder(monkeypatch)
    fill(tmp_path, clip, "a/hangs.mp4", "a/ok.mp4")
    check_readable(tmp_path, {"a": ["a/hangs.mp4", "a/ok.mp4"]}, "auto", 1.0)
    with pytest.raises(UserError, match=r"none of the 1 videos.*no answer within 1 s"):
        check_readable(tmp_path, {"a": ["a/hangs.mp4"]}, "auto", 1.0)


def lists(root: Path, **kwargs: Any) -> ListFiles:
    splits = {"train_split": "train.csv", "val_split": "val.csv", "test_split": "val.csv"}
    return ListFiles(root=root, name="csv", **TINY | splits | kwargs)


def test_a_list_per_split(tmp_path: Path, clip: bytes) -> None:
    fill(tmp_path, clip, "videos/1.mp4", "videos/2.mp4", "elsewhere/3.mp4")
    (tmp_path / "train.csv").write_text("label,path\nrun,videos/1.mp4\njump,videos/2.mp4\n")
    (tmp_path / "val.csv").write_text(f"{tmp_path}/elsewhere/3.mp4 run\n")
    data = lists(tmp_path)
    data.setup()
    assert data.class_names == ["jump", "run"]
    assert listed(data, "train") == [("videos/1.mp4", "run"), ("videos/2.mp4", "jump")]
    assert data.records["test"].path(0) == tmp_path / "elsewhere/3.mp4"
    assert data.records["test"].labels.tolist() == [1]


def test_lists_that_lie_elsewhere(tmp_path: Path, clip: bytes) -> None:
    fill(tmp_path, clip, "videos/1.mp4", "beside/2.mp4")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/first.txt").write_text("1.mp4 run\n")
    (tmp_path / "beside/second.list").write_text("2.mp4 run\n")
    data = lists(
        tmp_path / "videos",
        train_split=str(tmp_path / "lists/first.txt"),
        val_split=str(tmp_path / "beside/second"),
        test_split="../lists/first.txt",
    )
    data.setup()
    paths = {role: records.path(0).resolve() for role, records in data.records.items()}
    assert paths["train"] == paths["test"] == tmp_path / "videos/1.mp4"
    assert paths["val"] == tmp_path / "beside/2.mp4"


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the list .*/train\.csv does not exist: name a file"):
        lists(tmp_path).setup()


def test_videos_with_any_number_of_classes(tmp_path: Path, clip: bytes) -> None:
    """Of each class a part is held out, and a video is on one side."""
    names = [f"{i}.mp4" for i in range(20)]
    fill(tmp_path, clip, *names)
    labels = ["a;b" if i % 2 else "a" if i % 3 else "" for i in range(20)]
    rows = "".join(f"{name},{label}\n" for name, label in zip(names, labels))
    (tmp_path / "videos.csv").write_text(f"path,label\n{rows}")
    data = build(tmp_path, multi_label=True, val_fraction=0.3)
    data.setup()
    assert data.class_names == ["a", "b"]
    records = data.records
    paths = [
        {records[role].relative_path(i) for i in range(len(records[role]))}
        for role in ("train", "val")
    ]
    assert paths[0] | paths[1] == set(names)
    assert not paths[0] & paths[1]
    counts = {role: records[role].class_counts(2) for role in ("train", "val")}
    assert sum(counts.values()).tolist() == [16, 10]
    assert all(abs(counts["val"] - [5, 3]) <= 2)
    assert all(counts["val"] > 0)
    found = {
        records["val"].relative_path(i): records["val"].classes(i) for i in range(len(paths[1]))
    }
    known = {"a;b": [0, 1], "a": [0], "": []}
    assert found == {path: known[labels[names.index(path)]] for path in paths[1]}
    folds = [build(tmp_path, multi_label=True, fold=k, num_folds=2) for k in (0, 1)]
    for part in folds:
        part.setup()
    halves = [part.records["val"].class_counts(2) for part in folds]
    assert sum(halves).tolist() == [16, 10]
    assert all(abs(halves[0] - halves[1]) <= 2)


def test_class_folders_hold_one_label_of_a_video(tmp_path: Path, clip: bytes) -> None:
    fill(tmp_path, clip, "run/1.mp4", "run/2.mp4", "sit/3.mp4", "sit/4.mp4")
    message = r"data\.multi_label=true: .* has no list of the split 'train', and class folders say"
    with pytest.raises(UserError, match=message):
        build(tmp_path, multi_label=True).setup()
