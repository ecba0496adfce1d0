"""The package descriptions of Debian, in English and German, fetched with apt's own tools.

apt downloads and checks the signed indexes into a folder of ours, beside the system's own state and
without touching it. A description falls under its package's licence: nothing of it is kept but in
the user's cache, `$XDG_CACHE_HOME/bild-dist/corpora/debian`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bild_dist.errors import ConfigError

SUITES: Final = ("bullseye", "bookworm", "trixie", "sid")
"""Four suites hold about a quarter more distinct descriptions than one."""
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR: Final = "BILD_DEBIAN_MIRROR"
"""Environment variable with the address of an archive; without it the system's own is asked."""

_PREFIXES: Final = (
    "lib", "python3-", "python-", "golang-", "node-", "ruby-", "r-cran-", "r-bioc-", "fonts-",
    "librust-", "haskell-", "php-", "elpa-", "texlive-", "gir1.2-", "task-",
)  # fmt: skip
_STEM: Final = re.compile(r"[a-z]+|\d+")


@dataclass(frozen=True, slots=True)
class Description:
    """What one package says of itself. `body`: its paragraphs; a list item is a paragraph of its
    own, as `* item`.
    """

    package: str
    md5: str
    short: str
    body: tuple[str, ...]


def descriptions(language: str) -> list[Description]:
    """Every description of a language, in the order of the indexes; one a package name and md5.

    Raises:
        ConfigError: there is no apt here, or the archive cannot be reached and nothing is cached.
    """
    folder = fetched()
    found: dict[tuple[str, str], Description] = {}
    for suite in SUITES:
        for file in sorted(folder.glob(f"*_dists_{suite}_main_i18n_Translation-{language}*")):
            for entry in parse(_text(file), language):
                found.setdefault((entry.package, entry.md5), entry)
    return list(found.values())


def parse(index: str, language: str) -> Iterator[Description]:
    """The entries of one Translation file (Debian policy 5.6.13: ` .` ends a paragraph, lines with
    two leading blanks are taken as they stand).
    """
    for block in index.split("\n\n"):
        lines = block.split("\n")
        fields = dict(
            line.split(": ", 1) for line in lines if ": " in line and not line.startswith(" ")
        )
        short = fields.get(f"Description-{language}", "").strip()
        if not short or "Package" not in fields:
            continue
        body = _paragraphs([line[1:] for line in lines if line.startswith(" ")])
        yield Description(fields["Package"], fields.get("Description-md5", ""), short, tuple(body))


def _paragraphs(lines: Sequence[str]) -> list[str]:
    paragraphs: list[str] = []
    fresh = True
    for line in lines:
        words = line.strip()
        if words in ("", "."):
            fresh = True
            continue
        item = re.match(r"[-*+•]\s+(.*)", words)
        if item:
            paragraphs.append(f"* {item[1]}")
        elif fresh or not paragraphs:
            paragraphs.append(words)
        else:
            paragraphs[-1] += f" {words}"
        fresh = False
    return paragraphs


def family(package: str) -> str:
    """The stem by which packages of one source go together: no family is in two splits.

    `libfoo2-dev`, `python3-foo` and `foo-doc` are all `foo`.
    """
    name = package
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            if name.startswith(prefix) and len(name) - len(prefix) >= 2:
                name, changed = name[len(prefix) :], True
    stem = _STEM.search(name)
    return stem[0] if stem else name


def fetched() -> Path:
    """The folder of the indexes; fetched now if it is not there. It appears at once or not at
    all.
    """
    folder = cache_folder() / "debian" / "lists"
    if folder.is_dir():
        return folder
    if shutil.which("apt-get") is None:
        raise ConfigError(
            "the Debian corpora are fetched with apt-get, which is not here: run this once on a Debian or "
            f"Ubuntu machine and copy {folder} from there"
        )
    partial = folder.with_name(f"lists.{os.getpid()}")
    try:
        (partial / "partial").mkdir(parents=True)
        (partial / "cache" / "archives" / "partial").mkdir(parents=True)
        _update(partial)
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


def cache_folder() -> Path:
    """Where corpora lie."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "bild-dist" / "corpora"


def _update(folder: Path) -> None:
    sources = folder / "sources.list"
    signed = f"[signed-by={KEYRING}] " if KEYRING.is_file() else ""
    address = _mirror()
    sources.write_text(
        "".join(f"deb {signed}{address} {suite} main\n" for suite in SUITES), encoding="utf-8"
    )
    settings = {
        "Dir::State::lists": folder, "Dir::Cache": folder / "cache", "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null", "APT::Sandbox::User": "", "Acquire::Languages": "",
        "Acquire::Retries": 2, "Acquire::IndexTargets::deb::Packages::DefaultEnabled": "false",
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    # The empty value comes first: some systems set the list to "none".
    words += ["-o", "Acquire::Languages::=en", "-o", "Acquire::Languages::=de"]
    done = subprocess.run(
        ["apt-get", *words, "update"], capture_output=True, text=True, check=False
    )
    if done.returncode or not any(folder.glob("*_Translation-de*")):
        said = (done.stderr or done.stdout).strip().splitlines() or ["apt-get said nothing"]
        raise ConfigError(
            f"the package indexes cannot be fetched from {address} ({said[-1]}): connect this machine, or name "
            f"another archive in {MIRROR}"
        )


def _mirror() -> str:
    """The archive that this system installs from, if it is Debian's."""
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


def _text(file: Path) -> str:
    """An index as text, however apt keeps it."""
    if not file.suffix:
        return file.read_text(encoding="utf-8")
    done = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", str(file)],
                          capture_output=True, check=True)  # fmt: skip
    return done.stdout.decode("utf-8")
