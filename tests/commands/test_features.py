import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from tests.preflight.clips import SIDES, write_sides
from vivit_train import load
from vivit_train.__main__ import main
from vivit_train.classifier import Classifier
from vivit_train.export.safetensors import write
from vivit_train.model.vivit import ViViT
from vivit_train.runs.scores import wilson_interval
from vivit_train.transforms.processor import Processor
from vivit_train.video.sampling import Sampling


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sides(tmp_path_factory.mktemp("clips") / "sides", each=3, val=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained, of classes that the clips do not have."""
    torch.manual_seed(0)
    network = ViViT(
        image_size=16, num_frames=2, tubelet_size=[2, 8, 8], hidden_size=12, num_layers=1,
        num_heads=2, mlp_size=8, num_classes=3, attention="factorised_encoder", temporal_layers=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    names = ["jump", "run", "sit"]
    write(Classifier(network, Processor(crop_size=16), names, sampling=Sampling(2, 2)), folder)
    return folder


@pytest.fixture
def features(model: Path, clips: Path, capsys: pytest.CaptureFixture[str]):
    """Runs the command; returns its exit code, output and errors, the message of its end last."""

    def run(*words: object, root: Path = clips) -> tuple[object, str, str]:
        capsys.readouterr()
        data = ["data=folder", f"data.root={root}", "data.num_workers=0", "data.eval_views=[2,3]"]
        with pytest.raises(SystemExit) as end:
            main(["features", str(model), *data, *map(str, words)])
        out, err = capsys.readouterr()
        code = end.value.code
        return (1, out, err + code) if isinstance(code, str) else (code, out, err)

    return run


def test_rows_are_what_the_head_reads(features, model: Path, clips: Path, tmp_path: Path) -> None:
    code, out, _ = features("--output", tmp_path / "out.npz")
    assert (code, out) == (0, f"8 rows of 12 features: {tmp_path}/out.npz\n")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as found:
        names, labels, values = found["names"], found["labels"], found["features"]
        classes = found["class_names"]
    assert values.dtype == np.float32
    assert classes.tolist() == sorted(SIDES)  # the data set's, not the model's
    paths = sorted((clips / "val").rglob("*.mp4"))
    assert sorted(names.tolist()) == [str(path.relative_to(clips)) for path in paths]
    classifier = load(model)
    read: list[torch.Tensor] = []
    classifier.model.head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    for name, label, value in zip(names, labels, values):
        assert classes[label] == Path(name).parent.name
        read.clear()
        classifier.classify(clips / name, views=(2, 3))
        np.testing.assert_allclose(value, torch.cat(read).mean(dim=0), atol=1e-5)


def test_scores_from_training_videos(features, clips: Path, tmp_path: Path) -> None:
    found = {}
    for split in ("train", "val"):
        features(f"data.test_split={split}", "--output", tmp_path / f"{split}.npz")
        found[split] = np.load(tmp_path / f"{split}.npz")
    code, out, _ = features("--knn", 3, "--probe")
    theirs = KNeighborsClassifier(3, metric="cosine", algorithm="brute")
    theirs.fit(found["train"]["features"], found["train"]["labels"])
    right = (theirs.predict(found["val"]["features"]) == found["val"]["labels"]).sum()
    low, high = wilson_interval(right, 8)
    knn, probe = out.splitlines()
    assert code == 0
    assert knn == (
        f"knn 3: top-1 {right / 8:.3f}, 95 % interval {low:.3f} to {high:.3f} "
        f"({right} of 8 videos, from 12 of 'train')"
    )
    assert re.fullmatch(r"probe: top-1 .* \(\d of 8 videos, from 12 of 'train'\)", probe)


def test_videos_that_cannot_be_decoded(features, clips: Path, tmp_path: Path) -> None:
    """They are named, and left out of the file and the scores; a name need not be UTF-8."""
    root = tmp_path / "clips"
    shutil.copytree(clips / "val", root / "val")
    (root / "val" / "left" / "bad.mp4").write_bytes(b"this is no video")
    (root / "val" / "left" / "0\udcff.mp4").symlink_to(clips / "train" / "left" / "0.mp4")
    words = ("data.test_split=val", "data.train_split=val", "--knn", 1, "--output")
    code, out, err = features(*words, tmp_path / "out.npz", root=root)
    assert code == 1
    rows, knn = out.splitlines()
    assert rows == f"9 rows of 12 features, 1 left out: {tmp_path}/out.npz"
    assert re.fullmatch(r"knn 1: top-1 .* \(\d of 9 videos, leaving one out\)", knn)
    assert re.search(r"left out: \S+/left/bad\.mp4", err)
    names = np.load(tmp_path / "out.npz")["names"].tolist()
    assert "val/left/0\udcff.mp4" in names
    assert "val/left/bad.mp4" not in names
    if importlib.util.find_spec("pyarrow"):
        _, _, err = features(*words, tmp_path / "out.parquet", root=root)
        assert "is not UTF-8, which .parquet needs: use .npz" in err


def test_parquet(features, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    features("--output", tmp_path / "out.parquet")
    features("--output", tmp_path / "out.npz")
    table, same = parquet.read_table(tmp_path / "out.parquet"), np.load(tmp_path / "out.npz")
    assert table["name"].to_pylist() == same["names"].tolist()
    assert table["label"].to_pylist() == same["labels"].tolist()
    assert table["class"].to_pylist() == same["class_names"][same["labels"]].tolist()
    assert np.array_equal(np.array(table["features"].to_pylist(), "f4"), same["features"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing is asked for: give --output FILE, --knn K or --probe"),
        (["--knn", 0], "--knn must be 1 or more, got 0"),
        (["--output", "out.csv"], "expected a file whose name ends in .npz or .parquet"),
        (["--knn", 13, "--probe"], "--knn 13 --probe: 12 videos to learn from are too few"),
        (["--knn", 8, "data.train_split=val"], "--knn 8: 7 videos to learn from are too few"),
    ],
)
def test_mistakes(words: list[object], message: str, features) -> None:
    code, _, err = features(*words)
    assert code == 1
    assert message in err.splitlines()[-1]


def test_parquet_needs_pyarrow(features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _, _, err = features("--output", tmp_path / "out.parquet")
    assert "needs pyarrow: pip install 'vivit-train[parquet]'" in err
