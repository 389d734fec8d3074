from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.fusion_rules import FUSIONS
from autocompress.core.kernel import DTYPES, OPS, Kernel
from autocompress.errors import InputError
from autocompress.graph.kernels import kernels
from autocompress.graph.trace import trace
from autocompress.targets import learning
from autocompress.targets.interpolate import interpolate, neighbours
from autocompress.targets.kernel_key import KernelKey
from autocompress.targets.law import FAMILIES, Law, Spread
from autocompress.targets.table import MAX_LINE_BYTES, Table, read_table, write_table
from autocompress.targets.table_row import COLUMNS, Measurement
from tests.nets import NETS, build

CONV = KernelKey("conv2d", "", "fp16", ((16, 32, 32), (24, 16, 16)), (24, 16, 16), (24, 16, 3, 3), (2, 2), (1, 1))
CONV = replace(CONV, fused=("add", "relu"))
SCALE = KernelKey("elementwise", "mul", "fp32", ((8, 4, 4), ()), (8, 4, 4))
TIME = Measurement(0.125, 0.25, 100, "board 1, quiet")
TABLE = Table({CONV: TIME, SCALE: Measurement(0.01, None, 1, 'a "mean"')})

LAW = Law(learning.PRIOR, learning.TILINGS["fp32"], {}, dict.fromkeys(FAMILIES, Spread(0.5, 2.0)))
LAWS = {"fp32": LAW, "int8": LAW}

HEADER = ",".join(COLUMNS)
ROW = {
    "op": "conv2d",
    "aten": "",
    "dtype": "fp32",
    "in_shapes": "16x32x32",
    "out_shape": "32x32x32",
    "weight_shape": "32x16x3x3",
    "window": "",
    "stride": "1x1",
    "dilation": "1x1",
    "groups": "1",
    "fused": "relu",
    "batch": "1",
    "p50_ms": "0.5",
    "p90_ms": "0.75",
    "n": "10",
    "source": "board",
}


def line(**changes: str) -> str:
    return ",".join((ROW | changes)[name] for name in COLUMNS)


def written(folder: Path, *lines: str) -> Path:
    path = folder / "latency.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_file_says_what_a_person_would_write(tmp_path: Path) -> None:
    path = tmp_path / "latency.csv"
    write_table(path, TABLE)
    assert path.read_text(encoding="utf-8").splitlines() == [
        "op,aten,dtype,in_shapes,out_shape,weight_shape,window,stride,dilation,"
        "groups,fused,batch,p50_ms,p90_ms,n,source",
        'conv2d,,fp16,16x32x32+24x16x16,24x16x16,24x16x3x3,,2x2,1x1,1,add+relu,1,0.125,0.25,100,"board 1, quiet"',
        'elementwise,mul,fp32,8x4x4+scalar,8x4x4,,,,,1,,1,0.01,,1,"a ""mean"""',
    ]
    assert read_table(path) == TABLE
    assert [one.name for one in tmp_path.iterdir()] == ["latency.csv"]


def test_the_order_of_columns_and_the_kind_of_line_ends_are_free(tmp_path: Path) -> None:
    turned = [",".join(reversed(text.split(","))) for text in (HEADER, line())]
    path = written(tmp_path, *turned)
    expected = read_table(path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_table(path) == expected == read_table(written(tmp_path, HEADER, line()))


SIZES = st.lists(st.integers(1, 10**9), min_size=1, max_size=8).map(tuple)
SHAPES = st.one_of(st.just(()), SIZES)
NAMES = st.from_regex(r"[a-z_0-9]{1,20}", fullmatch=True)
TIMES = st.floats(1e-9, 1e9)
KEYS = st.builds(
    KernelKey,
    op=st.sampled_from([op for op in OPS if not op.startswith(("conv", "linear", "matmul", "embedding"))]),
    aten=st.one_of(st.just(""), NAMES),
    dtype=st.sampled_from(DTYPES),
    in_shapes=st.lists(SHAPES, max_size=4).map(tuple),
    out_shape=SHAPES,
    weight_shape=st.none(),
    stride=st.one_of(st.just(()), SIZES),
    dilation=st.one_of(st.just(()), SIZES),
    groups=st.integers(1, 10**9),
    fused=st.lists(NAMES, max_size=4).map(tuple),
    batch=st.integers(1, 10**9),
)
SOURCES = st.text(min_size=1, max_size=200).filter(str.isprintable)


SIDES = st.tuples(st.integers(1, 10**9), st.integers(1, 10**9))


@st.composite
def convolutions(draw: st.DrawFn) -> KernelKey:
    """Of any legal shape, up to absurd ones."""
    groups, inputs, outputs = (draw(st.integers(1, 10**4)) for _ in range(3))
    weight = (outputs * groups, inputs, *draw(SIDES))
    source, out = (inputs * groups, *draw(SIDES)), (outputs * groups, *draw(SIDES))
    stride, fused = draw(st.one_of(st.just(()), SIZES)), draw(st.lists(NAMES, max_size=4).map(tuple))
    return KernelKey("conv2d", "", "fp32", (source,), out, weight, stride, (1, 1), groups, fused)


@st.composite
def measurements(draw: st.DrawFn) -> Measurement:
    p50_ms, other_ms = sorted((draw(TIMES), draw(TIMES)))
    p90_ms = draw(st.sampled_from([None, other_ms]))
    return Measurement(p50_ms, p90_ms, draw(st.integers(1, 10**9)), draw(SOURCES))


@given(st.dictionaries(st.one_of(KEYS, convolutions()), measurements(), min_size=1, max_size=5))
def test_what_is_written_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[KernelKey, Measurement]
) -> None:
    path = tmp_path_factory.mktemp("table") / "latency.csv"
    write_table(path, Table(rows))
    assert read_table(path) == Table(rows)


@given(key=st.one_of(KEYS, convolutions()), measurement=measurements())
def test_whatever_a_table_may_hold_can_be_interpolated(key: KernelKey, measurement: Measurement) -> None:
    known = neighbours(Table({key: measurement}), LAWS)
    found = interpolate(known, key.kernel(), key.dtype)
    if found is not None and key.batch == 1:
        assert found.ms == pytest.approx(measurement.p50_ms, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"op": "conv2"}, r"op is 'conv2'; did you mean 'conv2d'"),
        ({"dtype": "fp8"}, r"dtype is 'fp8'; did you mean 'fp32', 'fp16'"),
        ({"aten": "add+mul"}, r"aten is 'add\+mul'; allowed: one operator"),
        ({"aten": "a b"}, r"aten is 'a b'"),
        ({"fused": "relu+"}, r"fused is 'relu\+'; allowed: names joined by \+"),
        ({"in_shapes": "16x32x"}, r"in_shapes has '16x32x'"),
        ({"in_shapes": "16x32x32+"}, r"in_shapes has ''"),
        ({"in_shapes": "016x32x32"}, r"in_shapes has '016x32x32'"),
        ({"in_shapes": ""}, r"in_shapes is empty; a conv2d reads a tensor"),
        ({"out_shape": ""}, r"out_shape has ''"),
        ({"out_shape": "32x32"}, r"have 3 and 2 sizes; a conv2d has 3"),
        ({"weight_shape": "32x0x3x3"}, r"weight_shape has '32x0x3x3'"),
        ({"weight_shape": ""}, r"weight_shape has 0 sizes; a conv2d has 4"),
        ({"weight_shape": "32x8x3x3"}, r"takes 8 channels to 32; in_shapes and out_shape are 16x32x32 and 32x32x32"),
        ({"op": "pool"}, r"weight_shape has 4 sizes; a pool has 0"),
        ({"op": "matmul", "weight_shape": "", "in_shapes": "scalar"}, r"in_shapes is empty; a matmul reads tensors"),
        ({"op": "linear", "weight_shape": "32x32", "in_shapes": "scalar"}, r"are scalar and 32x32x32"),
        ({"stride": "0x1"}, r"stride has '0x1'"),
        ({"groups": "0"}, r"groups is '0'; allowed: a whole number of 1 or more"),
        ({"batch": "1.0"}, r"batch is '1\.0'"),
        ({"p50_ms": "-1"}, r"p50_ms is -1\.0; allowed: 1e-09 to 1e\+09"),
        ({"p50_ms": "0"}, r"p50_ms is 0\.0"),
        ({"p50_ms": "nan"}, r"p50_ms is nan"),
        ({"p90_ms": "inf"}, r"p90_ms is inf"),
        ({"p90_ms": "1e999"}, r"p90_ms is inf"),
        ({"p50_ms": ""}, r"p50_ms is ''; allowed: a number"),
        ({"p90_ms": "0.25"}, r"p90_ms is 0\.25; allowed: p50_ms \(0\.5\) or more"),
        ({"n": "0"}, r"n is '0'"),
        ({"n": "9" * 5000}, r"n is '9{50}\.\.\.'"),
        ({"source": ""}, r"source is ''; allowed: one line of 1 to 200"),
        ({"source": "x" * 201}, r"source is 'x{50}\.\.\.'"),
        ({"source": "a\tb"}, r"source is 'a\\tb'"),
        ({"source": '"open'}, r"unexpected end of data"),
        ({"source": "a,b"}, r"has 17 fields; the header names 16"),
        ({"source": "x" * MAX_LINE_BYTES}, r"the line has \d+ bytes; allowed: up to 8192"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    path = written(tmp_path, HEADER, line(batch="2"), line(**changes))
    with pytest.raises(InputError, match=message) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty; its first line must be op,"),
        (HEADER.encode(), r"holds no row"),
        (HEADER.replace("dtype", "dtyp").encode(), r":1: column 'dtyp' is unknown; did you mean 'dtype'"),
        (HEADER.removesuffix(",source").encode(), r":1: column 'source' is missing"),
        ((HEADER + ",op").encode(), r":1: column 'op' stands twice"),
        (f"{HEADER}\n{line()}\n{line()}\n".encode(), r":3: the kernel of line 2 stands here again"),
        (f"{HEADER}\n\n{line()}\n".encode(), r":2: has 0 fields"),
        (f"{HEADER}\n".encode() + b"\xff\xfe", r":2: 'utf-8' codec can't decode"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "latency.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"latency\.csv cannot be read: No such file"):
        read_table(tmp_path / "latency.csv")
    with pytest.raises(InputError, match="is not a file"):
        read_table(tmp_path)
    with pytest.raises(InputError, match=r"cannot be written: No such file"):
        write_table(tmp_path / "missing" / "latency.csv", TABLE)


@given(st.binary(max_size=300))
def test_no_bytes_bring_the_reader_down(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("table") / "latency.csv"
    path.write_bytes(f"{HEADER}\n".encode() + content)
    with pytest.raises(InputError):
        read_table(path)


def test_nothing_is_written_that_could_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "latency.csv"
    write_table(path, TABLE)
    wrong = [
        replace(CONV, weight_shape=None),
        replace(SCALE, aten="<lambda>"),
        replace(SCALE, in_shapes=((1, 2),) * 3000),
    ]
    for key in wrong:
        with pytest.raises(InputError):
            write_table(path, Table({key: TIME}))
    assert read_table(path) == TABLE
    assert [one.name for one in tmp_path.iterdir()] == ["latency.csv"]


def test_new_measurements_take_the_place_of_old_ones() -> None:
    newer = replace(TIME, p50_ms=0.2)
    merged = TABLE.merged(Table({CONV: newer}))
    assert merged.lookup(CONV) == newer
    assert merged.lookup(SCALE) == TABLE.lookup(SCALE)
    assert TABLE.lookup(CONV) == TIME
    assert TABLE.lookup(replace(CONV, batch=2)) is None


def test_a_key_holds_what_decides_the_time_and_nothing_else() -> None:
    conv = Kernel(
        *("conv2d", "a.conv", "fp32", ((8, 4, 4),), (8, 4, 4), (8, 8, 3, 3), (1, 1), (1, 1), 1),
        *(("batch_norm", "relu6", "add"), 8 * 8 * 9 * 16, "conv2d"),
    )
    key = KernelKey.of(conv, "int8")
    assert (key.aten, key.dtype, key.fused) == ("", "int8", ("clamp", "add"))
    assert key == KernelKey.of(replace(conv, layer="b", fused=("clamp", "add")), "int8")
    for changes in ({"stride": (2, 2)}, {"dilation": (2, 2)}, {"groups": 2}, {"fused": ()}, {"in_shapes": ()}):
        assert KernelKey.of(replace(conv, **changes), "int8") != key
    assert KernelKey.of(conv, "int8", batch=2) != key
    relu, gelu = (Kernel("elementwise", "x", "fp32", ((8,),), (8,), aten=aten) for aten in ("relu", "gelu"))
    assert KernelKey.of(relu, "fp32") != KernelKey.of(gelu, "fp32")


@pytest.mark.parametrize("name", NETS)
def test_the_keys_of_real_nets_survive_a_file_and_know_their_work(name: str, tmp_path: Path) -> None:
    model, inputs = build(name)
    found = kernels(trace(model, tuple(torch.cat([x, x]) for x in inputs)), FUSIONS["onnxruntime"])
    keys = {KernelKey.of(kernel, kernel.dtype): kernel for kernel in found}
    path = tmp_path / "latency.csv"
    write_table(path, Table(dict.fromkeys(keys, TIME)))
    assert set(read_table(path).rows) == set(keys)
    for key, kernel in keys.items():
        assert key.kernel().macs == kernel.macs, key
        assert KernelKey.of(key.kernel(), key.dtype) == key
