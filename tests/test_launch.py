"""How the errors of a run are told, and with which exit code."""

import errno
import os
from pathlib import Path

import pytest
from omegaconf.errors import ConfigAttributeError

from vivit_train.errors import DiskFull, UserError
from vivit_train.launch import ProcessLost, errors_in_one_line


def os_error(number: int, *path: str) -> OSError:
    return OSError(number, os.strerror(number), *path)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("a=1"), "error: a=1", ""),
        (ProcessLost("rank 1"), 75, "error: rank 1"),
        (ConfigAttributeError("no key\n\tx"), "error: no key x", ""),
        (KeyboardInterrupt(), 130, "interrupted"),
        (os_error(errno.EACCES, "/r/x"), "error: /r/x: Permission denied", ""),
        (os_error(errno.ENOSPC, "/r/x"), 74, "error: /r/x could not be written: No space left"),
        (DiskFull(Path("/r/x"), 10, os_error(errno.EFBIG)), 74, "error: /r/x could not be written"),
    ],
)
def test_one_line(error: BaseException, code: object, said: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught, errors_in_one_line():
        raise error
    assert caught.value.code == code
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert told.count("\n") == bool(said)


@pytest.mark.parametrize("error", [os_error(errno.EPIPE), ZeroDivisionError()])
def test_what_is_nobodys_mistake_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)), errors_in_one_line():
        raise error
