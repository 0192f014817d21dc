"""What a run takes over from its pretrained weights, what it is warned of, and in which words."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vivit_train.build import open_data
from vivit_train.config import compose_config, to_plain
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights import Weights
from vivit_train.recipe import contract
from vivit_train.recipe.contract import differ, same_moments
from vivit_train.transforms.processor import Processor
from vivit_train.video.sampling import Sampling
from vivit_train.video.write import write_video

OURS = {"clip_frames": 16, "frame_stride": 1, "eval_views": [2, 1], "video_rate": 25.0}
Opened = Callable[..., tuple[dict[str, Any], VideoDataModule]]


def write(root: Path, fps: dict[str, float]) -> Path:
    """Two classes with videos of these names and rates."""
    for name, rate in fps.items():
        for kind in ("a", "b"):
            path = root / kind / f"{name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, np.zeros((6, 16, 16, 3), np.uint8), fps=rate)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path, {"1": 25, "2": 25, "3": 25})


@pytest.fixture
def opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """opened(weights, *words) opens a folder of one's own for training from these weights."""

    def open_(
        weights: Weights | None, *words: str, begun: Any = None
    ) -> tuple[dict[str, Any], VideoDataModule]:
        monkeypatch.setattr(contract, "read_weights", lambda source, with_tensors: weights)
        pretrained = "null" if weights is None else "weights"
        words = (f"model.pretrained={pretrained}", "data=folder", f"data.root={root}", *words)
        config = to_plain(compose_config([*words, "data.num_workers=0"]))
        return open_data(config, begun=begun)

    return open_


def weights(sampling: dict[str, Any] | None = None, **values: Any) -> Weights:
    processor = Processor(crop_size=48).settings()
    told = {"processor": processor, "format": "vivit_train", "model": {"num_frames": 16}, **values}
    return Weights(origin="weights", state={}, sampling=sampling or {}, **told)


def clips(config: dict[str, Any]) -> dict[str, Any]:
    return {key: config["data"][key] for key in contract.KEYS if config["data"][key] is not None}


@pytest.fixture(autouse=True)
def strict() -> Any:
    """A warning is an error, unless a test expects it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


# What is left open


def test_a_checkpoint_of_ours(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reported fault: the demo's weights are of stride 1, the folder's default was 2."""
    model = ViViT(num_classes=2, image_size=48, num_frames=16, hidden_size=8, num_layers=1,
                  num_heads=2, mlp_size=8, tubelet_size=[2, 8, 8])  # fmt: skip
    content = {
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "hyper_parameters": {
            "model": model.config,
            "class_names": ["a", "b"],
            "processor": Processor(crop_size=48, do_normalize=True).settings(),
            "sampling": OURS,
        },
    }
    torch.save(content, tmp_path / "best.ckpt")
    words = ["model=vivit_demo", "data=folder", f"data.root={root}", "data.num_workers=0"]
    plain = to_plain(compose_config([*words, f"model.pretrained={tmp_path / 'best.ckpt'}"]))
    config, data = open_data(plain)
    assert clips(config) == {"frame_stride": 1, "sampling": "window"}
    assert (data.sampling.frame_stride, data.processor.do_normalize) == (1, True)
    pixels = Processor(**config["processor"]).settings()
    assert pixels == data.processor.settings() == data.augment.processor.settings()
    (line,) = [s for s in capsys.readouterr().err.splitlines() if "pretrained" in s]
    assert line == (
        "from the pretrained weights: 16 frames, data.frame_stride=1; processor size=55, "
        "resample=bilinear, crop_size=(48, 48), range=[-3, 1]"
    )


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({"frame_stride": 3}, {"frame_stride": 3, "sampling": "window"}),
        ({"frame_rate": 8.0}, {"frame_rate": 8.0, "sampling": "window"}),
        ({"clip_seconds": 2.5}, {"clip_seconds": 2.5, "sampling": "window"}),
        ({"sampling": "whole"}, {"sampling": "whole"}),
        ({"frame_stride": 1, "video_rate": 24.0}, {"frame_stride": 1, "sampling": "window"}),
        ({"frame_stride": 2, "video_rate": 60.0}, {"frame_rate": 30.0, "sampling": "window"}),
    ],
)
def test_how_clips_are_taken(
    sampling: dict[str, Any], expected: dict[str, Any], opened: Opened
) -> None:
    config, data = opened(weights(sampling))
    assert clips(config) == expected
    assert data.sampling.contract().items() >= expected.items()


def test_windows_alone_are_the_weights_own(
    opened: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    """`data.sampling=window` says nothing on how far apart frames are."""
    config, _ = opened(weights({"clip_seconds": 2.5}), "data.sampling=window")
    assert clips(config) == {"clip_seconds": 2.5, "sampling": "window"}
    assert (
        "from the pretrained weights: 16 frames, data.clip_seconds=2.5" in capsys.readouterr().err
    )
    with pytest.warns(UserWarning, match="As they were trained: data.sampling=whole"):
        config, _ = opened(weights({"sampling": "whole"}), "data.sampling=window")
    assert clips(config) == {"frame_stride": 2, "sampling": "window"}


def test_another_rate_is_said_with_both(opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    opened(weights({"clip_frames": 16, "frame_stride": 2, "video_rate": 60.0}))
    assert (
        "from the pretrained weights: 16 frames, data.frame_rate=30.0 (theirs: data.frame_stride=2 "
        "at 60 frames/s; these have 25); processor"
    ) in capsys.readouterr().err


def test_mixed_rates(root: Path, opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    """With the weights' stride the odd video would move at less than half the speed."""
    write(root, {"odd": 60})
    config, _ = opened(weights(OURS))
    assert clips(config) == {"frame_rate": 25.0, "sampling": "window"}
    assert "at 25 frames/s; these have 25 to 60)" in capsys.readouterr().err


def test_weights_that_do_not_tell(opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    """Hugging Face's: a processor, but nothing on the stride, which was 2."""
    theirs = {"size": {"shortest_edge": 60}, "crop_size": {"height": 48, "width": 48}}
    told = weights(format="huggingface", processor=theirs)
    config, data = opened(told)
    assert clips(config) == {"frame_stride": 2, "sampling": "window"}
    assert (data.processor.size, data.processor.do_normalize) == (60, True)
    err = capsys.readouterr().err
    assert "nothing on how far apart a clip's frames were, so as in the published ViViTs" in err
    assert "data.frame_stride=2; processor size=60" in err


@pytest.mark.parametrize("told", [None, weights(processor=None, is_image=True, model={})])
def test_nothing_to_adopt(told: Weights | None, opened: Opened) -> None:
    config, data = opened(told)
    assert clips(config) == {"frame_stride": 2, "sampling": "window"}
    assert Processor(**config["processor"]).settings() == data.processor.settings()
    assert data.processor.settings() == Processor(crop_size=48).settings()


def test_a_resumed_run_keeps_its_values(opened: Opened, tmp_path: Path) -> None:
    """What the words leave open is as the run began with it, whatever the weights say."""
    values = {
        "data": {"frame_stride": None, "frame_rate": 4.0, "sampling": "window"},
        "processor": Processor(crop_size=48, do_normalize=True).settings(),
    }
    begun = SimpleNamespace(config=values, run_dir=tmp_path)
    config, data = opened(weights(OURS), begun=begun)
    assert clips(config) == {"frame_rate": 4.0, "sampling": "window"}
    assert data.sampling.frame_rate == 4.0
    assert config["processor"] == values["processor"] | {"crop_size": 48}
    config, data = opened(weights(OURS), "data.frame_stride=3", begun=begun)
    assert clips(config) == {"frame_stride": 3, "sampling": "window"}
    assert data.processor.do_normalize


# What is set


@pytest.mark.parametrize(
    ("word", "sampling", "remedy"),
    [
        ("data.frame_stride=2", OURS, "data.frame_stride=1"),
        ("data.frame_rate=8", {"frame_rate": 4.0}, "data.frame_rate=4.0"),
        ("data.sampling=whole", OURS, "data.frame_stride=1"),
        ("data.frame_stride=2", {"sampling": "whole"}, "data.sampling=whole"),
        ("data.frame_rate=12", OURS, "data.frame_stride=1"),
        ("data.frame_stride=1", OURS | {"video_rate": 50.0}, "data.frame_rate=50.0"),
    ],
)
def test_a_difference_is_a_warning_with_the_word_that_removes_it(
    word: str, sampling: dict[str, Any], remedy: str, opened: Opened
) -> None:
    with pytest.warns(UserWarning, match="moments that the pretrained weights") as caught:
        config, _ = opened(weights(sampling), word)
    key, _, value = word.removeprefix("data.").partition("=")
    assert str(config["data"][key]) == value  # what was asked for
    message = str(caught[0].message)
    assert message.startswith(word)
    assert message.endswith(f"As they were trained: {remedy}")
    opened(weights(sampling), remedy)  # without a warning


def test_the_same_in_other_words_is_no_difference(opened: Opened) -> None:
    opened(weights(OURS), "data.frame_rate=25")
    opened(weights(OURS), "data.clip_seconds=0.64")
    opened(weights({"frame_rate": 25.0}), "data.frame_stride=1")


def test_another_number_of_frames(opened: Opened) -> None:
    with pytest.warns(UserWarning, match="clips of 8 frames.* with 16: .*interpolated") as caught:
        opened(weights(OURS), "model.num_frames=8")
    assert str(caught[0].message).endswith("model.num_frames=16")


def test_another_processor(opened: Opened) -> None:
    words = ("processor.size=50", "processor.do_normalize=true")
    with pytest.warns(UserWarning, match="another image processor") as caught:
        config, _ = opened(weights(OURS), *words)
    assert (config["processor"]["size"], config["processor"]["do_normalize"]) == (50, True)
    message = str(caught[0].message)
    assert "size: 50 here, 55 there; pixel range: [-3, 1] here, [-1, 1] there" in message
    remedy = "processor.size=55 processor.do_normalize=false"
    assert message.endswith(f"As they were trained: {remedy}")
    opened(weights(OURS), *words, *remedy.split())


def test_a_chosen_processor_is_kept(opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="another image processor"):
        _, data = opened(weights(OURS), "processor=huggingface")
    assert data.processor.do_normalize
    assert "; processor" not in capsys.readouterr().err  # nothing of theirs


def test_the_processor_follows_the_models_size(opened: Opened) -> None:
    _, data = opened(weights(OURS), "model.image_size=96")
    assert (data.processor.crop_size, data.processor.size) == ((96, 96), 110)


# Rates


def test_videos_of_other_rates_are_named(root: Path, opened: Opened) -> None:
    write(root / "train", {"1": 25, "2": 25, "odd": 60})
    write(root / "val", {"3": 25, "4": 50})
    with pytest.warns(UserWarning, match="of another|another frame rate") as caught:
        opened(weights({"frame_stride": 1}))
    told = [str(warning.message) for warning in caught if "frame rate" in str(warning.message)]
    assert [line.split(". ")[0] for line in told] == [
        "2 of 6 training videos have another frame rate than the training videos, 60 for 25 "
        "frames/s: train/a/odd.mp4, train/b/odd.mp4",
        "2 of 4 validation videos have another frame rate than the training videos, 50 for 25 "
        "frames/s: val/a/4.mp4, val/b/4.mp4",
    ]
    assert all("clips of the same moments: data.frame_rate=25. " in line for line in told)
    for word in ("data.frame_rate=25", "data.clip_seconds=1", "data.sampling=whole"):
        opened(None, word)  # by time: it does not matter


# The rules


def test_a_stride_becomes_a_rate_where_the_rates_differ() -> None:
    theirs = Sampling(8, frame_stride=2)
    assert same_moments(theirs, 25.0, [30.0]) == theirs
    assert same_moments(theirs, 25.0, []) == same_moments(theirs, None, [60.0]) == theirs
    assert same_moments(theirs, 25.0, [60.0]) == Sampling(8, frame_rate=12.5)
    # Mixed: most have the weights' rate, and a stride would show the others at another speed.
    assert same_moments(theirs, 25.0, [25.0, 24.0, 60.0]) == Sampling(8, frame_rate=12.5)
    by_time = Sampling(8, frame_rate=10)
    assert same_moments(by_time, 25.0, [60.0]) == by_time


def test_ways_that_differ() -> None:
    two, rate = Sampling(8, frame_stride=2), Sampling(8, frame_rate=12.5)
    assert not differ(two, rate, 25.0)
    assert not differ(Sampling(8, clip_seconds=0.64), rate, None)
    assert differ(two, rate, 60.0)
    assert differ(two, rate, None)  # it is not known that they are the same
    assert differ(two, Sampling(8, frame_stride=3), 25.0)
    assert differ(Sampling(8, sampling="whole"), rate, 25.0)
