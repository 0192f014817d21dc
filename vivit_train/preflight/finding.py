"""What a check before a run says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        verdict: ``ok``; ``warn``: worth a thought; ``fail``: the run would not work.
        check: What was looked at.
        text: What was found, with the cure where one is needed.
    """

    verdict: str
    check: str
    text: str
