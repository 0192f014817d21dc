"""The class of a data set by its name, ``data._target_``."""

from vivit_train.config.target import named_class
from vivit_train.data.datamodule import VideoDataModule


def data_class(target: str) -> type[VideoDataModule]:
    """The class of a data set.

    Args:
        target: ``data._target_``: the name with its module, named by the user's own command or
            of this package (see `vivit_train.config.saved`).

    Raises:
        UserError: If there is no such class, or it is not one of a data set.
    """
    base = VideoDataModule
    return named_class("data._target_", target, base, "a data set")  # type: ignore[type-abstract]
