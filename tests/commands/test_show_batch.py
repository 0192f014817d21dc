import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vivit_train.__main__ import main
from vivit_train.commands.show_batch import USES, grid, write_pictures
from vivit_train.config.used import is_used
from vivit_train.runs.pictures import PANEL_WIDTH, describe_labels, panel, to_pixels
from vivit_train.transforms.processor import Processor
from vivit_train.video.decode import VideoReader

Show = Callable[..., tuple[str, Path]]


@pytest.fixture
def show(small: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Show:
    """Runs the verb on the small demo, without workers; gives its output and its folder."""

    def run(*words: str, expected: Any = (0, None)) -> tuple[str, Path]:
        used = [word for word in small if is_used(word.partition("=")[0], USES)]
        with pytest.raises(SystemExit) as end:
            main(["show-batch", *used, "data.num_workers=0", *words, "--output", f"{tmp_path}/x"])
        if expected == (0, None):
            assert end.value.code in expected, end.value.code
        else:
            assert re.search(expected, str(end.value.code))
        return capsys.readouterr().out, tmp_path / "x"

    return run


def test_writes_what_the_model_sees(show: Show) -> None:
    printed, folder = show("augment=none", "--clips", "3")
    lines = printed.splitlines()
    clips, files = lines[:3], lines[4:]
    assert lines[3].startswith("a clip is 4 frames, 1 frames of the video apart: 0.1")
    assert files == [str(folder / name) for name in ("batch.png", "batch.mp4", "batch.txt")]
    for line in clips:  # the demo's folders are its classes
        path, label = line.split("  ")
        assert re.fullmatch(rf"train/{label}/\d+\.mp4", path)
    picture = np.asarray(Image.open(folder / "batch.png"))
    assert picture.shape == (3 * 16, 4 * 16 + PANEL_WIDTH, 3)
    assert [picture[16 * i : 16 * (i + 1), 64:].max() for i in range(3)] == [255] * 3  # the names
    with VideoReader(folder / "batch.mp4") as video:
        assert video.num_frames == 4
        assert video.read(np.arange(4)).shape == (4, 48, 16 + PANEL_WIDTH, 3)
    written = (folder / "batch.txt").read_text().splitlines()
    assert [re.sub(r"^\d+  (.*)  seed \d+$", r"\1", line) for line in written] == clips


def luma_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference of brightness, 0 to 255: the video's colours have half the resolution."""
    weights = np.array([0.299, 0.587, 0.114])
    return float(np.abs(one @ weights - other @ weights).mean())


def test_it_is_the_batch_that_training_sees(show: Show, small: tuple[str, ...]) -> None:
    from vivit_train.build import build_data
    from vivit_train.config import compose_config, to_plain

    words = ("augment.rand_augment_layers=2", "augment.cutmix=1.0", "augment.repeats=2")
    printed, folder = show(*words)
    data = build_data(to_plain(compose_config([*small, "data.num_workers=0", *words])))
    data.setup("fit")
    batch = data.augmented(next(iter(data.train_dataloader())), step=0)
    expected = to_pixels(batch.clips, data.processor)
    picture = np.asarray(Image.open(folder / "batch.png"))[:, :64]
    assert np.array_equal(picture, np.concatenate(np.concatenate(expected.swapaxes(0, 1), 2), 0))
    panels = np.concatenate(
        [panel(describe_labels(batch, row, data), height=16) for row in range(4)]
    )
    assert np.array_equal(np.asarray(Image.open(folder / "batch.png"))[:, 64:], panels)
    with VideoReader(folder / "batch.mp4") as video:
        shown = video.read(np.arange(4))  # [T, 4 * 16, 16 + PANEL_WIDTH, 3]
    tiles = shown[:, :, :16].reshape(4, 4, 16, 16, 3).swapaxes(0, 1)  # [B, T, 16, 16, 3]
    assert luma_difference(tiles, expected) < 6  # the codec's, on few pixels
    assert luma_difference(tiles[::-1], expected) > 50
    assert luma_difference(shown[:, :, 16:], panels) < 2
    for row, line in enumerate(printed.splitlines()[:4]):
        assert line.startswith(data.records["train"].name(int(batch.indices[row])))
        for name in line.split("  ")[1].split(", "):
            name, _, share = name.partition(" ")
            label = float(batch.shares[row][data.class_names.index(name)])
            assert label == pytest.approx(int(share.strip("%") or 100) / 100, abs=0.006)


def test_errors(show: Show, tmp_path: Path) -> None:
    show("--clips", "0", expected="--clips must be 1 or more, got 0")
    show("augment.mixupp=1", expected="did you mean augment.mixup")
    show("trainer.precision=16-mixed", expected="16-mixed needs a GPU")
    if not torch.cuda.is_available():
        show("trainer.accelerator=gpu", expected="trainer.accelerator=gpu: no GPU")
    (tmp_path / "x").write_text("")
    show(expected="x is a file; give a folder")


@pytest.mark.parametrize("arguments", [{}, {"do_normalize": True}, {"image_std": (0.2, 0.3, 0.4)}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaling_is_undone(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    processor = Processor(size=16, crop_size=16, **{"do_normalize": True} | arguments)
    frames = torch.randint(0, 256, (2, 3, 16, 16, 3), dtype=torch.uint8)
    pixels = to_pixels(processor(frames).to(dtype), processor)
    tolerance = 0 if dtype == torch.float32 else 1
    assert np.abs(pixels.astype(int) - frames.numpy()).max() <= tolerance


def test_labels_of_one_head_and_of_two() -> None:
    def described(data: Any, labels: Any, shares: list[float] | None = None) -> list[str]:
        mixed = None if shares is None else torch.tensor([shares])
        truth = torch.tensor([labels])
        targets = truth if mixed is None else mixed
        batch: Any = SimpleNamespace(labels=truth, shares=mixed, targets=targets)
        return describe_labels(batch, 0, data)

    one = SimpleNamespace(class_names=["a", "b", "c"], heads={}, multi_label=False)
    assert described(one, 1) == ["b"]
    assert described(one, 2, [0.25, 0, 0.75]) == ["c 75%", "a 25%"]
    assert described(one, 2, [0.0, 0, 1]) == ["c"]
    names = ["noun: tap", "noun: pan", "verb: take", "verb: put"]
    two = SimpleNamespace(class_names=names, heads={"noun": 2, "verb": 2}, multi_label=False)
    assert described(two, [1, 0]) == ["noun: pan", "verb: take"]
    shares = [0.4, 0.6, 0.0, 1.0]
    assert described(two, [1, 1], shares) == ["noun: pan 60%", "noun: tap 40%", "verb: put"]
    several = SimpleNamespace(class_names=["a", "b", "c"], heads={}, multi_label=True)
    assert described(several, [1, 0, 1]) == ["a", "c"]
    assert described(several, [0, 0, 0]) == ["(no class)"]
    assert described(several, [1, 0, 1], [0.3, 0.0, 1.0]) == ["c", "a 30%"]


def test_grid_and_panel() -> None:
    tiles = np.arange(1, 4, dtype=np.uint8).reshape(3, 1, 1, 1, 1) * np.ones(
        (1, 5, 2, 4, 3), np.uint8
    )
    frames = grid(tiles, columns=2)
    assert frames.shape == (5, 4, 8, 3)
    assert frames[0, ::2, ::4, 0].tolist() == [[1, 2], [3, 0]]
    text = panel(["a long class name that does not fit into one line of the panel"], 64)
    assert text.shape == (64, PANEL_WIDTH, 3)
    assert text[:20].any()
    assert text[20:40].any()
    assert not text[:, -8:].any()


def test_every_frame_of_every_clip_is_in_its_place(tmp_path: Path) -> None:
    """Each of its own grey: the picture to the bit, the video as near as its codec is."""
    greys = np.arange(0, 250, 5, dtype=np.uint8).reshape(5, 10)  # 5 clips, 10 frames
    clips = np.broadcast_to(greys[..., None, None, None], (5, 10, 32, 33, 3))
    names = [["walk"], ["run"], ["jump"], ["swim 70%", "dive 30%"], ["fly"]]
    write_pictures(tmp_path, clips, names, fps=8)
    panels = [panel(lines, 32) for lines in names]
    assert len({image.tobytes() for image in panels}) == 5

    picture = np.asarray(Image.open(tmp_path / "batch.png"))
    shown = picture[:, : 8 * 33].reshape(5, 32, 8, 33, 3)
    assert np.array_equal(shown[:, 0, :, 0, 0], greys[:, [0, 1, 3, 4, 5, 6, 8, 9]])
    assert (shown == shown[:, :1, :, :1, :1]).all()
    assert np.array_equal(picture[:, 8 * 33 :], np.concatenate(panels))

    with VideoReader(tmp_path / "batch.mp4") as video:
        assert video.num_frames == 10
        frames = video.read(np.arange(10))
    tile = 33 + PANEL_WIDTH
    assert frames.shape == (10, 3 * 32, 2 * tile, 3)  # two columns, the sixth place is black
    for clip in range(5):
        top, left = clip // 2 * 32, clip % 2 * tile
        here = frames[:, top : top + 32, left : left + tile]
        middle = here[:, 8:24, 8:24].mean(axis=(1, 2, 3))
        assert np.abs(middle - greys[clip]).max() < 2.5  # steps are of 5
        assert luma_difference(here[:, :, 33:], panels[clip]) < 6
    assert frames[:, 64:, tile + 8 :].max() < 16
