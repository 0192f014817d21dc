"""What a linear probe on the pretrained model's features reaches, and which labels it doubts."""

from vivit_train.class_names import shorten
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.preflight.features import Features
from vivit_train.preflight.finding import Finding
from vivit_train.preflight.probe import Probe
from vivit_train.runs.scores import wilson_interval

# Labels are mixed up rather than hard if the probe errs in clearly more than this share of the
# quarter of the videos that it is surest of ...
DOUBTED = 0.05
# ... and there nearly as often as in the rest: in this part of the cases at least ...
AS_OFTEN = 0.6
# ... while it knows this part of what there is to know. Else its doubts do not count.
KNOWLEDGE = 0.5
# With fewer videos nothing is said.
FEWEST = 20


def forecast(probe: Probe, features: Features, val: Features | None, pretrained: bool) -> Finding:
    """What the frozen features alone reach: training mostly does better.

    Args:
        probe: Fitted to the training videos that were looked at.
        features: Of these.
        val: Of validation videos.
        pretrained: Whether the features are worth a warning where they tell nothing.
    """
    number, model = len(features.rows), "pretrained" if pretrained else "untrained"
    text = f"a linear probe on the {model} model's features of {number} training videos is right "
    text += f"for {probe.accuracy:.2f} of them, each left out in turn"
    if val is not None:
        right = int((probe(val.values).argmax(dim=1) == val.labels).sum())
        low, high = wilson_interval(right, len(val.rows))
        text += f", and for {right / len(val.rows):.2f} of {len(val.rows)} validation videos"
        text += f" (95 % interval {low:.2f} to {high:.2f})"
    text += f"; guessing {probe.guessing:.2f}"
    if number < features.wanted:
        text += f". For more videos than {number} raise --seconds"
    if probe.knows_something or not pretrained:
        return Finding("ok", "forecast", text)
    cause = (
        "no better than guessing. Do clips miss the motion (their length, their stride), do pixels "
        "not fit the weights (processor), or are labels mixed up? Else expect a long training"
    )
    return Finding("warn", "forecast", f"{text}: {cause}")


def of_the_labels(probe: Probe, features: Features, data: VideoDataModule) -> Finding | None:
    """Whether labels look mixed up: the probe is often sure of another class.

    Where classes are merely hard, the probe errs where it is unsure. Where labels are wrong, it
    errs as often where it is sure (confident learning, arXiv 1911.00068, has the same idea).

    Returns:
        ``None`` where the probe knows too little to doubt anything.
    """
    knowledge = (probe.accuracy - probe.guessing) / max(1 - probe.guessing, 1e-9)
    if len(probe.labels) < FEWEST or not probe.knows_something or knowledge < KNOWLEDGE:
        return None
    best = probe.left_out.topk(2, dim=1)
    guess, lead = best.indices[:, 0], best.values[:, 0] - best.values[:, 1]
    order = lead.argsort(descending=True)
    errs = (guess != probe.labels)[order]
    sure = len(order) // 4
    doubted, rest = order[:sure][errs[:sure]].tolist(), float(errs[sure:].double().mean())
    text = f"of the {sure} videos that the probe is surest of, {len(doubted)} have another label"
    is_more = wilson_interval(len(doubted), sure)[0] > DOUBTED
    if not is_more or len(doubted) < AS_OFTEN * rest * sure:
        return Finding("ok", "labels", text)
    records, names = data.records["train"], data.class_names
    told = [f"{records.name(int(features.rows[i]))} (like {names[guess[i]]!r})" for i in doubted]
    return Finding(
        "warn",
        "labels",
        f"{text}, as if labels were mixed up: look at {shorten(told, 5)}",
    )
