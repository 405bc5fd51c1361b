"""No kernel goes untested: each runs under the emulator with all seeds, and under the sanitizers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpunet.cuda import kernels, source_names, specialisations
from gpunet.cuda.sources import source_folder
from tests.cuda.conftest import SEEDS
from tests.emulator import RUNTIME, missing, sanitized_environment
from tests.emulator.build import sanitizing

pytestmark = pytest.mark.emulator

HERE = Path(__file__).parent


def suites() -> set[str]:
    """The names of the files here whose tests run on the emulator."""
    others = (path for path in HERE.glob("test_*.py") if path != Path(__file__))
    return {path.name for path in others if "(device: Device" in path.read_text().replace("\n    ", "")}


def test_every_kernel_was_launched_with_every_seed(request: pytest.FixtureRequest) -> None:
    """The last test of this folder (conftest.py sees to that): what the others have launched.

    Launched by a test that names its shapes and dtype: what hypothesis draws differs between its versions.
    """
    ran = {(item.path.name, seed) for item in request.session.items for seed in SEEDS if f"emulator{seed}" in item.name}
    if missing() or not {(name, seed) for name in suites() for seed in SEEDS} <= ran:
        pytest.skip("it judges a run of all tests of the emulator")
    expected = {
        (source, kernel, tuple(sorted(defines.items())), seed)
        for source in source_names()
        for defines in specialisations(source)
        for kernel in kernels(source, defines)
        for seed in SEEDS
    }
    assert len(expected) > 100
    assert expected <= RUNTIME.launched, sorted(expected - RUNTIME.launched)


def test_the_table_of_kernels_names_all() -> None:
    table = (source_folder() / "README.md").read_text()
    for source in source_names():
        assert f"`{source}.cu`" in table, source
        for kernel in kernels(source, specialisations(source)[0]):
            assert f"`{kernel.removesuffix('_backward')}" in table, kernel


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.skipif(sanitizing(), reason="this is the run under the sanitizers")
def test_kernels_are_clean_under_the_sanitizers() -> None:
    """The tests of the ops once more, with AddressSanitizer and UndefinedBehaviorSanitizer, which end what errs."""
    files = sorted(suites() - {"test_training.py"})  # trainings launch no kernels that these do not
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "emulator1", *files]
    done = subprocess.run(command, cwd=HERE, env=sanitized_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout and "failed" not in done.stdout
