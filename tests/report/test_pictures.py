"""Pictures of a test, read back from TensorBoard's file, and what Weights & Biases is given."""

import io
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.report.runs import NASTY, write_run
from vivit_train.data.records import Records
from vivit_train.report.content import Content
from vivit_train.report.pictures import CELL_PX, NAME_PX, confusion_picture, log_test, worst_picture
from vivit_train.runs.loggers import MetricsCsv, Wandb
from vivit_train.video.guard import CAN_GUARD
from vivit_train.video.write import write_video

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
needs_guard = pytest.mark.skipif(not CAN_GUARD, reason="needs fork")


def run_of(folder: Path, names: list[str]) -> Records:
    """A finished run, and the records of its split, of which every second video is there."""
    pairs = write_run(folder / "run", names, 12, right=0.3)
    paths = []
    for number, (true, _) in enumerate(pairs):
        # As `write_run` names them; a name may hold what no path can.
        path = Path("val") / names[true].replace("/", "_") / f"{number:05}.mp4"
        paths.append(str(path))
        if number % 2 == 0:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            frames = np.full((3, 24, 32, 3), 20 * number, np.uint8)
            write_video(folder / path, frames)
    return Records(folder, paths, pairs[:, 0].tolist())


def pictures_of(folder: Path) -> dict[str, np.ndarray]:
    """The pictures in TensorBoard's files."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    return {
        tag: np.asarray(Image.open(io.BytesIO(events.Images(tag)[-1].encoded_image_string)))
        for tag in events.Tags()["images"]
    }


@needs_guard
def test_tensorboard_has_the_confusions_and_the_worst_videos(tmp_path: Path) -> None:
    names = ["up", "down", "left"]
    records = run_of(tmp_path, names)
    log_test(tmp_path / "run", records, [TensorBoardLogger(tmp_path, "tensorboard", "")], 7)
    found = pictures_of(tmp_path)
    content = Content.read(tmp_path / "run")
    assert set(found) == {"pictures/confusion", "pictures/worst_videos"}
    matrix = confusion_picture(content.pairs, names)
    assert np.array_equal(found["pictures/confusion"], matrix)
    worst = worst_picture(content, records)
    assert worst is not None
    assert np.array_equal(found["pictures/worst_videos"], worst)


@needs_guard
def test_weights_and_biases_is_given_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = run_of(tmp_path, NASTY[:3])
    given: dict[str, np.ndarray] = {}

    def log_image(logger: Wandb, key: str, images: list, **_: object) -> None:
        given[key] = images[0]

    monkeypatch.setattr(Wandb, "log_image", log_image)
    logger = Wandb(save_dir=tmp_path, mode="offline")
    log_test(tmp_path / "run", records, [logger], 7)
    assert set(given) == {"pictures/confusion"} | ({"pictures/worst_videos"} & set(given))
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in given.values())


def test_a_failure_of_weights_and_biases_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records = run_of(tmp_path, ["up", "down"])

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no server")

    monkeypatch.setattr(Wandb, "log_image", fail)
    log_test(tmp_path / "run", records, [Wandb(save_dir=tmp_path, mode="offline")], 7)
    assert capsys.readouterr().err.startswith("warning: wandb has failed (no server)")


def test_nothing_is_drawn_for_the_csv_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = run_of(tmp_path, ["up", "down"])
    monkeypatch.setattr(Content, "read", lambda _: pytest.fail("it was read"))
    log_test(tmp_path / "run", records, [MetricsCsv(tmp_path / "metrics.csv")], 7)


def test_what_is_no_table_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = run_of(tmp_path, ["up", "down"])
    (tmp_path / "run" / "classes.csv").write_text("nonsense\n")
    log_test(tmp_path / "run", records, [TensorBoardLogger(tmp_path, "tensorboard", "")], 7)
    assert "warning: no pictures were logged: " in capsys.readouterr().err


def test_the_matrix_by_hand() -> None:
    """Of class 0 three videos are right and one is taken for 1; none is of class 1."""
    pairs = np.array([[0, 0], [0, 0], [0, 0], [0, 1]])
    picture = confusion_picture(pairs, ["a", "b"])
    corners = [(picture[-2 * CELL_PX + 1 + row * CELL_PX, NAME_PX + 1 + column * CELL_PX]).tolist()
               for row in (0, 1) for column in (0, 1)]  # fmt: skip
    dark = np.array([20, 60, 140])
    shades = [255 - share**0.5 * (255 - dark) for share in (0.75, 0.25, 0, 0)]
    assert corners == [shade.round().astype(int).tolist() for shade in shades]


@pytest.mark.parametrize("names", [NASTY, [f"class {k}" for k in range(400)]])
def test_any_names_and_any_number(names: list[str]) -> None:
    rng = np.random.default_rng(0)
    pairs = rng.integers(len(names), size=(500, 2))
    picture = confusion_picture(pairs, names)
    assert picture.dtype == np.uint8
    assert max(picture.shape) <= 1500
    assert (picture != 255).any()
