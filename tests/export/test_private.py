"""What a publication keeps to itself."""

from pathlib import Path

import pytest

from vivit_train.errors import UserError
from vivit_train.export.private import check_public, public, public_config


def test_configuration() -> None:
    config = {
        "run_dir": "/home/me/runs/a",
        "model": {"pretrained": "/home/me/b.npz", "token_drop": 0.5},
        "logger": {"wandb": {"entity": "me"}},
        "callbacks": {"extra": {"tell": {"_target_": "my.Tell", "url": "https://h/key"}}},
        "data": {"root": "/videos", "train_split": "lists/train.csv", "api_key": "k",
                 "source": "s3://me:secret@bucket/x?Signature=abc"},
    }  # fmt: skip
    assert public_config(config) == {
        "model": {"pretrained": "b.npz", "token_drop": 0.5},
        "callbacks": {"extra": {"tell": {"_target_": "my.Tell"}}},
        "data": {"train_split": "lists/train.csv", "source": "s3://bucket/x"},
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("val/jump/1.mp4", "val/jump/1.mp4"),
        ("/a b/c.mp4", "c.mp4"),
        ("~/c.mp4", "c.mp4"),
        ("no such file: '/data/k400/c.mp4'", "no such file: 'c.mp4'"),
        ("left / right, and/or", "left / right, and/or"),
        ("https://host/a/b", "https://host/a/b"),
        ("hf://owner/name@v1", "hf://owner/name@v1"),
    ],
)
def test_texts(text: str, shown: str) -> None:
    assert public({"x": [text]}) == {"x": [shown]}


def test_what_is_left_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(f'["{tmp_path}/x"]')
    with pytest.raises(UserError, match=rf"a\.json would name the folder {tmp_path} of this"):
        check_public(tmp_path, [tmp_path])
