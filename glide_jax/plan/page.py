"""Formats the report of a plan as text."""

from __future__ import annotations

from typing import Any

from glide_jax.plan import cost
from glide_jax.runtime import wording

GIB = 2**30
_MEMORY_NOTES = {
    "params": "float32",
    "moments": "of the optimizer",
    "ema": "averages of the parameters",
    "teacher": "of a student, in the compute dtype",
    "batch": "of a step",
    "grads": "float32, of the whole batch",
    "activations": "kept for the backward pass",
    "work": "the current block, gathered parameters, delayed gradients",
    "step": "peak of the last three; less than their sum",
}


def to_text(report: dict[str, Any]) -> str:
    """Returns the report of `report.make_report` as text."""
    sections = [
        _heading(report),
        _parameters(report),
        _memory(report),
        _roofline(report),
        _time(report),
        _drawing(report),
        _sampler(report),
        _sampler_roofline(report),
        _networks(report),
        _hosts(report),
        _ranking(report),
        [f"missing: {reason}" for reason in report["missing"]],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _heading(report: dict[str, Any]) -> list[str]:
    run, mesh = report["run"], report["mesh"]
    axes = " ".join(f"{axis}={size}" for axis, size in mesh.items() if size > 1)
    slow = " ".join(f"{a}_dcn={n}" for a, n in report["mesh_dcn"].items() if n > 1)
    if report["topology"]["slices"] > 1:
        axes += f" (over slices: {slow})"
    parts = (
        "" if run["microbatches"] == 1 else f" in {run['microbatches']} microbatches"
    )
    return [
        f"{report['config']} on {report['topology']['text']}",
        f"mesh {axes or 'of one device'}; batch {run['global_batch_size']:,}{parts}, "
        f"{run['examples_per_microbatch']} a device at once",
        f"remat {', '.join(run['remat'])}; text {run['remat_text']}; "
        f"{run['compute_dtype']}",
    ]


def _parameters(report: dict[str, Any]) -> list[str]:
    total = report["params_total"]
    gflop = report["forward_gflop_by_part"]
    lines = [f"PARAMETERS {total:,}"]
    lines += [f"  {name:<20} {n:>15,}" for name, n in _grouped(report).items()]
    parts = " + ".join(f"{n:,.1f} {part}" for part, n in gflop.items())
    whole = report["forward_gflop_per_image"]
    lines.append(f"forward pass of an image: {whole:,.1f} GFLOP = {parts}")
    return lines


def _grouped(report: dict[str, Any]) -> dict[str, int]:
    """Returns parameter counts, with the blocks of each half of a U-Net as one."""
    groups: dict[str, int] = {}
    for name, count in report["params_by_part"].items():
        stem, _, last = name.rpartition("_")
        name = stem if last.isdecimal() else name
        groups[name] = groups.get(name, 0) + count
    return groups


def _memory(report: dict[str, Any]) -> list[str]:
    sizes, room = report["bytes_per_device"], report["bytes_available_per_device"]
    lines = ["MEMORY OF A DEVICE, by formula (GiB)"]
    for name, note in _MEMORY_NOTES.items():
        if name == "teacher" and not sizes[name]:
            continue
        lines.append(f"  {name:<14} {sizes[name] / GIB:>8.2f}   {note}")
    verdict = "fits" if report["fits"] else "DOES NOT FIT"
    if note := report["memory_note"]:
        lines.append(f"  {note}")
    lines.append(
        f"  {'total':<14} {sizes['total'] / GIB:>8.2f}   of {room / GIB:.2f}: {verdict}"
    )
    lines += _compiler(report)
    return lines + ([f"  {report['advice']}"] if report["advice"] else [])


def _compiler(report: dict[str, Any]) -> list[str]:
    said = report["compiler"]
    if said is None:
        return []
    if not said["fits"]:
        return [
            f"  the compiler   {said['total_bytes'] / GIB:>8.2f}   of "
            f"{said['available_bytes'] / GIB:.2f}: DOES NOT FIT ({said['compiler']})"
        ]
    formula = report["bytes_per_device"]["total"]
    return [
        f"  the compiler   {said['total_bytes'] / GIB:>8.2f}   "
        f"{said['argument_bytes'] / GIB:.2f} state and batch, "
        f"{said['temporary_bytes'] / GIB:.2f} within the step; the formula is "
        f"{formula / said['total_bytes'] - 1:+.0%}",
        f"  ({said['compiler']}, {said['seconds'] / 60:.0f} minutes)",
    ]


def _roofline(report: dict[str, Any]) -> list[str]:
    found = report["compiler"] and report["compiler"]["roofline"]
    if not found:
        return []
    heading = "ROOFLINE of the compiled step, a lower bound on its time on a device"
    return [heading, *_bound(report, found, report["mfu_bound"])]


def _bound(
    report: dict[str, Any],
    found: dict[str, Any],
    mfu: dict[str, float | None],
    *,
    picture: str = "",
    kernels: str = "",
) -> list[str]:
    """Returns the lines of a roofline and the bounds on MFU that follow from it.

    `picture` and `kernels` are added to the lines of the bound and of the kernels.
    """
    names = {"fast": report["topology"]["fast_network"], "slow": "DCN"}
    lines = [
        f"  matrix work    {found['matrix_seconds']:>8.4f} s   "
        f"{found['flops'] / 1e12:,.2f} TFLOP at the peak of their type",
        f"  memory         {found['memory_seconds']:>8.4f} s   "
        f"{found['bytes_read'] / 1e9:,.1f} GB read, "
        f"{found['bytes_written'] / 1e9:,.1f} GB written",
    ]
    for name, seconds in found["network_seconds"].items():
        if seconds:
            gb = found["network_bytes"][name] / 1e9
            lines.append(
                f"  {names[name]:<14} {seconds:>8.4f} s   {gb:,.2f} GB received"
            )
    lines.append(
        f"  bound          {found['seconds']:>8.4f} s   MFU of at most "
        f"{mfu['bound']:.0%}{picture}"
    )
    if found["cycles_seconds"]:
        lines.append(
            f"  cycles         {found['cycles_seconds']:>8.4f} s   MFU of "
            f"{mfu['by_cycles']:.0%} by {found['cycles'] / 1e6:,.1f}M cycles that the "
            "compiler estimates"
        )
    elif found["cycles"]:
        cycles = found["cycles"] / 1e6
        lines.append(f"  cycles         {cycles:,.1f}M that the compiler estimates")
    counted = wording.counted(found["kernels"], "kernel")
    lines.append(
        f"  {counted}{kernels}; {found['attention']:,} of them fused attention"
    )
    if loops := found["unknown_loops"]:
        lines.append(f"  counted as one turn: {wording.counted(len(loops), 'loop')}")
    lines.append("  costliest kinds of instruction, and the line that made them:")
    title = f"{'M cycles':>10}" if found["cycles"] else ""
    lines.append(f"  {'':<28}{'runs':>6}{'TFLOP':>9}{'GB':>8}{'s':>9}{title}")
    for row in found["costliest"]:
        gb = (row["bytes_read"] + row["bytes_written"]) / 1e9
        cycles = f"{(row['cycles'] or 0) / 1e6:>10.2f}" if title else ""
        lines.append(
            f"  {row['kind']:<28}{row['runs']:>6}{row['flops'] / 1e12:>9.2f}{gb:>8.2f}"
            f"{row['seconds']:>9.4f}{cycles}  {row['source'] or 'no line recorded'}"
        )
    return lines


def _time(report: dict[str, Any]) -> list[str]:
    run, where = report["run"], report["topology"]
    peak, gflop = where["peak_flops_per_chip"] / 1e12, report["forward_gflop_per_image"]
    teacher, networks = report["teacher_gflop_per_image"], report["trained_networks"]
    teacher = f", and {teacher:,.1f} of the teacher an image" if teacher else ""
    both = f" x {networks} networks" if networks > 1 else ""
    lines = [
        f"TIME at an assumed MFU of {report['mfu']:.0%} of {where['chips']} x "
        f"{peak:,.0f} TFLOP/s",
        f"  {report['flops_per_step'] / 1e15:,.2f} PFLOP a step = 3 x "
        f"{run['global_batch_size']:,} x {gflop:,.1f} GFLOP{both}{teacher}",
        f"  {report['seconds_per_step']:,.3f} s a step, limited by "
        f"{report['limited_by']}",
        f"  {wording.counted(run['num_steps'], 'step')}: {report['days']:,.1f} days, "
        f"{report['chip_hours']:,.0f} chip-hours",
    ]
    if report["cost"] is not None:
        lines.append(
            f"  cost {report['cost']:,.0f} at {report['price_per_chip_hour']:.2f} a "
            "chip-hour"
        )
    return lines


def _drawing(report: dict[str, Any]) -> list[str]:
    drawn = report["drawing"]
    if not drawn:
        return []
    judged = drawn["judging"]
    return [
        f"DRAWING {wording.counted(drawn['pictures'], 'picture')} at that MFU",
        f"  {drawn['flops_per_picture'] / 1e12:,.1f} TFLOP each: the caption once, "
        f"{drawn['passes']} passes of the U-Net, guidance {drawn['guidance_mode']}",
        f"  shared out among {wording.counted(drawn['hosts'], 'host')}, at most "
        f"{wording.counted(drawn['pictures_per_host'], 'picture')} each",
        f"  {_hours(drawn)}",
        "JUDGING these pictures by InceptionV3 against as many real ones, once for a "
        "cascade",
        f"  {judged['flops_per_picture'] / 1e9:,.1f} GFLOP each at that MFU, then "
        f"{judged['comparison_flops'] / 1e12:,.1f} TFLOP on process 0, assumed "
        f"{cost.HOST_FLOPS / 1e9:,.0f} GFLOP/s",
        f"  {_hours(judged)}",
    ]


def _hours(found: dict[str, Any]) -> str:
    price = "" if found["price"] is None else f", cost {found['price']:,.2f}"
    return f"{found['hours']:,.2f} hours, {found['chip_hours']:,.2f} chip-hours{price}"


def _sampler(report: dict[str, Any]) -> list[str]:
    found = report["sampler"]
    if not found:
        return []
    settings, room = found["settings"], found["available_bytes"]
    inpaint = settings["inpaint_mode"]
    total = f"  {'total':<14} {found['total_bytes'] / GIB:>8.2f}   "
    lines = [
        f"SAMPLER of {wording.counted(found['batch_size'], 'picture')} at once on "
        f"{found['devices']}, by the compiler (GiB a device)",
        f"  {found['num_steps']} steps of {settings['sampler']}, guidance "
        f"{settings['guidance_mode']}{f', inpainting {inpaint}' if inpaint else ''}",
    ]
    if not found["fits"]:
        return [
            *lines,
            f"{total}of {room / GIB:.2f}: DOES NOT FIT ({found['compiler']})",
            "  use a smaller --batch_size in glide sample; --pictures=N compiles it",
        ]
    return [
        *lines,
        f"  {'arguments':<14} {found['argument_bytes'] / GIB:>8.2f}   weights, inputs "
        "and encoded captions",
        f"  {'temporary':<14} {found['temporary_bytes'] / GIB:>8.2f}   within a step",
        f"{total}of {report['bytes_available_per_device'] / GIB:.2f}: fits",
        f"  ({found['compiler']}, {found['seconds']:.0f} seconds)",
    ]


def _sampler_roofline(report: dict[str, Any]) -> list[str]:
    found = report["sampler"] and report["sampler"]["roofline"]
    if not found:
        return []
    sampler = report["sampler"]
    kernels = f", {found['kernels'] / sampler['num_steps']:,.0f} a step"
    picture = f", {sampler['seconds_per_picture']:.4f} s a picture"
    lines = _bound(report, found, sampler["mfu"], picture=picture, kernels=kernels)
    return ["ROOFLINE of this batch, all steps", *lines]


def _networks(report: dict[str, Any]) -> list[str]:
    fast = report["topology"]["fast_network"]
    if not report["collectives"]:
        return ["NETWORK none: devices exchange no data"]
    lines = [f"NETWORK, received by a device a step (GB)     {fast:>7}     DCN"]
    for row in report["collectives"]:
        what = f"{row['operation']} {row['what']} over {row['axis']}"
        fast_gb, slow_gb = row["fast_bytes"] / 1e9, row["slow_bytes"] / 1e9
        lines.append(f"  {what:<42} {fast_gb:>8.3f} {slow_gb:>7.3f}")
    seconds = ", ".join(
        f"{value:.3f} s on {name}"
        for name, value in report["network_seconds_per_step"].items()
        if value
    )
    lines.append(f"  at published bandwidths: {seconds}, overlapping computation")
    return lines


def _hosts(report: dict[str, Any]) -> list[str]:
    peak, room = report["host_bytes_peak"], report["host_bytes_available"]
    parts = ", ".join(
        f"{size / GIB:.1f} {name.replace('_', ' ')}"
        for name, size in report["host_bytes"].items()
        if size
    )
    return [
        f"CHECKPOINT {report['checkpoint_bytes'] / GIB:,.1f} GiB",
        f"HOST MEMORY {peak / GIB:,.1f} of {room / GIB:,.0f} GiB while one is written "
        f"({parts})",
    ]


def _ranking(report: dict[str, Any]) -> list[str]:
    if not report["ranking"]:
        return []
    lines = ["SEARCH, best first: s per step with recomputation, GiB per device"]
    for option in report["ranking"]:
        fits = "" if option["fits"] else "  does not fit"
        lines.append(
            f"  {option['seconds']:>7.3f} {option['bytes_per_device'] / GIB:>8.2f}  "
            f"{option['flags']}{fits}"
        )
    return lines
