"""What to install for an optional part of gpunet."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import PackageNotFoundError, requires


def pip_install(extra: str) -> str:
    """The command that installs what the extra `extra` of gpunet stands for, by the packages' own names.

    So it is right for a checkout, a wheel and whatever index there is.
    """
    try:
        lines = requires("gpunet") or []
    except PackageNotFoundError:  # run from the sources alone
        lines = []
    wanted = [line.partition(";")[0].strip() for line in lines if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    return "pip install " + " ".join(map(shlex.quote, wanted or ["-e", f".[{extra}]"]))
