import pytest

from vivit_train.io.progress import progress


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    with progress(3, line_seconds=0) as advance:
        for verdict in ("ok", "missing", "ok"):
            advance(verdict)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3/3" in captured.err
    assert "2 ok, 1 missing" in captured.err
