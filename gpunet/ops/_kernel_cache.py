"""Compiled kernels on disk, where Numba keeps them, in files that are verified before their code runs.

Numba's own files, an index and one file per signature, are trusted: one that was cut off raises an unpickling error in
every later process, and two processes that compile at the same time can leave an index that names the other's code.
Here a file holds one signature's code, with all that it was compiled from and a checksum of the whole.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import logging
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import config
from numba.core.caching import FunctionCache, NullCache, UserProvidedCacheLocator
from numba.core.serialize import dumps

from gpunet.errors import OutputError
from gpunet.files import write_bytes_atomic

logger = logging.getLogger("gpunet")

_DIGEST = hashlib.sha256
_DIGEST_BYTES = _DIGEST().digest_size
_ADVICE = "set NUMBA_CACHE_DIR to a folder that can be written to and has space"


def kernel_cache(function: Any) -> Any:
    """The cache of the kernel `function`; one that holds nothing, after a warning, if no folder can be written to."""
    try:
        kernels = KernelCache(function)
    except RuntimeError:  # Numba's, if none of its folders will do
        beside = Path(inspect.getfile(function)).parent / "__pycache__"
        tried = " nor ".join(filter(None, [config.CACHE_DIR, str(beside), "the user's cache folder"]))
        _warn_once("no folder", f"neither {tried} can be written to: each process compiles its kernels; {_ADVICE}")
        return NullCache()
    if config.CACHE_DIR and not isinstance(kernels._impl.locator, UserProvidedCacheLocator):
        _warn_once(
            "another folder",
            f"NUMBA_CACHE_DIR {config.CACHE_DIR} cannot be written to: kernels are kept in {kernels.cache_path}",
        )
    return kernels


class KernelCache(FunctionCache):
    """Numba's cache of one function, with :class:`_Files` for its index and data files."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file: Any = _Files(Path(self.cache_path), self._impl.filename_base)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled code for `sig`, None if there is none."""
        numba.get_num_threads()  # starts the threads, and makes their functions, which the code calls, known to LLVM
        return super().load_overload(sig, target_context)

    def has(self, sig: Any, target_context: Any) -> bool:
        """Whether there is a file for `sig`, of these sources; it is not read to its end, so it may be damaged."""
        return bool(self._cache_file.has(self._index_key(sig, target_context.codegen())))

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save the compiled `data`, or say once why it cannot be saved."""
        try:
            super().save_overload(sig, data)
        except OutputError as error:
            _warn_once("not written", f"{error}: the next process compiles this kernel again; {_ADVICE}")
        except OSError as error:  # Numba makes the folder
            reason = f"cannot write to the kernel cache {self.cache_path}: {error.strerror or error}"
            _warn_once("not written", f"{reason}: the next process compiles this kernel again; {_ADVICE}")


class _Files:
    """The files of one function, one per signature: a checksum, then pickled the stamp and the key, and the code."""

    def __init__(self, folder: Path, base: str) -> None:
        self.folder, self.base = folder, base

    def _path(self, key: Any) -> Path:
        return self.folder / f"{self.base}.{_DIGEST(repr(key).encode()).hexdigest()[:16]}.nbc"

    def load(self, key: Any) -> Any:
        """The code for `key`; None if there is none, it is of other sources, or its file is damaged."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return self._unusable(path, error.strerror or str(error))
        digest, body = content[:_DIGEST_BYTES], io.BytesIO(content[_DIGEST_BYTES:])
        if digest != _DIGEST(body.getbuffer()).digest():
            return self._unusable(path, "damaged")
        return pickle.load(body) if pickle.load(body) == (_stamp(), key) else None

    def has(self, key: Any) -> bool:
        try:
            with self._path(key).open("rb") as file:
                file.seek(_DIGEST_BYTES)
                return bool(pickle.load(file) == (_stamp(), key))
        except Exception:  # none, or whatever a damaged pickle raises
            return False

    def _unusable(self, path: Path, reason: str) -> None:
        _warn_once(
            "not read",
            f"the kernel cache {self.folder} has a file that cannot be used ({path.name}: {reason}): its kernel is "
            "compiled again, and so is that of any other such file",
        )

    def save(self, key: Any, code: Any) -> None:
        body = dumps((_stamp(), key)) + dumps(code)
        write_bytes_atomic(self._path(key), _DIGEST(body).digest() + body)

    def flush(self) -> None:
        for path in self.folder.glob(f"{self.base}.*.nbc"):
            path.unlink(missing_ok=True)


@cache
def _stamp(folder: Path = Path(__file__).parent) -> tuple[str, str, str]:
    """What all kernels are compiled from: the compiler, and the sources, as kernels call functions of other files."""
    sources = sorted(path for path in folder.rglob("*.py") if path.name not in ("cuda.py", "reference.py"))
    digest = _DIGEST()
    for source in sources:
        digest.update(_DIGEST(source.read_bytes()).digest())
    return numba.__version__, llvmlite.__version__, digest.hexdigest()


_said: set[str] = set()


def _warn_once(kind: str, message: str) -> None:
    """One line per process for each kind of trouble, which all kernels have at the same time."""
    if kind not in _said:
        _said.add(kind)
        logger.warning(message)
