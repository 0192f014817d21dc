"""How the errors of a run are told, and with which exit code."""

import errno
import os
import warnings
from pathlib import Path

import pytest
from omegaconf.errors import ConfigAttributeError

import vivit_train
from vivit_train.errors import DiskFull, ProcessLost, UserError
from vivit_train.launch.entry import errors_in_one_line


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
        (os_error(errno.EIO), "error: the storage failed while a file was read or written: "
         "Input/output error", ""),
        (os_error(errno.ENOSPC, "/r/x"), 74, "error: /r/x could not be written: No space left"),
        (DiskFull(Path("/r/x"), 10, os_error(errno.EFBIG)), 74, "error: /r/x could not be written"),
    ],
)  # fmt: skip
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


def test_our_warnings_are_a_line_and_other_libraries_keep_their_place() -> None:
    before = warnings.formatwarning
    ours = str(Path(vivit_train.__file__).parent / "optim.py")
    with errors_in_one_line():
        told, others, for_programmers = (
            warnings.formatwarning("odd \x1b", category, place, 7)
            for category, place in (
                (UserWarning, ours),
                (UserWarning, "/lib/y.py"),
                (DeprecationWarning, ours),
            )
        )
    assert told == "warning: odd \\x1b\n"
    assert others == "/lib/y.py:7: UserWarning: odd \\x1b\n"
    assert for_programmers.startswith(f"{ours}:7: DeprecationWarning: odd \\x1b\n")
    assert warnings.formatwarning is before  # also for who uses the package from Python
