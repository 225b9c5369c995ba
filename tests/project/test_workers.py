"""How the tests are divided among several workers."""
import workers
from folders import ROOT

STEMS = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}


def test_the_long_files_exist():
    assert set(workers.LONG) <= {workers.group(f"{stem}.py") for stem in STEMS}


def test_the_tests_of_the_kernels_stay_together_and_in_order():
    whole = [stem for stem in sorted(STEMS) if workers.group(f"{stem}.py") == "test_cuda_kernels"]
    assert len(whole) > 4 and whole[-1] == "test_cuda_kernels_whole"


def test_every_other_file_is_a_group():
    groups = [workers.group(f"tests/{stem}.py") for stem in STEMS if not stem.startswith("test_cuda_kernels")]
    assert sorted(groups) == sorted(stem for stem in STEMS if not stem.startswith("test_cuda_kernels"))
