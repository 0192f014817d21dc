from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.torture import evil_decoder
from vivit_train.data.folder import Folder, ListFiles, check_readable
from vivit_train.errors import UserError
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.processor import Processor
from vivit_train.video.write import write_video

PROCESSOR = Processor(size=18, crop_size=16)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The smallest whole video."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, np.zeros((2, 16, 16, 3), np.uint8))
    return path.read_bytes()


def build(root: Path, **kwargs: Any) -> Folder:
    return Folder(
        root=root, name="mine", clip_frames=2, frame_stride=1, batch_size=2, num_workers=0,
        processor=PROCESSOR, augment=Augment(PROCESSOR), **kwargs,
    )  # fmt: skip


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
    (tmp_path / "videos.csv").write_text("1.mp4,run,train\n2.mp4,run,valid\n")
    with pytest.raises(UserError, match="no row of the split 'val', only of train, valid: set dat"):
        build(tmp_path).setup()


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


def test_a_test_folder_without_classes_is_not_used(
    tmp_path: Path, clip: bytes, capsys: pytest.CaptureFixture
) -> None:
    fill(tmp_path, clip, "train/a/1.mp4", "val/a/2.mp4", "test/3.mp4")
    data = build(tmp_path)
    data.setup()
    assert data.tests_on_validation
    assert listed(data, "test") == [("val/a/2.mp4", "a")]
    assert f"{tmp_path}/test holds no class folders and is not used" in capsys.readouterr().err


def test_train_without_val(tmp_path: Path, clip: bytes) -> None:
    fill(tmp_path, clip, "train/a/1.mp4", "validation/a/2.mp4")
    with pytest.raises(UserError, match=r"has a folder train but none named val: .*data.val_split"):
        build(tmp_path).setup()


def test_a_class_of_the_validation_folder_that_training_has_not(
    tmp_path: Path, clip: bytes
) -> None:
    fill(tmp_path, clip, "train/a/1.mp4", "val/a/2.mp4", "val/typo/3.mp4")
    with pytest.raises(UserError, match="1 of the data set's 2 classes .*: typo"):
        build(tmp_path).setup()


def class_folders(root: Path, clip: bytes, **sizes: int) -> None:
    for name, size in sizes.items():
        fill(root, clip, *(f"{name}/{i}.mp4" for i in range(size)))


def test_class_folders_are_split(tmp_path: Path, clip: bytes) -> None:
    class_folders(tmp_path, clip, one=1, two=2, three=3, many=200)
    data = build(tmp_path)
    train, val = parts(data)
    assert not train & val
    assert len(train | val) == 206
    for name, size in (("two", 2), ("three", 3), ("many", 200)):
        held = sum(path.startswith(f"{name}/") for path in val)
        assert 1 <= held < size
    assert 25 <= sum(path.startswith("many/") for path in val) <= 55  # 40 +- 2.6 sigma
    assert "one/0.mp4" in train
    assert parts(build(tmp_path)) == (train, val)


def test_the_split_does_not_depend_on_where_the_folder_lies(tmp_path: Path, clip: bytes) -> None:
    class_folders(tmp_path / "here", clip, a=10, b=10)
    class_folders(tmp_path / "moved", clip, a=10, b=10)
    assert parts(build(tmp_path / "here")) == parts(build(tmp_path / "moved"))


def test_adding_videos_moves_none_of_the_others(tmp_path: Path, clip: bytes) -> None:
    class_folders(tmp_path, clip, a=30, b=30)
    train, val = parts(build(tmp_path))
    for i in range(40):
        fill(tmp_path, clip, f"a/new {i}.mp4")
    new_train, new_val = parts(build(tmp_path))
    assert train <= new_train
    assert val <= new_val
    assert len(new_train | new_val) == 100
    assert len(new_val) > len(val)


@pytest.mark.parametrize("val_fraction", [0.01, 0.99])
def test_no_part_of_a_class_is_empty(tmp_path: Path, clip: bytes, val_fraction: float) -> None:
    class_folders(tmp_path, clip, a=2, b=3)
    train, val = parts(build(tmp_path, val_fraction=val_fraction))
    assert {path[0] for path in train} == {path[0] for path in val} == {"a", "b"}


@pytest.mark.parametrize("val_fraction", [0, 1, -0.1, 20])
def test_val_fraction_out_of_range(tmp_path: Path, val_fraction: float) -> None:
    with pytest.raises(UserError, match=f"between 0 and 1, got {val_fraction}"):
        build(tmp_path, val_fraction=val_fraction)


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
    return ListFiles(
        root=root, name="csv", clip_frames=2, frame_stride=1, batch_size=2, num_workers=0,
        processor=PROCESSOR, augment=Augment(PROCESSOR), **splits | kwargs,
    )  # fmt: skip


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
