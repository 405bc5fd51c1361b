"""Declared options: what they accept, what they store, what they say."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from gpunet.errors import ConfigError
from gpunet.options import Options, check_option, did_you_mean, option, option_fields, option_type


@dataclasses.dataclass(frozen=True)
class Sample(Options):
    count: int = option(3, "a count", low=1)
    share: float = option(0.5, "a share", low=0, high=1, low_open=True, high_open=True)
    sizes: tuple[int, ...] = option((4, 2), "sizes", low=1)
    mode: str = option("fast", "how", choices=("fast", "slow"))
    title: str = option("x", "text")
    flag: bool = option(False, "a switch")
    limit: float | None = option(None, "a limit", low=0)
    note: str = "not an option"


def test_defaults_are_kept() -> None:
    sample = Sample()
    assert (sample.count, sample.share, sample.sizes, sample.mode) == (3, 0.5, (4, 2), "fast")
    assert sample.limit is None and sample.flag is False


def test_only_declared_fields_are_options() -> None:
    assert list(option_fields(Sample)) == ["count", "share", "sizes", "mode", "title", "flag", "limit"]


@pytest.mark.parametrize(
    ("name", "base", "many", "optional"),
    [
        ("count", int, False, False),
        ("share", float, False, False),
        ("sizes", int, True, False),
        ("mode", str, False, False),
        ("flag", bool, False, False),
        ("limit", float, False, True),
    ],
)
def test_option_type(name: str, base: type, many: bool, optional: bool) -> None:
    kind = option_type(Sample, name)
    assert (kind.base, kind.many, kind.optional) == (base, many, optional)


@pytest.mark.parametrize(
    ("name", "given", "stored"),
    [
        ("count", np.int64(7), 7),
        ("count", np.uint8(255), 255),
        ("share", np.float32(0.25), 0.25),
        ("limit", 2, 2.0),
        ("limit", np.int32(2), 2.0),
        ("limit", None, None),
        ("sizes", [3, 1], (3, 1)),
        ("sizes", (), ()),
        ("sizes", [np.int16(5)], (5,)),
        ("title", Path("a") / "b", str(Path("a") / "b")),
        ("title", "äöü 漢", "äöü 漢"),
    ],
)
def test_values_are_normalised_to_plain_types(name: str, given: object, stored: object) -> None:
    found = getattr(Sample(**{name: given}), name)
    assert found == stored
    assert type(found) is type(stored)
    if isinstance(found, tuple):
        assert all(type(entry) is int for entry in found)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("count", 0, "count must be at least 1, got 0"),
        ("count", 2.0, "count must be of type int, got 2.0"),
        ("count", True, "count must be of type int, got True"),
        ("count", "3", "count must be of type int, got '3'"),
        ("count", None, "count must be given"),
        ("count", 2**63, "count must fit into 64 bits"),
        pytest.param("count", 10**5000, "count must fit into 64 bits", id="5000 digits"),
        ("share", 0.0, "share must be greater than 0 and less than 1, got 0.0"),
        ("share", 1, "share must be greater than 0 and less than 1, got 1.0"),
        ("share", math.nan, "share must be greater than 0 and less than 1, got nan"),
        ("share", False, "share must be of type float, got False"),
        ("limit", math.inf, "limit must be at least 0, got inf"),
        pytest.param("limit", 10**400, "limit must be at least 0, got inf", id="400 digits"),
        ("sizes", [4, 0], "sizes must be at least 1, got 0"),
        ("sizes", [4, 1.5], "sizes must be of type int, got 1.5"),
        ("sizes", 4, "sizes must be a list of int, got 4"),
        ("sizes", "42", "sizes must be a list of int, got '42'"),
        ("mode", "fats", "mode must be one of fast, slow; got 'fats' (did you mean 'fast'?)"),
        ("mode", "zzz", "mode must be one of fast, slow; got 'zzz'"),
        ("mode", 3, "mode must be of type str, got 3"),
        ("title", "a\0b", "title must be valid UTF-8 without NUL characters; got 'a\\x00b'"),
        ("title", "\udcff", "title must be valid UTF-8 without NUL characters; got '\\udcff'"),
        ("flag", 1, "flag must be of type bool, got 1"),
    ],
)
def test_bad_values_are_refused_by_name(name: str, given: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Sample(**{name: given})
    assert str(caught.value) == message


@pytest.mark.parametrize(("value", "fits"), [(2**63 - 1, True), (2**63, False)])
def test_whole_numbers_have_64_bits(value: int, fits: bool) -> None:
    if fits:
        assert Sample(count=value).count == value
    else:
        with pytest.raises(ConfigError, match="64 bits"):
            Sample(count=value)


def test_long_values_are_shortened_in_messages() -> None:
    with pytest.raises(ConfigError) as caught:
        Sample(mode="x" * 10_000)
    assert len(str(caught.value)) < 200


def test_label_replaces_the_name() -> None:
    with pytest.raises(ConfigError, match=r"^--count must be at least 1, got -5$"):
        check_option(Sample, "count", -5, "--count")
    assert check_option(Sample, "sizes", [1, 2]) == (1, 2)


def test_bounds_are_printed_in_full() -> None:
    @dataclasses.dataclass(frozen=True)
    class Seeded(Options):
        seed: int = option(0, "seed", low=0, high=2**32 - 1)

    with pytest.raises(ConfigError, match="at most 4294967295, got 4294967296"):
        Seeded(seed=2**32)


@pytest.mark.parametrize(
    ("word", "hint"),
    [("epohcs", " (did you mean 'epochs'?)"), ("zzzz", ""), ("lr", " (did you mean 'lr'?)")],
)
def test_did_you_mean(word: str, hint: str) -> None:
    assert did_you_mean(word, ["epochs", "lr", "batch_size"]) == hint
