"""What is done to a caption before it is split: lower case, and CLIP's mending."""

from __future__ import annotations

import html
import re

import ftfy

from glide_jax import errors


def lower_case(text: str) -> str:
    """`text` in lower case, as GLIDE reads captions; nothing else is changed.

    Raises:
        UserError: half a surrogate pair in `text`: no Unicode text, so no UTF-8.
    """
    lowered = text.lower()
    try:
        lowered.encode("utf-8")
    except UnicodeEncodeError as error:
        raise errors.UserError(
            f"the text {text!r} is not valid Unicode at character {error.start}; "
            f"give it in UTF-8"
        ) from error
    return lowered


def clip_clean(text: str) -> str:
    """openai/CLIP's cleaning: mend mojibake, unescape HTML twice, one space, lower."""
    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", mended).strip().lower()
