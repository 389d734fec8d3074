"""The output of ncnn's `benchncnn`: one line for each model.

Source: https://github.com/Tencent/ncnn, benchmark/benchncnn.cpp, function `benchmark`.
"""

from __future__ import annotations

import re
from pathlib import Path

from autocompress.errors import InputError
from autocompress.targets.importers.result import Imported, ModelTime, source_of

_TIME = r"\s*(\d{1,12}(?:\.\d{1,12})?)"
_MODEL = re.compile(rf"\s*(\S{{1,100}})\s+min ={_TIME}\s+max ={_TIME}\s+avg ={_TIME}\s*")
_LOOPS = re.compile(r"\s*loop_count = (\d{1,9})\s*")

# The models of benchncnn whose layers are those of a published network, and the side of their images there. Others (its
# AlexNet, ShuffleNets, MobileNetV1 and V3) are of other authors or widths.
NETWORKS = {
    "squeezenet": ("squeezenet1_1", 227),
    "mobilenet_v2": ("mobilenet_v2", 224),
    "resnet18": ("resnet18", 224),
    "resnet50": ("resnet50", 224),
    "vgg16": ("vgg16", 224),
}
INT8 = "_int8"


def read_ncnn(path: Path, text: str) -> Imported:
    """Reads the times of whole models; what else a shell or a driver printed is passed over.

    Raises:
        InputError: a line of a model is not whole, a time is 0, a model stands twice, or there is none.
    """
    loops: int | None = None
    models: dict[str, ModelTime] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if stated := _LOOPS.fullmatch(line):
            loops = int(stated[1]) or None
        if not looks_like_ncnn(line):
            continue
        found = _MODEL.fullmatch(line)
        if found is None:
            raise InputError(f"{path}:{number}: is {line[:80]!r}; allowed: name  min = 6.74  max = 7.02  avg = 6.81")
        name, (least, most, mean) = found[1], map(float, found.groups()[1:])
        if not 0.0 < least <= mean <= most:
            raise InputError(f"{path}:{number}: min, avg, max are {least}, {mean}, {most}; allowed: rising, above 0")
        if name in models:
            raise InputError(f"{path}:{number}: {name!r} stands twice; give each run of benchncnn a file of its own")
        models[name] = ModelTime(name, least, mean, most, loops)
    if not models:
        raise InputError(f"{path}: holds no line such as 'squeezenet  min = 6.74  max = 7.02  avg = 6.81'")
    return Imported("ncnn", source_of("benchncnn", path.name), models=tuple(models.values()))


def looks_like_ncnn(text: str) -> bool:
    """True if a line of a model is in the text."""
    return re.search(r"\smin =", text) is not None
