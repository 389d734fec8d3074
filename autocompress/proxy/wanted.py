"""The kernels that a search may meet: of the dense model, of uniform plans and of random ones."""

from __future__ import annotations

import numpy as np

from autocompress.core.fusion import launched
from autocompress.core.kernel import Kernel
from autocompress.core.space import Space
from autocompress.proxy.context import Context

RANDOM_PLANS = 48


def space_kernels(space: Space, context: Context) -> list[tuple[Kernel, str]]:
    """Every kernel of some plans of a space with the dtype that the target runs it in, as often as it occurs."""
    generator = np.random.default_rng(context.seed)
    vectors = [space.dense_vector, space.centre_vector, space.extreme_vector]
    vectors += [space.encode(plan) for _, plan in space.uniform_plans()]
    vectors += [space.random(generator) for _ in range(RANDOM_PLANS)]
    target, found = context.target, []
    for vector in dict.fromkeys(vectors):
        for kernel in launched(context.network(space.decode(vector)), target.fusion):
            found.append((kernel, target.dtype_of(kernel, context.precision)))
    return found
