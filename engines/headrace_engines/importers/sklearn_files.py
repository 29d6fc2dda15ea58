"""Files that hold fitted estimators: pickle, joblib, and skops, which executes nothing by itself."""

from __future__ import annotations

import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import joblib
import sklearn
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError
from sklearn.utils.validation import check_is_fitted

from headrace_engines.errors import ModelFileError, UnsupportedModelError, UntrustedSource
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.printable import printable

_VERSION: Final = re.compile(rb"_sklearn_version.{1,8}?(\d+\.\d+[\w.]*)", re.DOTALL)
_SOME: Final = 3


@dataclass(frozen=True, slots=True)
class Stored:
    """What a file held, and the version of scikit-learn that wrote it: empty where that is this one."""

    content: Any
    other_version: str


def opened(path: Path, options: ImportOptions) -> Stored:
    """Open the file; pickles execute what they hold, so that the caller has to be trusted already.

    Raises ModelFileError if it is damaged, or was written by a version whose estimators this one cannot
    restore; UntrustedSource if a skops file names types that nobody vouched for.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        content = _skops(path, options) if zipfile.is_zipfile(path) else _pickled(path)
    versions = [
        each.message.original_sklearn_version
        for each in caught
        if isinstance(each.message, InconsistentVersionWarning)
    ]
    return Stored(content, next(iter(versions), ""))


def fitted(content: Any, file: str) -> Any:
    """Return the estimator that a file's content is; the best one of a search.

    Raises UnsupportedModelError if it is none, or was not fitted.
    """
    if not hasattr(content, "get_params") or not (
        hasattr(content, "predict") or hasattr(content, "transform")
    ):
        raise UnsupportedModelError(
            f"{file}: holds {_described(content)}, and no fitted estimator; store the estimator or the "
            f"pipeline itself"
        )
    try:
        check_is_fitted(content)
    except NotFittedError as error:
        raise UnsupportedModelError(
            f"{file}: this {type(content).__name__} was not fitted: call fit before it is stored"
        ) from error
    return getattr(content, "best_estimator_", content)


def _described(content: Any) -> str:
    kind = f"{type(content).__module__}.{type(content).__qualname__}".removeprefix("builtins.")
    if isinstance(content, dict):
        return f"a dict of {printable(', '.join(map(str, list(content)[:_SOME])))}"
    return kind


def _pickled(path: Path) -> Any:
    try:
        return joblib.load(path)
    except ModuleNotFoundError:
        raise  # what to install is told where all importers' needs are
    except MemoryError:
        raise
    except Exception as error:  # a pickle may raise anything
        raise ModelFileError(f"{path.name}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    """Say why a pickle could not be opened, and what to do."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, AttributeError) and "__main__" in text:
        return f"{text}: it was defined in the script that stored it; move it to a module, and store it anew"
    versions = sorted(
        {found.decode() for found in _VERSION.findall(path.read_bytes())} - {sklearn.__version__}
    )
    if versions:
        return (
            f"written by scikit-learn {', '.join(versions)}, which {sklearn.__version__} cannot restore "
            f"({text}): install scikit-learn {versions[0]}, or store it anew with {sklearn.__version__}"
        )
    return f"damaged, or not written by pickle or joblib: {text}"


def _skops(path: Path, options: ImportOptions) -> Any:
    import skops.io  # an extra format: needed for such files alone

    strangers = skops.io.get_untrusted_types(file=path)
    if strangers and not options.is_trusted:
        raise UntrustedSource(
            f"{path.name}: needs {printable(', '.join(strangers[:_SOME]))}, which skops does not vouch for; "
            f"allow that with --trust if you know where the file comes from"
        )
    return skops.io.load(path, trusted=strangers)
