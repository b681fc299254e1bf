"""What is trained, found again by name: ``train.py:train``, ``package.module:recipe``, or a built-in recipe."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from luthier.core.errors import UserError, nearest


def load(reference: str) -> Callable[..., Any]:
    """The function or recipe that ``FILE.py:NAME`` or ``MODULE:NAME`` names.

    Raises:
        UserError: the file or module cannot be imported, or has no such name.
    """
    place, colon, name = reference.rpartition(":")
    if not colon or not place or not name:
        raise UserError(f"{reference!r} names no training function.", "Write FILE.py:FUNCTION, as in train.py:train.")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_module(place)
    target = getattr(module, name, None)
    if target is None:
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UserError(f"{place} has no {name!r}.", nearest(name, public))
    if not callable(target):
        raise UserError(f"{reference} is a {type(target).__name__}, not a function or a Recipe.", "Name a function.")
    return target  # type: ignore[no-any-return]


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"There is no file {str(path)!r}.", "Check the path before the colon.")
    real, name = path.resolve(), path.stem
    folder, held = str(real.parent), sys.modules.get(name)
    if held is None or _is_of(getattr(held, "__file__", None), real):
        # First, so that its own imports are found as `python train.py` would find them.
        sys.path[:] = [folder, *(p for p in sys.path if p != folder)]
    elif folder not in sys.path:
        sys.path.append(folder)  # what was imported under its name is found first, in workers too
    importlib.invalidate_caches()
    if held is None and "." not in name and (spec := importlib.util.find_spec(name)) is not None:
        own = _is_of(spec.origin, real)
    else:
        own = held is not None and _is_of(getattr(held, "__file__", None), real)
    return _imported(lambda: importlib.import_module(name) if own else _by_its_path(real), str(path))


def _is_of(place: str | None, file: Path) -> bool:
    return place is not None and Path(place).resolve() == file


def _by_its_path(file: Path) -> Any:
    """A file whose name is no module's (``train.v2.py``) or that of another one, under a name of its own.

    Workers could not import it by that name, so all of it that they need travels with the function.
    """
    import cloudpickle

    name = f"{re.sub(r'[^0-9A-Za-z]', '_', file.stem)}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    cloudpickle.register_pickle_by_value(module)
    return module


def _from_module(name: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")
    return _imported(lambda: importlib.import_module(name), name)


IN_WORKER = "LUTHIER_WORKER"
"""Set in the environment of worker processes."""

_importing: list[str] = []


def refuse_while_importing() -> None:
    """Called by ``tune``: a file that tunes as soon as it is imported would start a study within each of its workers.

    Raises:
        UserError: the call comes from the import of a training function's file.
    """
    place = _importing[-1] if _importing else "in a worker process" if IN_WORKER in os.environ else None
    if place is not None:
        raise UserError(
            f"lt.tune() was called while the file of your training function was imported ({place}).",
            'Put the call under: if __name__ == "__main__":',
        )


def _imported(read: Callable[[], Any], place: str) -> Any:
    _importing.append(place)
    try:
        return read()
    except UserError:
        raise
    except Exception as error:
        where = ""
        last = error.__traceback__
        while last is not None:
            file = last.tb_frame.f_code.co_filename
            if "importlib" not in file and file != __file__:
                where = f" ({Path(file).name}, line {last.tb_lineno})"
            last = last.tb_next
        raise UserError(
            f"{place} cannot be imported: {type(error).__name__}: {error}{where}.", "Mend it, then try again."
        ) from None
    finally:
        _importing.pop()


def describe(target: Callable[..., Any]) -> Mapping[str, Any] | None:
    """How to find ``target`` again, as plain data for the log; None for what only its own script can make."""
    if hasattr(target, "builtin"):
        return target.builtin if target.builtin is None else dict(target.builtin)
    name = getattr(target, "__qualname__", "")
    if not inspect.isfunction(target) or "<" in name or "." in name:
        return None
    file = inspect.getsourcefile(target)
    return {"reference": f"{Path(file).resolve()}:{name}"} if file and Path(file).is_file() else None


def beside(description: Mapping[str, Any] | None, study: Path | None) -> Mapping[str, Any] | None:
    """The description with where the function's file lies as seen from the study's, so that both can be moved."""
    if study is None or description is None or "reference" not in description:
        return description
    file, _, name = str(description["reference"]).rpartition(":")
    try:
        place = os.path.relpath(file, study.resolve().parent)
    except ValueError:  # another drive
        return description
    return {**description, "beside": f"{Path(place).as_posix()}:{name}"}


def recall(description: Mapping[str, Any] | None, study: Path | None = None) -> Callable[..., Any]:
    """The target that a log describes.

    Args:
        study: the study's file. A function's file that moved along with it is found there.

    Raises:
        UserError: it cannot be found without the script that made it.
    """
    if description and "reference" in description:
        reference = str(description["reference"])
        if study is not None and "beside" in description:
            place, _, name = str(description["beside"]).rpartition(":")
            moved = study.resolve().parent / place
            reference = f"{moved}:{name}" if moved.is_file() else reference
        if (place := reference.rpartition(":")[0]).endswith(".py") and not Path(place).is_file():
            raise UserError(
                f"The file of this study's training function is not there any more: {place}.",
                "Copy it beside the study as it was, or name it: luthier resume STUDY --target FILE.py:NAME.",
            )
        return load(reference)
    if description and "script" in description:
        from luthier.scripts.script import Script

        return Script.recalled(description["script"])
    if description and description.get("recipe") == "digits":
        from luthier.recipe.digits import digits_recipe

        return digits_recipe(str(description.get("model", "cnn")))
    raise UserError(
        "The study does not say where its training function is: it was asked and told, imported, or begun by a script "
        "that made the function.",
        "Name it: luthier resume STUDY --target FILE.py:NAME; or run the script again with the same storage=.",
    )
