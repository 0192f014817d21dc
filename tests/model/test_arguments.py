"""Every argument of ViViT with every kind of value: a model, or one line that names it."""

import inspect
from typing import Any

import pytest

from vivit_train.errors import UserError
from vivit_train.model.arguments import Arguments
from vivit_train.model.vivit import ViViT

TINY = {
    "num_classes": 2,
    "image_size": 8,
    "num_frames": 2,
    "tubelet_size": [2, 8, 8],
    "hidden_size": 4,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_size": 4,
}
ODD = [
    None, 0, -1, 1, 1.5, float("nan"), True, "x", "", [], [1], ["x"], [1, 2, 3], [1, 2, 3, 4],
    [8, 8], [2.0, 8, 8], [0, 8, 8], [True, 8, 8], {}, {"x": 1}, object(),
]  # fmt: skip


@pytest.mark.parametrize("name", inspect.signature(ViViT).parameters)
def test_any_value_makes_a_model_or_is_refused_by_name(name: str) -> None:
    refusals = []
    for value in ODD:
        try:
            ViViT(**TINY | {name: value})
        except UserError as error:
            refusals.append(str(error))
    assert refusals
    assert not [told for told in refusals if name not in told and "a clip of" not in told]
    assert not [told for told in refusals if "\n" in told]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"num_layers": 1.5}, "model.num_layers=1.5 is not a whole number"),
        ({"num_layers": True}, "model.num_layers=True is not a whole number"),
        ({"dropout": "x"}, "model.dropout='x' is not a number"),
        ({"image_size": [8, "x"]}, "image_size=.* is not a whole number or a list of whole numb"),
        ({"image_size": [1, 2, 3]}, "image_size=.1, 2, 3. is not one number or .height, width."),
        ({"attention_order": 1}, "model.attention_order=1 is not a word or null"),
        ({"representation_size": 0}, "model.representation_size must be 1 or more, got 0"),
        ({"layer_norm_eps": -1.0}, "model.layer_norm_eps must be 0 or more, got -1.0"),
    ],
)
def test_the_message_says_what_was_expected(argument: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ViViT(**TINY | argument)


def test_an_unknown_argument() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'sparkle'"):
        ViViT(**TINY, sparkle=1)


def test_arguments_make_the_same_arguments() -> None:
    sizes = {"image_size": (16, 8), "attention": "factorised_encoder"}
    made = Arguments(**TINY | sizes)
    plain = made.to_dict()
    assert (plain["image_size"], plain["tubelet_size"]) == ([16, 8], [2, 8, 8])
    assert (made.frame_size, made.temporal_layers, made.temporal_heads) == ((16, 8), 4, 2)
    assert Arguments(**plain) == made
    assert list(plain) == list(inspect.signature(ViViT).parameters)
