"""Videos with any number of classes, from lists to a report."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import SMALL
from tests.faults import vivit_on
from train import train
from vivit_train import load
from vivit_train.__main__ import main
from vivit_train.config import compose_config, to_plain
from vivit_train.data.demo_clips import CLASS_NAMES, write_demo
from vivit_train.errors import UserError
from vivit_train.metrics import MultiLabelScores
from vivit_train.preflight.doctor import examine
from vivit_train.report.content import Content
from vivit_train.report.page import most_certain_and_wrong
from vivit_train.runs.multi_label import no_better_than_guessing
from vivit_train.runs.resume import resumed


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo of two objects in a clip."""
    root = tmp_path_factory.mktemp("data") / "two"
    write_demo(root, 4, 2, multi_label=True)
    return root


@pytest.fixture(scope="module")
def words(root: Path) -> list[str]:
    mixes = ["augment.mixup=0.3", "optim.label_smoothing=0.1", "trainer.max_epochs=1"]
    return [*SMALL, "data.multi_label=true", f"data.root={root}", *mixes]


@pytest.fixture(scope="module")
def run(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(compose_config([*words, f"run_dir={tmp_path_factory.mktemp('runs') / 'many'}"]))


def vivit(*words: str | Path) -> int | str:
    """The exit code of a command, or its error."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code or 0


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_monitor_is_that_of_the_task() -> None:
    for word, monitor in (("false", "val/top1"), ("true", "val/map")):
        plain = to_plain(compose_config([f"data.multi_label={word}"]))
        assert plain["callbacks"]["monitor"] == monitor
    plain = to_plain(compose_config(["data.multi_label=true", "callbacks.monitor=val/loss"]))
    assert plain["callbacks"]["monitor"] == "val/loss"


def test_what_a_run_leaves(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    assert results["multi_label"] is True
    scores = {"map", "micro_map", "micro_f1", "macro_f1", "micro_recall", "macro_precision"}
    assert all(0 <= results[name] <= 1 for name in scores)
    assert not any("top1" in name for name in results)
    assert not (run / "confusion.csv").exists()
    logged = table(run / "metrics.csv")
    assert {"train/micro_f1", "val/map", "val/micro_map", "val/macro_f1"} <= logged[0].keys()
    assert not any("top1" in name for name in logged[0])
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert best["hyper_parameters"]["multi_label"] is True
    assert best["hyper_parameters"]["config"]["callbacks"]["monitor"] == "val/map"


def test_the_tables_of_a_run(run: Path) -> None:
    """Those of the videos give those of the classes, and the scores."""
    results = json.loads((run / "results.json").read_text())
    videos, classes = table(run / "predictions.csv"), table(run / "classes.csv")
    assert [row["class"] for row in classes] == list(CLASS_NAMES)
    assert {row["videos"] for row in classes} == {"4"}
    assert {row["prevalence"] for row in classes} == {"0.25"}
    mean = np.mean([float(row["average_precision"]) for row in classes])
    assert mean == pytest.approx(results["map"], abs=1e-12)
    assert len(videos) == 16
    taken = [row["predicted"].split("; ") if row["predicted"] else [] for row in videos]
    own = [row["class"].split("; ") for row in videos]
    for row in classes:
        name = row["class"]
        assert int(row["predicted"]) == sum(name in some for some in taken)
        assert int(row["correct"]) == sum(name in a and name in b for a, b in zip(taken, own))
    for row, some, truth in zip(videos, taken, own):
        assert len(truth) == 2
        assert int(row["correct"]) == (sorted(some) == sorted(truth))
        shares = [float(p) for p in row["probabilities"].split("; ") if p]
        assert len(shares) == len(some)
        assert shares == sorted(shares, reverse=True)
        assert all(share >= 0.5 for share in shares)
        assert row["top5"].count("|") == 4


def test_it_is_evaluated_as_it_was_tested(run: Path, tmp_path: Path) -> None:
    assert vivit("evaluate", run, "--output", tmp_path / "out") == 0
    before, now = (json.loads((p / "results.json").read_text()) for p in (run, tmp_path / "out"))
    for name in ("map", "micro_map", "micro_f1", "macro_f1", "split_fingerprint"):
        assert now[name] == before[name]


def test_any_number_of_processes_gives_the_same_scores(
    run: Path, root: Path, tmp_path: Path, command
) -> None:
    """Of 13 videos, a prime number; a broken one among them counts as wrong."""
    short = tmp_path / "short"
    shutil.copytree(root, short)
    for split in ("train", "val"):
        listed = short / f"{split}.csv"
        lines = listed.read_text().splitlines(keepends=True)
        listed.write_text("".join(lines[:14]))  # the first one names the columns
    (short / "val/3000.mp4").write_bytes(b"not a video")
    found, tables = [], []
    for devices, batch_size in ((1, 4), (2, 3), (3, 2)):
        output = tmp_path / f"of_{devices}"
        words = ["evaluate", str(run), f"data.root={short}", f"data.batch_size={batch_size}"]
        vivit_on(devices, [*words, "--output", str(output)], tmp_path / "log", command)
        results = json.loads((output / "results.json").read_text())
        assert results.pop("devices") == devices
        found.append(results)
        tables.append([table(output / name) for name in ("predictions.csv", "classes.csv")])
    assert found[0]["num_videos"] == 13
    assert [Path(path).name for path in found[0]["undecodable"]] == ["3000.mp4"]
    assert found[0] == found[1] == found[2]
    assert tables[0] == tables[1] == tables[2]


def test_a_task_of_the_other_kind_is_refused(
    run: Path, words: list[str], demo_root: Path, tmp_path: Path
) -> None:
    plain = ["data.multi_label=false", f"data.root={demo_root}"]
    told = str(vivit("evaluate", run, *plain, "--output", tmp_path / "out"))
    assert "was trained to name any number of classes of a video, and demo with data.multi" in told
    assert "set data.multi_label=true" in told
    last = run / "checkpoints/last.ckpt"
    with pytest.raises(UserError, match=r"data\.multi_label: True -> False .*what the logits"):
        resumed([f"ckpt_path={last}", *plain])
    for key in ("data.class_sampling=1.0", "optim.class_weights=balanced"):
        with pytest.raises(UserError, match=rf"{key[:12]}.*needs one class per video, and with"):
            train(compose_config([*words, key, f"run_dir={tmp_path / key[:5]}"]))


def test_the_report_of_a_run(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "average precision" in page
    assert "Confusion" not in page
    assert "top-1" not in page
    assert all(name in page for name in CLASS_NAMES)
    content = Content.read(run)
    assert len(content.pairs) == 0
    worst = most_certain_and_wrong(content)
    errors = [float(row["largest_error"]) for row in worst]
    assert errors == sorted(errors, reverse=True)
    assert all(row["correct"] == "0" and row["predicted"] for row in worst)
    assert vivit("compare", run) == 0


def test_what_is_no_better_than_guessing() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(50, 4, generator=generator) < 0.3).long()
    noise, rows = torch.randn(50, 4, generator=generator), torch.arange(50)
    for knows, is_told in ((0.0, True), (2.0, False)):
        scores = MultiLabelScores(4, 50)
        scores.update(noise + knows * labels, labels, rows, torch.ones(50) > 0)
        told = no_better_than_guessing(scores)
        assert (told is not None) == is_told
    scores = MultiLabelScores(4, 50)
    scores.update(noise, torch.ones_like(labels), rows, torch.ones(50) > 0)
    assert no_better_than_guessing(scores) is None  # all classes are in all videos


def test_every_class_has_a_probability_of_its_own(
    run: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    classifier = load(run)
    assert classifier.multi_label
    video = root / "val/0000.mp4"
    logits = classifier.classify(video)
    found = classifier.predict(video, threshold=0.3)
    assert [name for name, _ in found.classes] == [
        CLASS_NAMES[k] for k in logits.argsort(descending=True)
    ]
    shares = dict(found.classes)
    for name, logit in zip(CLASS_NAMES, logits):
        assert shares[name] == pytest.approx(float(logit.sigmoid()))
    assert found.labels == [name for name, share in found.classes if share >= 0.3]
    assert len(classifier.predict(video, top_k=2).classes) == 2
    with pytest.raises(UserError, match="threshold must be from 0 to 1, got 50"):
        classifier.predict(video, threshold=50)
    middle = f"{(found.classes[3][1] + found.classes[4][1]) / 2:.9f}"
    words = [run, video, "--threshold", middle]
    assert vivit("predict", *words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines[1:]] == ["*"] * 4 + [" "] * 4
    assert vivit("predict", *words, "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["labels"] == [name for name, _ in found.classes[:4]]
    assert len(told["classes"]) == 8
    assert vivit("predict", *words, "--csv", tmp_path / "a.csv") == 0
    (row,) = table(tmp_path / "a.csv")
    assert row["labels"] == "; ".join(told["labels"])
    words = [run, video, "--window", "0.3s", "--threshold", "0"]
    capsys.readouterr()
    assert vivit("predict", *words, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["class"] for row in rows] == sorted(CLASS_NAMES)  # each the whole film long
    told = str(vivit("predict", *words, "--video", tmp_path / "film.mp4"))
    assert "--video draws one class at a time" in told


def test_what_is_said_of_features(run: Path, tmp_path: Path) -> None:
    told = str(vivit("features", run, "--knn", "3"))
    assert "--knn and --probe need one class per video" in told
    assert vivit("features", run, "--output", tmp_path / "a.npz") == 0
    with np.load(tmp_path / "a.npz") as found:
        assert found["labels"].shape == (16, 8)
        assert set(found["labels"].sum(axis=1)) == {2}


def test_the_doctor_and_the_batch(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    findings = {finding.check: finding for finding in examine(to_plain(compose_config(words)), 1.0)}
    assert "of guessing it is 0.693" in findings["first loss"].text
    assert findings["first loss"].verdict == "ok"
    assert "several classes each" in findings["flip"].text
    batch = [word for word in words if not word.startswith(("optim", "trainer", "callbacks"))]
    kept = [word for word in batch if not word.startswith("model") or "image" in word]
    assert vivit("show-batch", *kept, "--clips", "1", "--output", tmp_path / "seen") == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert sum(name in line for name in CLASS_NAMES) in (2, 3, 4)  # mixed with another clip
