"""Fetches the packages of the set of icons from npm and apt, and reads them.

Packages are kept in the user's cache folder, so that the set is built again without a
network. npm packages have fixed versions; apt offers one version for each release of
Debian or Ubuntu. A package of another version, or with other content, is used and
remarked on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.parse
from collections.abc import Iterator
from typing import Any

from glide_jax.errors import UserError
from glide_jax.runtime import files, user_cache

_log = logging.getLogger(__name__)

# Where Debian's package openclipart-svg is installed.
INSTALLED = pathlib.Path("/usr/share/openclipart/svg")
NPM, APT = "npm", "apt"
# npm waits for minutes if there is no network, by default.
_NPM_PACK = (
    "npm",
    "pack",
    "--loglevel=error",
    "--fetch-retries=0",
    "--fetch-timeout=60000",
)


@dataclasses.dataclass(frozen=True)
class Package:
    """A package at the version whose content is known.

    Attributes:
      name: of the package.
      manager: NPM or APT.
      version: the known one.
      sha256: of the known package file.
    """

    name: str
    manager: str
    version: str
    sha256: str

    @property
    def stem(self) -> str:
        """The name of the package file before its version."""
        mark = "_" if self.manager == APT else "-"
        return self.name.replace("@", "").replace("/", "-") + mark

    @property
    def suffix(self) -> str:
        """The end of the name of the package file."""
        return ".deb" if self.manager == APT else ".tgz"


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A package on this machine.

    Attributes:
      package: what was asked for.
      path: the package file, or the folder of an installed package.
      version: its version.
      remark: how it differs from the known package; "" if it does not.
    """

    package: Package
    path: pathlib.Path
    version: str
    remark: str


class UnreachableError(Exception):
    """A package that is neither cached nor can be downloaded; the text says why."""


def cache_folder() -> pathlib.Path:
    """The folder of the package files."""
    return user_cache.folder() / "icon_packages"


def fetch(package: Package, folder: pathlib.Path) -> Fetched:
    """Returns a package: installed, from `folder`, or downloaded to it.

    Raises:
      UnreachableError: none of these is possible.
      UserError: `folder` cannot be written.
    """
    if package.manager == APT:
        if INSTALLED.is_dir():
            return _describe(package, INSTALLED, _installed_version(package.name))
        _require("dpkg-deb")  # reads the package file
    path = _cached(package, folder) or _download(package, folder)
    version = path.name.removeprefix(package.stem).removesuffix(package.suffix)
    if package.manager == APT:
        version = urllib.parse.unquote(version).rpartition("_")[0]
    return _describe(package, path, version)


def _describe(package: Package, path: pathlib.Path, version: str) -> Fetched:
    remark = ""
    if version != package.version:
        remark = f"version {version}, not {package.version}"
    elif path.is_file():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != package.sha256:
            remark = f"version {version} with another SHA-256, {digest[:16]}..."
    return Fetched(package, path, version, remark)


def _installed_version(name: str) -> str:
    try:
        return _run(("dpkg-query", "-W", "-f", "${Version}", name), cwd=None).strip()
    except UnreachableError:
        return "unknown"


def _cached(package: Package, folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the package file of the known version, else the last by its name."""
    paths = [
        path
        for path in folder.glob(f"{package.stem}*{package.suffix}")
        if path.name.removeprefix(package.stem)[:1].isdigit()
    ]
    known = [p for p in paths if package.version in urllib.parse.unquote(p.name)]
    return max(known or paths, default=None)


def _download(package: Package, folder: pathlib.Path) -> pathlib.Path:
    _log.info("downloading %s by %s", package.name, package.manager)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            place = pathlib.Path(draft)
            if package.manager == APT:
                _run(("apt-get", "download", package.name), cwd=place)
            else:
                _pack(package, place)
            (path,) = place.glob(f"*{package.suffix}")
            files.sync(path)
            files.rename(path, folder / path.name)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); free disk space, or name "
            f"another folder by {user_cache.FOLDER_VARIABLE}"
        ) from error
    return folder / path.name


def _pack(package: Package, place: pathlib.Path) -> None:
    """Downloads the known version; if npm has it no more, the newest."""
    try:
        _run((*_NPM_PACK, f"{package.name}@{package.version}"), cwd=place)
    except UnreachableError as error:
        if "ETARGET" not in str(error):
            raise
        _run((*_NPM_PACK, package.name), cwd=place)


def _require(program: str) -> None:
    """Raises UnreachableError unless a program is installed."""
    if shutil.which(program) is None:
        raise UnreachableError(f"{program} is not installed; install it")


def _run(command: tuple[str, ...], cwd: pathlib.Path | None) -> str:
    """Runs a command and returns what it prints.

    Raises:
      UnreachableError: it is not installed, or fails.
    """
    _require(command[0])
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        # apt-get warns (W:) before it says what is wrong (E:).
        lines = [
            line for line in done.stderr.splitlines() if line[:2] not in ("", "W:")
        ]
        what = " ".join(command[:2])
        raise UnreachableError(f"{what} fails: {'; '.join(lines[:3])}")
    return done.stdout


def read_json(fetched: Fetched, member: str) -> Any:
    """Returns the content of a JSON file of an npm package, e.g. "icons.json".

    Raises:
      UserError: the package file is damaged or lacks the member.
    """
    try:
        with tarfile.open(fetched.path, "r:gz") as tar:
            file = tar.extractfile(f"package/{member}")
            assert file is not None
            return json.loads(file.read())
    except (OSError, EOFError, ValueError, KeyError, tarfile.TarError) as error:
        raise _damaged(fetched, error) from error


def read_svgs(fetched: Fetched) -> Iterator[tuple[str, bytes]]:
    """Yields path and content of the SVG files of openclipart-svg, by path.

    Symbolic links are left out: they are further names of the same files.

    Raises:
      UserError: the package file is damaged.
    """
    if fetched.path.is_dir():
        for path in sorted(fetched.path.rglob("*.svg")):
            if not path.is_symlink():
                yield path.relative_to(fetched.path).as_posix(), path.read_bytes()
        return
    command = ("dpkg-deb", "--fsys-tarfile", str(fetched.path))
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise _damaged(fetched, done.stderr.decode(errors="replace").strip())
    top = re.compile(rf"\.{INSTALLED}/(.+\.svg)")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        named = {m.name: m for m in tar.getmembers() if m.isfile()}
        for name in sorted(named):
            file = tar.extractfile(named[name])
            if file is not None and (match := top.fullmatch(name)):
                yield match[1], file.read()


def _damaged(fetched: Fetched, why: object) -> UserError:
    return UserError(
        f"{fetched.path} is damaged ({why}); remove it, and it is downloaded again"
    )
