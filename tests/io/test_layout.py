"""docs/checkpoint.md names the keys that the code names, and shows how to read them."""

import re
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.runs.test_begun import OLD_RUN
from vivit_train.io.layout import NEEDED, CheckpointContent, HyperParameters

PAGE = (REPOSITORY / "docs/checkpoint.md").read_text()


def test_the_page_has_a_row_for_each_key() -> None:
    of_all, of_hyper_parameters = (
        re.findall(r"^\| `([\w-]+)` \|", part, re.M)
        for part in PAGE.split("`hyper_parameters` are the arguments")
    )
    assert sorted(of_all) == sorted(CheckpointContent.__annotations__)
    assert sorted(of_hyper_parameters) == sorted(HyperParameters.__annotations__)
    assert set(NEEDED) < set(of_all)


def test_reading_one_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE, re.S)[0]
    names: dict[str, Any] = {}
    exec(code.replace("RUN", str(OLD_RUN)), names)
    assert capsys.readouterr().out.startswith("6 ['moving_down', ")
    assert len([line for line in code.splitlines() if line]) == 3
