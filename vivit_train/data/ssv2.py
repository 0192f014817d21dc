"""Something-Something v2 as it is distributed."""

from pathlib import Path

from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.records import Records, by_stem, list_videos
from vivit_train.data.tables import cut, in_order, lines_of, read_json, read_text
from vivit_train.errors import UserError

ANNOTATION_FOLDERS = ("", "labels", "annotations")
ANNOTATION_FILES = ("something-something-v2-{}.json", "{}.json")
ANSWERS = "test-answers.csv"


class SomethingSomethingV2(VideoDataModule):
    """Something-Something v2: 174 templates such as "Pushing something from left to right".

    Annotations are the official JSON files, in the root, ``labels/`` or ``annotations/``, under
    their first names (``something-something-v2-train.json``) or the newer ones (``train.json``).
    Videos are ``<id>.webm`` in one folder, at most two below the root. Classes have the order of
    the official index in ``labels.json``. The split ``test`` needs ``test-answers.csv`` beside
    its list.

    A listed training video that is not on disk is left out, and the number is said. In
    evaluation it stays in the split and counts as wrong.
    """

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        """See `VideoDataModule.read_split`."""
        labels_file = self._annotations("labels")
        names = read_classes(labels_file)
        index = {name: i for i, name in enumerate(names)}
        rows = read_rows(self._annotations(split))
        for number, (video, template) in enumerate(rows, start=1):
            if template not in index:
                raise UserError(
                    f"{self._annotations(split)}, entry {number} (id {cut(video)}): "
                    f"{cut(template)!r} is not one of the {len(names)} classes of {labels_file}; "
                    "take both files from the same download"
                )
        files = self._files()
        kept = self.rows_to_use(split, [video in files for video, _ in rows], self.root)
        rows = [rows[i] for i in kept]
        paths = [files.get(video, f"20bn-something-something-v2/{video}.webm") for video, _ in rows]
        return Records(self.root, paths, [index[template] for _, template in rows]), names

    def _annotations(self, what: str) -> Path:
        """The annotation file of a split, or of the labels."""
        for folder in ANNOTATION_FOLDERS:
            for name in ANNOTATION_FILES:
                path = self.root / folder / name.format(what)
                if path.is_file():
                    return path
        raise UserError(
            f"{self.root} holds no {what}.json of {self.name}: expected labels/{what}.json or "
            f"something-something-v2-{what}.json. Splits are train, validation and test (set "
            "data.val_split and the like); data/README.md shows the layouts"
        )

    def _files(self) -> dict[str, str]:
        """Id -> path of every video, relative to the root."""
        for depth in (1, 2):  # the deeper only if need be: a folder of frames holds 220,000 more
            files = by_stem(list_videos(self.root, depth))
            if files:
                return files
        return {}


def read_classes(path: Path) -> list[str]:
    """Class names in the order of the official index.

    Args:
        path: ``labels.json``, an object from template to index, a number or a string.

    Raises:
        UserError: If it is not that, or the indices are not 0, 1, 2, ...
    """
    content = read_json(path)
    try:
        pairs = [(int(index), name) for name, index in content.items()]
    except (AttributeError, OverflowError, TypeError, ValueError):
        raise UserError(f'{path}: expected an object like {{"Closing something": "0"}}') from None
    return in_order(pairs, path)


def read_rows(path: Path) -> list[tuple[str, str]]:
    """(id, template without brackets) of each entry of a split's list.

    Raises:
        UserError: If an entry has no id, or no template and ``test-answers.csv`` none for it.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: expected a list of entries with id and template")
    answers = read_answers(path.with_name(ANSWERS))
    rows = []
    for number, entry in enumerate(content, start=1):
        if not isinstance(entry, dict) or "id" not in entry:
            raise UserError(
                f"{path}, entry {number}: expected an object with id and template, "
                f"got {cut(str(entry))}"
            )
        video = str(entry["id"])
        if not video.isprintable():  # no name of a file
            raise UserError(
                f"{path}, entry {number}: the id {cut(video)!r} has characters that no id has"
            )
        template = entry.get("template", answers.get(video))
        if template is None:
            raise UserError(
                f"{path}, entry {number} (id {cut(video)}) has no template, as in the official "
                f"test split: put its {ANSWERS} (rows id;label) into {path.parent}, or test on "
                "data.test_split=validation"
            )
        rows.append((video, str(template).replace("[", "").replace("]", "")))
    return rows


def read_answers(path: Path) -> dict[str, str]:
    """Id -> template of the test split, from rows ``id;label``; empty where there is no file.

    Raises:
        UserError: If a row is not of that form.
    """
    if not path.is_file():
        return {}
    answers = {}
    for number, line in lines_of(read_text(path)):
        video, separator, label = line.partition(";")  # labels hold commas
        if not separator:
            raise UserError(f"{path}, line {number}: expected id;label, got {cut(line)!r}")
        answers[video.strip()] = label.strip().strip('"')
    return answers
