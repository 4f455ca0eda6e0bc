"""Results as short tables for a terminal."""


def row(row: dict) -> str:
    """The row, its stages, one step by kind of module, and what was compared."""
    settings = [row["size"], row["resolution"], row["mode"], row["dtype"], f"{row['steps']} steps", f"{row['clips']} clips"]
    settings += ["compiled"] * row["compile"] + [f"without {option}" for option in row["off"]]
    lines = [
        f"{row['device']}: {', '.join(settings)}",
        f"{row['s_per_frame']:.4g} s per frame, first clip {row['first_clip_s']:.4g} s, "
        + (f"peak {row['peak_vram_gb']:.2f} GiB allocated, {row['peak_reserved_gb']:.2f} reserved" if row["peak_vram_gb"] else "")
        + (f"peak {row['peak_rss_gb']:.2f} GiB resident" if row["peak_rss_gb"] and not row["peak_vram_gb"] else ""),
        *(f"{name}: " + ", ".join(f"{backend} for {d}" for d, backend in backends.items()) for name, backends in row["chosen"].items() if backends),
        f"a step at {row['tflops']:.4g} TFLOP/s, {row['share']:.1%} of a matrix product's {row['matmul_tflops']:.4g}; "
        f"copy {row['copy_gb_s']:.4g} GB/s" + (f", to the GPU {row['upload_gb_s']:.4g}" if row["upload_gb_s"] else ""),
        "",
        f"{'stage':22}{'per':>9}{'ms':>12}{'s per clip':>12}{'TFLOP':>10}{'TFLOP/s':>10}{'share':>8}{'GB':>8}{'floor ms':>10}",
    ]
    for stage, entry in row["stages"].items():
        lines.append(_line(stage, entry["unit"], entry, entry["s_per_clip"]))
        lines += [_line(f"  {kind}", "", part, None) for kind, part in entry.get("kinds", {}).items() if kind != "whole"]
    if row["reference"]:
        lines += ["", _reference(row["reference"])]
    if row["length"]:
        lines += ["", _length(row["length"])]
    return "\n".join(lines)


def _line(name: str, unit: str, entry: dict, s_per_clip: float | None) -> str:
    clip = "" if s_per_clip is None else f"{s_per_clip:.4g}"
    rate = f"{entry['tflop']:>10.4g}{entry['tflops']:>10.4g}{entry['share']:>8.1%}" if "tflop" in entry else ""
    moved = f"{entry['gb']:>8.4g}{entry['floor_s'] * 1000:>10.4g}" if "gb" in entry else ""
    return f"{name:22}{unit:>9}{entry['s'] * 1000:>12.4g}{clip:>12}{rate}{moved}".rstrip()


def _reference(other: dict) -> str:
    step = "" if other["step_ratio"] is None else f", {other['step_ratio']:.2f} times per step"
    return (
        f"reference: {other['s_per_frame']:.4g} s per frame; {other['ratio']:.2f} times faster per clip{step}; "
        f"frames differ by at most {other['difference']:.1e} of the largest value"
    )


def _length(length: dict) -> str:
    return (
        f"clips 2 to 6: {length['early_s_per_frame']:.4g} s per frame, the last five of {length['clips']}: "
        f"{length['late_s_per_frame']:.4g}, {length['late_to_early'] - 1:+.2%}; GiB after clip 3 and at the end: "
        f"allocated {_pair(length['allocated_gib'])}, resident {_pair(length['resident_gib'])}"
    )


def _pair(values: list[float | None]) -> str:
    return " and ".join("–" if value is None else f"{value:.3f}" for value in values)


def attention(entry: dict) -> str:
    """ms (and TFLOP/s) of each backend; with the copies for padding after the bar."""
    lines = [f"{entry['device']}, {entry['dtype']}: ms (TFLOP/s) | ms with the copies that pad"]
    for shape in entry["shapes"]:
        name = f"{shape['rows']} x {shape['queries']} to {shape['keys']}, 8 x {shape['head_dim']} as {shape['padded_to']}"
        times = f"{shape['ms']:.3f} ({shape['tflops']:.0f}) | {shape['ms_with_padding']:.3f}" if shape["ms"] else "refused"
        lines.append(f"{name:38}{shape['backend']:>10}  {times}")
    return "\n".join(lines)
