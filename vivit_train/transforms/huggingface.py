"""The configuration of Hugging Face's ``VivitImageProcessor``: what it says in our settings."""

from pathlib import Path
from typing import Any

from vivit_train.errors import UserError
from vivit_train.io.foreign import read_json


def read_settings(source: dict[str, Any] | str | Path, defaults: dict[str, Any]) -> dict[str, Any]:
    """Read those settings of a ``VivitImageProcessor`` that `Processor` takes.

    Args:
        source: The configuration, or the path of a preprocessor_config.json or of its folder.
        defaults: Ours, for all settings.

    Returns:
        A value for every name in ``defaults``.

    Raises:
        UserError: No such file, another class's configuration, or a size that has no counterpart.
    """
    config = source if isinstance(source, dict) else _read_config(Path(source))
    kind = config.get("image_processor_type") or config.get("feature_extractor_type") or "Vivit"
    if not str(kind).startswith("Vivit"):
        raise UserError(
            f"the image processor's configuration is for {kind}, whose defaults differ: "
            "expected VivitImageProcessor"
        )
    # The library also takes null for "the default".
    given = {name: config[name] for name in defaults if config.get(name) is not None}
    for name in ("size", "crop_size"):
        if isinstance(given.get(name), dict):
            given[name] = _size_from_dict(name, given[name])
    return defaults | {"size": 256, "do_normalize": True} | given


def size_to_dict(size: int | tuple[int, int]) -> dict[str, int]:
    """The library's way to write a shortest edge, or a (height, width)."""
    if isinstance(size, int):
        return {"shortest_edge": size}
    return {"height": size[0], "width": size[1]}


def _size_from_dict(name: str, size: dict[str, int]) -> int | tuple[int, int]:
    if size.keys() == {"height", "width"}:
        return size["height"], size["width"]
    if size.keys() == {"shortest_edge"} and name == "size":
        return size["shortest_edge"]
    expected = '{"height", "width"}' + (' or {"shortest_edge"}' if name == "size" else "")
    raise UserError(f"{name} must have the keys {expected}, not {size}")


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "preprocessor_config.json" if path.is_dir() else path
    if not file.exists():
        raise UserError(f"no image processor configuration at {file}")
    return read_json(file)
