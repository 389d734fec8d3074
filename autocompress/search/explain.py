"""Explains a plan by what its options do alone and by what it would cost without each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from autocompress.core.decision import Decision, describe
from autocompress.core.explanation import Choice, Explanation, Left, Relaxed
from autocompress.core.model_info import BlockInfo
from autocompress.core.space import Space, Vector
from autocompress.proxy.sensitivity import Effects, Sensitivity
from autocompress.search.additive import additive_front
from autocompress.search.parts import Table, chosen_by, dropped_layers

RELAXED_BY = 0.1
_COSTS = ("size_bytes", "latency_ms", "macs")
# A saving of less than this share of a dense cost is none.
_NOTHING = 1e-4
# Of a model that answers the same whatever it is asked, nothing is lost by knowing nothing.
_LEAST_CHANCE = 1e-12


def explain(effects: Effects, options: Sensitivity, vector: Vector, blocks: Sequence[BlockInfo]) -> Explanation:
    """Explains one plan of a space.

    Args:
        effects: Prices plans.
        options: What every option does alone.
        vector: The plan.
        blocks: That may be dropped.
    """
    table = Table(effects.space, options, _COSTS)
    costs = effects.costs_of(vector) or {}
    choices = sorted(_choices(effects, options, table, vector, costs), key=lambda choice: -choice.loss)
    named = [cost for cost in _COSTS if cost in costs and options.dense.costs[cost]]
    relaxed = tuple(_relaxed(cost, costs[cost] / options.dense.costs[cost], choices) for cost in named)
    return Explanation(tuple(choices), relaxed, tuple(_left(table, options, vector, blocks)))


def _choices(
    effects: Effects, options: Sensitivity, table: Table, vector: Vector, whole: Mapping[str, float]
) -> Iterator[Choice]:
    space = effects.space
    for place, option in enumerate(vector):
        if not option or options.options[space.decisions[place].name][option] is None:
            continue
        without = effects.costs_of((*vector[:place], 0, *vector[place + 1 :]))
        saves = {}
        if whole and without is not None:
            saves = {cost: (without[cost] - whole[cost]) / max(options.dense.costs[cost], 1e-12) for cost in _COSTS}
        decision = space.decisions[place]
        yield Choice(
            decision.name,
            _told(decision, option),
            table.loss(place, option) / max(options.chance, _LEAST_CHANCE),
            saves,
        )


def _relaxed(cost: str, share: float, choices: Sequence[Choice]) -> Relaxed:
    """Of the choices those to keep that lose least and save enough: the rest is taken back."""
    # What saves nothing of this cost needs no looser limit to be taken back.
    saving = [choice for choice in choices if choice.saves.get(cost, 0.0) > _NOTHING]
    if not saving:
        return Relaxed(cost, share, (), 0.0)
    savings = [choice.saves[cost] for choice in saving]
    front = additive_front([[0.0, choice.loss] for choice in saving], [[0.0, saved] for saved in savings])
    kept = front.at_least(max(0.0, sum(savings) - RELAXED_BY * share)) or [1] * len(saving)
    back = [choice for choice, is_kept in zip(saving, kept, strict=True) if not is_kept and choice.loss > 0]
    return Relaxed(cost, share, tuple(choice.decision for choice in back), sum(choice.loss for choice in back))


def _left(table: Table, options: Sensitivity, vector: Vector, blocks: Sequence[BlockInfo]) -> Iterator[Left]:
    space = table.space
    gone = dropped_layers(space, blocks, chosen_by(vector))
    prices = [
        _price(table, options, place, option)
        for place, option in enumerate(vector)
        if option and option in table.usable(place)
    ]
    most = max((price for price in prices if price is not None), default=0.0)
    for place, option in enumerate(vector):
        decision = space.decisions[place]
        if option or len(decision.options) < 2:
            continue
        block = gone.get(decision.target)
        why = f"block {block} is dropped" if block is not None else _why(table, options, space, place, most)
        yield Left(decision.name, why)


def _why(table: Table, options: Sensitivity, space: Space, place: int, most: float) -> str:
    usable = table.usable(place)
    if not usable:
        return "none of its options can be applied to this model"
    priced = [(price, option) for option in usable if (price := _price(table, options, place, option)) is not None]
    if not priced:
        return "none of its options saves bytes, time or work on this target"
    price, option = min(priced)
    told = _told(space.decisions[place], option)
    if price > most:
        return f"{told} loses {_ratio(price, most)} as much for what it saves as the worst choice that was taken"
    return f"{told} alone loses less for what it saves than the worst choice that was taken; not so beside the others"


def _told(decision: Decision, option: int) -> str:
    return "dropped" if decision.kind == "drop" else describe(decision.options[option])


def _ratio(price: float, most: float) -> str:
    return f"{price / most:.3g} times" if most > 0 else "more than nothing,"


def _price(table: Table, options: Sensitivity, place: int, option: int) -> float | None:
    """Loss for the largest share of a dense cost that an option saves, None if it saves none."""
    saved = max(
        table.saving(place, option, cost) / options.dense.costs[cost]
        for cost in _COSTS
        if options.dense.costs[cost] > 0
    )
    return table.loss(place, option) / max(options.chance, _LEAST_CHANCE) / saved if saved > _NOTHING else None


def plain(explanation: Explanation) -> dict[str, Sequence[Mapping[str, object]]]:
    """As plain data for JSON."""
    return {
        "choices": [
            {"decision": one.decision, "option": one.option, "loss_share": one.loss, "saves": dict(one.saves)}
            for one in explanation.choices
        ],
        "relaxed": [
            {"cost": one.cost, "share": one.share, "taken_back": list(one.taken_back), "relief": one.relief}
            for one in explanation.relaxed
        ],
        "left": [{"decision": one.decision, "why": one.why} for one in explanation.left],
    }
