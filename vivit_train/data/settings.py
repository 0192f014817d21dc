"""The values that settings of a data set may take: others are a `UserError`."""

from collections.abc import Sequence

from vivit_train.errors import UserError


def check_count(name: str, value: int, least: int = 1) -> None:
    """A whole number, ``least`` or more."""
    if value < least:
        raise UserError(f"data.{name} must be {least} or more, got {value}")


def check_views(name: str, views: Sequence[int]) -> None:
    """(temporal, spatial) views per video: spatial ones are the centre crop, or three crops."""
    if len(views) != 2 or views[0] < 1 or views[1] not in (1, 3):
        raise UserError(
            f"data.{name} is [temporal, spatial] views, at least 1 and either 1 or 3, "
            f"got {list(views)}"
        )
