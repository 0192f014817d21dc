"""A run on the hub: the folder, its card, what it keeps to itself, and the way there and back."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt

from tests.conftest import REPOSITORY
from tests.export.hub import Hub, serving
from vivit_train import load
from vivit_train.__main__ import main
from vivit_train.errors import UserError
from vivit_train.export.card import code
from vivit_train.export.card import markdown as escaped
from vivit_train.export.publication import read_scored
from vivit_train.runs.comparison import read_run

LICENSE = ("--license", "apache-2.0")
PAGE = MarkdownIt("commonmark").enable("table")
FILES = {
    "README.md", "classes.csv", "config.json", "config.yaml", "model.safetensors",
    "preprocessor_config.json", "report.html", "results.json",
}  # fmt: skip


def vivit(*words: str | Path) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, words)))
    assert end.value.code == 0


def refused(*words: str | Path) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, words)))
    assert isinstance(end.value.code, str)
    return end.value.code


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "runs/mine")  # keeps the files' times


@pytest.fixture(scope="module")
def published(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "folder"
    vivit("publish", finished_run, "me/demo", *LICENSE, "--output", folder)
    return folder


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    """What the hub reads of a card, and its text."""
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


class TestFolder:
    def test_what_is_in_it(self, published: Path, finished_run: Path) -> None:
        assert {path.name for path in published.iterdir()} == FILES
        theirs, ours = load(published), load(finished_run)
        assert theirs.class_names == ours.class_names
        assert (theirs.sampling, theirs.eval_views) == (ours.sampling, ours.eval_views)
        before, after = read_run(finished_run), read_run(published)
        assert (after.scores, after.fingerprint) == (before.scores, before.fingerprint)
        lost = {k for k, v in before.settings.items() if after.settings.get(k) != v}
        assert {"data.root", "run_dir"} <= lost
        assert lost <= {"data.root", "run_dir", "started_in", "allow_other_videos", "data.verdicts"}

    def test_nothing_of_this_machine(self, published: Path, finished_run: Path) -> None:
        root = read_run(finished_run).settings["data.root"]
        for path in published.iterdir():
            held = path.read_bytes()
            for private in (finished_run, root, os.getcwd(), os.path.expanduser("~/")):
                assert str(private).encode() not in held, path
        assert b"data:image" not in (published / "report.html").read_bytes()  # no film strips

    def test_other_models_are_in_our_own_format(self, run: Path, tmp_path: Path) -> None:
        from vivit_train.export import publication

        loaded = publication.load_classifier

        def many_heads(source: Path) -> Any:
            classifier = loaded(source)
            classifier.heads = {"nouns": 3, "verbs": 5}
            return classifier

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publication, "load_classifier", many_heads)
            scored = read_scored(run)
            config = {**scored.config, "data": {**scored.config["data"], "token": "hf_secret"}}
            scored = replace(scored, config=config)
            publication.write_publication(scored, "me/demo", "mit", tmp_path / "out")
        assert load(tmp_path / "out").config is None
        front, text = card_of(tmp_path / "out")
        assert front["library_name"] == "vivit-train"
        assert "transformers cannot load it" in text
        assert "from_pretrained" not in text
        assert "secret" not in "".join(p.read_text("latin1") for p in (tmp_path / "out").iterdir())

    def test_default_place_is_beside_the_run(
        self, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        vivit("publish", run, "me/demo", *LICENSE)
        told = capsys.readouterr().out
        assert (run.with_name("mine-published") / "README.md").is_file()
        assert all(name in told for name in FILES)
        assert "nothing was uploaded" in told
        assert "private repository me/demo" in told
        assert "exists already and is never overwritten" in refused(
            "publish", run, "me/demo", *LICENSE
        )


class TestCard:
    def test_what_the_hub_reads(self, published: Path, finished_run: Path) -> None:
        front, _ = card_of(published)
        results = json.loads((finished_run / "results.json").read_text())
        assert front["license"] == "apache-2.0"
        assert front["library_name"] == "transformers"
        assert front["pipeline_tag"] == "video-classification"
        assert "base_model" not in front
        (entry,) = front["model-index"]
        assert entry["name"] == "demo"
        (measured,) = entry["results"]
        values = {metric["name"]: metric["value"] for metric in measured["metrics"]}
        assert values["top-1 accuracy"] == round(results["top1"], 4)
        assert len(values) == len([v for v in results.values() if isinstance(v, float)])
        assert {metric["type"] for metric in measured["metrics"]} == set(front["metrics"])

    def test_no_empty_field(self, published: Path, finished_run: Path) -> None:
        _, text = card_of(published)
        page = PAGE.render(text)
        cells = re.findall(r"<t[dh]>(.*?)</t[dh]>", page)
        assert len(cells) > 100
        assert [cell for cell in cells if not cell.strip()] == []
        assert not re.search(r"None|nan|\{\{|More information", text)
        results = json.loads((finished_run / "results.json").read_text())
        for wanted in (
            results["split_fingerprint"], "| 95 % interval |", "each seen in 2", "fingerprint",
            "trained from random weights", *(f"{v:.4f}" for v in (results["macro_f1"],)),
            *load(finished_run).class_names,
        ):  # fmt: skip
            assert wanted in text.replace("\\", ""), wanted
        assert text.count("\n#") == 6

    def test_names_do_no_harm(self) -> None:
        name = "[a](http://x) <b>|`www.x.y`* \x1b[2J\n# big"
        shown = PAGE.render(f"| a |\n|---|\n| {escaped(name)} |")
        (cell,) = re.findall(r"<td>(.*)</td>", shown)
        assert unescape(cell) == r"[a](http://x) <b>|`www.x.y`* \x1b[2J\n# big"
        assert code("vivit ```\nx").startswith("````\nvivit ```")

    @pytest.mark.parametrize(
        ("pretrained", "told", "base"),
        [
            ("hf://google/vivit-b@v1", "fine-tuned from google/vivit-b at the revision v1",
             "google/vivit-b"),
            ("/home/me/models/b.npz", "fine-tuned from the weights b.npz", None),
        ],
    )  # fmt: skip
    def test_what_it_began_with(
        self, run: Path, pretrained: str, told: str, base: str | None
    ) -> None:
        path = run / "config.yaml"
        text = path.read_text().replace("pretrained: null", f"pretrained: {pretrained}")
        path.write_text(text)
        classes = (run / "classes.csv").read_text().splitlines()
        classes[1] = "moving_down,0,0,,0,,"  # a class without a test video
        (run / "classes.csv").write_text("\n".join(classes))
        vivit("publish", run, "me/demo", *LICENSE)
        front, text = card_of(run.with_name("mine-published"))
        assert front.get("base_model") == base
        assert told in text
        row = r"| moving\_down | 0 | 0 | not measured | 0 | not measured | none |"
        assert row in text
        assert r"No test video shows moving\_down, so nothing is known of that." in text

    def test_scores_of_other_names_and_no_predictions(self, run: Path) -> None:
        """Of several labels a video, or several heads: what there is no interval for says so."""
        path = run / "results.json"
        results = json.loads(path.read_text())
        results |= {"map": 0.625, "multi_label": True, "undecodable": ["a.mp4"]}
        path.write_text(json.dumps(results))
        (run / "predictions.csv").unlink()
        (run / "classes.csv").unlink()
        vivit("publish", run, "me/demo", *LICENSE)
        front, text = card_of(run.with_name("mine-published"))
        assert "map" in front["metrics"]
        assert "| map | 0.6250 | not measured |" in text
        assert re.search(r"\| top-1 accuracy \| 0\.\d{4} \| 0\.\d{4} to", text)
        assert "1 of the test videos cannot be decoded" in text
        assert "## Classes" not in text
        ours, theirs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        compile(ours + theirs, "card", "exec")
        assert "sigmoid" in theirs


class TestRefusals:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("me/demo",), "--license is missing, .*--license apache-2.0"),
            (("me/demo", "--license", "Apache 2"), "'Apache 2' is not a name that the hub has"),
            (("demo", *LICENSE), "'demo' is not the name of a repository: expected owner/name"),
            (("../demo", *LICENSE), "expected owner/name"),
        ],
    )
    def test_names(self, words: tuple[str, ...], message: str, tmp_path: Path) -> None:
        assert re.search(message, refused("publish", tmp_path, *words))

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is neither the folder of a run, .* nor that of one"):
            read_scored(tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "has no results.json, and a card needs scores"),
            ("{", "is not readable as JSON"),
            ('{"num_videos": 0, "num_videos_scored": 0}', "has not the scores of a test"),
            ("{top1: NaN}", "is not what a run writes"),
        ],
    )
    def test_no_scores(self, run: Path, content: str | None, message: str) -> None:
        path = run / "results.json"
        if content is None:
            path.unlink()
        elif content.startswith("{top1"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"top1": float("nan")}))
        else:
            path.write_text(content)
        with pytest.raises(UserError, match=rf"{message}.*`vivit evaluate {run}`"):
            read_scored(run)

    def test_scores_of_other_weights(self, run: Path) -> None:
        best = run / "checkpoints/best.ckpt"
        os.utime(best)
        with pytest.raises(UserError, match="is newer than the scores in .*vivit evaluate"):
            read_scored(run)
        best.unlink()
        (run / "checkpoints/last.ckpt").touch()
        with pytest.raises(UserError, match=r"best\.ckpt, which is gone; test the run"):
            read_scored(run)

    def test_an_evaluation_in_the_run_is_taken(self, run: Path) -> None:
        folder = run / "evaluations/2026-01-31_12-00-00"
        folder.mkdir(parents=True)
        results = json.loads((run / "results.json").read_text())
        results["checkpoint"] = "/elsewhere/runs/mine/checkpoints/last.ckpt"
        (folder / "results.json").write_text(json.dumps(results))
        (run / "results.json").unlink()
        assert read_scored(folder).checkpoint == run / "checkpoints/last.ckpt"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as served:
        yield served


# With the environment of a user who has logged in: pushes, then runs the card's Python.
THERE_AND_BACK = """
import json, re, sys
import numpy as np, torch
from vivit_train.__main__ import main

run, folder, clip = sys.argv[1:]
def vivit(*words):
    try:
        main(list(words))
    except SystemExit as end:
        assert not end.code, end.code
words = ("publish", run, "me/demo", "--license", "apache-2.0", "--output", folder)
vivit(*words)
with open(f"{folder}/README.md", "a") as card:
    card.write("Edited by hand.")
vivit(*words, "--push")
ours, theirs = re.findall(r"```python\\n(.*?)```", open(f"{folder}/README.md").read(), re.DOTALL)
names = {}
exec(ours.replace("clip.mp4", clip), names)
exec(theirs.replace("clip.mp4", clip), names)
sized = names["classifier"].processor.resize(torch.from_numpy(np.load("frames.npy"))[None])
frames = sized[0].movedim(1, -1).contiguous()
pixels = names["processor"](list(frames.numpy()), return_tensors="pt")
with torch.no_grad():
    told = {"ours": names["classifier"](frames), "theirs": names["model"](**pixels).logits}
told = {name: logits[0].tolist() for name, logits in told.items()}
print(json.dumps(told))
"""


def test_there_and_back(hub: Hub, finished_run: Path, demo_root: Path, tmp_path: Path) -> None:
    """Pushed, fetched by the card's own code, and equal to the run."""
    import torch

    clip = next(demo_root.glob("val/*/*.mp4"))
    frames = np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3), dtype=np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    folder = tmp_path / "folder"
    done = subprocess.run(
        [sys.executable, "-c", THERE_AND_BACK, finished_run, folder, clip],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": hub.token,
             "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1",
             "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["me/demo"]
    assert repository.private
    held = repository.commits[repository.named("main") or ""]
    assert {name: held[name] for name in FILES} == {
        name: (folder / name).read_bytes() for name in FILES
    }
    assert held["README.md"].endswith(b"Edited by hand.")
    assert f"model.pretrained=hf://me/demo@{repository.named('main')}" in done.stdout
    logits = json.loads(done.stdout.splitlines()[-1])
    classifier = load(finished_run)
    sized = classifier.processor.resize(torch.from_numpy(frames)[None]).movedim(2, -1)
    expected = classifier(sized)[0].tolist()
    assert logits["ours"] == pytest.approx(expected, abs=1e-6)
    assert logits["theirs"] == pytest.approx(expected, abs=1e-5)


@pytest.fixture
def logged_in(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """This process at the server: the client reads its environment when it is imported."""
    from huggingface_hub import constants

    address = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    return hub


def test_a_revision_is_pinned(logged_in: Hub, published: Path) -> None:
    from huggingface_hub import HfApi

    from vivit_train.model.weights import read_weights

    api = HfApi()
    api.create_repo("me/demo", private=True)
    first = api.upload_folder(repo_id="me/demo", folder_path=published).oid
    (logged_in.repositories["me/demo"]).commit({"config.json": b"{}"})
    weights = read_weights(f"hf://me/demo@{first}")
    assert weights.origin == f"Hugging Face hub hf://me/demo@{first}"
    assert weights.class_names == load(published).class_names
    with pytest.raises(UserError, match="me/demo|config"):
        read_weights("me/demo")
    with pytest.raises(UserError, match="from the Hugging Face hub at the revision v9"):
        read_weights("hf://me/demo@v9")


def test_pushes_that_are_refused(
    logged_in: Hub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("publish", run, "me/demo", *LICENSE)
    vivit(*words)
    folder = run.with_name("mine-published")
    push = (*words, "--push")
    assert "is not what this call would publish" in refused(
        "publish", run, "me/demo", "--license", "mit", "--push"
    )
    told = refused("publish", run, "me/other", *LICENSE, "--push")
    assert str(folder / "README.md") in told
    monkeypatch.setenv("HF_TOKEN", "hf_of_someone_else")
    told = refused(*push)
    assert f"could not be pushed to {logged_in.address}" in told
    assert "hf auth login" in told
    monkeypatch.setenv("HF_TOKEN", logged_in.token)
    vivit(*push, "--public")
    assert not logged_in.repositories["me/demo"].private
    assert "me/demo is there and is public: add --public" in refused(*push)
