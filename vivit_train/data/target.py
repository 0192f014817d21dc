"""The class of a data set by its name, ``data._target_``."""

import importlib

from vivit_train.data.datamodule import VideoDataModule
from vivit_train.errors import UserError


def data_class(target: str) -> type[VideoDataModule]:
    """The class of a data set.

    Args:
        target: ``data._target_``: the name with its module, named by the user's own command or
            of this package (see `vivit_train.config.saved`).

    Raises:
        UserError: If there is no such class, or it is not one of a data set.
    """
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError, TypeError) as error:
        raise UserError(f"data._target_={target} cannot be imported: {error}") from None
    if not isinstance(found, type) or not issubclass(found, VideoDataModule):
        raise UserError(
            f"data._target_={target} is not the class of a data set: expected a subclass of "
            "vivit_train.data.datamodule.VideoDataModule"
        )
    return found
