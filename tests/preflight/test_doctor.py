import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vivit_train.__main__ import main
from vivit_train.build import build_data
from vivit_train.config import compose_config, to_plain
from vivit_train.preflight import doctor
from vivit_train.preflight.doctor import Finding, examine
from vivit_train.video.write import write_video

# Learns a batch of four by heart in a second.
QUICK = (
    "optim.lr=3e-3", "data.batch_size=16", "augment.horizontal_flip=0", "trainer.max_epochs=200",
    "data.frame_stride=2",
)  # fmt: skip


def findings(*words: str, seconds: float = 20) -> dict[str, Finding]:
    return {f.check: f for f in examine(to_plain(compose_config(list(words))), seconds)}


def test_a_healthy_run(small: tuple[str, ...]) -> None:
    found = findings(*small, *QUICK)
    assert {check: finding.verdict for check, finding in found.items()} == {
        "data": "ok", "decoding": "ok", "pixels": "ok", "steps": "ok", "length": "ok",
        "sources": "ok",
        "forecast": "ok", "flip": "ok", "copies": "ok", "first loss": "ok", "overfitting": "ok",
        "gradients": "ok", "memory": "ok", "time": "warn",
    }  # fmt: skip
    # So small a model waits for its one worker.
    assert re.fullmatch(
        r"a step takes \d+\.\d clips/s, the loader gives \d+\.\d: about .* on one device, .* for "
        r"200 epochs; the device waits for data: to keep up, the videos as they are need about \d+ "
        r"decoding processes of a core each, of which 1 ran and this machine has cores for \d+: "
        r"raise data\.num_workers, or .* `vivit prepare`",
        found["time"].text,
    )
    assert re.fullmatch(
        r"32 training and 16 validation videos in 8 classes; a clip is 4 frames, 2 frames of the "
        r"video apart: 0\.3\d* s at 2[45] frames/s",
        found["data"].text,
    )
    assert found["first loss"].text == "2.079; of guessing it is 2.079"
    assert found["gradients"].text.startswith("reach all ")


def test_clips_that_are_not_taken_as_those_of_the_weights(
    small: tuple[str, ...], finished_run: Path
) -> None:
    words = (f"model.pretrained={finished_run}", "data.frame_stride=2")
    found = findings(*small, *QUICK, *words, seconds=1)
    assert found["data"].verdict == "warn"
    assert found["data"].text.startswith("data.frame_stride=2, but for the moments that")
    assert found["data"].text.endswith("As they were trained: data.frame_stride=1")


def test_as_a_user(small: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["doctor", *small, *QUICK])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok    data          32 training and 16 validation videos in 8 ")
    assert len(lines) == 14
    with pytest.raises(SystemExit, match="1"):
        main(["doctor", "data=folder", "data.root=/nowhere", "--json"])
    assert '"verdict": "fail", "check": "start"' in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--seconds must be above 0, got 0"):
        main(["doctor", "--seconds", "0"])


def test_what_ends_it(tmp_path: Path) -> None:
    found = findings("data=folder", f"data.root={tmp_path / 'nothing'}")
    assert [(f.verdict, f.check) for f in found.values()] == [("fail", "start")]
    assert "is not a folder" in found["start"].text


def test_usual_mistakes(small: tuple[str, ...]) -> None:
    words = ("optim.lr=1e-9", "data.batch_size=32", "augment.horizontal_flip=0")
    found = findings(*small, *words, seconds=5)
    assert found["settings"].verdict == "warn"
    assert "optim.lr=1e-09 is far from" in found["settings"].text
    assert found["overfitting"].verdict in ("fail", "warn")
    text = found["overfitting"].text
    assert ("in 100 steps" in text) == ("not even one batch is learnt" in text)


def test_a_learning_rate_that_bursts(small: tuple[str, ...]) -> None:
    words = (*small, "optim.lr=1e6", "trainer.gradient_clip_val=0", "data.batch_size=16")
    found = findings(*words, seconds=5)
    assert found["overfitting"].verdict == "fail"
    assert found["gradients"].verdict == "fail"
    assert "lower optim.lr" in found["overfitting"].text


def test_videos_of_one_colour(small: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("a", "b"):
        for split, count in (("train", 8), ("val", 1)):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                gray = np.full((8, 24, 24, 3), 100, dtype=np.uint8)
                write_video(tmp_path / split / name / f"{i}.mp4", gray)
    demos_own = ("data.train", "data.val", "data.root", "augment")
    words = [word for word in small if not word.startswith(demos_own)]
    where = ("data=folder", f"data.root={tmp_path}", "augment=none", "processor.crop_size=16")
    found = findings(*words, *where, "data.batch_size=16")
    assert found["pixels"].verdict == "warn"
    assert "of one colour throughout: " in found["pixels"].text


def patient(small: tuple[str, ...], *words: str) -> tuple[doctor.Patient, dict[str, Any]]:
    config = to_plain(compose_config([*small, *words]))
    data = build_data(config)
    data.setup("fit")
    batch = doctor.first_batch(data, config["trainer"])
    return doctor.Patient(config, doctor.build_module(config, data), batch), config


def test_first_losses(small: tuple[str, ...]) -> None:
    sick, _ = patient(small)
    right = torch.nn.functional.one_hot(sick.targets, 8).float()
    sick.model = lambda clips: 20 * right
    sick.model.num_classes = 8
    assert "better than an untrained model can be" in sick.loss_at_start().text
    sick.model = lambda clips: -20 * right
    sick.model.num_classes = 8
    assert "worse than guessing" in sick.loss_at_start().text
    sick.model = lambda clips: math.nan * right
    sick.model.num_classes = 8
    finding = sick.loss_at_start()
    assert (finding.verdict, "not finite" in finding.text) == ("fail", True)


def test_a_part_that_no_gradient_reaches(small: tuple[str, ...]) -> None:
    sick, _ = patient(small, "optim.lr=3e-3")
    blocks = sick.model.encoder.blocks
    blocks[0].mlp.forward = lambda x: x * 0
    assert sick.learns_by_heart(5).check == "overfitting"
    finding = sick.gradients()
    assert finding.verdict == "fail"
    assert "none reach" in finding.text
    assert "blocks.0.mlp.fc1.weight" in finding.text


def test_gradients_reach_all_of_lora_from_a_new_head(
    small: tuple[str, ...], finished_run: Path
) -> None:
    """Behind a head of zeros and B of zeros the third step is the first that reaches A."""
    sound, _ = patient(small, f"model.pretrained={finished_run}", "optim.lora_rank=2")
    torch.nn.init.zeros_(sound.model.head.weight)
    sound.learns_by_heart(seconds=0)
    assert len(sound.losses) == 3
    finding = sound.gradients()
    assert (finding.verdict, finding.text) == ("ok", "reach all 18 trainable parameters")


def test_a_batch_that_does_not_fit(small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    sick, _ = patient(small)
    monkeypatch.setattr(doctor.os, "sysconf", lambda name: 64)  # a machine of 4 KiB
    finding = sick.memory()
    assert finding.verdict == "fail"
    assert "lower data.batch_size and raise trainer.accumulate_grad_batches" in finding.text


def test_a_loader_that_is_the_limit(
    small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = to_plain(compose_config(list(small)))
    data = build_data(config)
    data.setup("fit")
    data.num_workers = 4
    monkeypatch.setattr(doctor, "_seconds_per_clip", lambda loader, seconds: 0.5)
    finding = doctor._time(config, data, seconds_per_clip=0.25)
    assert finding.verdict == "warn"
    # 4 processes give 2 clips/s: 8 for 4.
    assert "the videos as they are need about 8 decoding processes" in finding.text
    assert "of which 4 ran" in finding.text
    assert doctor._time(config, data, seconds_per_clip=0.45).verdict == "ok"
    assert doctor._clock(3723) == "1:02:03"
    assert doctor._clock(math.nan) == "?"
