"""Random configurations, drawn from what the option dataclasses declare."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import strategies as st

from gpunet.experiments.config import RunConfig, sections
from gpunet.models import MODELS
from gpunet.options import Options, option_fields, option_type


def option_values(owner: type[Options], name: str) -> st.SearchStrategy[Any]:
    """Every value that the option `name` of `owner` accepts."""
    metadata, kind = option_fields(owner)[name].metadata, option_type(owner, name)
    scalar: st.SearchStrategy[Any]
    if kind.base is bool:
        scalar = st.booleans()
    elif metadata["choices"]:
        scalar = st.sampled_from(list(metadata["choices"]))
    elif kind.base is int:
        low, high = max(metadata["low"], -(2**63)), min(metadata["high"], 2**63 - 1)
        scalar = st.integers(int(low) + metadata["low_open"], int(high) - metadata["high_open"])
    elif kind.base is float:
        scalar = st.floats(
            max(metadata["low"], -1e308),
            min(metadata["high"], 1e308),
            exclude_min=metadata["low_open"],
            exclude_max=metadata["high_open"],
        )
    else:
        scalar = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    if not kind.many:
        return scalar
    if name == "value_range":  # the lower one first
        return st.just(()) | st.lists(scalar, min_size=2, max_size=2, unique=True).map(lambda pair: tuple(sorted(pair)))
    lengths = st.sampled_from(metadata["lengths"] or range(7))
    return lengths.flatmap(lambda length: st.tuples(*[scalar] * length))


@st.composite
def run_configs(draw: st.DrawFn) -> RunConfig:
    """A configuration of any model with random values of all options."""
    kind = draw(st.sampled_from(list(MODELS)))
    built: dict[str, Any] = {}
    for section, owner in sections(kind).items():
        built[section] = owner(**{name: draw(option_values(owner, name)) for name in option_fields(owner)})
    return RunConfig(**built)


def flat(config: RunConfig) -> dict[str, Any]:
    """Option and value of all sections."""
    found: dict[str, Any] = {}
    for section in sections(config.kind):
        found.update(dataclasses.asdict(getattr(config, section)))
    return found
