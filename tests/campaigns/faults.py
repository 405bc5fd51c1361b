"""A fault at every file operation of a short training: it ends the process with one sentence, and nothing is lost.

    python -m tests.campaigns.faults --model cnn --fault kill [--every 1]

``kill`` kills the process before the operation; ``ENOSPC`` and ``EROFS`` let it and all later ones fail, ``EIO`` only
this one. Then the run is resumed, without the fault: it must end in the same files. Needs a C compiler, on Linux.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr
from pathlib import Path

from tests.campaigns.runs import MODELS, data_set, differences, next_words, run_folder, words

FAULTS = ("kill", "ENOSPC", "EIO", "EROFS")


def run_faults(model: str, fault: str, *, every: int = 1, first: int = 1) -> tuple[int, list[str]]:
    """Try the `fault` at each `every`-th operation; returns the number of operations and what went wrong.

    This process must run under the library of ``faults.c``; see :func:`main`.
    """
    _import_everything()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        data = data_set(folder)
        _child(words(model, data, folder / "whole"), folder)
        whole = run_folder(folder / "whole")
        assert whole is not None
        total = _child(words(model, data, folder / "count"), folder, FAULT_FOLDER=str(folder / "count"))[0]
        found = []
        for number in range(first, total + 1, every):
            runs = folder / "fault"
            faults = {"FAULT_FOLDER": str(runs), "FAULT_AT": str(number)}
            faults["FAULT_ERRNO"] = "0" if fault == "kill" else str(getattr(errno, fault))
            faults["FAULT_STAYS"] = "1" if fault in ("ENOSPC", "EROFS") else "0"
            runs.mkdir()
            _, code, text = _child(words(model, data, runs), folder, **faults)
            found += [f"operation {number}: {problem}" for problem in _unclear(code, text)]
            found += [f"operation {number}: {problem}" for problem in _resumed(model, data, runs, folder, whole)]
            shutil.rmtree(runs)
        return total, found


def _unclear(code: int, text: str) -> list[str]:
    """What is wrong with the end of a process with a fault."""
    if code == -9:
        return []
    if "Traceback" in text or "unexpected" in text:
        return [f"exit code {code}: {text.strip()[-300:]}"]
    lines = [line for line in text.splitlines() if "error:" in line]
    return (
        [f"exit code {code} with {len(lines)} errors: {text.strip()[-300:]}"]
        if (code, len(lines)) not in ((1, 1), (0, 0))
        else []
    )


def _resumed(model: str, data: Path, runs: Path, folder: Path, whole: Path) -> list[str]:
    _, code, text = _child(next_words(model, data, runs), folder)
    begun = run_folder(runs)
    if code or begun is None:
        return [f"the resume ended with {code}: {text.strip()[-300:]}"]
    return differences(whole, begun)


def _child(command: list[str], folder: Path, **environment: str) -> tuple[int, int, str]:
    """(operations, exit code, stderr) of a forked process that runs `command`; -9: it was killed."""
    report = folder / "report"
    report.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code, errors = 1, io.StringIO()
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            from gpunet.cli.main import main

            os.environ.update(environment)
            with redirect_stderr(errors):
                code = main(command)
            for name in environment:
                del os.environ[name]
            count = getattr(ctypes.CDLL(None), "fault_count", lambda: 0)()
            report.write_text(f"{count} {code}\n{errors.getvalue()}")
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return 0, -os.WTERMSIG(status), ""
    head, text = report.read_text().split("\n", 1)
    count, code = map(int, head.split())
    return count, code, text


def _import_everything() -> None:
    """Import here what each child would otherwise import: but run nothing, since threads do not survive a fork."""
    import importlib

    own = ("gpunet.experiments.run", "gpunet.cli.train", "safetensors.numpy")
    others = (
        "matplotlib.figure",
        "matplotlib.style",
        "matplotlib.backends.backend_agg",
        "scipy.linalg",
        "threadpoolctl",
    )
    for module in (*own, *others):
        importlib.import_module(module)
    from matplotlib.figure import Figure

    Figure.draw = lambda self, renderer: (
        None
    )  # blank figures: their files count here, and drawing takes most of the time
    for path in sorted((Path(__file__).parents[2] / "gpunet" / "ops").glob("*/cpu*")):
        importlib.import_module(f"gpunet.ops.{path.parent.name}.{path.stem}")


def build(folder: Path) -> Path | None:
    """The library of ``faults.c``, built in `folder`; None without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    library = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def main() -> None:
    """Run the campaign under the library, and exit with 1 if something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--fault", choices=FAULTS, default="kill")
    parser.add_argument("--every", type=int, default=1, help="only each so many operations")
    parser.add_argument("--first", type=int, default=1, help="number of the first operation")
    options = parser.parse_args()
    if "faults.so" not in os.environ.get("LD_PRELOAD", ""):
        with tempfile.TemporaryDirectory() as folder:
            library = build(Path(folder))
            if library is None:
                sys.exit("a C compiler is needed, on Linux")
            environment = {**os.environ, "LD_PRELOAD": str(library)}
            sys.exit(
                subprocess.run(
                    [sys.executable, "-m", "tests.campaigns.faults", *sys.argv[1:]], env=environment
                ).returncode
            )
    started = time.monotonic()
    total, found = run_faults(options.model, options.fault, every=options.every, first=options.first)
    print(*found, sep="\n", end="\n" if found else "")
    seconds = time.monotonic() - started
    tried = len(range(options.first, total + 1, options.every))
    print(
        f"{options.model}, {options.fault}: {tried} of {total} file operations, {len(found)} findings, {seconds:.0f} s"
    )
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
