"""Reading the CUDA sources: their kernels, parameters and specialisations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpunet.cuda import sources
from gpunet.errors import ConfigError

SOURCE = """// A scale.
// compile: REAL=float | REAL=double FAST=1
extern "C" __global__ void __launch_bounds__(128) scale(
    const real* __restrict__ x,  // not this: void f(int n)
    real* y, const unsigned char* mask, unsigned long long seed, double factor, int n) {}
/* extern "C" __global__ void gone(int n) {} */
extern "C" __global__ void plain(int* y, long long n) {}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "common.cuh").write_text("typedef REAL real;\n")
    (tmp_path / "scale.cu").write_text(SOURCE)
    cached = sources.source_folder, sources.source_names, sources.source_text, sources.specialisations, sources._kernels
    for function in cached:
        function.cache_clear()
    monkeypatch.setattr(sources, "_FOLDERS", (tmp_path / "nowhere", tmp_path))
    yield tmp_path
    for function in cached:
        function.cache_clear()


def test_reading_a_source(folder: Path) -> None:
    assert sources.source_folder() == folder and sources.source_names() == ("scale",)
    assert sources.specialisations("scale") == ({"REAL": "float"}, {"REAL": "double", "FAST": "1"})
    kernels = sources.kernels("scale", {"REAL": "double"})
    assert list(kernels) == ["scale", "plain"]
    found = [(p.name, p.dtype, p.pointer, p.const) for p in kernels["scale"].parameters]
    assert found == [
        ("x", np.float64, True, True),
        ("y", np.float64, True, False),
        ("mask", np.uint8, True, True),
        ("seed", np.uint64, False, False),
        ("factor", np.float64, False, False),
        ("n", np.int32, False, False),
    ]
    assert sources.kernels("scale", {"REAL": "float"})["scale"].parameters[0].dtype == np.float32
    assert [p.dtype for p in kernels["plain"].parameters] == [np.int32, np.int64]


def test_structs(folder: Path) -> None:
    """Those of numbers are types of parameters, as C++ lays them out, wherever the text declares them."""
    (folder / "sizes.cuh").write_text(
        "struct Sizes {\n    int a, b;  // not c\n    unsigned char d; real scale;\n};\n"
        "struct Other { int n[2]; };\nstruct Third { int n; int twice() const { return 2 * n; } };\n"
    )
    kernel = 'extern "C" __global__ void sized(real* y, const __grid_constant__ Sizes sizes) {}\n'
    (folder / "scale.cu").write_text(f"// needs: sizes.cuh\n{SOURCE}{kernel}")
    sizes = sources.kernels("scale", {"REAL": "double"})["sized"].parameters[1]
    assert sizes.name == "sizes" and not sizes.pointer
    fields = {"names": ["a", "b", "d", "scale"], "formats": ["i4", "i4", "u1", "f8"], "offsets": [0, 4, 8, 16]}
    assert sizes.dtype == np.dtype({**fields, "itemsize": 24}, align=True)
    assert sources.kernels("scale", {"REAL": "float"})["sized"].parameters[1].dtype.itemsize == 16
    for unknown in ("Other", "Third"):
        sources.source_text.cache_clear(), sources._kernels.cache_clear()
        (folder / "scale.cu").write_text(f"// needs: sizes.cuh\n{SOURCE}{kernel.replace('Sizes', unknown)}")
        with pytest.raises(
            ConfigError, match=f"parameter 'const __grid_constant__ {unknown} sizes' has a type .*, real, Sizes"
        ):
            sources.kernels("scale", {"REAL": "double"})


def test_the_text_names_its_files_and_lines(folder: Path) -> None:
    assert sources.source_text("scale") == f'#line 1 "common.cuh"\ntypedef REAL real;\n\n#line 1 "scale.cu"\n{SOURCE}'


def test_a_source_that_needs_a_header(folder: Path) -> None:
    (folder / "scale.cu").write_text(f"// needs: tile.cuh\n{SOURCE}")
    with pytest.raises(ConfigError, match=r"there is no CUDA source tile\.cuh in "):
        sources.source_text("scale")
    (folder / "tile.cuh").write_text("#define TILE 64\n")
    text = sources.source_text("scale")
    assert text.index("typedef REAL") < text.index('#line 1 "tile.cuh"\n#define TILE 64') < text.index("// needs")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("// compile:", "// compiled:", r"scale.cu must have a line '// compile: NAME=VALUE"),
        (
            'extern "C" __global__ void plain',
            "__global__ void plain",
            "has 2 __global__ functions, of which 1 can be read",
        ),
        ("int* y, long long n", "size_t n", r"parameter 'size_t n' has a type that launches do not know: float, "),
    ],
)
def test_unreadable_sources(folder: Path, old: str, new: str, message: str) -> None:
    (folder / "scale.cu").write_text(SOURCE.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        sources.specialisations("scale")
        sources.kernels("scale", {"REAL": "float"})


def test_missing_sources(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no CUDA source pool\.cu in "):
        sources.source_text("pool")
    (folder / "common.cuh").unlink()
    sources.source_folder.cache_clear()
    with pytest.raises(ConfigError, match=r"the CUDA sources are missing: no common\.cuh in .*; reinstall gpunet"):
        sources.source_folder()


def test_all_sources_can_be_read() -> None:
    assert "activation" in sources.source_names()
    for name in sources.source_names():
        for defines in sources.specialisations(name):
            assert sources.kernels(name, defines), name
