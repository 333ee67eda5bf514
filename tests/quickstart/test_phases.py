"""The six phases: their settings, and what each starts from."""

from __future__ import annotations

import pytest

from glide_jax.config import validate
from glide_jax.data import sources
from glide_jax.quickstart import phases
from glide_jax.runtime import ledger, lifecycle
from glide_jax.text import sentencepiece_tokenizer


@pytest.mark.parametrize("scale", [0.0, 0.001, 0.3, 1.0])
@pytest.mark.parametrize("phase", phases.PHASES, ids=lambda phase: phase.name)
def test_a_scaled_phase_is_valid_and_as_long_as_its_share(phase, scale, tmp_path):
    full = phases.load_config(phase, tmp_path, 1.0)
    config = phases.load_config(phase, tmp_path, scale)
    validate.validate(config)
    assert config.train.num_steps == max(1, round(scale * full.train.num_steps))
    assert config.model == full.model


def test_a_phase_starts_only_from_one_before_it(tmp_path):
    done = set()
    for phase in phases.PHASES:
        config = phases.load_config(phase, tmp_path, 1.0)
        assert phase.init_from in {"", *done}
        expected = str(tmp_path / phase.init_from) if phase.init_from else ""
        assert config.train.init_from == expected
        done.add(phase.name)


def test_all_of_glide_is_trained():
    assert {phase.config for phase in phases.PHASES} == {
        "base64",
        "base64_cfg",
        "base64_inpaint",
        "upsample256",
        "upsample256_inpaint",
        "noised_clip64",
    }


@pytest.mark.parametrize("world", ["shapes:quickstart", "shapes:full"])
def test_a_tiny_model_reads_captions_to_their_end(tmp_path, world):
    config = phases.load_config(phases.PHASES[0], tmp_path, 1.0)
    pieces = int(config.data.tokenizer.removeprefix("sentencepiece:"))
    captions = sources.sample_captions(sources.open_source(world), 500)
    tokenizer = sentencepiece_tokenizer.SentencePieceTokenizer(
        sentencepiece_tokenizer.train_sentencepiece(captions, pieces)
    )
    longest = max(len(tokenizer.encode(caption)) for caption in captions)
    assert longest <= config.model.text_context


def test_a_finished_phase_is_logged_with_its_folder(tmp_path, caplog):
    caplog.set_level("INFO")
    done = ledger.Ledger(tmp_path / "ledger.json")
    phase = phases.PHASES[1]
    done.finish(phase.name, {})
    code = phases.run_phase(phase, tmp_path, done, scale=1.0)
    assert code == lifecycle.ExitCode.OK
    assert caplog.messages == [f"[2/{len(phases.PHASES)}] {phase.title}: already done"]
