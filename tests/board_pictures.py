"""Takes the pictures of docs/tensorboard.md after a real comparison: `python -m tests.board_pictures runs docs`."""

import sys
from pathlib import Path

from PIL import Image

from blurtrain import serving
from tests.browser import Watched, browser

TABS = {  # what is opened, and what shows that it is there
    "custom_scalars&_smoothingWeight=0": "arms side by side",
    "text": "blur",
    "images&tagFilter=test images rescued": "test images rescued/augmented",
}
COLOURS = 160  # enough for an interface and its pictures, at a third of the bytes


def main(runs: Path, folder: Path) -> None:
    """One picture a tab."""
    own = serving.launch(runs, 0).split("?")[0]
    with browser() as running:
        for tab, text in TABS.items():
            page = Watched(running, 1280).page
            page.context.route(lambda url: not url.startswith(own), lambda route: route.abort())
            page.goto(f"{own}?smoothing=0#{tab}")
            page.get_by_text(text, exact=True).first.wait_for()
            page.wait_for_timeout(3000)  # charts are animated
            path = folder / f"tensorboard-{tab.partition('&')[0].replace('_', '-')}.png"
            page.screenshot(path=path)
            with Image.open(path) as picture:
                picture.convert("RGB").quantize(COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
