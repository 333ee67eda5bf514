"""Timesteps that a respacing string keeps, and their tables.

1. "c_1,...,c_n" cuts the chain into n equal sections, clean end first, and keeps c_i
   evenly spaced timesteps of section i (Improved DDPM, 2102.09672, section 4; sections
   from ADM, 2105.05233, appendix J). "150" is one section; "" keeps everything.
2. "ddimN" keeps every s-th timestep from 0, with the smallest integer stride s that
   gives exactly N (DDIM, 2010.02502, appendix D).
3. "fast27" is "10,10,3,2,2" with the last timestep T-1 replaced by T-3, which causes
   fewer artifacts with DDIM (GLIDE's upsampler).
4. b'_k = 1 - A_{t_k} / A_{t_{k-1}}: betas under which the thinned chain has the same
   A at the timesteps kept.
5. "lambdaN" keeps N timesteps, T-1 and 0 among them, evenly spaced in half-log-SNR
   l_t = log sqrt(A_t / (1 - A_t)), for DPM-Solver++ (DPM-Solver, 2206.00927, section
   3.4). From the noisy end, each is the timestep nearest to an equal share of the
   remaining distance, since l leaps between timesteps at the cosine schedule's end.
6. "gridN" keeps the timesteps round(T i / N) - 1, i = 1..N (half to even), so that
   every second one of grid2N is on gridN: a distilled student's steps (2202.00512).
"""

from __future__ import annotations

import fractions

import numpy as np

from glide_jax.diffusion import process, schedules
from glide_jax.errors import UserError


def kept_timesteps(
    num_timesteps: int, respacing: str, schedule: str | None = None
) -> np.ndarray:
    """Returns the training-chain timesteps kept, ascending and distinct, int64.

    Args:
      num_timesteps: length T of the training chain.
      respacing: "150", "10,10,3,2,2", "ddim50", "fast27", "lambda20", "grid4" or "".
      schedule: name of the noise schedule, for "lambdaN".

    Raises:
      UserError: the string is malformed, asks for more steps than there are, or is a
        "lambdaN" without a schedule.
    """
    if respacing == "":
        return np.arange(num_timesteps)
    if respacing.startswith("ddim"):
        return _strided(num_timesteps, respacing)
    if respacing.startswith("grid"):
        return _gridded(num_timesteps, respacing)
    if respacing.startswith("lambda"):
        return _evenly_noisy(num_timesteps, respacing, schedule)
    if respacing == "fast27":
        kept = set(_sections(num_timesteps, "10,10,3,2,2"))
        kept = (kept - {num_timesteps - 1}) | {num_timesteps - 3}
        return np.array(sorted(kept))
    return np.array(sorted(set(_sections(num_timesteps, respacing))))


def respaced_betas(betas: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
    """Returns float64 betas, eq. 4, of the chain thinned to ascending `timesteps`."""
    cumprod = np.cumprod(1 - np.asarray(betas, dtype=np.float64))[timesteps]
    return 1 - cumprod / np.append(1.0, cumprod[:-1])


def respaced_tables(
    schedule: str, num_timesteps: int, respacing: str, *, prediction: str = "eps"
) -> process.DiffusionTables:
    """Returns the tables of a schedule thinned by `respacing`; "" is the full chain.

    `prediction` is one of process.PREDICTIONS.

    Raises:
      UserError: unknown schedule or malformed respacing.
    """
    kept = kept_timesteps(num_timesteps, respacing, schedule)
    betas = schedules.make_betas(schedule, num_timesteps)
    return process.make_tables(respaced_betas(betas, kept), kept, prediction=prediction)


def _strided(num_timesteps: int, respacing: str) -> np.ndarray:
    """Eq. 2."""
    count = _parse_count(respacing, respacing.removeprefix("ddim"))
    for stride in range(1, num_timesteps):
        if len(range(0, num_timesteps, stride)) == count:
            return np.arange(0, num_timesteps, stride)
    raise UserError(
        f"respacing={respacing!r}: no integer stride gives {count} of {num_timesteps} "
        f"timesteps; use a count such as ddim50, or {count} for uneven spacing"
    )


def _gridded(num_timesteps: int, respacing: str) -> np.ndarray:
    """Eq. 6."""
    count = _parse_count(respacing, respacing.removeprefix("grid"))
    if count > num_timesteps:
        raise UserError(
            f"respacing={respacing!r} asks for {count} of {num_timesteps} timesteps; "
            f"use at most grid{num_timesteps}"
        )
    # In integers, as a float's rounding is not exact.
    return np.array(
        [
            round(fractions.Fraction(num_timesteps * i, count)) - 1
            for i in range(1, count + 1)
        ]
    )


def _evenly_noisy(
    num_timesteps: int, respacing: str, schedule: str | None
) -> np.ndarray:
    """Eq. 5."""
    count = _parse_count(respacing, respacing.removeprefix("lambda"))
    if not 2 <= count <= num_timesteps:
        raise UserError(
            f"respacing={respacing!r} asks for {count} distinct timesteps, the first "
            f"and the last among them, of {num_timesteps}; use lambda2 to "
            f"lambda{num_timesteps}"
        )
    if schedule is None:
        raise UserError(
            f"respacing={respacing!r} follows a noise schedule and none was given; "
            f"give one of {', '.join(sorted(schedules.SCHEDULES))}"
        )
    cumprod = np.cumprod(1 - schedules.make_betas(schedule, num_timesteps))
    half_log_snr = 0.5 * np.log(cumprod / (1 - cumprod))
    kept = [num_timesteps - 1]
    for left in range(count - 1, 0, -1):
        here = half_log_snr[kept[-1]]
        target = here + (half_log_snr[0] - here) / left
        # Timesteps below left - 1 are reserved for the remaining ones.
        free = np.arange(left - 1, kept[-1])
        kept.append(int(free[np.abs(half_log_snr[free] - target).argmin()]))
    return np.array(kept[::-1])


def _sections(num_timesteps: int, respacing: str) -> list[int]:
    """Eq. 1."""
    counts = [_parse_count(respacing, part) for part in respacing.split(",")]
    size_per, extra = divmod(num_timesteps, len(counts))
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = size_per + (section < extra)
        if size < count:
            raise UserError(
                f"respacing={respacing!r} asks for {count} of the {size} timesteps of "
                f"section {section}; ask for at most {size}"
            )
        stride = (size - 1) / (count - 1) if count > 1 else 1
        # A running float64 sum and half-to-even rounding, as in the reference: rounding
        # a linspace picks other timesteps for 278 of the counts below 1000.
        position = 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += stride
        start += size
    return kept


def _parse_count(respacing: str, part: str) -> int:
    """Returns a positive count in a respacing string."""
    if not part.strip().isdecimal() or int(part) < 1:
        raise UserError(
            f"respacing={respacing!r} is not understood at {part!r}; use a count "
            "('150'), counts per section ('10,10,3,2,2'), 'ddim50', 'lambda20', "
            "'grid4', 'fast27', or '' for every timestep"
        )
    return int(part)
