"""A target as a page for people: what it can do, how its law predicts and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autocompress.core.target import Profile
from autocompress.targets.law import TERMS, Law
from autocompress.targets.profile import Target


def describe(target: Target) -> str:
    """The page `docs/targets/<name>.md`."""
    profile = target.profile
    parts = [f"# {profile.title}", f"`--target {profile.name}`", _facts(profile), _precisions(target)]
    if profile.measured:
        parts.append("## Latency\n\nMeasured on this machine; `estimate` uses a law calibrated on its first use.")
    else:
        parts += [_law(target.laws), _spreads(target.laws), _setups(target), _validation(target)]
    parts.append("## How to run\n\n" + "\n".join(f"    {command}" for command in profile.how_to_run))
    parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in profile.notes))
    parts.append("## Sources\n\n" + _table(("what", "where from"), profile.sources))
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(profile: Profile) -> str:
    memory = "unknown" if profile.memory_bytes is None else f"{profile.memory_bytes / 2**30:.3g} GiB"
    rows = [
        ("runtime", f"{profile.runtime} {profile.runtime_version}"),
        ("ONNX opset", str(profile.opset)),
        ("memory for a model", memory),
        ("unquantized layers run in", profile.default_precision),
    ]
    return _table(("fact", "value"), rows)


def _precisions(target: Target) -> str:
    profile = target.profile
    rows = [(one.dtype, "yes" if one.native else "no", one.runs_as, one.source) for one in profile.precisions]
    kinds = dict.fromkeys(kind for law in target.laws.values() for kind in law.tiling.converted)
    source = dict(profile.sources).get("converted", "")
    rows += [(f"fp16, {kind}", "no", "fp32, between conversions", source) for kind in kinds]
    return "## Precisions\n\n" + _table(("asked for", "native", "runs as", "source"), rows)


def _law(laws: Mapping[str, Law]) -> str:
    rows = [
        (term, f"ms per {unit}", *(f"{law.coefficients[term]:.5g}" for law in laws.values()))
        for term, unit in TERMS.items()
    ]
    return "## The law\n\nThe time of a network is the sum of these terms.\n\n" + _table(("term", "unit", *laws), rows)


def _spreads(laws: Mapping[str, Law]) -> str:
    rows = [
        (dtype, family, f"{spread.low:.3f}", f"{spread.high:.3f}")
        for dtype, law in laws.items()
        for family, spread in law.spreads.items()
    ]
    return "## 80 % intervals, measured / predicted\n\n" + _table(("dtype", "kernels", "low", "high"), rows)


def _setups(target: Target) -> str:
    if not target.setups:
        return ""
    name = target.profile.name
    rows = [
        (f"`{name}:{setup}`", one.title, one.runtime, ", ".join(one.laws), _networks(one.laws))
        for setup, one in target.setups.items()
    ]
    text = "The same device as others ran it, with laws of its own."
    return f"## Setups\n\n{text}\n\n" + _table(("target", "what", "runtime", "dtypes", "ms for any network"), rows)


def _networks(laws: Mapping[str, Law]) -> str:
    return ", ".join(f"{law.coefficients['network']:.4g}" for law in laws.values())


def _validation(target: Target) -> str:
    rows = [
        (
            one.source,
            one.setup or "-",
            one.dtype,
            str(one.rows),
            f"{one.spearman:.3f}",
            f"{one.within_10_percent:.1%}",
            f"{one.mean_error:.1%}",
            f"{one.interval_coverage:.1%}",
        )
        for one in target.validation
    ]
    head = (
        *("rows never fitted", "setup", "dtype", "rows", "Spearman", "within 10 %", "mean error"),
        "inside the interval",
    )
    return "## Validation\n\n" + _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
