"""Small healthy inputs of every kind that the commands read."""

from pathlib import Path

import numpy as np

from tests.conftest import SMALL
from tests.data.tar_shards import samples, write_tar
from tests.fuzz.sandbox import Case, run
from vivit_train.video.write import write_video

CLASSES = ("jump", "run")
# The model of SMALL; what SMALL says of the demo's data set alone, others do not have.
MODEL = tuple(
    word for word in SMALL if not word.startswith(("data.", "augment", "optim.", "callbacks."))
)
SETTINGS = (*MODEL, "data.batch_size=2", "data.num_workers=1", "data.clip_frames=4",
            "trainer.max_epochs=1", "optim.warmup_epochs=0", "data.eval_views=[1,1]",
            "augment=none", "processor.crop_size=16")  # fmt: skip
TRAIN = ("data=folder", "data.root=../videos", *SETTINGS)


def make(folder: Path) -> Path:
    """Fills a folder with videos, lists, shards, and what the product itself writes from them.

    Every path that a file names is relative to ``folder/work``, so that a copy of the folder reads
    its own files.
    """
    rng = np.random.default_rng(0)
    rows = []
    for label, name in enumerate(CLASSES):
        for i, suffix in enumerate(("mp4", "mkv", "avi", "mp4", "mp4")):
            path = folder / "videos" / name / f"{i}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, rng.integers(0, 256, (8, 24, 32, 3), dtype=np.uint8), 8)
            rows.append((f"videos/{name}/{i}.{suffix}", name, label))
    lists = {
        "names.csv": "path,label\n" + "".join(f"{path},{name}\n" for path, name, _ in rows),
        "numbers.txt": "".join(f"{path} {label}\n" for path, _, label in rows),
        "classes.txt": "".join(f"{name}\n" for name in CLASSES),
    }
    for name, text in lists.items():
        (folder / name).write_text(text)
    video = (folder / rows[0][0]).read_bytes()
    for split in ("train", "val"):
        write_tar(folder / "shards" / f"{split}-000000.tar", samples(video, CLASSES * 2))
    run_it = [
        Case("train.py", (*TRAIN, "run_dir=../run")),
        Case("vivit", ("check", "data=folder", "data.root=../videos")),
        Case("vivit", ("check", "data=webdataset", "data.root=../shards")),
        *(
            Case("vivit", ("export", "../run", "--format", kind, "--output", f"../{kind}"))
            for kind in ("huggingface", "safetensors")
        ),
    ]
    for case in run_it:
        outcome = run(case, folder)
        if outcome.code != 0:
            raise RuntimeError(f"{case}: exit code {outcome.code}\n{outcome.said}")
    return folder
