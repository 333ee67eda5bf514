"""Reads and downloads the published BPE vocabulary files, and checks their digests.

A file is searched for, plain or gzipped, in the folder `$GLIDE_JAX_VOCAB`, then in the
cache folder (see runtime/user_cache.py), and is otherwise downloaded into the cache
from OpenAI's address. Digests are of the uncompressed content.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.client
import os
import pathlib
import urllib.request
import zlib

from glide_jax.errors import UserError
from glide_jax.runtime import files, paths, user_cache

FOLDER_VARIABLE = "GLIDE_JAX_VOCAB"
_DOWNLOAD_TIMEOUT_SECS = 60


@dataclasses.dataclass(frozen=True)
class VocabularyFile:
    """A published file: name and SHA-256 of the uncompressed file, and its address."""

    name: str
    sha256: str
    url: str


# GLIDE ships GPT-2's two files unchanged; these are GPT-2's own addresses.
GPT2_ENCODER = VocabularyFile(
    name="encoder.json",
    sha256="196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    url="https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/encoder.json",
)
GPT2_MERGES = VocabularyFile(
    name="vocab.bpe",
    sha256="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    url="https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe",
)
CLIP_MERGES = VocabularyFile(
    name="bpe_simple_vocab_16e6.txt",
    sha256="67603cfda2e032ad77b5f8808af37789d590db664b26df8705d2bf8b3c553fc8",
    url="https://raw.githubusercontent.com/openai/CLIP/main/clip/"
    "bpe_simple_vocab_16e6.txt.gz",
)


def find(file: VocabularyFile) -> pathlib.Path | None:
    """Returns the first existing path of a file, plain or gzipped; None if none."""
    given = os.environ.get(FOLDER_VARIABLE)
    folders = [paths.local_path(given, FOLDER_VARIABLE)] if given else []
    for folder in [*folders, user_cache.folder()]:
        for name in (file.name, file.name + ".gz"):
            if (folder / name).is_file():
                return folder / name
    return None


def read(file: VocabularyFile) -> bytes:
    """Returns the uncompressed content of a file, downloaded if needed.

    Raises:
      UserError: its digest differs, or the download failed.
    """
    path = find(file) or _download(file)
    return _checked(file, path.read_bytes(), where=str(path))


def _checked(file: VocabularyFile, raw: bytes, where: str) -> bytes:
    """Uncompresses the content from `where`, and checks its digest."""
    try:
        content = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{where} is a damaged gzip file ({error}); delete it, so that it is "
            f"downloaded again, or replace it by the published {file.name}"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise UserError(
            f"{where} has sha256 {digest}, but the published {file.name} has "
            f"{file.sha256}; delete it, so that it is downloaded again, or replace it "
            "by the published file"
        )
    return content


def _download(file: VocabularyFile) -> pathlib.Path:
    """Downloads a file to the cache folder and returns its path."""
    try:
        with urllib.request.urlopen(file.url, timeout=_DOWNLOAD_TIMEOUT_SECS) as reply:
            raw = reply.read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"{file.name} is not in ${FOLDER_VARIABLE} or {user_cache.folder()}, and "
            f"{file.url} could not be downloaded ({error}); fetch it where there is a "
            f"network and set {FOLDER_VARIABLE} to its folder, or use a SentencePiece "
            f"model as the tokenizer"
        ) from error
    content = _checked(file, raw, where=file.url)
    path = user_cache.folder() / file.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, content, is_shared=True)
        return path
    except OSError as error:
        raise UserError(
            f"{file.name} cannot be written to {user_cache.folder()} ({error}); set "
            f"{user_cache.FOLDER_VARIABLE} to a writable folder"
        ) from error


def digest(kind: str, files: dict[str, bytes]) -> str:
    """Returns the SHA-256, hexadecimal, of a tokenizer's kind and its sorted files."""
    total = hashlib.sha256(kind.encode())
    for name in sorted(files):
        total.update(f"\n{name} {hashlib.sha256(files[name]).hexdigest()}".encode())
    return total.hexdigest()
