"""A GGUF file, turned once into a folder that starts fast.

Reading a GGUF takes transformers many seconds, a folder of safetensors one. The folder lies in the
user's cache, `$XDG_CACHE_HOME/bild-dist/models/NAME-FORMAT-FINGERPRINT`, appears at once or not at all,
and is made by one process while others wait.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bild_dist.errors import ConfigError
from bild_dist.model.contents import cache_home, fingerprint
from bild_dist.model.foreign import first_line, quiet

_FORMAT: Final = 2
"""Changes when the folder's contents do."""


def converted(file: Path) -> Path:
    """The folder made of a GGUF file; made now if it is not there.

    Raises:
        ConfigError: the file cannot be read, or the cache cannot be written.
    """
    folder = cache_folder() / f"{file.stem}-{_FORMAT}-{fingerprint(file)}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_name(folder.name + ".lock")):
            if not folder.is_dir():
                _convert(file, folder)
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be converted in {folder.parent} ({error.strerror or error}): make room there, or set "
            "XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return folder


def cache_folder() -> Path:
    """Where converted models lie."""
    return cache_home() / "models"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; the system frees it when the process ends, however it does."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _convert(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logging.getLogger(__name__).info("converting %s once, into %s", file.name, folder)
    temporary = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
    place: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        try:
            with quiet():
                read: Any = AutoModelForCausalLM.from_pretrained(str(file.parent), **place)
                tokenizer: Any = AutoTokenizer.from_pretrained(str(file.parent), **place)
        except Exception as error:
            raise ConfigError(f"{file} cannot be read as a model: {first_line(error)}") from error
        # A model that came from a GGUF refuses to be saved, so its weights move into a fresh one.
        config = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        fresh: Any = type(read)(config)
        fresh.load_state_dict(read.state_dict())
        fresh.generation_config = read.generation_config
        with quiet():
            fresh.save_pretrained(str(temporary))
        tokenizer.save_pretrained(str(temporary))
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
