"""Whether clips show windows or whole videos: the test, what is measured, and what a run keeps."""

import copy
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from vivit_train.build import open_data
from vivit_train.callbacks.same_videos import SameVideos
from vivit_train.config import compose_config, to_plain
from vivit_train.model.vivit import ViViT
from vivit_train.preflight import span
from vivit_train.preflight.features import Features
from vivit_train.preflight.heads import of_the_length, read_heads
from vivit_train.preflight.span import judge_span
from vivit_train.recipe.preset import keep_begun, without_auto
from vivit_train.transforms.processor import Processor
from vivit_train.video.sampling import Sampling
from vivit_train.video.write import write_video

CHOICE = ("frame_stride", "frame_rate", "clip_seconds", "sampling")
Opened = Callable[..., tuple[dict[str, Any], Any]]


def seen(noise: float, rows: list[int] | None = None, each: int = 12) -> Features:
    """Features of three classes, which much noise hides."""
    labels = torch.arange(3).repeat(each)
    draw = torch.Generator().manual_seed(1)
    values = torch.eye(3, 20)[labels] * 2 + noise * torch.randn(3 * each, 20, generator=draw)
    kept = torch.arange(3 * each) if rows is None else torch.tensor(rows)
    none = values[:, :0]
    return Features(kept, labels[kept], values[kept], none[kept], none[kept], 3 * each)


def test_whole_videos_where_they_are_clearly_better() -> None:
    found = judge_span(seen(10), seen(0.3), 3)
    assert (found.sampling, found.judged) == ("whole", True)
    assert found.text.startswith(
        "a linear probe on frozen features gets 1.00 with frames over the whole video, 0.3"
    )
    assert " with windows (p = " in found.text


@pytest.mark.parametrize(
    ("window", "whole"), [(0.3, 0.3), (0.3, 10), (10, 10), (1.0, 0.9)], ids=str
)
def test_windows_unless_they_are(window: float, whole: float) -> None:
    found = judge_span(seen(window), seen(whole), 3)
    assert (found.sampling, found.judged) == ("window", True)
    assert " with windows, " in found.text


def test_it_is_mcnemars_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the videos that one alone gets right, 8 to 1 are enough and 7 to 1 are not."""

    def probe(values: torch.Tensor, labels: torch.Tensor, num_classes: int) -> Any:
        right = values[:, 0].bool()
        scores = torch.nn.functional.one_hot(torch.where(right, labels, 1 - labels), 2)
        accuracy = float(right.double().mean())
        return SimpleNamespace(
            left_out=scores, labels=labels, accuracy=accuracy, knows_something=True
        )

    monkeypatch.setattr(span, "Probe", probe)
    labels, rows = torch.arange(40) % 2, torch.arange(40)
    for gains, chosen in ((8, "whole"), (7, "window")):
        right = [torch.zeros(40, 1), torch.zeros(40, 1)]
        right[0][gains : gains + 1] = right[1][:gains] = 1
        right[0][20:] = right[1][20:] = 1
        both = (Features(rows, labels, values, values, values, 40) for values in right)
        found = judge_span(*both, 2)
        assert found.sampling == chosen
        expected = binomtest(1, gains + 1).pvalue
        assert f"(p = {expected:.1g})" in found.text
        assert (expected < 0.05) == (chosen == "whole")
        assert found.text.endswith("were trained with") == (chosen == "window")


def test_videos_that_one_way_cannot_show_do_not_count() -> None:
    alone = judge_span(seen(10), seen(0.3), 3)
    fewer = judge_span(seen(10), seen(0.3, rows=list(range(30))), 3)
    assert fewer.sampling == "whole"
    assert fewer.text != alone.text
    for window, whole in ((None, seen(1)), (seen(1), None), (seen(1), seen(1, rows=[0, 3, 6]))):
        found = judge_span(window, whole, 3)
        assert (found.sampling, found.judged) == ("window", False)
        assert found.text.startswith("whole videos were not compared: ")


# From the words to the run.


def draw(name: str, seed: int, num_frames: int) -> np.ndarray:
    """A bar above, then one below, or the other way round; noise in between."""
    frames = np.random.default_rng(seed).integers(0, 60, (num_frames, 24, 24, 3))
    quarter = num_frames // 4
    above, below = np.s_[:, :8], np.s_[:, -8:]
    first, last = (above, below) if name == "down" else (below, above)
    frames[:quarter][first] += 150
    frames[-quarter:][last] += 150
    return frames.astype(np.uint8)


@functools.cache
def set_of(folder: Path, num_frames: int) -> Path:
    """A folder with 12 videos of each of the two classes."""
    for name in ("down", "up"):
        for seed in range(12):
            path = folder / name / f"{seed}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, draw(name, seed, num_frames))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of which a clip of 4 frames shows neither the beginning nor the end."""
    return set_of(tmp_path_factory.mktemp("events"), 24)


@pytest.fixture(scope="module")
def pretrained(small: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model of random weights, for clips of 4 frames of a stride of 1."""
    config = to_plain(compose_config(list(small)))["model"]
    known = inspect.signature(ViViT).parameters
    model = ViViT(**{k: v for k, v in config.items() if k in known}, num_classes=2)
    content = {
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "hyper_parameters": {
            "model": model.config,
            "class_names": ["a", "b"],
            "processor": Processor(crop_size=16).settings(),
            "sampling": {"clip_frames": 4, "frame_stride": 1},
        },
    }
    path = tmp_path_factory.mktemp("pretrained") / "best.ckpt"
    torch.save(content, path)
    return path


@pytest.fixture
def opened(small: tuple[str, ...], root: Path, pretrained: Path) -> Opened:
    """opened(*words) opens the documented fine-tuning of the set from these weights."""
    own = ("data.train", "data.val", "data.root", "data.batch", "data.num_w", "augment", "optim")
    own += ("callbacks", "trainer.max_epochs")
    words = [word for word in small if not word.startswith(own)]
    documented = ["experiment=finetune", "data=folder", f"data.root={root}", "data.num_workers=0"]
    documented.append(f"model.pretrained={pretrained}")

    def open_(*more: str, begun: Any = None) -> tuple[dict[str, Any], Any]:
        config = to_plain(compose_config([*documented, *words, *more]))
        config, data = open_data(config, "fit", begun)
        return span.fit_sampling(config, data), data

    return open_


def choice(config: dict[str, Any]) -> dict[str, Any]:
    return {key: config["data"][key] for key in CHOICE if config["data"][key] is not None}


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: Any) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(span, "measure_span", measure)


def test_the_documented_words_choose_whole_videos(
    opened: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_rng_state()
    config, data = opened()
    assert torch.equal(torch.get_rng_state(), before)  # training draws what it would have drawn
    assert choice(config) == {"sampling": "whole"}
    assert data.sampling == Sampling(4, sampling="whole")
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if line.startswith("data.sampling=")]
    assert line == f"data.sampling=whole: {data.sampling_reason}"
    assert " with frames over the whole video, 0." in line
    finding = of_the_length(read_heads(data), data)
    assert (finding.verdict, data.sampling_reason in finding.text) == ("ok", True)
    again, _ = opened()
    assert choice(again) == choice(config)
    assert line in capsys.readouterr().err.splitlines()


def test_what_windows_show_as_well_is_seen_through_them(
    opened: Opened, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "a linear probe gets 0.80 with windows"
    monkeypatch.setattr(span, "judge_span", lambda *_: span.Span("window", True, told))
    config, data = opened()
    assert choice(config) == {"frame_stride": 1, "sampling": "window"}  # the weights' own
    assert f"data.sampling=window: {told}" in capsys.readouterr().err.splitlines()
    finding = of_the_length(read_heads(data), data)
    assert finding.verdict == "ok"
    assert finding.text == f"a clip covers 0.13 s of videos that last about 0.8 s; {told}"


def test_videos_that_a_clip_covers(
    opened: Opened,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(span, "pretrained_model")  # not asked
    config, _ = opened(f"data.root={set_of(tmp_path, 4)}")
    assert choice(config) == {"frame_stride": 1, "sampling": "window"}
    assert "data.sampling=window: a clip covers 0.13 s, and most" in capsys.readouterr().err


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("data.sampling=window", {"frame_stride": 1, "sampling": "window"}),
        ("data.sampling=whole", {"sampling": "whole"}),
        ("data.clip_seconds=0.5", {"clip_seconds": 0.5, "sampling": "window"}),
        ("model.pretrained=null", {"frame_stride": 2, "sampling": "window"}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*moments that the pretrained weights")
def test_what_is_set_is_not_measured(word: str, expected: Any, opened: Opened) -> None:
    config, data = opened(word)
    assert choice(config) == expected
    assert data.sampling_reason == ""


@pytest.mark.usefixtures("unmeasured")
def test_weights_of_whole_videos_keep_that(
    opened: Opened, pretrained: Path, tmp_path: Path
) -> None:
    content = torch.load(pretrained, weights_only=True)
    contract = {"clip_frames": 4, "frame_stride": None, "sampling": "whole"}
    content["hyper_parameters"]["sampling"] |= contract
    torch.save(content, tmp_path / "whole.ckpt")
    config, _ = opened(f"model.pretrained={tmp_path / 'whole.ckpt'}")
    assert choice(config) == {"sampling": "whole"}


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    "begun", [{"sampling": "whole"}, {"frame_rate": 4.0, "sampling": "window"}]
)
def test_a_resumed_run_keeps_its_choice(
    begun: dict[str, Any], opened: Opened, tmp_path: Path
) -> None:
    values = {"data": dict.fromkeys(CHOICE) | begun}
    config, data = opened(begun=SimpleNamespace(config=values, run_dir=tmp_path))
    assert choice(config) == begun
    assert data.sampling == Sampling(4, **begun)


def test_a_stride_of_the_data_sets_own_gives_way_to_the_runs_choice() -> None:
    config = to_plain(compose_config(["experiment=finetune", "data=kinetics400"]))
    assert choice(config) == {"frame_stride": 2, "sampling": "auto"}
    assert choice(without_auto(config)) == {"frame_stride": 2}
    keep_begun(config, {"data": dict.fromkeys(CHOICE) | {"sampling": "whole"}})
    assert choice(config) == {"sampling": "whole"}


@pytest.mark.usefixtures("unmeasured")
def test_the_first_process_tells_the_others(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "1")
    _, data = opened()
    assert data.sampling.sampling == "window"
    of_the_first = Sampling(4, sampling="whole")
    strategy = SimpleNamespace(broadcast=lambda own: copy.copy(of_the_first))
    trainer = SimpleNamespace(datamodule=data, strategy=strategy, world_size=1)
    SameVideos(tmp_path, writes=False).setup(trainer, None, "fit")  # type: ignore[arg-type]
    assert data.sampling == of_the_first
