"""The page of a run, as text and in a browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.report.runs import NASTY, write_run
from vivit_train.errors import UserError
from vivit_train.report.page import write_page

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
needs_browser = pytest.mark.skipif(not BROWSER, reason="there is no Chromium on this machine")


class Page(HTMLParser):
    """Elements, their attributes and all text outside of scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._inside):
            self.text += data


def browse(page: Path, script: str = "", width: int = 1280) -> tuple[str, str]:
    """What a browser makes of a page: its document, and its errors.

    Args:
        page: The file.
        script: Run when the page is loaded.
        width: Of the window, in CSS pixels.
    """
    copy = page.with_name(f"copy_{width}.html")
    copy.write_text(page.read_text().replace("</body>", f"<script>{{{script}}}</script></body>"))
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--enable-logging=stderr", f"--user-data-dir={page.parent / 'user'}",
            f"--window-size={width},900", "--dump-dom", copy.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, "\n".join(re.findall(r"CONSOLE.*", done.stderr))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "run"
    write_run(folder)
    return write_page([folder], folder / "report.html")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large") / "run"
    write_run(folder, [f"class {k:03} of many" for k in range(400)], 20_000)
    return write_page([folder], folder / "report.html")


def test_it_holds_what_the_run_wrote(small: Path) -> None:
    page = Page(small)
    results = json.loads((small.parent / "results.json").read_text())
    for expected in (
        f"{results['top1']:.4f}", "95 % interval", "0123456789abcdef", "python train.py",
        "val/up/broken.mp4", "train/up/hangs.mp4", "vivit_train 0.1.0", "2 x 1",
        "Tested on the validation split",
    ):  # fmt: skip
        assert expected in page.text
    assert sum(tag == "svg" for tag, _ in page.elements) == 6


def test_nothing_is_fetched(small: Path) -> None:
    text = small.read_text()
    assert "default-src 'none'" in text
    places = [a.get(k) for _, a in Page(small).elements for k in ("src", "href") if a.get(k)]
    assert all(place.startswith("data:") for place in places)
    assert "http://" not in text
    assert "https://" not in text


def test_names_do_no_harm(tmp_path: Path) -> None:
    write_run(tmp_path / "run", NASTY, 200, right=0.3)
    page = Page(write_page([tmp_path / "run"], tmp_path / "report.html"))
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert "\u202e" not in page.text
    assert "\x1b" not in page.text
    assert "\u05d0\u05d1\u05d2" in page.text


def test_names_of_many_classes_do_no_harm_to_the_script(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [f"{name} {k}" for k in range(5) for name in NASTY], 400)
    text = write_page([tmp_path / "run"], tmp_path / "report.html").read_text()
    inside = text.split('class="confusion">')[1].split("</script>")[0]
    assert json.loads(inside)["names"][0] == f"{NASTY[0]} 0"


def test_400_classes_stay_below_5_mb(large: Path) -> None:
    assert large.stat().st_size < 5e6


def test_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    write_run(tmp_path / "a", right=0.9)
    write_run(tmp_path / "b", right=0.5, words=["optim.lr=0.007"])
    page = Page(write_page([tmp_path / "a", tmp_path / "b"], tmp_path / "report.html"))
    assert "2 runs side by side" in page.text
    assert "optim.lr" in page.text
    assert "0.007" in page.text
    assert sum(tag == "details" for tag, _ in page.elements) == 2


def test_more_runs_than_colours(tmp_path: Path) -> None:
    folders = [tmp_path / f"run{k}" for k in range(7)]
    for folder in folders:
        write_run(folder)
    text = write_page(folders, tmp_path / "report.html").read_text()
    drawn = set(re.findall(r"line c(\d+)", text))
    assert drawn == {str(k) for k in range(6)}


def test_a_run_without_a_test(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    for name in ("results.json", "classes.csv", "predictions.csv"):
        (tmp_path / "run" / name).unlink()
    text = Page(write_page([tmp_path / "run"], tmp_path / "report.html")).text
    assert "Not tested yet" in text
    assert "Confusion" not in text


@pytest.mark.parametrize(("name", "content"), [
    ("predictions.csv", "a,b\n1,2\n"), ("classes.csv", "class,videos,correct,predicted\nx\n"),
])  # fmt: skip
def test_another_table_is_refused(name: str, content: str, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(UserError, match=f"{name} is not what a run writes: expected columns"):
        write_page([tmp_path / "run"], tmp_path / "report.html")


@needs_browser
@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_shows_it_without_an_error(small: Path, width: int) -> None:
    script = """
      const asked = performance.getEntriesByType('resource').map(entry => entry.name);
      document.title = `${document.documentElement.scrollWidth} ${innerWidth} ${asked}`;
    """
    document, errors = browse(small, script, width)
    assert errors == ""
    needed, there, asked = re.search(r"<title>(\d+) (\d+) (.*?)</title>", document).groups()
    assert int(needed) <= int(there)
    assert asked == ""


@needs_browser
def test_a_table_sorts_and_a_search_filters(small: Path) -> None:
    script = """
      const table = document.querySelectorAll('table.sorts')[1], said = [];
      const column = k => [...table.tBodies[0].rows].map(row => row.cells[k].textContent);
      for (const k of [3, 3, 0]) { table.tHead.rows[0].cells[k].click(); said.push(column(k)); }
      const field = document.querySelectorAll('.find input')[0];
      field.value = 'le'; field.dispatchEvent(new Event('input'));
      said.push([...table.tBodies[0].rows].filter(row => !row.hidden).length);
      document.title = JSON.stringify(said);
    """
    document, errors = browse(small, script)
    assert errors == ""
    down, up, names, left = json.loads(re.search(r"<title>(.*?)</title>", document)[1])
    assert down == sorted(down, key=float, reverse=True)
    assert up == sorted(up, key=float)
    assert names == ["up", "left", "down"]
    assert left == 1


@needs_browser
def test_the_matrix_of_400_classes_is_drawn_and_says_what_is_under_the_mouse(large: Path) -> None:
    script = """
      const canvas = document.querySelector('canvas.matrix');
      const { left, top } = canvas.getBoundingClientRect();
      const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      const drawn = pixels.filter((value, i) => i % 4 === 3 && value).length;
      const at = { clientX: left + 1, clientY: top + 1 };
      canvas.dispatchEvent(new MouseEvent('mousemove', at));
      document.title = drawn + '|' + document.querySelector('output').textContent;
    """
    document, errors = browse(large, script)
    assert errors == ""
    drawn, told = re.search(r"<title>(.*?)</title>", document)[1].split("|")
    assert int(drawn) > 400 * 9
    assert re.fullmatch(r"class (\d+) of many taken for class \1 of many: \d+ of \d+", told)
