from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vivit_train.data.records import Records
from vivit_train.preflight.advice import advice


def config(
    batch_size: int = 16, accumulate: int = 1, name: str = "adamw", lr: float = 1e-4, **augment: Any
) -> dict[str, Any]:
    return {
        "augment": {"horizontal_flip": 0.5, "flip_labels": None} | augment,
        "data": {"batch_size": batch_size, "class_sampling": 0.0},
        "trainer": {"accumulate_grad_batches": accumulate},
        "optim": {"name": name, "lr": lr, "class_weights": None},
    }


def data(labels: Any, *class_names: str) -> Any:
    table = np.array(labels)
    multi_label = table.ndim > 1 and table.max() == 1
    return SimpleNamespace(
        records={"train": Records(Path(), ["x.mp4"] * len(table), table, multi_label=multi_label)},
        class_names=list(class_names),
        multi_label=multi_label,
        heads={"noun": 2, "verb": 2} if table.ndim > 1 and not multi_label else {},
    )


GOOD = data([0, 0, 1, 1], "run", "walk")


@pytest.mark.parametrize(
    "given",
    [config(), config(4, 4), config(name="sgd", lr=0.1), config(lr=5e-5), config(lr=1e-3)],
)
def test_nothing_to_say(given: dict[str, Any]) -> None:
    assert advice(given, GOOD) == []
    assert advice(given, data([[0, 2], [1, 3]], "a", "b", "c", "d")) == []


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "world_size", "factor", "makes"),
    [(8, 1, 1, 2, 16), (2, 1, 1, 8, 16), (3, 2, 1, 6, 18), (1, 1, 8, 2, 16), (5, 1, 3, 2, 30)],
)
def test_a_small_batch(
    batch_size: int, accumulate: int, world_size: int, factor: int, makes: int
) -> None:
    (line,) = advice(config(batch_size, accumulate), GOOD, world_size)
    assert f"sees only {batch_size * accumulate * world_size} clips" in line
    assert line.endswith(f"trainer.accumulate_grad_batches={factor} makes it {makes}")
    assert makes >= 16
    # What it says holds: with this factor there is nothing left to say.
    assert advice(config(batch_size, factor), GOOD, world_size) == []


@pytest.mark.parametrize(("name", "lr"), [("adamw", 0.1), ("sgd", 1e-5), ("adamw", 1e-8)])
def test_a_learning_rate_of_another_optimiser(name: str, lr: float) -> None:
    (line,) = advice(config(name=name, lr=lr), GOOD)
    assert line.startswith(f"optim.lr={lr:g} is far from rates that train a ViViT with {name}")


def test_poor_classes() -> None:
    lines = advice(config(), data([0, 0, 2, 4, 4], "a", "b", "c", "d", "e"))
    assert lines == [
        "2 classes have no training video, b, d: the model cannot learn them: add videos, or "
        "remove the classes",
        "1 classes have one training video, c: one says nothing about a class: add more",
    ]


def test_uneven_classes() -> None:
    uneven = data([0] * 50 + [1] * 4, "often", "rarely")
    (line,) = advice(config(), uneven)
    assert "from 4 training videos (rarely) to 50 (often)" in line
    assert "data.class_sampling=1.0" in line
    assert "callbacks.monitor=val/mean_class_accuracy" in line
    for group, key, value in (
        ("data", "class_sampling", 0.5),
        ("optim", "class_weights", "balanced"),
    ):
        balanced = config()
        balanced[group][key] = value
        assert advice(balanced, uneven) == []


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["moving_left", "moving_right", "still"], ["moving_left", "moving_right"]),
        (["Pulling from left to right", "Pulling from right to left"], ["Pulling from left"]),
        (["turn anticlockwise", "turn clockwise"], ["'turn anticlockwise' into 'turn clockwise'"]),
        (["turn left", "turn around"], []),  # no class for what the flip makes
        (["bright", "leftovers"], []),
    ],
)
def test_a_flip_that_changes_the_class(names: list[str], told: list[str]) -> None:
    videos = data([0, 0, 1, 1, 2, 2][: 2 * len(names)], *names)
    lines = advice(config(), videos)
    assert len(lines) == bool(told)
    assert all(part in lines[0] for part in told)
    assert advice(config(horizontal_flip=0), videos) == []
    assert advice(config(flip_labels=[names[:2]]), videos) == []


def test_classes_of_videos_that_have_several() -> None:
    lines = advice(config(), data([[1, 1, 0], [1, 0, 0], [1, 0, 0]], "run", "jump", "sit"))
    assert [line.partition(":")[0] for line in lines] == [
        "1 classes have no training video, sit",
        "1 classes have one training video, jump",
    ]
