"""Videos that hang now and then, always, or only seem to, as in a decoder's C code."""

import json
import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.faults import identical, state
from train import train
from vivit_train.config import compose_config
from vivit_train.data.dataset import EvalDataset, GivenUp, Sampling, TrainDataset
from vivit_train.data.guarded import TRIES, GuardedDataset, _turn
from vivit_train.data.loader import build_loader
from vivit_train.data.records import Records
from vivit_train.data.sampler import Key
from vivit_train.errors import ProcessLost
from vivit_train.video import watch
from vivit_train.video.decoders import pyav
from vivit_train.video.guard import CAN_GUARD
from vivit_train.video.watch import go_on
from vivit_train.video.write import write_video

pytestmark = [
    pytest.mark.skipif(not CAN_GUARD, reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*trying again"),
]
SAMPLING = Sampling(clip_frames=4, frame_stride=1)
NUM_VIDEOS, SICK = 5, 2
KEY = Key(SICK, epoch=3)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    root = tmp_path_factory.mktemp("videos")
    for video in range(NUM_VIDEOS):
        write_video(root / f"{video}.mp4", np.full((8, 16, 16, 3), 40 * video, np.uint8))
    return Records(root, [f"{i}.mp4" for i in range(NUM_VIDEOS)], range(NUM_VIDEOS))


class Sickness:
    """What befalls video `SICK` when it is opened, counted over all processes.

    Args:
        log: A file with a byte for each time.
        times: It hangs that often, then it is healthy.
    """

    def __init__(self, log: Path, times: int) -> None:
        self.log, self.times = log, times

    @property
    def opened(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def strike(self) -> None:
        with self.log.open("ab") as file:
            file.write(b".")
        if self.opened <= self.times:
            time.sleep(1000)


@pytest.fixture
def sicken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes the video sick."""

    def make(times: int) -> Sickness:
        sickness = Sickness(tmp_path / "log", times)

        class Evil(pyav.PyAV):
            def __init__(self, path: str, *args: Any) -> None:
                if path.endswith(f"{SICK}.mp4"):
                    sickness.strike()
                super().__init__(path, *args)

        monkeypatch.setattr(pyav, "PyAV", Evil)
        return sickness

    return make


def test_a_pause_of_the_storage_changes_no_sample(records: Records, sicken) -> None:
    plain = TrainDataset(records, SAMPLING, seed=0)[KEY]
    sickness = sicken(TRIES - 1)
    with pytest.warns(UserWarning, match=rf"{SICK}\.mp4: no answer within 0.5 s; trying again"):
        sample = GuardedDataset(TrainDataset(records, SAMPLING, seed=0), 0.5)[KEY]
    assert sickness.opened == TRIES
    assert sample.index == SICK
    assert torch.equal(sample.frames, plain.frames)
    assert (sample.broken, sample.given_up) == ([], [])


def test_nor_a_score(records: Records, sicken) -> None:
    sicken(TRIES - 1)
    sample = GuardedDataset(EvalDataset(records, SAMPLING, 1, seed=0), 0.5)[SICK]
    assert sample.decoded
    assert sample.broken == []


def test_what_always_hangs_gives_way_and_is_not_held_against_the_next_draw(
    records: Records, sicken
) -> None:
    sickness = sicken(TRIES)
    data = GuardedDataset(TrainDataset(records, SAMPLING, seed=0), 0.5)
    sample = data[KEY]
    assert sickness.opened == TRIES
    assert sample.index != SICK
    assert sample.given_up == [GivenUp(SICK, 3, "no answer within 0.5 s, 3 times")]
    assert [error.path for error in sample.broken] == [str(records.root / f"{SICK}.mp4")]
    # By now it is healthy: another worker would show it, and so does this one.
    assert data[KEY].index == SICK
    # Where the run has given it up, none opens it, and all show the same in its place.
    opened = sickness.opened
    again = data[KEY._replace(given_up=frozenset({SICK}))]
    assert sickness.opened == opened
    assert again.index == sample.index
    assert torch.equal(again.frames, sample.frames)
    assert again.given_up == []
    assert len(again.broken) == 1


def test_a_video_may_take_long_as_long_as_it_goes_on(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is on the time between two frames, wanted or not."""
    monkeypatch.setattr(watch, "WORD_SECONDS", 0.1)
    monkeypatch.setattr(pyav, "go_on", lambda: time.sleep(0.2) or go_on())
    start = time.monotonic()
    sample = GuardedDataset(EvalDataset(records, SAMPLING, 2, seed=0), 1.0)[0]
    assert sample.decoded
    assert time.monotonic() - start > 1.5  # longer than the limit


def test_a_process_that_dies_before_any_video_ends_the_run(records: Records) -> None:
    class Dying(TrainDataset):
        def __getitem__(self, key: Key) -> Any:
            os._exit(3)

    with pytest.raises(ProcessLost, match=r"ended with exit code 3, 3 times, at sample Key\(row=2"):
        GuardedDataset(Dying(records, SAMPLING, seed=0), 5.0)[KEY]


def test_a_turn_alone_waits_for_the_others() -> None:
    file = tempfile.TemporaryFile()  # noqa: SIM115
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def decode() -> None:
        with _turn(file, alone=False):
            theirs.send("decoding")
            time.sleep(0.5)
            theirs.send("done")

    process = context.Process(target=decode)
    process.start()
    ours.recv()
    with _turn(file, alone=False):
        assert not ours.poll()  # side by side
    with _turn(file, alone=True):
        assert ours.poll()
    process.join()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_batch_takes_one_file_descriptor_however_large(
    records: Records, num_workers: int
) -> None:
    """Of the worker too, which hands it over: 150 clips where 60 more files may be opened."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files = max(map(int, os.listdir("/proc/self/fd")))
    data = GuardedDataset(EvalDataset(records, SAMPLING, 1, seed=0), 60.0)
    loader = build_loader(data, [i % NUM_VIDEOS for i in range(450)], 150, num_workers)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files + 60, before[1]))
    try:
        batches = list(loader)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    colours = torch.stack([clip.float().mean() for batch in batches for clip in batch.frames])
    expected = torch.tensor([40.0 * (i % NUM_VIDEOS) for i in range(450)])
    assert (colours - expected).abs().max() < 3


def test_what_a_run_gives_up_is_in_its_record_and_stays_given_up(
    small: tuple[str, ...],
    demo_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """A run that goes on where the video has become healthy ends with the same weights."""
    sick = sorted((demo_root / "train").rglob("*.mp4"))[0]

    class Evil(pyav.PyAV):
        def __init__(self, path: str, *args: Any) -> None:
            if path == str(sick):
                os.kill(os.getpid(), signal.SIGKILL)
            super().__init__(path, *args)

    def run(name: str, *words: str) -> Path:
        return train(compose_config([*small, *words, f"run_dir={tmp_path / name}"]))

    with monkeypatch.context() as patch:
        patch.setattr(pyav, "PyAV", Evil)
        whole = run("whole", "data.num_workers=2")
    (name, reason), *others = json.loads((whole / "results.json").read_text())["given_up"].items()
    assert others == []
    assert demo_root / name == sick
    assert reason == "the decoding process died (SIGKILL, memory used up?), 3 times"
    assert any(
        f"replaced by another video, cannot decode {sick}" in str(w.message) for w in recwarn
    )
    first = whole / "checkpoints" / "previous.ckpt"  # of the end of epoch 0
    assert torch.load(first, weights_only=True)["given_up"] == {name: [0, reason]}
    resumed = run("resumed", f"ckpt_path={first}")
    assert identical(*(state(r / "checkpoints" / "last.ckpt") for r in (whole, resumed)))
    given_up = json.loads((resumed / "results.json").read_text())["given_up"]
    assert given_up == {name: reason}
