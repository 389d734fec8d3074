"""Labels against an oracle: the same operators applied to a tensor that holds channel numbers."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.graph.labels import Block, Coupler, Labels, block_on, take

Shape = tuple[int, ...]


def spread(labels: Labels, shape: Shape) -> np.ndarray:
    """The label at every place of a tensor with one block."""
    (block,) = labels
    order = np.argsort(block.dims)
    size = [shape[d] if d in block.dims else 1 for d in range(len(shape))]
    return np.broadcast_to(block.ids.transpose(order).reshape(size), shape)


def factorisations(total: int) -> st.SearchStrategy[Shape]:
    """Shapes with `total` elements, ones included."""
    primes = [p for p in (2, 3, 5) for _ in range(6) if total % p == 0]
    primes = []
    rest = total
    for p in (2, 3, 5):
        while rest % p == 0:
            primes.append(p)
            rest //= p

    def build(draws: tuple[list[int], int]) -> Shape:
        places, ones = draws
        sizes = [1] * (max(places, default=0) + 1 + ones)
        for prime, place in zip(primes, places, strict=True):
            sizes[place] *= prime
        return tuple(sizes)

    places = st.lists(st.integers(0, 3), min_size=len(primes), max_size=len(primes))
    return st.tuples(places, st.integers(0, 1)).map(build)


@given(st.data())
def test_views_and_permutations_follow_every_channel(data: st.DataObject) -> None:
    channels = data.draw(st.sampled_from([4, 6, 8, 12]), label="channels")
    shape: Shape = (2, channels, 3)
    coupler = Coupler()
    labels: Labels = (Block((1,), coupler.fresh(channels)),)
    numbers = torch.arange(channels)[None, :, None].expand(shape).contiguous()
    for _ in range(data.draw(st.integers(1, 4), label="operators")):
        if data.draw(st.booleans(), label="permute"):
            order = data.draw(st.permutations(range(numbers.dim())), label="order")
            numbers = numbers.permute(*order)
            labels = coupler.permute(labels, order)
        else:
            out = data.draw(factorisations(math.prod(shape)), label="shape")
            labels = coupler.reshape(tuple(numbers.shape), labels, out)
            numbers = numbers.reshape(out)
    assert np.array_equal(spread(labels, tuple(numbers.shape)), numbers.numpy())
    assert not any(coupler.reason(root) for root in range(channels))


@given(st.data())
def test_elementwise_couples_what_meets(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3), label="rank")
    shape = tuple(data.draw(st.lists(st.integers(2, 4), min_size=rank, max_size=rank), label="shape"))
    coupler = Coupler()
    inputs, numbers = [], []
    for _ in range(data.draw(st.integers(2, 3), label="tensors")):
        skipped = data.draw(st.integers(0, rank - 1), label="missing dimensions")
        own = shape[skipped:]
        dim = data.draw(st.integers(0, len(own) - 1), label="labelled")
        own = tuple(size if d == dim or data.draw(st.booleans()) else 1 for d, size in enumerate(own))
        ids = coupler.fresh(own[dim])
        inputs.append((own, (Block((dim,), ids),)))
        column = torch.from_numpy(ids).reshape([-1 if d == dim else 1 for d in range(len(own))])
        numbers.append((column.expand(own).expand(shape).numpy(), dim + skipped))
    coupler.elementwise(inputs, shape, "add")
    for (left, dim), (right, other) in ((a, b) for a in numbers for b in numbers):
        if dim == other:
            assert np.array_equal(coupler.find(left), coupler.find(right))


def test_elementwise_with_a_tensor_of_fixed_size_blocks() -> None:
    coupler = Coupler()
    ids = coupler.fresh(4)
    coupler.elementwise([((2, 4), (Block((1,), ids),)), ((2, 4), ())], (2, 4), "add (here)")
    assert coupler.reason(0) == "add (here) meets a tensor of fixed size"


def test_elementwise_with_one_value_per_row_does_not_block() -> None:
    coupler = Coupler()
    ids = coupler.fresh(4)
    labels = coupler.elementwise([((2, 4), (Block((1,), ids),)), ((2, 1), ())], (2, 4), "mul")
    assert coupler.reason(0) is None
    assert np.array_equal(labels[0].ids, ids)


def test_a_repeated_single_channel_may_not_go() -> None:
    coupler = Coupler()
    many, one = coupler.fresh(4), coupler.fresh(1)
    inputs = [((2, 4), (Block((1,), many),)), ((2, 1), (Block((1,), one),))]
    labels = coupler.elementwise(inputs, (2, 4), "mul (gate)")
    assert coupler.reason(4) == "mul (gate) repeats its only channel"
    assert [coupler.reason(root) for root in range(4)] == [None] * 4
    assert np.array_equal(labels[0].ids, many)


def test_merging_two_cut_dimensions_blocks_one() -> None:
    coupler = Coupler()
    left, right = coupler.fresh(2), coupler.fresh(3)
    labels = coupler.reshape((2, 3), (Block((0,), left), Block((1,), right)), (6,))
    assert [coupler.reason(int(root)) is None for root in (*left, *right)] == [True, True, False, False, False]
    assert labels[0].ids.tolist() == [0, 0, 0, 1, 1, 1]


def test_boxes_are_settled_along_the_dimension_with_more_classes() -> None:
    coupler = Coupler()
    ids = coupler.fresh(12)
    labels = coupler.reshape((12,), (Block((0,), ids),), (3, 4))
    coupler.settle_boxes()
    roots = coupler.find(labels[0].ids)
    assert len(np.unique(roots)) == 4
    assert (roots == roots[0]).all()


def test_along_ties_the_other_dimensions() -> None:
    coupler = Coupler()
    (block,) = coupler.reshape((12,), (Block((0,), coupler.fresh(12)),), (3, 4))
    (narrowed,) = coupler.along(block, [0])
    assert narrowed.dims == (0,)
    assert len(np.unique(coupler.find(block.ids))) == 3


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12), st.integers(0, 9))
def test_union_find_is_an_equivalence(pairs: list[tuple[int, int]], blocked: int) -> None:
    coupler = Coupler()
    ids = coupler.fresh(10)
    coupler.block(ids[blocked : blocked + 1], "why")
    for a, b in pairs:
        coupler.unify(ids[a : a + 1], ids[b : b + 1])
    classes = [{i} for i in range(10)]
    for a, b in pairs:
        joined = next(c for c in classes if a in c) | next(c for c in classes if b in c)
        classes = [c for c in classes if not c & joined] + [joined]
    roots = coupler.find(ids)
    for members in classes:
        assert len({int(roots[m]) for m in members}) == 1
        assert (coupler.reason(int(roots[min(members)])) == "why") == (blocked in members)
    assert len(np.unique(roots)) == len(classes)


def test_take_and_block_on() -> None:
    coupler = Coupler()
    labels = (Block((2,), coupler.fresh(5)), Block((0,), coupler.fresh(2)))
    taken = take(labels, 2, slice(1, 3))
    assert taken[0].ids.tolist() == [1, 2]
    assert taken[1] is labels[1]
    assert block_on(labels, 0) is labels[1]
    assert block_on(labels, 1) is None
