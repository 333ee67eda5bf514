"""The completion scripts, run in bash and zsh."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import subprocess
import time

import pytest

from glide_jax.cli import main


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """scripts("bash") -> file with what `glide completion bash` prints."""
    folder = tmp_path_factory.mktemp("scripts")

    def write(shell: str):
        path = folder / shell
        with path.open("w") as file, contextlib.redirect_stdout(file):
            assert main.run(["completion", shell]) == 0
        return path

    return write


@pytest.fixture(scope="module")
def complete(scripts):
    """complete(folder, "glide", "tr") -> what bash offers for the last word."""
    script = scripts("bash")

    def run(folder, *words: str) -> set[str]:
        code = (
            'source "$1"; COMP_WORDS=("${@:2}"); COMP_CWORD=$(($# - 2)); _glide; '
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        result = subprocess.run(
            ["bash", "--norc", "-c", code, "bash", str(script), *words],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert result.stderr == ""
        return set(result.stdout.split())

    return run


# As bash splits the line: --flag=value is three words.
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tr"], {"train"}),
        (["help", "da"], {"data"}),
        (["benchmark", ""], {"sample", "serve", "train"}),
        (["help", "benchmark", "s"], {"sample", "serve"}),
        (["completion", ""], {"bash", "zsh"}),
        (["benchmark", "sample", "--pa"], {"--passes="}),
        (["benchmark", "train", "--pa"], set()),
        (["train", "--dry"], {"--dry_run"}),
        (["train", "--workdir", "=", "x", "--nodry"], {"--nodry_run"}),
        (["sample", "--guidance_mode", "=", "cf"], {"cfg", "cfg+clip"}),
        (["sample", "--guidance_mode", "="], {"none", "cfg", "clip", "cfg+clip"}),
        (["sample", "--guidance_mode", "no"], {"none"}),
        (["inpaint", "--image", "=", "pho"], {"photo.png", "photos"}),
        (["train", "--config.train.num_s"], {"--config.train.num_steps="}),
        (["sample", "--config.train.num_s"], set()),
        (["export", "pho"], {"photo.png", "photos"}),
    ],
)
def test_bash_offers_what_fits(complete, tmp_path, words, offered):
    (tmp_path / "photo.png").touch()
    (tmp_path / "photos").mkdir()
    assert complete(tmp_path, "glide", *words) == offered


def test_bash_offers_every_verb(complete, tmp_path):
    firsts = {verb.split()[0] for verb in main.VERBS}
    assert complete(tmp_path, "glide", "") == firsts | {"help"}


def test_bash_registers_the_script_for_glide(scripts):
    code = 'source "$1"; complete -p glide'
    result = subprocess.check_output(["bash", "-c", code, "bash", scripts("bash")])
    assert result == b"complete -F _glide glide\n"


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("glide tra", "glide train"),
        ("glide benchmark sam", "glide benchmark sample"),
        ("glide train --work", "glide train --workdir="),
        ("glide sample --guidance_mode=no", "glide sample --guidance_mode=none"),
        ("glide inpaint --image=pho", "glide inpaint --image=photo.png"),
        ("glide train --config.seed", "glide train --config.seed="),
    ],
)
def test_zsh_completes_a_line(scripts, tmp_path, line, completed):
    (tmp_path / "photo.png").touch()
    (tmp_path / ".zshrc").write_text(
        f"""
autoload -Uz compinit && compinit -u -D
source {scripts("zsh")}
show() {{ print -r -- "LINE[$BUFFER]"; exit }}
zle -N show
bindkey '^X' show
PS1=READY
"""
    )
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execvpe("zsh", ["zsh", "-i"], {**os.environ, "ZDOTDIR": str(tmp_path)})
    read_until(terminal, "READY")
    os.write(terminal, f"{line}\t\x18".encode())
    text = read_until(terminal, "]")
    os.close(terminal)
    os.waitpid(process, 0)
    assert f"LINE[{completed}" in text


def read_until(terminal: int, end: str) -> str:
    """Reads what a program writes to its terminal, up to and including `end`."""
    text, deadline = "", time.monotonic() + 20
    while end not in text:
        assert time.monotonic() < deadline, text
        if select.select([terminal], [], [], 1)[0]:
            text += os.read(terminal, 4096).decode(errors="replace")
    return text
