"""The model card: what whoever finds a model on the hub has to know, in Markdown."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import jinja2
from markupsafe import Markup

from vivit_train.class_names import shorten
from vivit_train.classifier import Classifier
from vivit_train.config.words import in_shell
from vivit_train.describe.counts import size
from vivit_train.errors import UserError
from vivit_train.io.layout import SplitDigest
from vivit_train.io.terminal import printable
from vivit_train.model.weights.hub import hub_id
from vivit_train.report.confusion import worst
from vivit_train.report.content import Content
from vivit_train.report.intervals import intervals
from vivit_train.report.repeat import words_of
from vivit_train.runs.scores import no_better_than_guessing, wilson_interval

CARD = "README.md"
# What Markdown and HTML give a meaning; `:` and `.` in what would become a link by itself.
_MARKUP = re.compile(r"[\\`*_{}\[\]<>#|~&$!@]|:(?=//)|(?<=www)\.")
# More classes than these are folded away.
FEW_CLASSES = 30
# Scores -> what the hub calls them; others keep their name.
_METRICS = {
    "top1": "accuracy",
    "top5": "accuracy",
    "mean_class_accuracy": "accuracy",
    "macro_f1": "f1",
    "weighted_f1": "f1",
    "macro_precision": "precision",
    "weighted_precision": "precision",
    "macro_recall": "recall",
    "weighted_recall": "recall",
}


class Results(TypedDict):
    """What a card needs of results.json, besides the scores."""

    num_videos: int
    num_videos_scored: int
    undecodable: list[str]
    views: list[int]
    split: str
    test_is_validation: bool
    split_fingerprint: str
    data: str
    num_classes: int
    precision: str
    hardware: str
    checkpoint: str
    versions: dict[str, str]


class Score(TypedDict):
    """A row of the table of scores."""

    name: str
    label: str
    value: float
    interval: tuple[float, float] | None


def scores_of(results: Mapping[str, Any]) -> dict[str, float]:
    """The scores in results.json, whatever their names: its fractions."""
    return {name: value for name, value in results.items() if isinstance(value, float)}


def card(
    repo_id: str,
    license: str,
    classifier: Classifier,
    content: Content,
    format_name: str,
    splits: Mapping[str, SplitDigest],
) -> str:
    """The card; all that is not known is left out.

    Args:
        repo_id: ``owner/name`` on the hub.
        license: The hub's name of a licence.
        classifier: What is published.
        content: Of its run and test, without anything private.
        format_name: Of the weights: ``huggingface`` or ``safetensors``.
        splits: Digest and size of the splits of the training.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vivit_train.export", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=markdown,
    )
    results, base = content.results, base_of(content.run.settings)
    scores = score_table(content)
    return environment.get_template("card.md").render(
        front_matter=Markup(front_matter(repo_id, license, content, scores, format_name, base)),
        name=repo_id.partition("/")[2],
        repo_id=Markup(repo_id),
        base=base,
        is_theirs=format_name == "huggingface",
        results=results,
        scores=scores,
        classes=class_rows(content),
        is_long=len(content.classes) > FEW_CLASSES,
        facts=facts_of(classifier, content, splits),
        command=command_of(content.run.settings),
        limits=limits_of(classifier, content),
        clip=clip_of(classifier),
        number=lambda value: Markup(f"{value:.4f}"),
        code=code,
    )


def markdown(value: Any) -> Any:
    """Text from elsewhere as Markdown shows it letter by letter; numbers and Markup stay."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return Markup(_MARKUP.sub(r"\\\g<0>", printable(value)))


def code(text: str, language: str = "") -> Markup:
    """A block of code, fenced by more backticks than the text has in a row."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = "\n".join(printable(line) for line in text.strip("\n").split("\n"))
    return Markup(f"{fence}{language}\n{lines}\n{fence}")


def base_of(settings: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """What training began with, for people, and its name on the hub; ``None``: random weights."""
    pretrained = settings.get("model.pretrained")
    if not pretrained:
        return None
    found = hub_id(pretrained)
    if found is None or Path(pretrained).exists():
        return f"the weights {Path(pretrained).name}", None
    at = f" at the revision {found.revision}" if found.revision else ""
    return f"{found.repo_id}{at}", found.repo_id


def front_matter(
    repo_id: str,
    license: str,
    content: Content,
    scores: list[Score],
    format_name: str,
    base: tuple[str, str | None] | None,
) -> str:
    """What the hub reads of a card, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    results, kinds = content.results, sorted({_METRICS.get(s["name"], s["name"]) for s in scores})
    data = ModelCardData(
        license=license,
        library_name="transformers" if format_name == "huggingface" else "vivit-train",
        pipeline_tag="video-classification",
        tags=["vivit", "vivit-train", "video-classification"],
        base_model=base[1] if base else None,
        metrics=kinds,
        model_name=repo_id.partition("/")[2],
        eval_results=[
            EvalResult(
                task_type="video-classification",
                dataset_type=printable(results["data"]),
                dataset_name=printable(results["data"]),
                dataset_split=printable(results["split"]),
                metric_type=_METRICS.get(score["name"], score["name"]),
                metric_name=score["label"],
                metric_value=round(score["value"], 4),
            )
            for score in scores
        ],
    )
    return data.to_yaml().strip()


def score_table(content: Content) -> list[Score]:
    """Every score, with its 95 % interval where there is one."""
    results = content.results
    ends = intervals(content.pairs, len(content.class_names))
    number = results["num_videos_scored"]
    table: list[Score] = []
    for name, value in scores_of(results).items():
        if name.endswith(("top1", "top5")):  # shares of the videos
            ends.setdefault(name, wilson_interval(round(value * number), number))
        label = re.sub(r"top(\d)$", r"top-\1 accuracy", name).replace("_", " ")
        label = re.sub(r"\bf1$", "F1", label)
        table.append({"name": name, "label": label, "value": value, "interval": ends.get(name)})
    return table


def class_rows(content: Content) -> list[dict[str, Any]]:
    """Rows of classes.csv without an empty cell, and numbers with three places."""

    def cell(column: str, text: str) -> Any:
        if not text:
            return "none" if column == "taken_for" else "not measured"
        is_fraction = column not in ("class", "taken_for") and re.fullmatch(r"\d\.[\de-]+", text)
        return f"{float(text):.3f}" if is_fraction else text

    return [
        {column.replace("_", " "): cell(column, text) for column, text in row.items()}
        for row in content.classes
    ]


def facts_of(
    classifier: Classifier, content: Content, splits: Mapping[str, SplitDigest]
) -> dict[str, str]:
    """What was trained, on what and how: a value by its name, without what is not known."""
    settings, results = content.run.settings, content.results
    height, width = classifier.model.arguments.frame_size
    parameters = size(classifier.model)
    name = settings.get("model.name") or "ViViT"
    facts: dict[str, Any] = {
        "model": f"{name}, {settings.get('model.attention')}, {parameters / 1e6:.2f} M parameters",
        "clip": f"{classifier.sampling}, {height} x {width} pixels",
        "frames per second of the training videos": classifier.video_rate,
        "data set": results["data"],
    }
    for role, title in (("train", "training videos"), ("val", "validation videos")):
        if role in splits:
            facts[title] = f"{splits[role]['rows']}, fingerprint {splits[role]['digest']}"
    facts |= {
        "test videos": f"{results['num_videos_scored']} of the split {results['split']}, "
        f"fingerprint {results['split_fingerprint']}",
        "optimiser": _joined(settings, name="", lr="learning rate ", weight_decay="weight decay "),
        "epochs": settings.get("trainer.max_epochs"),
        "videos per step and process": _per_step(settings),
        "processes": results.get("devices"),
        "precision": results["precision"],
        "seed": settings.get("seed"),
        "hardware of the test": results["hardware"],
        "versions": ", ".join(f"{name} {v}" for name, v in results["versions"].items()),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "", -1)}


def _joined(settings: Mapping[str, Any], **words: str) -> str:
    values = {name: settings.get(f"optim.{name}") for name in words}
    return ", ".join(f"{words[name]}{v}" for name, v in values.items() if v is not None)


def _per_step(settings: Mapping[str, Any]) -> int | None:
    counts = [settings.get("data.batch_size"), settings.get("trainer.accumulate_grad_batches")]
    return math.prod(counts) if all(isinstance(count, int) for count in counts) else None  # type: ignore[arg-type]


def command_of(settings: Mapping[str, Any]) -> str | None:
    """The command that trains alike, for a shell; ``None`` of another version's run."""
    try:
        words = words_of(dict(settings))
    except UserError:
        return None
    return f"vivit train {in_shell([*words, 'data.root=VIDEOS'])}"


def limits_of(classifier: Classifier, content: Content) -> list[str]:
    """What not to expect of the model, in sentences."""
    results, pairs, names = content.results, content.pairs, content.class_names
    number, scored = results["num_videos"], results["num_videos_scored"]
    limits = [
        f"It knows {results['num_classes']} classes alone, and gives them probabilities also "
        "where a video shows none of them.",
        f"The scores hold for clips that are taken as in training: {classifier.sampling}.",
    ]
    if results["test_is_validation"]:
        limits.append(
            "The test videos are the validation videos: where the checkpoint was chosen by its "
            "score on them, the scores are a little too good."
        )
    if scored < number:
        limits.append(f"Only {scored} of the {number} test videos were scored.")
    if undecodable := len(results["undecodable"]):
        limits.append(f"{undecodable} of the test videos cannot be decoded, and count as wrong.")
    if len(pairs) and (told := no_better_than_guessing(pairs[:, :1], pairs[:, 1:])):
        limits.append(f"{told.partition('. ')[0]}.")
    if untested := [row["class"] for row in content.classes if row["videos"] == "0"]:
        limits.append(f"No test video shows {shorten(untested)}, so nothing is known of that.")
    if confused := worst(pairs, most=3):
        told = "; ".join(
            f"{names[c.true]} for {names[c.predicted]} ({c.videos} videos)" for c in confused
        )
        limits.append(f"Classes that are most often taken for others: {told}.")
    limits.append(
        "Not measured: videos of other sources, cameras and frame rates, and whether the model is "
        "as good for one group of people as for another."
    )
    return limits


def clip_of(classifier: Classifier) -> dict[str, Any]:
    """How to take a clip from a video's frames, for a program without our sampling."""
    sampling = classifier.sampling
    frames = sampling.clip_frames
    if sampling.sampling == "whole":
        step = f"len(frames) / {frames}"
    elif sampling.rate:
        step = f"float(stream.average_rate) / {sampling.rate:g}"
    else:
        step = str(sampling.frame_stride)
    return {"frames": frames, "step": Markup(step)}
