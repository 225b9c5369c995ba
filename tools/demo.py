"""Train and test a small SPP-net on the photographs of an installed package."""
import argparse
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Sequence

import numpy as np

from spp.data import images
from spp.errors import SppError
from spp_tools.common import Parser, guarded, positive, prototxt_folder

DESCRIPTION = """Train a small SPP-net on real photographs, with the programs that train the large ones.

  demo
      builds two databases, trains at two image sizes, tests at three, plots the training; takes a few minutes

The photographs come with the installed package scikit-image. Each of the 12 is a class; the crops of the
left half are for training, those of the right half for testing, in many sizes and aspect ratios. Everything
is written to the folder demo in the current folder."""

PHOTOS = ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
          "gravel.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "retina.jpg")
CROPS = {"train": 100, "test": 25}      # per photograph
SMALLEST, LARGEST = 0.3, 0.8            # sides of a crop, relative to the shorter side of its half
FOLDER = Path("demo")
TESTS = (("64 x 64, a size it was trained at", None), ("96 x 96, a size it was never trained at", "larger"),
         ("whole rectangles, one at a time", "full"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = Parser("demo", DESCRIPTION)
    parser.add_argument("--iterations", type=positive, metavar="N",
                        help="train for N iterations (default: the solver's max_iter)")
    args = parser.parse_args(argv)
    return guarded(lambda: demo(args))


def demo(args: argparse.Namespace) -> int:
    """Run the whole demo; returns the exit code."""
    began = time.monotonic()
    FOLDER.mkdir(exist_ok=True)
    shapes = cut_photos(find_photos())
    for part in CROPS:
        shutil.rmtree(FOLDER / f"{part}_lmdb", ignore_errors=True)
        run("convert_imageset", "--encoded", "--shuffle", FOLDER / "photos" / part, FOLDER / f"{part}_lmdb")

    nets = prototxt_folder()
    if nets.is_relative_to(Path.cwd()):
        nets = nets.relative_to(Path.cwd())
    limit = ["--iterations", args.iterations] if args.iterations else []
    run("train_net", "--solver", nets / "demo_spp_solver.prototxt", *limit)
    weights = newest(FOLDER / "demo_spp", "demo_spp_iter_*.caffemodel")

    model = nets / "demo_spp_train_val.prototxt"
    accuracies = []
    for _, stage in TESTS:
        choice = ["--stage", stage] if stage else []
        text = run("test_net", "--model", model, "--weights", weights, *choice)
        accuracies.append(float(re.findall(r"^accuracy = (\S+)", text, re.MULTILINE)[-1]))
    run("plot_training", FOLDER / "demo_spp", "--output", FOLDER / "training.png")

    crops = CROPS["test"] * len(PHOTOS)
    print(f"\nWhich of {len(PHOTOS)} photographs is a crop from? {crops} test crops of {shapes} different shapes,\n"
          "from the halves of the photographs that were not trained on:")
    for (what, _), accuracy in zip(TESTS, accuracies):
        print(f"  {what:40} {accuracy:6.1%} right")
    print(f"  {'chance':40} {1 / len(PHOTOS):6.1%}")
    print(f"Plot of the training: {FOLDER / 'training.png'}")
    print(f"{time.monotonic() - began:.0f} seconds in all")
    return 0


def find_photos() -> list[Path]:
    """The photographs in the installed scikit-image."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise SppError("the demo's photographs come with scikit-image: pip install 'spp[demo]'")
    photos = [Path(package.origin).parent / "data" / name for name in PHOTOS]
    for photo in photos:
        if not photo.is_file():
            raise SppError(f"{photo} is missing: this version of scikit-image does not have it; "
                           "install 'scikit-image>=0.22,<0.27'")
    return photos


def cut_photos(photos: list[Path]) -> int:
    """Write the crops to demo/photos/<part>/<class>/<number>.png; returns the number of different test shapes."""
    rng = np.random.default_rng(0)
    shutil.rmtree(FOLDER / "photos", ignore_errors=True)
    shapes = set()
    for photo in photos:
        image = images.decode(photo.read_bytes(), color=True)
        middle = image.shape[1] // 2
        for part, half in (("train", image[:, :middle]), ("test", image[:, middle:])):
            folder = FOLDER / "photos" / part / photo.stem
            folder.mkdir(parents=True)
            for number in range(CROPS[part]):
                height, width = (rng.uniform(SMALLEST, LARGEST, 2) * min(half.shape[:2])).astype(int)
                top = rng.integers(half.shape[0] - height + 1)
                left = rng.integers(half.shape[1] - width + 1)
                crop = half[top:top + height, left:left + width]
                (folder / f"{number:03d}.png").write_bytes(images.encode(crop, "png"))
                if part == "test":
                    shapes.add((height, width))
    return len(shapes)


def run(program: str, *arguments: object) -> str:
    """Run another program of this folder, print its command and its output, and return the output."""
    here = Path(__file__).resolve().parent
    name = f"tools/{program}" if (here / "launch").exists() else "spp-" + program.replace("_", "-")
    words = [str(argument) for argument in arguments]
    print(f"\n$ {name} {shlex.join(words)}", flush=True)
    command = [sys.executable, str(here / f"{program}.py"), *words]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    print(result.stdout, end="", flush=True)
    if result.returncode:
        sys.exit(result.returncode)
    return result.stdout


def newest(folder: Path, pattern: str) -> Path:
    """The most recent file that matches the pattern."""
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime)


if __name__ == "__main__":
    sys.exit(main())
