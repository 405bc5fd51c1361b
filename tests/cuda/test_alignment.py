"""Shared memory that is read wider than its elements must be declared so aligned: by itself it is aligned to one.

A static check of the text of all kernels. Global arrays are checked by the kernels themselves (``is_aligned``).
"""

from __future__ import annotations

import re

import pytest

from gpunet.cuda import source_names, source_text

_WIDE = re.compile(
    r"(?:reinterpret_cast<\s*(?:const\s+)?(?:Vec\d?<[^>]*>|\w+[248])\s*\*>\s*\(|\bload_vec4\(|\bstore_vec4\("
    r"|\bcp_async_16\(|\bldmatrix_x4(?:_trans)?\(\s*\w+(?:\[\w+\])?\s*,)\s*&?\s*(?P<name>\w+)"
)
"""An access to more than one element, and the array or pointer that it starts from."""
_SHARED = re.compile(
    r"__shared__\s+(?P<aligned>(?:alignas|__align__)\s*\(\s*\d+\s*\)\s*)?(?P<type>[\w<>,: ]+?)\s+(?P<name>\w+)\s*[\[;]"
)
_STRUCT = re.compile(r"struct\s+(?P<aligned>alignas\s*\(.*?\)\s*)?(?P<name>\w+)\s*\{(?P<body>.*?)\n\};", re.DOTALL)
_TEMPLATE = re.compile(r"template\s*<[^>]*>\s*struct\s+(?:alignas\s*\(.*?\)\s*)?(\w+)")
_COMMENT = re.compile(r"//[^\n]*")
_KEYWORDS = {"return", "const", "else", "new"}


def unaligned(text: str) -> list[str]:
    """The names of shared arrays in `text` that are read wider than they are aligned."""
    text = _COMMENT.sub("", text)
    names = {found["name"] for found in _WIDE.finditer(text)}
    plain = re.sub(r"(?<=\w)<[\w, ]+>", "", text)  # without arguments of templates
    declared = re.findall(r"\b(\w+)\s*[&*]?\s+[&*]?\s*(\w+)\b", plain) + re.findall(r"\b(\w+)[&*]\s*(\w+)\b", plain)
    types = {kind for kind, name in declared if name in names} - _KEYWORDS
    structs = {found["name"]: found for found in _STRUCT.finditer(text)}
    narrow = re.findall(r"typedef\s+\w+\s+(\w+)\s*\[", plain) + re.findall(r"using\s+(\w+)\s*=\s*\w+\s*\[", plain)
    tiles = set(narrow) & types  # arrays of narrow elements
    holders = {name for name in structs if tiles & set(re.findall(r"\w+", structs[name]["body"]))}
    holders |= set(_TEMPLATE.findall(text))  # of what their arguments say: of tiles, maybe
    wrong = []
    for found in _SHARED.finditer(text):
        kind = re.sub(r"<.*>", "", found["type"]).strip()
        aligned = found["aligned"] or kind.startswith("Vec") or (kind in structs and structs[kind]["aligned"])
        if not aligned and (found["name"] in names or kind in tiles | holders):
            wrong.append(found["name"])
    return wrong


@pytest.mark.parametrize("source", source_names())
def test_shared_memory_is_aligned_to_what_is_read(source: str) -> None:
    assert unaligned(source_text(source)) == []


PLANTED = """
struct {align}Tiles {{
    Tile a[2];
}};
typedef real Tile[16][68];
void read(const Tile& tile) {{ const Vec4<real> v = load_vec4(&tile[0][4]); }}
void kernel() {{
    __shared__ Tiles both;
    __shared__ {other}real slab[64];
    __shared__ double sums[8];
    __shared__ Vec4<real> patches[8];
    *reinterpret_cast<const float4*>(&slab[4]);
    load_vec4(patches + 1, 4, true);
    read(both.a[0]);
}}
"""


def test_the_check_finds_what_is_planted() -> None:
    assert unaligned(PLANTED.format(align="", other="")) == ["both", "slab"]
    assert unaligned(PLANTED.format(align="alignas(16) ", other="")) == ["slab"]
    assert unaligned(PLANTED.format(align="", other="alignas(16) ")) == ["both"]
    assert unaligned(PLANTED.format(align="alignas(16) ", other="__align__(16) ")) == []


def test_it_sees_the_tiles_of_the_matrix_product() -> None:
    """The text as it is, but for the alignment: the check does not pass because it reads past the code."""
    text = source_text("conv2d_gemm")
    assert "struct alignas(16) Stage" in text
    assert unaligned(text.replace("struct alignas(16) Stage", "struct Stage")) == ["stages"] * 3
