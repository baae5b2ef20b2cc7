"""The pictures of docs/view.md: five pages, each 1,400 and 400 pixels wide, of runs that are trained for them.

``python -m tests.benchmarks.pages FOLDER [docs/img]``: runs that are in the folder already are not trained again.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from PIL import Image

from marl.cli import main as marl_command
from tests.support.browser import browser

COLORS = 128
SPREAD = [("spread_native", seed, lr) for lr in ("", "learner.lr=3e-5") for seed in range(3)]
WIDTHS = {1400: "", 400: "-400"}
# name, what is on the page, the moment, the part that is shown (None: the page's beginning), most pixels, dark
PAGES = (
    ("curves", "spread", "", None, 1100, False),
    ("comparison", "spread", "", "comparison", 1500, True),
    ("league", "kuhn", "", "league", 900, False),
    ("replay", "tarmac", "#episode=2&step=9", "replay", 1300, False),
    ("beside", "spread", "#recording=0&episode=1&step=12&beside=3", "replay", 1500, False),
)


def train(folder: Path, name: str, *words: str, episodes: int = 6) -> None:
    """A run with recorded episodes, unless it is there."""
    run = folder / name
    if not (run / "summary.json").exists():
        assert marl_command(["train", *words, "--run-dir", str(run), "--json", "--force"]) == 0
    if not (run / "episodes.npz").exists():
        record = ["--record", str(run / "episodes.npz"), "--episodes", str(episodes), "--seed", "1"]
        assert marl_command(["play", str(run), *record, "--json"]) == 0


def runs(folder: Path) -> None:
    """Everything that is shown."""
    for scenario, seed, setting in SPREAD:
        more = ["--set", setting] if setting else []
        name = f"spread/{'slow' if setting else 'usual'}-{seed}"
        train(folder, name, scenario, "--seed", str(seed), "--steps", "60000", *more)
    psro = ["--set", "league.response_steps=2000", "--set", "league.games=400"]
    train(folder, "kuhn", "kuhn", "--steps", "8000", *psro)
    train(folder, "tarmac", "reference_tarmac", "--steps", "60000")


def shown(tab, part: str | None, width: int, most: int) -> bytes:
    """A picture of a part of the page."""
    place = f"document.getElementById({json.dumps(part)})" if part else "document.body"
    box = tab.run(f"(({{x, y, height}}) => [x + scrollX, y + scrollY, height])({place}.getBoundingClientRect())")
    clip = {"x": 0, "y": max(0, box[1] - 12), "width": width, "height": min(most, box[2] + 24), "scale": 1}
    found = tab.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    return base64.b64decode(found["data"])


def main(folder: Path, out: Path) -> None:
    """Train, write pages, take pictures."""
    with redirect_stdout(io.StringIO()):
        runs(folder)
        for what in {page[1] for page in PAGES}:
            assert marl_command(["report", str(folder / what), "--out", str(folder / f"{what}.html")]) == 0
    with tempfile.TemporaryDirectory() as profile, browser(profile) as tabs:
        tab = tabs()
        for name, what, moment, part, most, dark in PAGES:
            for width, ending in WIDTHS.items():
                tab.open("about:blank")
                tab.open(f"file://{folder.resolve() / what}.html{moment}", width=width, height=1000, dark=dark)
                tab.run("new Promise((go) => setTimeout(go, 500))")
                picture = Image.open(io.BytesIO(shown(tab, part, width, most))).convert("RGB").quantize(COLORS)
                file = out / f"view-{name}{ending}.png"
                picture.save(file, optimize=True)
                print(f"wrote {file}: {picture.size[0]} x {picture.size[1]}, {file.stat().st_size // 1000} kB")
        assert tab.said == [], tab.said


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path("docs/img"))
