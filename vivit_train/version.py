"""The version that is installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("vivit-train")
except PackageNotFoundError:  # run from a clone that is not installed
    __version__ = "unknown"
