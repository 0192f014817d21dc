"""`vivit demo`: without Gradio, and with it and Chromium as a visitor sees it."""

import asyncio
import builtins
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.explain.test_rollout import build
from vivit_train.__main__ import main
from vivit_train.classifier import Classifier
from vivit_train.commands.demo import answer, page_of, serve
from vivit_train.transforms.processor import Processor
from vivit_train.video.decode import DecodeError
from vivit_train.video.sampling import Sampling
from vivit_train.video.write import write_video

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
NASTY = ["</script><script>document.title='taken'</script>", "=cmd", "\U0001f3c3 \u202e \"'"]
CLIP = REPOSITORY.parent / "shared" / "clips" / "arm_wrestling.mp4"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """An untrained model of three classes with names that would do harm."""
    model = build(attention="factorised_encoder")
    processor = Processor(crop_size=(12, 16), size=16)
    sampling = Sampling(4, clip_seconds=0.4)
    return Classifier(model, processor, NASTY, sampling=sampling, eval_views=(1, 1)).eval()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 256, (30, 32, 40, 3), dtype=np.uint8)
    write_video(tmp_path / "clip.mp4", frames, fps=20)
    return tmp_path / "clip.mp4"


def test_without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *words: Any) -> Any:
        if name == "gradio":
            raise ModuleNotFoundError(name)
        return real(name, *words)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SystemExit) as end:
        main(["demo", "RUN"])
    assert end.value.code == "error: vivit demo needs Gradio: pip install 'vivit-train[demo]'"


def test_what_is_shown_of_a_video(classifier: Classifier, video: Path) -> None:
    shown = answer(classifier, str(video))
    prediction = classifier.predict(str(video))
    assert list(shown.classes.values()) == [p for _, p in prediction.classes]
    assert not any("\u202e" in name for name in shown.classes)
    assert shown.timeline[0][0] == "00:00:00.000"
    assert shown.timeline[-1][1] == "00:00:01.500"
    assert [row[0] for row in shown.timeline[1:]] == [row[1] for row in shown.timeline[:-1]]
    assert shown.heat.dtype == np.uint8
    assert shown.heat.std() > 1


def test_no_video(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(DecodeError):
        answer(classifier, str(tmp_path / "no.mp4"))


class Visitor:
    """A headless Chromium on a page, by its own protocol."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.number, self.asked = socket, 0, []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self.socket.receive()).data)
            if message.get("method") == "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])
            if message.get("id") == self.number:
                return message["result"]

    async def until(self, script: str, seconds: float = 60) -> Any:
        """The first value of a script that is not false."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            result = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
            if value := result["result"].get("value"):
                return value
            await asyncio.sleep(0.2)
        page = await self.call("Runtime.evaluate", expression="document.body.innerText")
        raise AssertionError(f"{script} stayed false: {page['result'].get('value')}")

    async def drop(self, path: Path) -> None:
        """Gives a file to the page."""
        document = await self.call("DOM.getDocument")
        found = await self.call(
            "DOM.querySelector", nodeId=document["root"]["nodeId"], selector="input[type=file]"
        )
        await self.call("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(path)])


async def visit(address: str, clip: Path, folder: Path, picture: Path | None) -> tuple[str, list]:
    """Drops a clip on a page; returns the text that it then shows, and the requests."""
    import aiohttp

    words = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
        f"--user-data-dir={folder}", "--window-size=1280,1300", "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as browser:
        try:
            place = folder / "DevToolsActivePort"
            end = time.monotonic() + 60
            while not (place.exists() and place.read_text().count("\n")):
                assert time.monotonic() < end, "the browser did not start"
                await asyncio.sleep(0.1)
            port = place.read_text().split()[0]
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    pages = await answer.json()
                target = next(page for page in pages if page["type"] == "page")
                async with session.ws_connect(
                    target["webSocketDebuggerUrl"], max_msg_size=0
                ) as socket:
                    visitor = Visitor(socket)
                    await visitor.call("Network.enable")
                    await visitor.call("Page.navigate", url=address)
                    await visitor.until("!!document.querySelector('input[type=file]')")
                    await visitor.drop(clip)
                    await visitor.until("!!document.querySelector('img[src*=\"/file=\"]')")
                    await visitor.until("document.body.innerText.includes('00:00:00.000')")
                    if picture is not None:
                        import base64

                        shot = await visitor.call("Page.captureScreenshot")
                        picture.write_bytes(base64.b64decode(shot["data"]))
                    title = await visitor.until("document.title")
                    text = await visitor.until("document.body.innerText")
                    return f"{title}\n{text}", visitor.asked
        finally:
            browser.kill()


@pytest.mark.skipif(not BROWSER, reason="there is no Chromium on this machine")
@pytest.mark.timeout(300)
def test_a_visitor_drops_a_clip(classifier: Classifier, video: Path, tmp_path: Path) -> None:
    """Names are shown as text, and no request leaves the machine."""
    pytest.importorskip("gradio")
    clip = CLIP if CLIP.exists() else video
    page = page_of(classifier, "RUN <b>")
    try:
        address = serve(page, None)
        assert address.startswith("http://127.0.0.1:")
        text, asked = asyncio.run(visit(address, clip, tmp_path / "user", None))
    finally:
        page.close()
    assert text.startswith("vivit demo\n")
    assert "RUN <b>" in text
    assert NASTY[0] in text
    away = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert away == []
