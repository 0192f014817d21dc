from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vivit_train.build import build_data
from vivit_train.config import compose_config, to_plain
from vivit_train.preflight.features import Features, features_of, pretrained_model
from vivit_train.preflight.flip import judge_flip
from vivit_train.video.write import write_video

NAMES = ["falling", "rising", "sideways", "up and down"]


def seen(mirror: list[int], each: int = 12, noise: float = 0.5) -> Features:
    """Features that tell four classes apart, where a flip makes class ``mirror[k]`` of class k."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(each)

    def around(classes: Tensor) -> Tensor:
        return torch.eye(4, 20)[classes] * 2 + noise * torch.randn(4 * each, 20, generator=draw)

    values, mirrored = around(labels), around(torch.tensor(mirror)[labels])
    return Features(torch.arange(4 * each), labels, values, mirrored, values, 4 * each)


def test_classes_that_turn_into_each_other_are_found() -> None:
    flip = judge_flip(seen([1, 0, 2, 3]), NAMES)
    assert flip.pairs == [("falling", "rising")]
    assert flip.text.startswith("of 24 clips of 'falling' and 'rising', flipped, 2")
    assert flip.text.endswith("are taken for the other")
    flip = judge_flip(seen([1, 0, 3, 2]), NAMES)
    assert sorted(flip.pairs) == [("falling", "rising"), ("sideways", "up and down")]
    assert flip.text.endswith("and 1 more pairs alike")


def test_a_flip_that_changes_no_class_is_left_alone() -> None:
    flip = judge_flip(seen([0, 1, 2, 3]), NAMES)
    assert flip.pairs == []
    assert flip.text == "flipped clips of 48 training videos of 4 classes keep their class"


def test_a_flip_that_makes_clips_unlike_all_classes_names_no_pair() -> None:
    features = seen([0, 1, 2, 3])
    features.mirrored[:] = torch.randn(48, 20, generator=torch.Generator().manual_seed(1))
    assert judge_flip(features, NAMES).pairs == []
    features.mirrored[:] = features.values[0]  # all of them like one class
    assert judge_flip(features, NAMES).pairs == []


def test_what_cannot_be_judged() -> None:
    for features, reason in (
        (None, "videos have several classes each, or cannot be decoded"),
        (seen([1, 0, 2, 3], each=4), "16 training videos of 4 classes are too few"),
        (seen([1, 0, 2, 3], noise=50), "cannot tell the classes of 48 training videos"),
    ):
        flip = judge_flip(features, NAMES)
        assert flip.pairs == []
        assert flip.text.startswith("what a flip does was not measured: ")
        assert reason in flip.text


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright bar on the left, on the right, at the top or at the bottom, 8 clips each."""
    root = tmp_path_factory.mktemp("sides")
    for name, where in {
        "left": np.s_[:, :, :8],
        "right": np.s_[:, :, -8:],
        "top": np.s_[:, :8],
        "bottom": np.s_[:, -8:],
    }.items():
        for i in range(10):
            noise = np.random.default_rng((i, len(name))).integers(0, 60, (8, 24, 24, 3))
            noise[where] += 150
            path = root / name / f"{i}.mp4"
            path.parent.mkdir(exist_ok=True)
            write_video(path, noise.astype(np.uint8))
    return root


def test_from_videos(small: tuple[str, ...], sides: Path) -> None:
    words = [word for word in small if not word.startswith(("data.train", "data.val", "data.root"))]
    where = ["data=folder", f"data.root={sides}", "processor.crop_size=16"]
    config = to_plain(compose_config([*words, *where]))
    data = build_data(config)
    data.setup("fit")
    before = torch.get_rng_state()
    features = features_of(pretrained_model(config), data, "train", seconds=60.0)
    flip = judge_flip(features, data.class_names)
    assert torch.equal(torch.get_rng_state(), before)  # training draws what it would have drawn
    assert flip.pairs == [("left", "right")], flip.text
