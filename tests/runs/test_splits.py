import argparse
import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch

from train import train
from vivit_train.commands import evaluate
from vivit_train.config import compose_config
from vivit_train.data import folder
from vivit_train.data.groups import hold_out
from vivit_train.errors import UserError
from vivit_train.io.layout import VIDEOS_FILE
from vivit_train.runs.resume import resumed
from vivit_train.runs.splits import difference


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def grown(demo_root: Path, tmp_path: Path) -> Path:
    """The data set at another place, with one training video more."""
    root = shutil.copytree(demo_root, tmp_path / "grown")
    first = sorted((root / "train").rglob("*.mp4"))[0]
    shutil.copy(first, first.with_name("zz.mp4"))
    return root


def test_other_videos_are_refused_by_name(run: Path, grown: Path) -> None:
    config = (run / "config.yaml").read_bytes()
    words = [f"run_dir={run}", "ckpt_path=last", f"data.root={grown}", "trainer.max_epochs=3"]
    with pytest.raises(UserError, match=r"the train split is not .*: 1 new \(.*/zz\.mp4\)\. Bring"):
        train(resumed(words))
    assert (run / "config.yaml").read_bytes() == config
    (run / VIDEOS_FILE).unlink()
    with pytest.raises(UserError, match=r"began with: 32 rows before, 33 now\."):
        train(resumed(words))

    with pytest.warns(UserWarning, match=r"train split .* resuming with it \(allow_other_videos"):
        train(resumed([*words, "allow_other_videos=true"]))
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 24
    # They are the run's own from here on.
    train(resumed([*words, "trainer.limit_test_batches=1"]))


def test_the_same_videos_elsewhere_are_the_same(run: Path, demo_root: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(demo_root, tmp_path / "moved")
    train(resumed([f"run_dir={run}", "ckpt_path=last", f"data.root={moved}"]))


def test_a_checkpoint_of_an_older_version_does_not_tell(run: Path, grown: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    del content["splits"]
    torch.save(content, last)
    train(resumed([f"run_dir={run}", "ckpt_path=last", f"data.root={grown}"]))


def test_a_run_keeps_the_videos_that_it_has_held_out(
    demo_root: Path, small: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though this version, or a folder that has grown, would hold out others."""
    root = shutil.copytree(demo_root / "train", tmp_path / "mine")
    clips = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.mp4"))
    words = [word for word in small if "_per_class" not in word and "data.root" not in word]
    words += ["data=folder", f"data.root={root}", "trainer.max_epochs=1", "data.batch_size=2"]
    monkeypatch.setattr(folder, "hold_out", lambda *_: set(clips[::4]))
    run = train(compose_config([*words, f"run_dir={tmp_path / 'run'}"]))
    monkeypatch.undo()
    known = json.loads(gzip.decompress((run / VIDEOS_FILE).read_bytes()))
    assert set(known["val"]["names"]) == set(clips[::4])
    assert known["val"]["classes"] == dict.fromkeys(sorted(p.name for p in root.iterdir()), 1)
    assert hold_out(clips, [0] * len(clips), 0.2) != set(clips[::4])

    again = [f"run_dir={run}", "ckpt_path=last", "trainer.max_epochs=2"]
    train(resumed(again))
    with pytest.raises(UserError, match=r"data.val_fraction: 0.2 -> 0.5 \(the run keeps the val"):
        resumed([*again, "data.val_fraction=0.5"])
    for i, name in enumerate(clips[:12]):
        shutil.copy(root / name, (root / name).with_name(f"new {i}.mp4"))
    arguments = argparse.Namespace(checkpoint=str(run), overrides=[], output=tmp_path / "scores")
    assert evaluate.run(arguments) == 0
    scored = json.loads((tmp_path / "scores/results.json").read_text())
    before = json.loads((run / "results.json").read_text())
    assert scored["split_fingerprint"] == before["split_fingerprint"]
    with pytest.raises(UserError, match="the train split is not .*: 12 new "):
        train(resumed([*again, "trainer.max_epochs=3"]))
    (run / VIDEOS_FILE).write_bytes(b"not this")
    with pytest.raises(UserError, match="the train split is not .*: 24 rows before, "):
        train(resumed([*again, "trainer.max_epochs=3"]))


def test_differences_in_words() -> None:
    assert difference(["a", "b"], ["b", "c"]) == "1 new (c), 1 gone (a)"
    assert difference(list("abcde"), []) == "5 gone (a, b, c and 2 more)"
    assert difference(["a", "b"], ["b", "a"]) == (
        "the same videos in another order or with other classes"
    )
