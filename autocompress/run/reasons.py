"""Why the points of a front are as they are, for the report: from what was measured for the search, nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from autocompress.core.explanation import Explanation
from autocompress.proxy.sensitivity import Effects
from autocompress.run.finish import Point
from autocompress.run.folder import SENSITIVITY
from autocompress.run.jobs import Shared
from autocompress.run.trials import Listener
from autocompress.search.explain import explain


def explained(shared: Shared, folder: Path, points: Sequence[Point], listener: Listener) -> Mapping[str, Explanation]:
    """The explanation of each point by its name; of none where a search measured no options alone.

    Ctrl-C keeps those that are ready.

    Args:
        shared: Of the run.
        folder: Of the run, with its table of options.
        points: The final front.
        listener: Is told of the progress.
    """
    file = folder / SENSITIVITY
    if not points or not file.is_file():
        return {}
    effects = Effects(shared.meter, file)
    options = effects.known_options()
    if options is None:
        return {}
    found: dict[str, Explanation] = {}
    try:
        for done, point in enumerate(points, 1):
            vector = shared.space.encode(point.plan)
            found[point.id] = explain(effects, options, vector, shared.context.dense.info.blocks)
            listener.step("points explained", done, len(points))
    except KeyboardInterrupt:
        listener.say("interrupted: the report explains the points that are ready")
    return found
