"""What becomes of every tensor of a file and of the model, and what is refused."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from vivit_train.class_names import match_class_names
from vivit_train.errors import UserError
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights import (
    Row,
    Weights,
    load_weights,
    print_account,
    read_weights,
)

TINY = {
    "num_classes": 3,
    "image_size": 16,
    "num_frames": 4,
    "tubelet_size": (2, 8, 8),
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_size": 32,
}
NAMES = ["riding a bike", "cutting (fruit)", "Jumping"]


def status(rows: Sequence[Row]) -> dict[str, str]:
    return {row.name: row.status for row in rows}


def detail(rows: Sequence[Row], name: str) -> str:
    (row,) = [row for row in rows if row.name == name]
    return row.detail


@pytest.fixture
def file(randomise):
    """file(class_names, **model) is the weights of a random model of these arguments."""

    def make(class_names: list[str] | None = NAMES, **arguments: Any) -> Weights:
        model = randomise(ViViT(**TINY | arguments), seed=1)
        return Weights(
            origin="some file",
            format="vivit_train",
            state=model.state_dict(),
            model=model.config,
            class_names=class_names,
        )

    return make


def without(weights: Weights, *names: str) -> Weights:
    state = {name: value for name, value in weights.state.items() if name not in names}
    return dataclasses.replace(weights, state=state)


def refused(model: ViViT, weights: Weights, class_names: Sequence[str] | None, *parts: str) -> str:
    """Asserts an error that holds these parts, and a model left as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(model, weights, class_names)
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    return message


# Tensors that fit


@pytest.mark.parametrize("class_names", [None, NAMES])
@pytest.mark.parametrize("arguments", [{}, {"pooling": "mean"}, {"representation_size": 8}])
def test_everything_is_loaded_bit_for_bit(
    arguments: dict, class_names: list[str] | None, file
) -> None:
    weights = file(**arguments)
    model = ViViT(**weights.model)
    rows = load_weights(model, weights, class_names)
    assert set(status(rows).values()) == {"loaded"}
    assert [row.name for row in rows] == list(model.state_dict())
    assert all(torch.equal(value, weights.state[n]) for n, value in model.state_dict().items())


def test_loading_copies(file) -> None:
    weights = file()
    model = ViViT(**TINY)
    load_weights(model, weights)
    with torch.no_grad():
        model.encoder.norm.weight.zero_()
    assert weights.state["encoder.norm.weight"].all()


def test_half_precision_files_are_widened(file) -> None:
    weights = file()
    half = {name: value.half() for name, value in weights.state.items()}
    model = ViViT(**TINY | {"num_frames": 8})
    rows = load_weights(model, dataclasses.replace(weights, state=half), NAMES)
    assert status(rows)["encoder.pos_embed"] == "interpolated"
    assert model.head.weight.dtype == torch.float32
    assert torch.equal(model.head.weight, half["head.weight"].float())


def test_positions_of_another_grid_are_interpolated(file) -> None:
    weights = file()
    model = ViViT(**TINY | {"image_size": (16, 24), "num_frames": 6})
    rows = load_weights(model, weights)
    assert status(rows)["encoder.pos_embed"] == "interpolated"
    assert detail(rows, "encoder.pos_embed") == "2x2x2 -> 3x2x3"
    theirs, ours = weights.state["encoder.pos_embed"], model.encoder.pos_embed
    assert torch.equal(ours[:, 0], theirs[:, 0])
    # The corners of the grid stay.
    torch.testing.assert_close(ours[:, [1, 3, -1]], theirs[:, [1, 2, -1]])


def test_positions_of_as_many_tokens_in_another_grid_are_interpolated(file) -> None:
    weights = file(image_size=(8, 16))
    model = ViViT(**TINY | {"image_size": (16, 8)})
    rows = load_weights(model, weights)
    assert detail(rows, "encoder.pos_embed") == "2x1x2 -> 2x2x1"


def test_sampled_frames_make_the_grid(file) -> None:
    weights = file(tubelet_size=(1, 8, 8), num_frames=6, sampled_frames=2)
    model = ViViT(**TINY | {"tubelet_size": (1, 8, 8)})
    assert detail(load_weights(model, weights), "encoder.pos_embed") == "2x2x2 -> 4x2x2"


def test_mean_pooling_needs_no_class_token(file) -> None:
    weights = file()
    model = ViViT(**TINY | {"pooling": "mean", "num_frames": 8})
    rows = load_weights(model, weights)
    assert status(rows)["encoder.pos_embed"] == "interpolated"
    assert (
        status(rows)["encoder.cls_token"]
        == status(rows)["encoder.pos_embed, first row"]
        == "unused"
    )
    assert "mean" in detail(rows, "encoder.cls_token")
    torch.testing.assert_close(
        model.encoder.pos_embed[:, 0], weights.state["encoder.pos_embed"][:, 1]
    )


def test_what_the_reader_left_unused_is_accounted_for(file) -> None:
    weights = dataclasses.replace(file(), unused={"pooler": "not needed"})
    assert load_weights(ViViT(**TINY), weights)[-1] == Row("pooler", "unused", "not needed")


# The head


def test_rows_are_reordered_by_name(file) -> None:
    weights = file()
    model = ViViT(**TINY)
    rows = load_weights(model, weights, ["jumping", "Riding_a_Bike", "cutting fruit"])
    assert status(rows)["head.weight"] == status(rows)["head.bias"] == "loaded"
    assert detail(rows, "head.weight") == "rows reordered by class name"
    assert torch.equal(model.head.weight, weights.state["head.weight"][[2, 0, 1]])
    assert torch.equal(model.head.bias, weights.state["head.bias"][[2, 0, 1]])


def test_rows_of_known_classes_are_kept(file) -> None:
    weights = file()
    model = ViViT(**TINY | {"num_classes": 4})
    rows = load_weights(model, weights, ["skiing", "jumping", "cutting fruit", "swimming"])
    assert status(rows)["head.weight"] == status(rows)["head.bias"] == "replaced head"
    assert detail(rows, "head.bias") == "2 of 4 classes found by name"
    assert torch.equal(model.head.weight[[1, 2]], weights.state["head.weight"][[2, 1]])
    assert not model.head.weight[[0, 3]].any()
    assert not model.head.bias[[0, 3]].any()


def test_a_subset_of_the_files_classes_is_a_replaced_head(file) -> None:
    weights = file()
    model = ViViT(**TINY | {"num_classes": 2})
    rows = load_weights(model, weights, ["jumping", "riding a bike"])
    assert detail(rows, "head.weight") == "2 of 2 classes found by name"
    assert torch.equal(model.head.weight, weights.state["head.weight"][[2, 0]])


@pytest.mark.parametrize("class_names", [["a", "b", "c"], ["a", "b"]])
def test_other_classes_replace_the_head(class_names: list[str], file) -> None:
    model = ViViT(**TINY | {"num_classes": len(class_names)})
    rows = load_weights(model, file(), class_names)
    assert status(rows)["head.weight"] == "replaced head"
    assert detail(rows, "head.weight") == f"0 of {len(class_names)} classes found by name"
    assert not model.head.weight.any()


def test_a_file_without_names_never_lends_its_head(file) -> None:
    model = ViViT(**TINY)
    rows = load_weights(model, file(class_names=None), NAMES)
    assert status(rows)["head.weight"] == "replaced head"
    assert detail(rows, "head.weight") == "the file names no classes"
    assert not model.head.weight.any()


def test_a_caller_without_names_takes_the_head_as_it_is(file) -> None:
    weights = file(class_names=None)
    model = ViViT(**TINY)
    rows = load_weights(model, weights)
    assert status(rows)["head.weight"] == "loaded"
    assert torch.equal(model.head.weight, weights.state["head.weight"])


@pytest.mark.parametrize("class_names", [None, NAMES])
def test_a_file_without_a_head(class_names: list[str] | None, file) -> None:
    weights = without(file(class_names=None), "head.weight", "head.bias")
    model = ViViT(**TINY)
    rows = load_weights(model, weights, class_names)
    assert status(rows)["head.weight"] == status(rows)["head.bias"] == "missing"
    assert detail(rows, "head.bias") == "the file has no head; stays as initialised"
    assert not model.head.weight.any()


@pytest.mark.parametrize(("theirs", "ours"), [(None, 8), (8, None), (8, 4), (8, 16)])
def test_another_representation_layer_replaces_the_head(theirs, ours, file, randomise) -> None:
    weights = file(representation_size=theirs)
    model = ViViT(**TINY, representation_size=ours)
    rows = load_weights(model, weights, NAMES)
    assert "representation_size" in detail(rows, "head.weight")
    assert status(rows)["head.weight"] == "replaced head"
    assert not model.head.weight.any()
    assert [row.name for row in rows if row.status == "unused"] == (
        ["pre_logits.weight", "pre_logits.bias"] if theirs else []
    )
    refused(ViViT(**TINY, representation_size=ours), weights, None, "pre_logits.weight")


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        (["a b", "c"], ["C", "A_b"], [(0, 1), (1, 0)]),
        (["Massaging person's head"], ["massaging persons head"], [(0, 0)]),
        (["cut", "Cut"], ["Cut", "peel", "cut"], [(0, 2), (1, 0)]),  # to the letter
        (["cut!", "peel"], ["cut", "Cut", "peel"], [(1, 2)]),
        (["c", "c++"], ["C++", "C"], [(0, 1), (1, 0)]),  # + is no punctuation
        (["caf\u00e9"], ["cafe\u0301"], [(0, 0)]),  # composed or not
        (["?", "!"], ["!", "?"], [(0, 1), (1, 0)]),
        (["open", "open"], ["open", "open"], [(0, 0), (1, 1)]),  # the same list
        (["open", "open", "x"], ["x", "open"], [(2, 0)]),
        ([], ["x"], []),
    ],
)
def test_class_names_are_matched(
    ours: list[str], theirs: list[str], pairs: list[tuple[int, int]]
) -> None:
    assert match_class_names(ours, theirs) == pairs


# What is refused, with the model left as it was


@pytest.mark.parametrize(
    ("theirs", "parts"),
    [
        (
            {"tubelet_size": (4, 8, 8)},
            ["model.tubelet_size=[2, 8, 8], but the file's is [4, 8, 8]"],
        ),
        (
            {"num_layers": 3},
            [
                "model.num_layers=2, but the file's is 3",
                "encoder.blocks.2.norm1.weight [16] has no place",
            ],
        ),
        (
            {"num_layers": 1},
            ["the file's is 1", "encoder.blocks.1.attn.qkv.weight [48, 16] is not in the file"],
        ),
        (
            {"mlp_size": 24},
            [
                "model.mlp_size=32, but the file's is 24",
                "encoder.blocks.0-1.mlp.fc1.weight [24, 16] should be [32, 16]",
            ],
        ),
        ({"hidden_size": 8}, ["hidden_size=16", "encoder.norm.weight [8] should be [16]"]),
        ({"num_channels": 1}, ["model.num_channels=3, but the file's is 1"]),
        ({"qkv_bias": False}, ["encoder.blocks.0-1.attn.qkv.bias [48] is not in the file"]),
        # These leave no trace in any shape.
        ({"num_heads": 4}, ["model.num_heads=2, but the file's is 4"]),
        ({"activation": "gelu"}, ["model.activation=gelu_fast, but the file's is gelu"]),
        ({"layer_norm_eps": 1e-5}, ["model.layer_norm_eps=1e-06, but the file's is 1e-05"]),
        ({"pooling": "mean"}, ["model.pooling=cls, but the file has no class token"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("class_names", [None, NAMES])
def test_another_architecture(
    theirs: dict, parts: list[str], class_names: list[str] | None, file
) -> None:
    heading = "some file does not fit the model; nothing was loaded:"
    refused(ViViT(**TINY), file(**theirs), class_names, heading, *parts)


def test_the_same_activation_under_another_name(file) -> None:
    model = ViViT(**TINY | {"activation": "gelu_new"})
    assert set(status(load_weights(model, file())).values()) == {"loaded"}


def test_missing_and_left_over_tensors(file) -> None:
    weights = without(
        file(),
        "encoder.norm.bias",
        "encoder.blocks.0.mlp.fc2.bias",
        "encoder.blocks.1.mlp.fc2.bias",
    )
    weights.state["lora.weight"] = torch.zeros(2, 3)
    refused(
        ViViT(**TINY),
        weights,
        NAMES,
        "encoder.norm.bias [16] is not in the file",
        "encoder.blocks.0-1.mlp.fc2.bias [16] is not in the file",
        "lora.weight [2, 3] has no place in the model",
    )


def test_half_a_head(file) -> None:
    refused(ViViT(**TINY), without(file(), "head.bias"), NAMES, "head.bias [3] is not in the file")


def test_another_number_of_classes_without_names(file) -> None:
    model = ViViT(**TINY | {"num_classes": 5})
    refused(model, file(), None, "head.weight [3, 16] should be [5, 16]")


def test_positions_that_contradict_the_files_own_size(file) -> None:
    weights = file()
    weights.state["encoder.pos_embed"] = weights.state["encoder.pos_embed"][:, :-1]
    refused(
        ViViT(**TINY),
        weights,
        None,
        "encoder.pos_embed [1, 8, 16], but the file's clips make 2x2x2",
    )


def test_a_file_that_does_not_tell_its_grid(file) -> None:
    weights = file()
    told = {k: v for k, v in weights.model.items() if k not in ("image_size", "num_frames")}
    weights = dataclasses.replace(weights, model=told)
    rows = load_weights(ViViT(**TINY), weights)
    assert detail(rows, "encoder.pos_embed") == "taken as 2x2x2 tokens, as the file does not say"
    model = ViViT(**TINY | {"num_frames": 8})
    refused(model, weights, None, "[1, 9, 16] should be of 4x2x2 tokens, and the file")


def test_class_names_that_are_not_the_models(file) -> None:
    refused(ViViT(**TINY), file(), ["a"], "1 class names do not fit model.num_classes=3")


def test_a_long_list_of_faults_is_cut(file) -> None:
    weights = file()
    weights.state.update({f"other{i}": torch.zeros(1) for i in range(50)})
    message = refused(ViViT(**TINY), weights, None, "and 30 more")
    assert len(message.splitlines()) == 22


# Sources


@pytest.mark.parametrize(
    "source",
    ["/no/such/folder", "./runs/x", "runs/a/b", "runs/last.ckpt", "model.safetensors", "", "~/no"],
)
def test_paths_that_do_not_exist(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    if source:
        with pytest.raises(UserError, match=rf"^{re.escape(source)} does not exist"):
            read_weights(source)
    else:
        with pytest.raises(UserError):
            read_weights(source)


def test_a_file_of_another_kind(tmp_path) -> None:
    path = tmp_path / "weights.h5"
    path.write_bytes(b"1234")
    with pytest.raises(
        UserError, match=r"weights.h5 is not a file of weights: expected \.safetens"
    ):
        read_weights(path)


# The account


# Other tubelets, other models


def test_single_frames_are_spread_over_tubelets(file) -> None:
    """Uniform frame sampling -> tubelets: the one change of tubelets that has a rule."""
    weights = file(tubelet_size=(1, 8, 8), sampled_frames=4)
    model = ViViT(**TINY)
    rows = load_weights(model, weights, NAMES)
    assert status(rows)["embed.weight"] == "inflated"
    assert detail(rows, "embed.weight") == "central over 2"
    assert detail(rows, "encoder.pos_embed") == "4x2x2 -> 2x2x2"
    kernel = weights.state["embed.weight"]
    assert torch.equal(model.embed.weight[:, :, 1:], kernel)
    assert not model.embed.weight[:, :, :1].any()
    same = ViViT(**TINY | {"tubelet_size": (1, 8, 8)}, sampled_frames=4)
    assert status(load_weights(same, weights, NAMES))["embed.weight"] == "loaded"


@pytest.mark.parametrize("tubelet_size", [(4, 8, 8), (1, 8, 8), (2, 4, 8)])
def test_other_tubelets_have_no_rule(tubelet_size: tuple[int, ...], file) -> None:
    model = ViViT(**TINY | {"tubelet_size": tubelet_size})
    told = f"model.tubelet_size={list(tubelet_size)}, but the file's is [2, 8, 8]"
    refused(model, file(), NAMES, told)


FACTORISED = {"attention": "factorised_encoder", "temporal_layers": 1}


def test_the_factorised_encoder_at_another_size(file) -> None:
    weights = file(**FACTORISED)
    model = ViViT(**TINY | FACTORISED | {"num_frames": 12, "image_size": (16, 40)})
    rows = load_weights(model, weights, NAMES)
    assert detail(rows, "encoder.pos_embed") == "1x2x2 -> 1x2x5"
    assert detail(rows, "temporal_encoder.pos_embed") == "2x1x1 -> 6x1x1"
    others = {s for name, s in status(rows).items() if "pos_embed" not in name}
    assert others == {"loaded"}


@pytest.mark.parametrize(
    ("file_arguments", "model_arguments", "message"),
    [
        ({}, FACTORISED, "attention=factorised_encoder, but the file's is spatio_temporal"),
        (FACTORISED, {}, "attention=spatio_temporal, but the file's is factorised_encoder"),
        (
            FACTORISED,
            {**FACTORISED, "temporal_layers": 2},
            "temporal_layers=2, but the file's is 1",
        ),
        (FACTORISED, {**FACTORISED, "temporal_heads": 4}, "temporal_heads=4, but the file's is 2"),
        (
            {"attention": "factorised_self_attention", "pooling": "mean"},
            {
                "attention": "factorised_self_attention",
                "attention_order": "space_time",
                "pooling": "mean",
            },
            "model.attention_order=space_time, but the file's is time_space",
        ),
        (
            {"pooling": "mean"},
            {"attention": "factorised_dot_product", "pooling": "mean"},
            "attention=factorised_dot_product, but the file's is spatio_temporal",
        ),
    ],
)
def test_another_model_is_refused(
    file_arguments: dict, model_arguments: dict, message: str, file
) -> None:
    refused(ViViT(**TINY | model_arguments), file(**file_arguments), NAMES, message)


def test_a_file_that_may_be_model_1_or_4(file) -> None:
    arguments = {"pooling": "mean", "attention": "factorised_dot_product"}
    weights = file(**arguments)
    told = {name: value for name, value in weights.model.items() if name != "attention"}
    weights = dataclasses.replace(weights, model=told)
    assert set(status(load_weights(ViViT(**TINY | arguments), weights)).values()) == {"loaded"}
    either = "but the file's is spatio_temporal or factorised_dot_product"
    refused(ViViT(**TINY | FACTORISED | {"pooling": "mean"}), weights, None, either)


# The account


def test_account_is_one_line_per_kind(capsys: pytest.CaptureFixture[str], file) -> None:
    weights = dataclasses.replace(file(num_layers=12), unused={"x.[red]": "why"})
    model = ViViT(**TINY | {"num_layers": 12, "num_classes": 4, "image_size": 32})
    rows = load_weights(model, weights, [*NAMES, "d"])
    print_account(rows, "a/[b]/c.ckpt")
    output = capsys.readouterr().out
    lines = output.splitlines()
    assert lines[0] == "Weights from a/[b]/c.ckpt"
    (line,) = [line for line in lines if "attn.qkv.weight" in line]
    assert re.search(r"blocks\.0-11\.attn\.qkv\.weight\W+loaded\W+12", line)
    assert re.search(r"pos_embed\W+interpolated\W+1\W+2x2x2 -> 2x4x4", output)
    assert re.search(r"head\.bias\W+replaced head\W+1\W+3 of 4 classes found by name", output)
    assert re.search(r"x\.\[red\]\W+unused\W+1\W+why", output)
    assert lines[-1] == "149 loaded, 1 interpolated, 2 replaced head, 1 unused"
    assert len(lines) < 30
    assert "\x1b" not in output


def test_account_keeps_blocks_of_different_fate_apart(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row(f"encoder.blocks.{i}.x", "loaded" if i != 2 else "missing") for i in range(6)]
    print_account(rows, "file")
    output = capsys.readouterr().out
    assert re.search(r"blocks\.0-1,3-5\.x\W+loaded\W+5", output)
    assert re.search(r"blocks\.2\.x\W+missing\W+1", output)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that cannot be read")
def test_a_file_that_the_system_cannot_read() -> None:
    with pytest.raises(UserError, match="/proc/self/mem cannot be read: Input/output error"):
        read_weights("/proc/self/mem")
