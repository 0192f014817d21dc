"""The demo data set: clips that differ only in motion, written on first use."""

import sys
from pathlib import Path
from typing import Any

from vivit_train.data.demo_clips import demo_is_there, write_demo
from vivit_train.data.folder import Folder
from vivit_train.io.foreign import own_lock
from vivit_train.io.terminal import say


class Demo(Folder):
    """Objects that drift in eight directions, in pairs that are each other's reversal.

    The class shows in the motion alone: a model that sees one frame, repeated, stays at
    chance (0.125), one that sees the frames shuffled can at best name the pair (0.5).

    With ``multi_label`` two objects drift in two directions, and a clip has both classes.

    Args:
        train_per_class: Training clips per class.
        val_per_class: Validation clips per class.
        **kwargs: As for `Folder`.
    """

    def __init__(self, *, train_per_class: int, val_per_class: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.train_per_class = train_per_class
        self.val_per_class = val_per_class

    def setup(self, stage: str | None = None) -> None:
        """Writes the clips if they are not there yet, then reads them."""
        counts = self.train_per_class, self.val_per_class
        if not demo_is_there(self.root, *counts, multi_label=self.multi_label):
            self.root.parent.mkdir(parents=True, exist_ok=True)
            # Several processes may start at once: one writes, the others wait and find it done.
            with own_lock(Path(f"{self.root}.lock")):
                if not self.root.exists():
                    line = f"writing {8 * sum(counts)} demo clips to {self.root}, once"
                    say(line, file=sys.stderr)
                write_demo(self.root, *counts, multi_label=self.multi_label)
        super().setup(stage)
