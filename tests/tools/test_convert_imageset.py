"""convert_imageset and compute_image_mean as a user runs them: files, messages, exit codes, accidents."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import golden
from folders import ROOT
from spp.data import datum, images
from spp.data.database import Database, DatabaseWriter
from spp.data.datum import DatumImages
from spp.proto import arrays, binary
from spp_tools import compute_image_mean, convert_imageset

TOOLS = ROOT / "tools"
IMAGES, LIST = golden.path("data", "images"), golden.path("data", "list.txt")
RNG = np.random.default_rng(0)


def command(program, *arguments):
    return [sys.executable, str(TOOLS / f"{program}.py"), *map(str, arguments)]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a program's main in an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def main(program, *arguments):
        try:
            code = program.main([*map(str, arguments)])
        except SystemExit as end:
            code = end.code
        return (code, *capsys.readouterr())
    return main


def convert(run, *arguments):
    """Run convert_imageset, which must succeed, and read its database."""
    code, out, err = run(convert_imageset, *arguments)
    assert code == 0, err
    source = DatumImages(arguments[-1])
    records = [(source.database.key(i).decode(), *source.read(i)) for i in range(len(source))]
    source.close()
    return records, out, err


def write(path, image):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    assert cv2.imwrite(path, image)


def noise(height, width, channels=3):
    return RNG.integers(0, 256, (height, width, channels), np.uint8)


@pytest.fixture
def classes(run):
    """Two classes of images of different sizes, in several formats."""
    images_by_name = {"dog/a.png": noise(6, 9), "dog/b.bmp": noise(9, 6), "cat/c.png": noise(7, 7),
                      "cat/d.jpg": noise(8, 16)}
    for name, image in images_by_name.items():
        write(f"photos/{name}", image)
    images_by_name["cat/d.jpg"] = cv2.imread("photos/cat/d.jpg")
    return images_by_name


# --- convert_imageset

@pytest.mark.parametrize("kind, options", [
    ("raw", ["--resize-height", 24, "--resize-width", 30]),
    ("raw", ["--resize_height=24", "--resize_width=30"]),
    ("encoded", ["--encoded"]), ("encoded", ["--encoded", "--encode_type", "png"])])
def test_databases_are_those_of_the_reference_byte_for_byte(run, kind, options):
    code, out, err = run(convert_imageset, *options, IMAGES + "/", LIST, "db")
    assert code == 0 and err == ""
    assert re.fullmatch(r"12 images written to db, 0 skipped; 0\.1 MB in \d+\.\d s, \d+ img/s\n", out)
    records = []
    for path in ("db", golden.path("data", f"{kind}_lmdb")):
        database = Database(path)
        records.append([(database.key(i), database.value(i)) for i in range(len(database))])
        database.close()
    assert records[0] == records[1] and len(records[0]) == 12
    assert os.listdir("db") == ["data.mdb"] and os.listdir() == ["db"]


def test_a_folder_for_each_class(run, classes):
    records, out, err = convert(run, "photos", "db")
    assert [(key, label) for key, _, label in records] == [
        ("00000000_cat/c.png", 0), ("00000001_cat/d.jpg", 0), ("00000002_dog/a.png", 1),
        ("00000003_dog/b.bmp", 1)]
    for key, image, _ in records:
        np.testing.assert_array_equal(image, classes[key[9:]])
    assert Path("db/labels.txt").read_text() == "cat\ndog\n"
    assert sorted(os.listdir("db")) == ["data.mdb", "labels.txt"]
    assert err == "note: the records are in the order of their classes; training needs --shuffle\n"


def test_shuffling(run, classes):
    runs = {seed: convert(run, "--shuffle", "--seed", seed, "photos", f"db{seed}") for seed in range(6)}
    orders = {tuple(key[9:] for key, _, _ in records) for records, _, _ in runs.values()}
    assert len(orders) > 2 and all(sorted(order) == sorted(classes) for order in orders)
    records, _, err = runs[0]
    assert [key[:9] for key, _, _ in records] == [f"{i:08d}_" for i in range(4)] and err == ""
    assert all(label == key[9:].startswith("dog") for key, _, label in records)
    again, _, _ = convert(run, "--shuffle", "photos", "again")
    assert [key for key, _, _ in again] == [key for key, _, _ in records]


def test_the_shorter_side(run, classes):
    records, _, _ = convert(run, "--resize-short", 4, "photos", "db")
    assert [image.shape for _, image, _ in records] == [(4, 4, 3), (4, 8, 3), (4, 6, 3), (6, 4, 3)]
    np.testing.assert_array_equal(records[2][1], cv2.resize(classes["dog/a.png"], (6, 4)))


def test_gray(run, classes):
    records, _, _ = convert(run, "--gray", "photos", "db")
    gray = cv2.cvtColor(classes["dog/b.bmp"], cv2.COLOR_BGR2GRAY)
    np.testing.assert_array_equal(records[3][1][:, :, 0], gray)
    write("mixed/x/colour.png", noise(4, 4))
    write("mixed/x/gray.png", noise(4, 4, 1))
    for options in ([], ["--encoded"]):
        records, _, _ = convert(run, "--gray", *options, "mixed", f"mixed{len(options)}")
        assert [image.shape for _, image, _ in records] == [(4, 4, 1), (4, 4, 1)]
    records, _, _ = convert(run, "mixed", "coloured")
    assert [image.shape for _, image, _ in records] == [(4, 4, 3), (4, 4, 3)]


@pytest.mark.parametrize("options, name, unchanged, kind", [
    ([], "cat/c.png", True, images.PNG), ([], "cat/d.jpg", True, images.JPEG),
    ([], "dog/b.bmp", False, images.PNG), (["--encode-type", "jpg"], "cat/d.jpg", True, images.JPEG),
    (["--encode-type", "jpg"], "cat/c.png", False, images.JPEG),
    (["--encode-type", "png"], "cat/d.jpg", False, images.PNG),
    (["--resize-short", "7"], "cat/c.png", True, images.PNG),
    (["--resize-short", "5"], "cat/c.png", False, images.PNG),
    (["--resize-short", "5"], "cat/d.jpg", False, images.JPEG),
    (["--resize-height", "5", "--resize-width", "6"], "cat/d.jpg", False, images.JPEG)])
def test_encoded_files_stay_as_they_are_where_they_can(run, classes, options, name, unchanged, kind):
    convert(run, "--encoded", *options, "photos", "db")
    source = DatumImages("db")
    number = sorted(classes).index(name)
    record = source.database.value(number)
    content = Path("photos", name).read_bytes()
    assert (record == datum.encoded(content, number // 2)) == unchanged
    assert kind in record[:20]
    if kind == images.PNG and not options:
        np.testing.assert_array_equal(source.read(number)[0], classes[name])
    source.close()


def test_bad_images_are_named_and_left_out(run, classes):
    Path("photos/cat/bad.jpg").write_bytes(Path("photos/cat/d.jpg").read_bytes()[:200])
    Path("list.txt").write_text("cat/c.png 4\ncat/bad.jpg 5\nno.png 6\ndog/a.png 7\n")
    records, out, err = convert(run, "photos", "list.txt", "db")
    assert [(key, label) for key, _, label in records] == [("00000000_cat/c.png", 4), ("00000003_dog/a.png", 7)]
    assert out.startswith("2 images written to db, 2 skipped; ")
    one, two = (line for line in err.splitlines() if line.startswith("skipped"))
    assert re.fullmatch(r"skipped: photos/cat/bad.jpg: cannot be decoded as an image \(200 bytes\); .*", one)
    assert two == "skipped: photos/no.png: cannot be read: No such file or directory"


def test_bad_images_can_stop_the_job(run, classes):
    Path("photos/cat/bad.jpg").write_bytes(b"no image")
    code, out, err = run(convert_imageset, "--on-error", "stop", "--shuffle", "photos", "db")
    assert (code, out) == (1, "") and not [name for name in os.listdir() if name.startswith("db")]
    assert re.fullmatch(r"error: photos/cat/bad.jpg: cannot be decoded as an image \(8 bytes\); .*\n", err)


def test_checking_the_size(run, classes):
    sized = ["--check_size", "--resize-height=3", "--resize-width=4"]
    for code, options in ((1, ["--check-size"]), (0, sized)):
        result = run(convert_imageset, *options, "--shuffle", "photos", f"db{code}")
        assert result[0] == code
        message = (r"error: .*: the image has \d+ x \d+ x 3 \(height x width x channels\), the first one \d+ "
                   r"x \d+ x 3, and --check-size was given; add --resize-height and --resize-width\n")
        assert re.fullmatch(message if code else "", result[2])
    assert sorted(name for name in os.listdir() if name.startswith("db")) == ["db0"]


@pytest.mark.parametrize("arguments, message", [
    (["photos"], r"expected ROOT_FOLDER \[LISTFILE\] DB_NAME, found 1 name\(s\); see convert_imageset --h"),
    (["a", "b", "c", "d"], r"expected ROOT_FOLDER \[LISTFILE\] DB_NAME, found 4 name\(s\)"),
    (["--resize-height", "4", "photos", "db"], "--resize-height and --resize-width go together; for one side "
                                               "there is --resize-short"),
    (["--resize-short=4", "--resize-width=4", "--resize-height=4", "a", "b"], "--resize-short does not go"),
    (["--encode-type", "png", "photos", "db"], "--encode-type needs --encoded"),
    (["--resize-short", "0", "photos", "db"], "'0' is not an integer of at least 1"),
    (["no", "db"], r"root folder 'no' not found \(looked from /.*\); check the path"),
    (["photos", "no.txt", "db"], "list file 'no.txt' cannot be read: No such file or directory"),
    (["photos", "photos/list", "db"], "list:2: expected `path label`, the label a whole number, found 'x y'"),
    (["photos/cat", "db"], "'photos/cat' has no class folders; create one per class, or give a list file"),
    (["photos", "photos"], "'photos' exists already; remove it, or give the database another name"),
    (["photos", "nothing/db"], "'nothing/db' cannot be created: Not a directory; 'nothing' must be a folder"),
    (["photos/cat", "nothing", "db"], "none of the 1 files could be read as an image; check ROOT_FOLDER")])
def test_mistakes_get_one_line(run, classes, arguments, message):
    Path("photos/list").write_text("cat/c.png 1\nx y\n")
    Path("nothing").write_text("c.gif 1\n")
    code, out, err = run(convert_imageset, *arguments)
    assert (code, out) == (1, "") and re.search(f"^error: .*{message}", err, re.MULTILINE), err
    assert not os.path.exists("db")


def test_names_may_stand_between_options(run, classes):
    records, _, _ = convert(run, "photos", "--gray", "--resize-short", 2, "db")
    assert records[0][1].shape == (2, 2, 1)


@pytest.mark.parametrize("program", ["convert_imageset", "compute_image_mean"])
def test_help_teaches_by_example(program):
    result = subprocess.run(command(program, "--help"), capture_output=True, text=True)
    assert result.returncode == 0
    assert f"\n  {program} " in result.stdout and "\nExit codes: 0 done, 1 an error" in result.stdout


@pytest.mark.parametrize("number, code", [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_an_accident_leaves_no_database(run, tmp_path, number, code):
    Path("long.txt").write_text("00.png 0\n" * 500_000)
    process = subprocess.Popen(command("convert_imageset", IMAGES, "long.txt", "db"), cwd=tmp_path,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        time.sleep(0.02)
        if [p for p in tmp_path.glob("db.*.tmp/data.mdb") if p.stat().st_size > 10 ** 6]:
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "") and "Traceback" not in err
    left = [name for name in os.listdir() if name.startswith("db")]
    assert len(left) == (number == signal.SIGKILL) and "db" not in left
    code, _, err = run(convert_imageset, IMAGES, LIST, "db")
    assert code == 0 and err == "".join(f"note: '{name}' is left from a run that was killed; remove it unless "
                                        "a run is writing it now\n" for name in left)


# --- compute_image_mean

def test_the_mean_is_that_of_the_reference_byte_for_byte(tmp_path):
    path = golden.path("data", "mean.binaryproto")
    program = command("compute_image_mean", golden.path("data", "raw_lmdb"), "mean.binaryproto")
    result = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "mean.binaryproto").read_bytes() == Path(path).read_bytes()
    means = arrays.from_proto(binary.read_blob_proto(path))[0].mean((1, 2), dtype=float)
    assert result.stdout.splitlines() == [
        "mean of 12 images of 24 x 30 pixels (height x width), written to mean.binaryproto",
        *(f"mean_value channel [{c}]: {v:.6g}" for c, v in enumerate(means))]


def test_the_mean_of_images_of_different_sizes(run, classes):
    convert(run, "--encoded", "photos", "db")
    code, out, err = run(compute_image_mean, "db")
    assert (code, out) == (1, "")
    assert err == ("error: record '00000001_cat/d.jpg' of LMDB 'db' has 8 x 16 x 3 (height x width x "
                   "channels), those before it 7 x 7 x 3, and a mean needs one size; give --resize-short and "
                   "--crop-size\n")
    code, out, err = run(compute_image_mean, "db", "--crop-size", 7)
    assert (code, out) == (1, "")
    assert err == ("error: record '00000002_dog/a.png' of LMDB 'db' has 6 x 9 pixels (height x width), less "
                   "than --crop-size 7; give --resize-short 7 or more\n")
    code, out, err = run(compute_image_mean, "--resize-short", 6, "db", "--crop-size", 5, "m")
    assert (code, err) == (0, "")
    assert out.startswith("mean of 4 images of 5 x 5 pixels (height x width), written to m\n")
    resized = [images.resize_short(classes[name], 6) for name in sorted(classes)]
    crops = [image[(image.shape[0] - 5) // 2:, (image.shape[1] - 5) // 2:][:5, :5] for image in resized]
    proto = binary.read_blob_proto("m")
    assert (proto.num, proto.channels, proto.height, proto.width) == (1, 3, 5, 5)
    assert not proto.HasField("shape")
    np.testing.assert_allclose(arrays.from_proto(proto)[0].transpose(1, 2, 0), np.mean(crops, 0), 1e-6)
    printed = [float(line.split(": ")[1]) for line in out.splitlines()[1:]]
    np.testing.assert_allclose(printed, np.mean(crops, (0, 1, 2)), 1e-5)


def test_the_mean_without_a_file(run, classes):
    convert(run, "--gray", "--resize-height", 2, "--resize-width", 3, "photos", "db")
    code, out, err = run(compute_image_mean, "db")
    assert code == 0 and re.fullmatch(r"mean of 4 images of 2 x 3 pixels \(height x width\)\n"
                                      r"mean_value channel \[0\]: [\d.]+\n", out)


@pytest.mark.parametrize("arguments, message", [
    (["no"], "error: LMDB 'no' not found .*; build it with tools/convert_imageset ROOT_FOLDER LISTFILE no"),
    (["bad"], "error: record '0' of LMDB 'bad': cannot be decoded as an image"),
    ([golden.path("data", "raw_lmdb"), "no/mean"], "error: no/mean: cannot be written: there is no folder"),
    ([golden.path("data", "raw_lmdb"), "--crop-size", "x"], "error: .*'x' is not an integer of at least 1")])
def test_mistakes_with_means_get_one_line(run, arguments, message):
    with DatabaseWriter("bad") as writer:
        writer.put(b"0", datum.encoded(b"no image", 0))
    code, out, err = run(compute_image_mean, *arguments)
    assert (code, out) == (1, "") and re.match(message, err) and err.count("\n") == 1
