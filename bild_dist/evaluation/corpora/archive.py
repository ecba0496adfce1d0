"""Debian's package archive, read with apt's own tools.

apt downloads and checks what is signed into a folder of ours, beside the system's own state and
without touching it. Everything lies in the user's cache, `$XDG_CACHE_HOME/bild-dist/corpora`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bild_dist.errors import ConfigError

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR: Final = "BILD_DEBIAN_MIRROR"
"""Environment variable with the address of an archive; without it the system's own is asked."""

_SOURCES: Final = "cache/sources.list"
"""Not beside the indexes, where apt removes what is none."""


def cache_folder() -> Path:
    """Where corpora lie."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "bild-dist" / "corpora"


def kept(folder: Path, fill: Callable[[Path], None]) -> Path:
    """A folder that `fill` fills once; it appears at once or not at all.

    Raises:
        ConfigError: there is no apt here, the archive cannot be reached, or there is no room.
    """
    if folder.is_dir():
        return folder
    if shutil.which("apt-get") is None:
        raise ConfigError(
            "the Debian corpora are fetched with apt-get, which is not here: run this once on a Debian or "
            f"Ubuntu machine and copy {folder} from there"
        )
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        (partial / "partial").mkdir(parents=True)
        (partial / "cache" / "archives" / "partial").mkdir(parents=True)
        fill(partial)
        for waste in ("partial", "cache", "auxfiles"):
            shutil.rmtree(partial / waste, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror or error}): make room there, or set XDG_CACHE_HOME"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def update(folder: Path, suites: Sequence[str], *, packages: bool = False) -> None:
    """Fetches the indexes of some suites into a folder: the descriptions in English and German, and
    what packages there are if that is asked for.
    """
    address = mirror()
    signed = f"[signed-by={KEYRING}] " if KEYRING.is_file() else ""
    lines = [f"deb {signed}{address} {suite} main\n" for suite in suites]
    (folder / _SOURCES).write_text("".join(lines), encoding="utf-8")
    _apt(folder, "update", packages=packages)


def unpacked(folder: Path, suite: str, packages: Sequence[str]) -> None:
    """Fetches some packages of a suite into a folder and unpacks them there. Runs nothing of
    them.
    """
    update(folder, [suite], packages=True)
    _apt(folder, "download", *packages, packages=True)
    for file in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", str(file), str(folder)], check=True)
        file.unlink()


def mirror() -> str:
    """The archive that this system installs from, if it is Debian's.

    Raises:
        ConfigError: it is not, and nobody named another.
    """
    named = os.environ.get(MIRROR)
    if named:
        return named
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    for address in done.stdout.split():
        if address.rstrip("/").endswith("/debian"):
            return address
    raise ConfigError(
        f"this system does not install from a Debian archive: name one in {MIRROR}, for example "
        "the nearest mirror from Debian's list"
    )


def _apt(folder: Path, *command: str, packages: bool) -> None:
    settings = {
        "Dir::State::lists": folder, "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": folder / _SOURCES, "Dir::Etc::sourceparts": "/dev/null",
        "APT::Sandbox::User": "", "Acquire::Retries": 2, "Acquire::Languages": "",
        "Acquire::IndexTargets::deb::Packages::DefaultEnabled": str(packages).lower(),
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    # The empty value comes first: some systems set the list to "none".
    words += ["-o", "Acquire::Languages::=en", "-o", "Acquire::Languages::=de"]
    done = subprocess.run(
        ["apt-get", *words, *command], capture_output=True, text=True, check=False, cwd=folder
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["apt-get said nothing"]
        raise ConfigError(
            f"apt-get {' '.join(command)} failed with {mirror()} ({said[-1]}): connect this machine, or name "
            f"another archive in {MIRROR}"
        )
