"""Where the published BPE vocabulary files come from, and proof that they are right.

A file is looked for, plain or gzipped, in the folder named by ``$GLIDE_JAX_VOCAB``,
then in our cache folder (see runtime/user_cache.py), and is then downloaded into that
cache from where OpenAI publishes it. Digests are of the uncompressed content, so one
digest covers the plain file and any gzip of it.
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
    """A published file: its plain name, sha256 of its plain content, and address."""

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
    """The first place that holds `file`, plain or gzipped; None if none does."""
    given = os.environ.get(FOLDER_VARIABLE)
    folders = [paths.local_path(given, FOLDER_VARIABLE)] if given else []
    for folder in [*folders, user_cache.folder()]:
        for name in (file.name, file.name + ".gz"):
            if (folder / name).is_file():
                return folder / name
    return None


def read(file: VocabularyFile) -> bytes:
    """The plain content of `file`, found or downloaded, its digest checked.

    Raises:
      UserError: the file found has another digest, or none was found and the
          download failed.
    """
    path = find(file) or _download(file)
    return _checked(file, path.read_bytes(), where=str(path))


def _checked(file: VocabularyFile, raw: bytes, where: str) -> bytes:
    """The plain content of `raw`, which `where` names, if its digest is `file`'s."""
    try:
        content = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{where} is a damaged gzip file ({error}); delete it to have it "
            f"downloaded again, or put a sound {file.name} there"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise UserError(
            f"{where} has sha256 {digest} but {file.name} as published has "
            f"{file.sha256}; delete it to have it downloaded again, or put the "
            f"published file there"
        )
    return content


def _download(file: VocabularyFile) -> pathlib.Path:
    """Fetches `file` into the cache folder; returns its path there."""
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
            f"{file.name} was downloaded but cannot be kept in {user_cache.folder()} "
            f"({error}); set {user_cache.FOLDER_VARIABLE} to a folder you may write to"
        ) from error


def digest(kind: str, files: dict[str, bytes]) -> str:
    """sha256, hexadecimal, over a tokenizer's kind and its files, named and sorted."""
    total = hashlib.sha256(kind.encode())
    for name in sorted(files):
        total.update(f"\n{name} {hashlib.sha256(files[name]).hexdigest()}".encode())
    return total.hexdigest()
