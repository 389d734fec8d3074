from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autocompress.compress.apply import Compressed
from autocompress.core.decision import Decision
from autocompress.core.plan import LowRank, Plan, Prune, Quantize
from autocompress.core.space import Space
from autocompress.proxy import sensitivity
from autocompress.proxy.context import Context
from autocompress.proxy.evaluate import realise
from autocompress.proxy.sensitivity import Effect, Effects, Meter, _anchors, _completed
from tests.run.tiny import tiny_context, tiny_space

BITS = Decision("quantize", "a", (None, *(Quantize(b) for b in (8, 6, 5, 4, 3, 2))))


@pytest.fixture(scope="module")
def context() -> Context:
    return tiny_context()


@pytest.fixture(scope="module")
def space(context: Context) -> Space:
    return tiny_space(context)


def test_every_option_has_an_effect_and_more_compression_costs_less(
    context: Context, space: Space, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    options = Effects(Meter(space, context), tmp_path / "table").of_options(lambda *step: told.append(step))
    assert told[-1][0] == told[-1][1] == len(told)
    assert options.dense.loss == pytest.approx(0.0, abs=1e-6)
    assert options.chance > 0
    for decision in space.decisions:
        effects = options.options[decision.name]
        assert len(effects) == len(decision.options)
        assert effects[0] == options.dense
        for effect in effects:
            assert effect is not None
            assert math.isfinite(effect.loss)
            assert effect.loss >= 0
        if decision.kind == "prune":
            sizes = [effect.costs["size_bytes"] for effect in effects if effect is not None]
            assert sizes == sorted(sizes, reverse=True)
            assert sizes[-1] < sizes[0]
    strongest = max(effect.loss for effects in options.options.values() for effect in effects if effect is not None)
    assert strongest > 1e-4


def test_the_loss_is_the_divergence_of_the_outputs(context: Context, space: Space, tmp_path: Path) -> None:
    vector = space.extreme_vector
    (effect,) = Effects(Meter(space, context), tmp_path / "table").of([vector])
    small = context.with_calibration(64)
    # There are 64 samples in all: they serve for both.
    (images, _), *others = context.task.calibration.batches(64)
    assert not others
    with torch.no_grad():
        wanted = small.dense.module(*images).log_softmax(1)
        found = realise(space.decode(vector), small).module(*images).log_softmax(1)
    divergence = (wanted.exp() * (wanted - found)).sum(1).mean()
    assert effect is not None
    assert effect.loss == pytest.approx(float(divergence), rel=0.05)


def test_what_the_file_holds_is_not_measured_again(
    context: Context, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "table"
    first = Effects(Meter(space, context), file).of_options()
    lines = file.read_text().splitlines()
    calls: list[object] = []
    inner = Meter.measured
    monkeypatch.setattr(Meter, "measured", lambda self, vector: (calls.append(vector), inner(self, vector))[1])
    assert Effects(Meter(space, context), file).of_options() == first
    assert calls == []
    # The last line was cut off when the power went.
    file.write_text("\n".join(lines)[:-9])
    assert Effects(Meter(space, context), file).of_options() == first
    assert len(calls) == 1
    assert file.read_text().splitlines() == lines


def test_a_table_of_another_space_is_begun_anew(context: Context, space: Space, tmp_path: Path) -> None:
    file = tmp_path / "table"
    Effects(Meter(space, context), file).of([space.dense_vector])
    other = replace(space, decisions=space.decisions[:1])
    (effect,) = Effects(Meter(other, context), file).of([other.dense_vector])
    data = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(data) == 2
    assert effect is not None
    assert data[1]["loss"] == effect.loss


def test_scales_are_measured_in_the_middle_and_at_the_end() -> None:
    assert _anchors(BITS) == (4, 6)
    prune = (None, *(Prune(s) for s in (0.125, 0.25, 0.375, 0.5)))
    assert _anchors(Decision("prune", "a", prune)) == (2, 4)
    assert _anchors(Decision("prune", "a", prune[:3])) == (1, 2)
    assert _anchors(Decision("shape", "a", (None, LowRank(0.5), LowRank(0.33), LowRank(0.2)))) == (1, 2, 3)
    mixed = (None, Quantize(8, None), Quantize(4, 8), Quantize(2, 8))
    assert _anchors(Decision("quantize", "a", mixed)) == (1, 2, 3)
    assert _anchors(Decision("drop", "a", (False, True))) == (1,)


def test_between_measured_bits_the_loss_is_a_line_in_logarithms() -> None:
    def effect(bits: int, loss: float) -> Effect:
        return Effect(loss, {"size_bytes": 100.0 * bits})

    found = list(_completed(BITS, {4: effect(4, 0.01), 6: effect(2, 0.16)}))
    for bits, each in zip((8, 6, 5, 4, 3, 2), found, strict=True):
        assert each is not None
        assert each.loss == pytest.approx(0.01 * 4.0 ** (4 - bits))
        assert each.costs["size_bytes"] == pytest.approx(100.0 * bits)
    assert list(_completed(BITS, {4: effect(4, 0.01), 6: None}))[3] == effect(4, 0.01)
    assert list(_completed(BITS, {4: effect(4, 0.01), 6: None}))[:3] == [None] * 3


@pytest.mark.parametrize(
    "options",
    [
        (Quantize(8), Quantize(8, range="minmax"), Quantize(4), Quantize(4, range="minmax")),
        (Quantize(4), Quantize(4, range="minmax"), Quantize(4, range="percentile")),
        (Prune(0.5, "l1"), Prune(0.5, "l2"), Prune(0.5, "random")),
    ],
)
def test_options_that_differ_in_more_than_their_strength_are_all_measured(options: tuple[Quantize, ...]) -> None:
    kind = "quantize" if isinstance(options[0], Quantize) else "prune"
    assert _anchors(Decision(kind, "a", (None, *options))) == tuple(range(1, len(options) + 1))


def test_a_plan_that_fails_or_answers_what_is_no_number_has_no_effect(
    context: Context, space: Space, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    meter = Meter(space, context)
    assert meter.measured(space.dense_vector) is not None
    real = sensitivity.realise

    def overflowing(plan: Plan, context: Context) -> Compressed:
        made = real(plan, context)
        next(made.module.parameters()).data.fill_(math.nan)
        return made

    monkeypatch.setattr(sensitivity, "realise", overflowing)
    assert meter.measured(space.dense_vector) is None

    def failing(plan: Plan, context: Context) -> Compressed:
        return torch.linalg.cholesky(-torch.eye(2))  # type: ignore[no-any-return]

    monkeypatch.setattr(sensitivity, "realise", failing)
    assert meter.measured(space.dense_vector) is None
    assert "cannot be measured" in caplog.text


def test_what_options_do_is_known_once_all_of_them_were_measured(
    context: Context, space: Space, tmp_path: Path
) -> None:
    effects = Effects(Meter(space, context), tmp_path / "table")
    assert effects.known_options() is None
    measured = effects.of_options()
    assert Effects(Meter(space, context), tmp_path / "table").known_options() == measured
    lines = (tmp_path / "table").read_text().splitlines(keepends=True)
    (tmp_path / "table").write_text("".join(lines[:-1]))
    assert Effects(Meter(space, context), tmp_path / "table").known_options() is None
