"""The fine-tuning benchmark runs, and its clips are what their names say."""

import json
from pathlib import Path

import numpy as np
import pytest

# Of the model that `finished_run` trained, in epochs of one step.
TINY = (
    "model.image_size=16",
    "model.num_frames=4",
    "model.hidden_size=16",
    "model.num_layers=2",
    "model.num_heads=2",
    "model.mlp_size=32",
    "data.num_workers=1",
    "trainer.max_epochs=2",
    "optim.warmup_epochs=1",
    "trainer.check_val_every_n_epoch=1",
)


def test_report(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import finetune

    output = tmp_path / "finetune.json"
    arguments = ["--pretrained", str(finished_run), "--clips-per-class", "4"]
    arguments += ["--val-clips-per-class", "1", "--target", "0", "--output", str(output)]
    report = finetune.main([*arguments, *TINY])
    assert json.loads(output.read_text()) == json.loads(json.dumps(report))
    assert [line["start"] for line in report["results"]] == ["scratch", "pretrained"]
    for line in report["results"]:
        assert (line["steps_to_target"], line["steps"], line["num_videos"]) == (1, 2, 4)
        assert [step for step, _ in line["curve"]] == [1, 2]
    assert "steps to 0" in capsys.readouterr().out


def test_objects_swing_along_their_line() -> None:
    import finetune

    for motion, axis in finetune.MOTIONS.items():
        path = finetune.path_of(motion, np.random.default_rng(0))
        assert path.shape == (finetune.NUM_FRAMES, 2)
        offsets = path - path.mean(axis=0)
        along, across = offsets @ np.array(axis), offsets @ np.array((axis[1], -axis[0]))
        assert np.ptp(along) > 14  # pixels
        assert np.ptp(across) < 1e-9
        assert np.sign(np.diff(along)).min() < 0 < np.sign(np.diff(along)).max()
