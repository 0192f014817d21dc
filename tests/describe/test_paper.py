from typing import Any

import pytest

from vivit_train.describe.counts import build, count_macs, size
from vivit_train.describe.paper import PAPER, PaperRow, paper_row


def native(row: PaperRow) -> tuple[int, int, int]:
    return row.num_frames, row.image_size, row.image_size


def label(row: PaperRow) -> str:
    return f"{row.attention}-{row.hidden_size}-{native(row)}-{row.temporal_layers}"


@pytest.mark.parametrize("row", PAPER, ids=label)
def test_paper(row: PaperRow) -> None:
    model, clip = build({**row.arguments(), "num_classes": 400}), native(row)
    assert count_macs(model, clip, whole=True)[""] == pytest.approx(row.macs, rel=0.01)
    if row.parameters is not None:
        assert size(model) == pytest.approx(row.parameters, rel=0.01)
    assert paper_row(model, clip) is row


def test_something_something_at_256_pixels() -> None:
    """Not in the paper: counted once from the formula."""
    row = next(row for row in PAPER if row.source == "paper, section 4.2")
    model = build({**row.arguments(), "image_size": 256, "num_classes": 174})
    clip = (32, 256, 256)
    assert count_macs(model, clip, whole=True)[""] == pytest.approx(1301e9, rel=0.001)
    assert paper_row(model, clip) is None


@pytest.mark.parametrize(
    "other",
    [
        {"temporal_layers": 5},
        {"mlp_size": 2048},
        {"pooling": "mean"},
        {"num_layers": 11},
        {"representation_size": 64},
    ],
)
def test_no_figure_for_another_model(other: dict[str, Any]) -> None:
    row = PAPER[1]
    model = build({**row.arguments(), "num_classes": 400, **other})
    assert paper_row(model, native(row)) is None


def test_no_figure_for_another_clip() -> None:
    model = build({**PAPER[0].arguments(), "num_classes": 400})
    assert paper_row(model, (16, 224, 224)) is None
