"""Reports in a real browser: no message on its console, all pictures decoded, tables that sort; with screenshots."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gpunet.experiments.report import compare, report
from tests.experiments.conftest import Trained

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)} is installed")

# Runs in a copy of the page, before all else, and leaves what it found in an element of its own.
PROBE = """<script>
const problems = [];
addEventListener("error", (event) => problems.push(String(event.message || event.target.outerHTML)), true);
addEventListener("securitypolicyviolation", (event) => problems.push(event.violatedDirective + " " + event.blockedURI));
for (const name of ["error", "warn"]) console[name] = (...words) => problems.push(words.join(" "));
addEventListener("load", async () => {
  const found = { problems, sorted: {} };
  found.images = Array.from(document.images, (image) => image.naturalWidth);
  const drawn = Array.from(document.querySelectorAll("svg image"), (image) => image.getAttribute("xlink:href"));
  found.drawn = await Promise.all(drawn.map(async (uri) => {
    const image = new Image();
    image.src = uri;
    await image.decode();
    return image.naturalWidth;
  }));
  for (const table of document.querySelectorAll("table.sortable")) {
    found.sorted[table.id] = Array.from(table.tHead.rows[0].cells, (head, column) => {
      const cells = () => Array.from(table.tBodies[0].rows, (row) => row.cells[column])
        .map((cell) => cell.dataset.sort ?? cell.textContent.trim());
      return [1, 2].map(() => {
        head.querySelector("button").click();
        return [head.getAttribute("aria-sort"), cells()];
      });
    });
  }
  const result = document.createElement("pre");
  result.id = "probe";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
});
</script>"""


@pytest.fixture(scope="module")
def written(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report and a comparison."""
    folder = tmp_path_factory.mktemp("written")
    report(trained.folders["cnn"], out=folder / "report.html")
    compare(list(trained.folders.values()), out=folder / "comparison.html")
    return {name: folder / f"{name}.html" for name in ("report", "comparison")}


def browse(*words: str, folder: Path) -> str:
    """What the browser prints; its profile lies in `folder`."""
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    options = [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000"]
    done = subprocess.run([*command, *options, *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def probe(page: Path, folder: Path) -> dict[str, Any]:
    copy = folder / "probed.html"
    text = page.read_text(encoding="utf-8")
    copy.write_text(text.replace("<head>", f"<head>{PROBE}", 1), encoding="utf-8")
    dumped = browse("--dump-dom", copy.as_uri(), folder=folder)
    match = re.search(r'<pre id="probe">(.*?)</pre>', dumped, re.DOTALL)
    assert match is not None, dumped[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(match[1]))
    return found


def as_number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text.casefold()


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_no_complaints_all_pictures_and_tables_that_sort(written: dict[str, Path], name: str, tmp_path: Path) -> None:
    found = probe(written[name], tmp_path)
    assert found["problems"] == []
    assert all(width > 0 for width in [*found["images"], *found["drawn"]])
    assert bool(found["images"]) == (name == "report")
    expected = (
        {"confusions-table", "classes-table", "epochs-table"} if name == "report" else {"runs-table", "pairs-table"}
    )
    assert found["sorted"].keys() == expected
    moved = 0
    for columns in found["sorted"].values():
        for (first, up), (second, down) in columns:
            assert (first, second) == ("ascending", "descending")
            known = [as_number(cell) for cell in up if cell != "–"]
            assert known == sorted(known), up
            assert [as_number(cell) for cell in down if cell != "–"] == sorted(known, reverse=True)
            assert up[len(known) :] == down[len(known) :] == ["–"] * (len(up) - len(known)), "unknown values come last"
            moved += up != down
    assert moved > 5, "a table whose order never changes shows nothing"


def test_screenshots(written: dict[str, Path], tmp_path: Path) -> None:
    # The window of a browser may not be as narrow as a phone; a frame may.
    frame = tmp_path / "phone.html"
    uri = written["report"].as_uri()
    frame.write_text(f'<body style="margin: 0"><iframe src="{uri}" style="width: 400px; height: 3000px; border: 0">')
    shots = {
        "light": (uri, "--window-size=1100,3000"),
        "dark": (uri, "--window-size=1100,3000", "--blink-settings=preferredColorScheme=0"),
        "phone": (frame.as_uri(), "--window-size=500,3000"),
    }
    brightness = {}
    for shot, (address, *options) in shots.items():
        browse(*options, f"--screenshot={tmp_path / shot}.png", address, folder=tmp_path)
        with Image.open(tmp_path / f"{shot}.png") as image:
            grey = image.convert("L").crop((0, 0, 400, 3000))
            histogram = grey.histogram()
            brightness[shot] = max(range(256), key=histogram.__getitem__)
            assert sum(count for level, count in enumerate(histogram) if abs(level - brightness[shot]) > 60) > 5000
    assert brightness["light"] == brightness["phone"] == 255 and brightness["dark"] < 60


def test_nothing_is_cut_off_on_a_phone(written: dict[str, Path], tmp_path: Path) -> None:
    """The page itself does not scroll sideways at 400 px: only what is too wide scrolls, in its own box."""
    measure = """<script>
    addEventListener("message", (event) => { document.body.innerHTML = '<pre id="probe">' + event.data + "</pre>"; });
    </script>"""
    for page in written.values():
        text = page.read_text(encoding="utf-8")
        report_width = "parent.postMessage(JSON.stringify([document.documentElement.scrollWidth, innerWidth]), '*')"
        inner = f"<head><script>addEventListener('load', () => {report_width});</script>"
        (tmp_path / "inner.html").write_text(text.replace("<head>", inner, 1), encoding="utf-8")
        outer = tmp_path / "outer.html"
        outer.write_text(f'<body>{measure}<iframe src="inner.html" style="width: 400px; height: 900px; border: 0">')
        match = re.search(r'<pre id="probe">\[(\d+),(\d+)\]', browse("--dump-dom", outer.as_uri(), folder=tmp_path))
        assert match is not None
        assert int(match[1]) <= int(match[2]) == 400
