#!/usr/bin/env python3
"""Make the READMEs' pictures again, from the example's project: beta-galactosidase/img/.

Example: bash beta-galactosidase/run.sh, then
.venv/bin/python beta-galactosidase/pictures.py beta-galactosidase/project

Needs what tests/run.sh installs (playwright), and Chromium on the PATH. All pictures together have
at most 600 KiB: JPEG, and what is drawn in few colours.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
IMG = HERE / "img"
MOST = 600 * 1024  # bytes of all
QUALITY = 72
SCREEN = {"width": 1200, "height": 900}
ZOOM = 3  # times that the report's button is pressed
LOWPASS = 15  # A
LEGEND = 96  # pixels above the micrograph of an overlay of two lists
PART = (400, 600, 1200, 1050)  # what is shown of it: left, upper, right, lower
SHOW = [sys.executable, HERE.parent / "show_picks.py"]


def compared(project, target):
    """Draw RELION's candidates and the direct picks on the first micrograph: a part, the legend."""
    name, whole = first_picked(project), project / "picture.png"
    candidates = f"{Path('AutoPick/test', name).with_suffix('')}_autopick.star"
    lists = "-s", candidates, "-s", "ClassBin/picks/picks.star"
    show(project, "-m", name, *lists, "--lowpass", LOWPASS, "--out", whole)
    left, upper, right, lower = PART
    with Image.open(whole) as picture:
        out = Image.new("RGB", (right - left, LEGEND + lower - upper))
        out.paste(picture.crop((0, 0, right - left, LEGEND)))
        out.paste(picture.crop(PART), (0, LEGEND))
    out.save(target, quality=QUALITY, optimize=True)
    whole.unlink()


def show(project, *words):
    """Run show_picks.py in the project."""
    subprocess.run([*map(str, SHOW), "-p", project, *map(str, words)], check=True)


def first_picked(project):
    """Return the name of the first micrograph that is picked."""
    lines = (project / "test.star").read_text().splitlines()
    return next(line.split()[0] for line in lines if line.strip().startswith("Micrographs/"))


def report(project, target):
    """Write the report, and take a picture of its micrographs."""
    from playwright.sync_api import sync_playwright

    show(project, "--report")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport=SCREEN, color_scheme="light")
        page.goto((project / "ClassBin/report.html").as_uri())
        for _ in range(ZOOM):
            page.click("#in")
        page.locator("#h-micrographs").scroll_into_view_if_needed()
        page.evaluate("scrollTo(0, document.querySelector('.bar').offsetTop)")
        page.screenshot(path=target, type="jpeg", quality=QUALITY)
        browser.close()


def curves(project, target):
    """Make the picture of the training small."""
    with Image.open(project / "ClassBin/train_and_test_results.png") as picture:
        small = picture.convert("RGB").resize((800, 800 * picture.height // picture.width))
        small.quantize(32).save(target, optimize=True)


def main():
    """Make all; stop if they are too large."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path, help="where run.sh has left its project")
    project = parser.parse_args().project.resolve()
    IMG.mkdir(exist_ok=True)
    report(project, IMG / "report.jpg")
    compared(project, IMG / "compared.jpg")
    curves(project, IMG / "training.png")
    sizes = {path.name: path.stat().st_size for path in sorted(IMG.iterdir())}
    print(", ".join(f"{name} {size // 1024} KiB" for name, size in sizes.items()))
    if sum(sizes.values()) > MOST:
        sys.exit(f"{sum(sizes.values())} bytes in all, more than {MOST}")


if __name__ == "__main__":
    main()
