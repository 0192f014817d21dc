from types import SimpleNamespace

import torch

from vivit_train.preflight.features import Features
from vivit_train.preflight.forecast import forecast, of_the_labels
from vivit_train.preflight.probe import Probe


def seen(noise: float, each: int = 20, seed: int = 0) -> Features:
    """Features of four classes."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat(each)
    values = torch.eye(4, 20)[labels] * 2 + noise * torch.randn(4 * each, 20, generator=draw)
    return Features(torch.arange(4 * each), labels, values, values, values, 4 * each)


def test_a_forecast() -> None:
    train, val = seen(0.5), seen(0.5, each=5, seed=1)
    finding = forecast(Probe(train.values, train.labels, 4), train, val, True)
    assert finding.verdict == "ok"
    assert finding.text.startswith(
        "a linear probe on the pretrained model's features of 80 training videos is right for "
    )
    assert " of 20 validation videos (95 % interval 0." in finding.text
    assert finding.text.endswith("; guessing 0.25")


def test_features_that_tell_nothing() -> None:
    features = seen(50.0)
    probe = Probe(features.values, features.labels, 4)
    finding = forecast(probe, features, None, True)
    assert finding.verdict == "warn"
    assert "no better than guessing. Do clips miss the motion" in finding.text
    # Of weights that know nothing this is no news.
    assert forecast(probe, features, None, False).verdict == "ok"
    assert of_the_labels(probe, features, SimpleNamespace()) is None


def test_labels_in_doubt() -> None:
    records = SimpleNamespace(name=lambda row: f"{row}.mp4")
    data = SimpleNamespace(records={"train": records}, class_names=list("abcd"))
    features = seen(0.5, each=40)
    finding = of_the_labels(Probe(features.values, features.labels, 4), features, data)
    assert finding is not None
    assert finding.verdict == "ok"
    wrong = torch.randperm(160, generator=torch.Generator().manual_seed(0))[:32]  # a fifth
    features.labels[wrong] = (features.labels[wrong] + 1) % 4
    finding = of_the_labels(Probe(features.values, features.labels, 4), features, data)
    assert finding is not None
    assert finding.verdict == "warn"
    named = {int(word.split(".")[0]) for word in finding.text.split() if ".mp4" in word}
    assert named <= set(wrong.tolist())
