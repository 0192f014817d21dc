"""The folder of an export appears under its name only once it is whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vivit_train.errors import UserError


def check_output(output: Path) -> None:
    """Raises UserError if something is at ``output`` that an export would overwrite."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(
            f"--output {output} exists already and is never overwritten: delete it or choose "
            "another folder"
        )


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` to write in, renamed to it unless the block raises.

    Raises:
        UserError: If ``output`` is taken, or its parent cannot be written.
    """
    output = output.absolute()
    check_output(output)
    made = [parent for parent in output.parents if not parent.exists()]
    folder = output.with_name(f"{output.name}.partial-{os.getpid()}")
    try:
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"--output {output} cannot be made: {error.strerror}") from error
        yield folder
        for file in folder.rglob("*"):  # safetensors makes files that only their owner may read
            if file.is_file():
                file.chmod(folder.stat().st_mode & 0o666)
        check_output(output)
        folder.replace(output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # not made, or another's files are in it
                parent.rmdir()
        raise
