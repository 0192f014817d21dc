"""Classes by their names, as ``_target_`` has them: of this package, or of the user's own.

Nothing here asks who has written the name: see `vivit_train.config.saved`.
"""

import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

from vivit_train.config.keys import in_words
from vivit_train.errors import UserError

T = TypeVar("T")


def named_class(key: str, target: str, base: type[T], kind: str) -> type[T]:
    """Imports the class that a key names.

    Args:
        key: Of the configuration, for messages, e.g. ``data._target_``.
        target: The name with its module. The user's own command has named it, or it is of this
            package.
        base: What it must be a subclass of.
        kind: What that is, for messages, e.g. ``a data set``.

    Raises:
        UserError: If there is no such class, with what to do where its module is not found; or
            if it is of another kind.
    """
    module, _, name = target.rpartition(".")
    said = f"{key}={target} cannot be imported"
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise UserError(f"{said}: {error}. {_way_on(module, error.name or '')}") from None
    except (ImportError, ValueError, TypeError) as error:
        raise UserError(f"{said}: {error}") from None
    if not isinstance(found, type) or not issubclass(found, base):
        raise UserError(
            f"{key}={target} is not the class of {kind}: expected a subclass of "
            f"{base.__module__}.{base.__qualname__}"
        )
    return found


def build_named(key: str, settings: Mapping[str, Any], base: type[T], kind: str) -> T:
    """Builds an object from its class and arguments.

    Args:
        key: Of the settings, for messages, e.g. ``callbacks.extra.lr``.
        settings: ``_target_`` and the arguments of the class, which are handed on as they are: a
            ``_target_`` further in means nothing.
        base: See `named_class`.
        kind: See `named_class`.

    Raises:
        UserError: Also if the class refuses the arguments, in its own words.
    """
    arguments = {name: value for name, value in settings.items() if name != "_target_"}
    target = settings["_target_"]
    make = named_class(f"{key}._target_", target, base, kind)
    try:
        return make(**arguments)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(
            f"{key}: {target} cannot be built with {in_words(arguments)}: {error}"
        ) from error


def _way_on(module: str, missing: str) -> str:
    """What to do about a module that Python does not find."""
    if not f"{module}.".startswith(f"{missing}."):
        return f"{module} needs it: install it"
    return (
        "Have Python find it: put its file into the folder that --config-dir names, or name its "
        "folder before the command, PYTHONPATH=FOLDER, or install its package"
    )
