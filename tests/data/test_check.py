import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.data.test_datamodule import attach
from tests.data.test_verdicts import write_verdicts
from tests.data.torture import FRAMES, UNUSABLE, USABLE, evil_decoder, noise, write_torture
from vivit_train.data import check as check_module
from vivit_train.data.check import (
    Job,
    check,
    check_video,
    class_conflicts,
    jobs_of,
    jobs_to_do,
)
from vivit_train.data.folder import Folder
from vivit_train.data.records import Records, size_and_mtime
from vivit_train.data.sampler import Key
from vivit_train.data.verdicts import (
    FILE_NAME,
    Verdict,
    VerdictFile,
    read_verdicts,
    video_name,
)
from vivit_train.errors import UserError
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.processor import Processor
from vivit_train.video import watch
from vivit_train.video.decode import VideoReader
from vivit_train.video.decoders import pyav
from vivit_train.video.guard import CAN_GUARD
from vivit_train.video.sampling import Sampling
from vivit_train.video.write import write_video

pytestmark = [
    pytest.mark.skipif(not CAN_GUARD, reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*trying again"),
]
PROCESSOR = Processor(size=18, crop_size=16)
SAMPLING = Sampling(8, frame_stride=2)


@pytest.fixture(scope="module")
def torture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose class ``a`` is all torture, and ``b`` good videos."""
    root = tmp_path_factory.mktemp("torture")
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
        for i in range(4):
            write_video(root / split / "b" / f"{i}.mp4", noise())
    write_torture(root / "train" / "a")
    for path in (root / "train" / "a").iterdir():
        (root / "val" / "a" / path.name).symlink_to(path)
    return root


def job(path: Path, segment: tuple[float, float] | None = None) -> Job:
    return Job(path.name, path, segment)


def jobs_in(folder: Path) -> list[Job]:
    return [job(folder / name) for name in (*USABLE, *UNUSABLE)]


def look(path: Path, segment: tuple[float, float] | None = None, quick: bool = False) -> Verdict:
    return check_video(job(path, segment), "auto", quick)


def test_each_file_of_the_torture_folder_has_its_verdict(
    torture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil_decoder(monkeypatch)
    start = time.monotonic()
    found = {v.video: v for v in check(jobs_in(torture / "train" / "a"), timeout=2, num_workers=2)}
    assert time.monotonic() - start < 30
    assert {name: v.kind(SAMPLING) for name, v in found.items()} == USABLE | UNUSABLE
    assert {name for name, verdict in found.items() if verdict.usable()} == set(USABLE)
    assert found["good.mp4"].frames == found["good.mp4"].promised == FRAMES
    cut = found["truncated.webm"]
    assert (cut.promised, cut.reason.startswith(f"{cut.frames} of 48 frames")) == (48, True)
    for name, words in {
        "hangs.mp4": "no answer within 2 s",
        "crashes.mp4": "SIGSEGV",
        "dangling.mp4": "a link to nothing",
        "pipe.mp4": "no file but a pipe",
        "folder.mp4": "no file but a folder",
        "audio_only.mp4": "no video stream",
        "zero_length.mp4": "",
        "flipped.mp4": "damaged|does not decode|Invalid data",
    }.items():
        assert any(word in found[name].reason for word in words.split("|")), found[name]


def test_a_quick_look_opens_and_reads_three_frames(torture: Path) -> None:
    folder = torture / "train" / "a"
    found = {name: look(folder / name, quick=True) for name in ("good.mp4", "half.mp4", "pipe.mp4")}
    assert [verdict.verdict for verdict in found.values()] == ["ok", "unreadable", "unreadable"]
    assert look(folder / "truncated.webm", quick=True).verdict == "truncated"


def test_a_segment_is_what_its_annotation_promises(torture: Path) -> None:
    good = torture / "train" / "a" / "good.mp4"  # 0.8 s
    whole = look(good, (0.2, 0.6))
    assert (whole.verdict, whole.frames, whole.promised) == ("ok", 12, 12)
    cut = look(good, (0.4, 1.6))
    assert (cut.verdict, cut.frames, cut.promised, cut.usable()) == ("truncated", 12, 36, False)
    assert look(good, (2.0, 3.0)).verdict == "unreadable"


def test_folders_of_pictures(tmp_path: Path) -> None:
    for name in ("whole", "hole"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.fromarray(noise(1)[0]).save(tmp_path / name / f"img_{number}.png")
    (tmp_path / "hole/img_3.png").unlink()
    records = Records(tmp_path, ["whole", "hole"], [0, 0])
    records.picture_rate = 25.0
    found = {v.video: v for v in check(list(jobs_of([records], tmp_path).values()))}
    whole, hole = found["whole"], found["hole"]
    assert (whole.verdict, whole.frames, whole.fps) == ("ok", 5, 25)
    assert (hole.verdict, hole.usable()) == ("unreadable", False)
    assert hole.reason == "img_3.png is missing: of the numbers 0 to 4 1 is not there"


def test_of_a_long_segment_the_ends_are_decoded(
    torture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_module, "LONG_SEGMENT", 10)
    monkeypatch.setattr(VideoReader, "decode_all", lambda self: pytest.fail("decoded all"))
    assert look(torture / "train" / "a" / "good.mp4", (0.2, 0.6)).frames == 12


def test_a_long_video_is_given_the_time_that_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is on silence: frames that come, however many, are no reason to give up."""
    write_video(tmp_path / "slow.mp4", noise(8))
    plain = VideoReader.decode_all

    def slowly(self: VideoReader) -> Iterator[int]:
        for count in plain(self):
            time.sleep(0.4)
            yield count

    monkeypatch.setattr(VideoReader, "decode_all", slowly)
    verdicts = list(check([job(tmp_path / "slow.mp4")], timeout=2.0))
    assert [verdict.verdict for verdict in verdicts] == ["ok"]


def test_a_video_that_takes_long_to_open_goes_on_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of it on a slow disk: each packet that is listed is a step forward."""
    write_video(tmp_path / "long.mp4", noise(12))
    monkeypatch.setattr(watch, "WORD_SECONDS", 0.1)
    monkeypatch.setattr(pyav, "go_on", lambda: time.sleep(0.2) or watch.go_on())
    verdicts = list(check([job(tmp_path / "long.mp4")], timeout=1.5))
    assert [verdict.verdict for verdict in verdicts] == ["ok"]


def test_nothing_to_check() -> None:
    assert list(check([])) == []


def test_systems_that_cannot_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "CAN_GUARD", False)
    with pytest.raises(UserError, match="vivit check needs processes .*: run it on Linux"):
        next(check([job(Path("a.mp4"))]))


def test_a_second_check_looks_at_what_is_new_or_changed(torture: Path, tmp_path: Path) -> None:
    for name in "abc":
        write_video(tmp_path / f"{name}.mp4", noise(4))
    jobs = [job(tmp_path / f"{name}.mp4") for name in "abc"]
    file = VerdictFile(tmp_path / FILE_NAME)
    for verdict in check(jobs[:2], num_workers=2):
        file.add(verdict)
    file.close()
    verdicts = read_verdicts(tmp_path / FILE_NAME)

    def left(quick: bool = False, decoder: str = "auto") -> list[str]:
        return [job.video for job in jobs_to_do(jobs, verdicts, quick, decoder)]

    assert left() == ["c.mp4"]
    assert left(decoder="pyav") == ["c.mp4"]
    assert left(decoder="decord") == ["a.mp4", "b.mp4", "c.mp4"]
    os.utime(tmp_path / "a.mp4", ns=(0, 0))
    assert left() == ["a.mp4", "c.mp4"]
    (tmp_path / "b.mp4").unlink()
    assert left() == ["a.mp4", "b.mp4", "c.mp4"]


def test_a_quick_look_does_not_do_for_a_full_check(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", noise(4))
    jobs = [job(tmp_path / "a.mp4")]
    verdicts = {verdict.video: verdict for verdict in check(jobs, quick=True)}
    assert jobs_to_do(jobs, verdicts, True, "auto") == []
    assert jobs_to_do(jobs, verdicts, False, "auto") == jobs
    verdicts = {verdict.video: verdict for verdict in check(jobs)}
    assert jobs_to_do(jobs, verdicts, True, "auto") == []


def test_a_video_of_two_splits_is_checked_once(tmp_path: Path) -> None:
    """By its name from the root, whatever folder a list names paths from."""
    ours = Records(tmp_path, ["x/a.mp4", "x/b.mp4"], [0, 1])
    theirs = Records(tmp_path / "x", ["b.mp4"], [1], [(1.0, 2.5)])
    same = Records(tmp_path / "x", ["b.mp4"], [1])
    names = list(jobs_of([ours, theirs, same], tmp_path))
    assert names == ["x/a.mp4", "x/b.mp4", "x/b.mp4#t=1,2.5"]


def test_classes_in_doubt(tmp_path: Path) -> None:
    splits = {
        "train": Records(tmp_path, ["eat_ing/1.mp4", "eat_ing/2.mp4", "any/3.mp4"], [0, 1, 1]),
        "val": Records(tmp_path, ["any/3.mp4", "drinking/4.mp4"], [0, 1]),
    }
    assert class_conflicts(splits, ["eat-ing", "drinking"], tmp_path) == [
        {"video": "eat_ing/2.mp4", "classes": ["drinking", "eat-ing"]},
        {"video": "any/3.mp4", "classes": ["drinking", "eat-ing"]},
    ]


def test_classes_of_several_heads_are_compared_as_one(tmp_path: Path) -> None:
    rows = Records(tmp_path, ["a.mp4", "a.mp4", "b.mp4"], [[0, 2], [1, 2], [0, 2]])
    assert class_conflicts({"train": rows}, ["tap", "pan", "take"], tmp_path) == [
        {"video": "a.mp4", "classes": ["pan, take", "tap, take"]}
    ]


class TestTraining:
    """What training and evaluation make of the torture folder."""

    def build(self, root: Path, **kwargs) -> Folder:
        arguments = {
            "root": root, "name": "torture", "clip_frames": 8, "frame_stride": 2, "batch_size": 2,
            "num_workers": 1, "eval_views": [1, 1], "decode_timeout": 1.0,
            "processor": PROCESSOR, "augment": Augment(PROCESSOR),
        }  # fmt: skip
        return Folder(**arguments | kwargs)

    @pytest.fixture
    def checked(self, torture: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """A verdict file beside the videos."""
        evil_decoder(monkeypatch)
        data = self.build(torture)
        data.setup()
        file = VerdictFile(torture / FILE_NAME)
        jobs = jobs_of(data.records.values(), data.root)
        for verdict in check(list(jobs.values()), timeout=2, num_workers=2):
            file.add(verdict)
        file.close()
        yield torture
        (torture / FILE_NAME).unlink()

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_training_finishes_without_a_check(
        self, torture: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evil_decoder(monkeypatch)
        data = self.build(torture, num_workers=num_workers)
        data.setup("fit")
        attach(data, "fit")
        start = time.monotonic()
        batches = list(data.train_dataloader())
        assert time.monotonic() - start < 60
        assert len(batches) == len(data.train_dataloader()) == (len(USABLE | UNUSABLE) + 4) // 2
        broken = {Path(e.path).name: e.reason for batch in batches for e in batch.broken}
        assert set(UNUSABLE) - set(broken) <= {"truncated.webm", "flipped.mp4"}
        assert "no answer within 1 s, 3 times" in broken["hangs.mp4"]
        assert "no answer within 1 s, 3 times" in broken["hangs_reading.mp4"]
        assert "SIGSEGV" in broken["crashes.mp4"]

    def test_what_takes_the_place_of_a_lost_video_is_a_function_of_the_seed(
        self, torture: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evil_decoder(monkeypatch)

        def shown(num_workers: int) -> tuple[list[int], int]:
            data = self.build(torture, num_workers=num_workers)
            data.setup("fit")
            attach(data, "fit")
            batches = list(data.train_dataloader())
            pixels = sum(int(frames.sum()) for batch in batches for frames in batch.frames)
            return torch.cat([batch.indices for batch in batches]).tolist(), pixels

        assert shown(0) == shown(2)

    def test_training_leaves_out_what_the_check_found(
        self, checked: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        data = self.build(checked, decode_timeout=60.0)
        data.setup("fit")
        records = data.records["train"]
        names = {Path(records.relative_path(row)).name for row in range(len(records))}
        assert names == set(USABLE) | {f"{i}.mp4" for i in range(4)}
        said = [str(w.message) for w in recwarn if "left out" in str(w.message)]
        assert len(said) == 1
        assert said[0].startswith(f"torture: {len(UNUSABLE)} of the {len(names) + len(UNUSABLE)} ")
        attach(data, "fit")
        assert [e for batch in data.train_dataloader() for e in batch.broken] == []
        data = self.build(checked, verdicts=None)
        data.setup("fit")
        assert len(data.records["train"]) == len(USABLE) + len(UNUSABLE) + 4

    def test_evaluation_keeps_all_and_tries_none_that_hangs(self, checked: Path) -> None:
        data = self.build(checked, decode_timeout=60.0)
        data.setup("test")
        batches = list(data.test_dataloader())
        assert sum(len(batch.indices) for batch in batches) == len(USABLE) + len(UNUSABLE) + 4
        broken = {Path(e.path).name: e.reason for batch in batches for e in batch.broken}
        assert broken["hangs.mp4"] == "not opened: no answer within 2 s"
        assert broken["crashes.mp4"].startswith("not opened: the decoding process died (SIGSEGV")
        assert set(broken) <= set(UNUSABLE)
        found = data.verdicts.counts(data.records["test"], SAMPLING)
        assert found == {
            "ok": 13, "short": 1, "truncated": 2, "missing": 1, "unreadable": 9, "timeout": 2,
            "crashed": 1,
        }  # fmt: skip

    def test_evaluation_without_a_check(
        self, torture: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evil_decoder(monkeypatch)
        data = self.build(torture, num_workers=0)
        data.setup("test")
        batches = list(data.test_dataloader())
        broken = {Path(e.path).name for batch in batches for e in batch.broken}
        assert {"hangs.mp4", "crashes.mp4", "pipe.mp4", "dangling.mp4"} <= broken
        assert data.verdicts.counts(data.records["test"], SAMPLING) is None

    def test_a_check_sees_training_videos_that_are_not_on_disk(self, torture: Path) -> None:
        data = self.build(torture)
        with pytest.warns(UserWarning, match="1 of the 3 videos of train .* left out"):
            assert data.rows_to_use("train", [True, False, True], torture) == [0, 2]
        data.keeps_all = True
        assert data.rows_to_use("train", [True, False, True], torture) == [0, 1, 2]

    @pytest.mark.parametrize("timeout", [0, -1.0])
    def test_no_time_at_all(self, torture: Path, timeout: float) -> None:
        with pytest.raises(UserError, match=f"data.decode_timeout must be above 0 .*{timeout}"):
            self.build(torture, decode_timeout=timeout)

    def test_nothing_left_to_train_on(self, torture: Path, tmp_path: Path) -> None:
        data = self.build(torture)
        data.setup("fit")
        records = data.records["train"]
        write_verdicts(
            tmp_path,
            *(
                Verdict(video_name(records, row, torture), "crashed", "by hand", 0, 0, size, mtime)
                for row in range(len(records))
                for size, mtime in [size_and_mtime(records.path(row))]
            ),
        )
        data = self.build(torture, verdicts=str(tmp_path / FILE_NAME))
        with pytest.raises(UserError, match=r"none of the \d+ training videos.*: by hand\. Repair"):
            data.setup("fit")

    def test_without_a_limit_decoding_is_in_the_process(self, torture: Path) -> None:
        data = self.build(torture, num_workers=0, decode_timeout=None)
        data.setup("fit")
        attach(data, "fit")
        dataset = data.train_dataloader().dataset
        row = next(
            row
            for row in range(len(dataset))
            if data.records["train"].relative_path(row) == "train/b/0.mp4"
        )
        assert dataset[Key(row, 0)].index == row
        assert dataset._guard is None
