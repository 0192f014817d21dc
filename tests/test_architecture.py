"""Imports go down only: the rooms of the package stand on the floors of docs/architecture.md.

The page's table is the rule, and the picture beside it is drawn from it, so they cannot differ.
"""

import ast
import re
import runpy
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs/architecture.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| `(\w+)` \| .+ \| (.*?) ?\|$", PAGE, re.M)
# A room is a folder of the package or a loose file.
FLOORS = {room: int(floor) for floor, room, _ in ROWS}
MOST_LOOSE_FILES, MOST_LINES = 14, 400
LIBRARIES = {"torch": "torch", "lightning": "Lightning", "hydra": "Hydra", "omegaconf": "Hydra"}
# What the rooms of pixels and weights do without, and so `load` as well.
TRAINING_ONLY = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "wandb", "torchmetrics"}

Sources = dict[str, str]


def sources() -> Sources:
    """Module -> its text."""
    paths = (REPOSITORY / "vivit_train").rglob("*.py")
    names = {path: ".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in paths}
    return {name.removesuffix(".__init__"): path.read_text() for path, name in names.items()}


@cache
def imported(text: str) -> frozenset[str]:
    """What a file imports, anywhere in it but for type checkers: modules, or names in them."""
    found: set[str] = set()
    left: list[ast.AST] = [ast.parse(text)]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            left += node.orelse
            continue
        left += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"a relative import: {ast.unparse(node)}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and str(node.value).startswith("vivit_train."):
            found.add(f"{node.value}.*")  # a module by name, as `import_module` takes it
    return frozenset(found)


def graph(files: Sources) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    edges = {}
    for module, text in files.items():
        names = {name if name in files else name.rpartition(".")[0] for name in imported(text)}
        edges[module] = (names & files.keys()) - {module}
    return edges


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def circle(edges: dict[str, set[str]]) -> list[str]:
    """The modules of an import circle, if there is one."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def not_down(edges: dict[str, set[str]]) -> list[str]:
    """Imports of a room by another that does not stand above it."""
    return [
        f"{module} (floor {FLOORS[room(module)]}) imports {name} (floor {FLOORS[room(name)]})"
        for module, names in sorted(edges.items())
        for name in sorted(names)
        if room(name) != room(module) and FLOORS[room(name)] >= FLOORS[room(module)]
    ]


def test_the_page_names_every_room() -> None:
    assert {room(module) for module in sources()} == FLOORS.keys()


def test_the_page_names_the_libraries_of_every_room() -> None:
    found: dict[str, set[str]] = {room: set() for room in FLOORS}
    for module, text in sources().items():
        names = {name.partition(".")[0] for name in imported(text)}
        found[room(module)] |= {LIBRARIES[name] for name in names & LIBRARIES.keys()}
    assert {room: set(told.split(", ")) - {""} for _, room, told in ROWS} == found


def test_the_picture_is_that_of_the_table() -> None:
    """Else: python docs/images/architecture.py."""
    images = REPOSITORY / "docs/images"
    draw = runpy.run_path(str(images / "architecture.py"))["draw"]
    assert draw(PAGE) == (images / "architecture.svg").read_text()


def test_no_circles() -> None:
    assert circle(graph(sources())) == []


def test_no_room_imports_one_beside_or_above_it() -> None:
    assert not_down(graph(sources())) == []


@pytest.mark.parametrize(
    "line",
    [
        "from vivit_train.video.decode import VideoReader",
        "import vivit_train.video.decode",
        "def later():\n    from vivit_train.video import decode",
        "def later():\n    if True:\n        import vivit_train.video.decode",
        "LATER = {'VideoReader': 'vivit_train.video.decode'}",
    ],
)
def test_a_planted_circle_is_found(line: str) -> None:
    files = sources()
    files["vivit_train.video.watch"] += f"\n{line}\n"
    assert {"vivit_train.video.watch", "vivit_train.video.decode"} <= set(circle(graph(files)))


@pytest.mark.parametrize(
    ("module", "line", "upper"),
    [
        ("model.vivit", "from vivit_train.data.batch import Batch", "data.batch"),
        ("model.vivit", "def later():\n    from vivit_train.data import batch", "data.batch"),
        ("model.vivit", "from vivit_train.transforms import resize", "transforms.resize"),
        ("io.files", "def later():\n    from vivit_train import build", "build"),
        ("runs.run_dir", "import vivit_train", "__init__"),
    ],
)
def test_a_planted_import_upwards_is_found(module: str, line: str, upper: str) -> None:
    files = sources()
    files[f"vivit_train.{module}"] += f"\n{line}\n"
    (found,) = not_down(graph(files))
    upper = "vivit_train" if upper == "__init__" else f"vivit_train.{upper}"
    assert found.startswith(f"vivit_train.{module} (floor ")
    assert f" imports {upper} (floor " in found


def test_imports_for_type_checkers_do_not_count() -> None:
    files = sources()
    planted = "if TYPE_CHECKING:\n    from vivit_train.video.decode import VideoReader\n"
    files["vivit_train.video.watch"] += f"\n{planted}"
    assert graph(files) == graph(sources())


@pytest.mark.parametrize("light", ["model", "transforms", "video"])
def test_what_training_needs_is_not_needed_below(light: str) -> None:
    """Neither by these rooms nor by what they import."""
    files = sources()
    edges = graph(files)
    reached, left = set(), {module for module in files if room(module) == light}
    while left:
        reached |= left
        left = set().union(*(edges[module] for module in left)) - reached
    for module in reached:
        names = {name.partition(".")[0] for name in imported(files[module])}
        assert not names & TRAINING_ONLY, module


def test_loose_files_at_the_top_are_few() -> None:
    assert len(list((REPOSITORY / "vivit_train").glob("*.py"))) <= MOST_LOOSE_FILES


def test_files_are_short() -> None:
    long = {module for module, text in sources().items() if text.count("\n") >= MOST_LINES}
    assert not long
