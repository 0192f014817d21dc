import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from vivit_train.__main__ import main
from vivit_train.commands.describe import clip_in_words, in_units
from vivit_train.launch import devices
from vivit_train.video.sampling import Sampling

# 32 x 32 pixels in 8 frames, so that a test takes no time; not the demo, which sets other groups.
TINY = (
    "data=kinetics400",
    "model=vivit_b",
    "model.image_size=32",
    "model.num_frames=8",
    "model.hidden_size=32",
    "model.num_layers=2",
    "model.num_heads=2",
    "model.mlp_size=64",
    "trainer.precision=32-true",
)


@pytest.fixture
def describe(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the verb and returns what it prints."""

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(["describe", *words])
        assert end.value.code in (0, None), end.value.code
        return capsys.readouterr().out

    return run


@pytest.fixture
def describe_json(describe: Callable[..., str]) -> Callable[..., dict[str, Any]]:
    return lambda *words: json.loads(describe(*words, "--json"))


@pytest.mark.parametrize(
    ("spacing", "words"),
    [
        (
            {"frame_stride": 2},
            "2 frames of the video apart: 0.533 s if the videos have 30 frames/s",
        ),
        ({"frame_rate": 4}, "4 per second: 2 s"),
        ({"sampling": "whole"}, "spread over the whole video"),
    ],
)
def test_seconds_are_told_with_what_they_hang_on(spacing: dict[str, Any], words: str) -> None:
    assert clip_in_words(Sampling(8, **spacing)) == f"8 frames, {words}"


def test_text(describe: Callable[..., str]) -> None:
    text = describe("model=vivit_b", "model.attention=factorised_encoder", "data=kinetics400")
    lines = [re.split(r"\s{2,}|\s(?=\d+\.\d [KMG]$)", line.strip()) for line in text.splitlines()]
    assert "factorised_encoder, 400 classes (--num-classes), clips of 32x224x224" in text
    assert "a clip is 32 frames, 2 frames of the video apart: 2.13 s if the videos have 30 " in text
    assert ["tubelet embedding", "[32,224,224] 3", "[16,14,14] 768", "1.2 M", "3.7 G"] in lines
    assert "blocks x 12" in text
    assert "blocks x 4" in text
    assert "115.1 M parameters, 3136 tokens" in text
    assert "283.3 G MACs per view, 3.40 T per video of 4 x 3 views" in text
    assert (
        "paper, Table 2: 284.4 G MACs per view (ours -0.4 %), 115.1 M parameters (ours -0.0 %)"
        in text
    )
    assert "Training memory, estimated: batches of 8" in text
    assert "total" in text


def test_what_is_trained(describe: Callable[..., str]) -> None:
    words = ("experiment=finetune", "data=folder", "model=vivit_demo", "--num-classes", "4")
    assert "are trained" not in describe(*words)
    text = describe(*words, "optim.lora_rank=4")
    assert "880.3 K parameters, 288 tokens" in text
    assert "33.3 K parameters are trained, 3.8 % of the model" in text


def test_lines_fit_a_terminal(describe: Callable[..., str]) -> None:
    text = describe("model=vivit_l", "model.attention=factorised_encoder", "data=kinetics400")
    table = [line for line in text.splitlines() if "[" in line]
    assert len(table) > 10
    assert max(map(len, table)) <= 80


def test_what_is_computed(
    describe: Callable[..., str], describe_json: Callable[..., dict[str, Any]]
) -> None:
    told = "G per view are computed: the last block makes only what the head reads"
    assert f"419.8 {told}" in describe("model=vivit_b", "data=kinetics400")
    found = describe_json("model=vivit_b", "data=kinetics400", "model.pooling=mean")
    assert found["computed_macs"] == found["macs"]
    assert told not in describe("model=vivit_b", "data=kinetics400", "model.pooling=mean")


def test_no_line_of_the_paper_where_it_says_nothing(describe: Callable[..., str]) -> None:
    assert "paper" not in describe(*TINY)


def test_json(describe_json: Callable[..., dict[str, Any]]) -> None:
    found = describe_json(*TINY, "data.eval_views=[2,3]", "--num-classes", "7")
    assert found["model"]["num_classes"] == 7
    assert found["clip"] == [8, 32, 32]
    assert found["tokens"] == 16
    assert [part["name"] for part in found["parts"]] == ["tubelet embedding", "encoder", "head"]
    assert found["macs_per_video"] == 6 * found["macs"]
    assert found["parameters"] == sum(part["parameters"] for part in found["parts"])
    assert (found["batch_size"], found["precision"], found["optimizer"]) == (8, "32-true", "sgd")
    assert found["paper"] is None


def test_the_paper_in_json(describe_json: Callable[..., dict[str, Any]]) -> None:
    paper = describe_json("model=vivit_b", "data=kinetics400")["paper"]
    assert (paper["macs"], paper["parameters"], paper["source"]) == (
        455.2e9,
        88.9e6,
        "paper, Table 2",
    )
    assert paper["differences_percent"] == pytest.approx(
        {"macs": -0.8, "parameters": 0.1}, abs=0.05
    )


def test_the_clips_are_those_of_the_data(describe_json: Callable[..., dict[str, Any]]) -> None:
    found = describe_json(*TINY, "data.clip_frames=4", "processor.crop_size=[48,64]")
    assert found["clip"] == [4, 48, 64]
    assert found["tokens"] == 2 * 3 * 4
    assert describe_json(*TINY, "processor.do_center_crop=false")["clip"] == [8, 32, 32]


def test_training_as_configured(describe_json: Callable[..., dict[str, Any]]) -> None:
    found = describe_json(*TINY, "optim=adamw", "data.batch_size=3", "trainer.precision=bf16-true")
    assert (found["batch_size"], found["precision"], found["optimizer"]) == (
        3,
        "bf16-true",
        "adamw",
    )
    assert found["memory"]["optimizer_state"] == 2 * found["memory"]["parameters"]
    assert found["memory"]["parameters"] == 2 * found["parameters"]


@pytest.mark.parametrize(("accelerator", "expected"), [("cpu", "32-true"), ("gpu", "bf16-mixed")])
def test_automatic_precision(
    accelerator: str,
    expected: str,
    describe_json: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As training resolves it, also for a GPU that this machine does not have."""
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: False)
    found = describe_json(*TINY, "trainer.precision=auto", f"trainer.accelerator={accelerator}")
    assert found["precision"] == expected


def test_short_names_of_precisions(describe_json: Callable[..., dict[str, Any]]) -> None:
    assert describe_json(*TINY, "trainer.precision=32")["precision"] == "32-true"
    assert describe_json(*TINY, "trainer.precision=bf16")["precision"] == "bf16-mixed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-classes", "0"], "--num-classes must be 1 or more, got 0"),
        (["data.batch_size=0"], "data.batch_size=0: expected a whole number"),
        (["data.clip_frames=0"], "data.clip_frames=0: expected a whole number"),
        (["data.eval_views=[4,2]"], r"expected a list \[temporal, spatial\]"),
        (["processor.crop_size=40"], "cannot be cut into tubelets"),
        (["trainer.precision=transformer-engine"], "memory is known for .*; use one of them"),
        (["trainer.precision=8"], "trainer.precision=8: expected auto, bf16-mixed"),
        (["optim.name=lamb"], "optim.name=lamb: expected sgd, adamw or torch"),
        (["model.hiden_size=32"], "did you mean model.hidden_size"),
        (["model.pooling=max", "model.num_heads=3"], "is not a multiple of model.num_heads=3"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(["describe", *TINY, *words])


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (768, "768"),
        (307_600, "307.6 K"),
        (88_946_320, "88.9 M"),
        (451_524_753_408, "451.5 G"),
        (47.77e12, "47.77 T"),
    ],
)
def test_units(number: float, text: str) -> None:
    assert in_units(number) == text
