import json
import math
import random
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from autocompress.core.explanation import Choice, Explanation, Left, Relaxed
from autocompress.core.fusion_rules import FUSIONS
from autocompress.core.kernel import Kernel
from autocompress.core.metric import Metric
from autocompress.core.target import KernelEstimate, LatencyEstimate, Precision, Profile
from autocompress.emit.charts import Axis, Mark, format_number, format_tick, format_value, front_steps, front_svg, ticks
from autocompress.emit.report import findings, render_report
from autocompress.emit.report_data import (
    TRIAL_STATES,
    LayerRow,
    PointRow,
    ReportData,
    TaskInfo,
    TrialRow,
    load_report_data,
    save_report_data,
)
from autocompress.errors import InputError

PROFILE = Profile(
    name="jetson-nano",
    title="NVIDIA Jetson Nano (Maxwell, 4 GB)",
    runtime="tensorrt",
    fusion=FUSIONS["tensorrt"],
    runtime_version="8.2",
    opset=13,
    default_precision="fp16",
    precisions=(
        Precision("fp32", True, "fp32", "CUDA compute capability 5.3"),
        Precision("fp16", True, "fp16", "CUDA compute capability 5.3"),
        Precision("int8", False, "fp16", "TensorRT support matrix: no int8 on compute capability 5.3"),
    ),
    memory_bytes=4_000_000_000,
    measured=False,
    how_to_run=(
        "trtexec --onnx={onnx} --fp16 --saveEngine=model.plan",
        "trtexec --loadEngine=model.plan --iterations=200",
    ),
    sources=(("bandwidth", "NVIDIA Jetson Nano data sheet, 25.6 GB/s"),),
    notes=("Latency is read from a law, not measured on this device: intervals are wide.",),
)


def layer_names(count: int) -> list[str]:
    blocks = (f"layer{1 + i // 6}.{i % 6 // 2}.conv{1 + i % 2}" for i in range(count - 2))
    return ["conv1", *(name if i < 18 else f"stage{i}.{name}" for i, name in enumerate(blocks)), "fc"]


def layers(rng: random.Random, hardness: float, count: int) -> tuple[LayerRow, ...]:
    rows = []
    for index, name in enumerate(layer_names(count)):
        channels = 16 * 2 ** min(5, 3 * index // count)
        dropped = index not in (0, count - 1) and rng.random() < 0.06 * hardness
        cut = rng.choice((0.0, 0.125, 0.25, 0.5)) * hardness
        kept = 0 if dropped else max(1, round(channels * (1 - cut)))
        bits = rng.choice((16, 8, 8, 6, 4, 4, 3) if hardness > 0.5 else (None, 16, 8, 8, 6))
        macs = channels * channels * 9 * 1024 // 4 ** min(2, 3 * index // count)
        zeros = rng.choice((0.0, 0.0, 0.0, 0.5))
        what = ["dropped"] if dropped else [f"{kept} of {channels} channels"] if kept < channels else []
        what += [f"{bits} bit weights" if bits and not dropped else ""] + (
            ["50 % zeros"] if zeros and not dropped else []
        )
        rows.append(
            LayerRow(
                layer=name,
                op="linear" if name == "fc" else "conv2d",
                channels_before=channels,
                channels_after=kept,
                macs_before=macs,
                macs_after=round(macs * kept / channels),
                w_bits=bits,
                a_bits=rng.choice((8, None)) if bits else None,
                sparsity=0.0 if dropped else zeros,
                rank=f"{channels // 4} of {channels}" if rng.random() < 0.08 else "",
                bytes=round(kept * channels * 9 * (bits or 16) / 8),
                latency_ms=0.01 + 0.2 * rng.random() * kept / channels,
                what=", ".join(part for part in what if part) or "nothing",
            )
        )
    return tuple(rows)


def metrics(quality: str, unit: str, value: float, size: float, ms: float, spread: float = 0.16) -> dict[str, Metric]:
    noise = 0.25 if unit == "percent" else 0.01 * abs(value)
    return {
        quality: Metric(value, value - noise, value + noise, "measured", unit),
        "size_bytes": Metric.exact(round(size), "bytes"),
        "latency_ms": Metric(ms, ms * (1 - spread), ms * (1 + spread), "interpolated", "ms"),
        "macs": Metric.exact(round(40.8e6 * ms / 12.6), "macs"),
        "peak_memory_bytes": Metric.exact(round(120_000 + 60_000 * ms), "bytes"),
    }


def estimate(rng: random.Random, ms: float, rows: tuple[LayerRow, ...]) -> LatencyEstimate:
    table = 0.3 + 0.4 * rng.random()
    kernels = []
    for row in rows:
        kernel = Kernel(row.op, row.layer, "fp16", ((16, 32, 32),), (16, 32, 32), (16, 16, 3, 3), macs=row.macs_after)
        flag = "shape outside the table: computed from the law" if rng.random() < 0.1 else None
        share = ms / len(rows)
        kernels.append(KernelEstimate(kernel, share, 0.8 * share, 1.2 * share, "analytic" if flag else "table", flag))
    coverage = {"table": table, "interpolated": 0.9 - table, "analytic": 0.1}
    return LatencyEstimate(ms, 0.84 * ms, 1.16 * ms, coverage, tuple(kernels), "fp16")


def trial(rng: random.Random, number: int, quality: str, unit: str, sign: int, dense: float) -> TrialRow:
    hardness = rng.random()
    name = f"prune {hardness:.2f}, {rng.choice((3, 4, 6, 8))} bit weights"
    state = rng.choices(("complete", "infeasible", "stopped", "failed"), (8, 2, 1, 0.4))[0]
    all_metrics = metrics(
        quality,
        unit,
        dense - sign * abs(dense) * (0.02 + 0.2 * hardness**3),
        1.09e6 * (1 - 0.9 * hardness),
        12 - 9 * hardness,
    )
    if state == "complete":
        fidelity = "short" if number % 3 else "untrained"
        return TrialRow(number, name, state, fidelity, all_metrics, 20 + 30 * rng.random(), on_front=rng.random() < 0.2)
    all_metrics.pop(quality)
    error = (
        "latency 11.9 ms is above the constraint latency<=10ms"
        if state == "infeasible"
        else "loss is not finite in epoch 1"
    )
    return TrialRow(number, name, state, "cost", all_metrics, 0.2, error)


def sample(
    points: int = 9,
    trials: int = 50,
    layer_count: int = 20,
    task: TaskInfo | None = None,
    dense: float = 92.6,
    seed: int = 0,
) -> ReportData:
    rng = random.Random(seed)
    task = task or TaskInfo(
        "CIFAR-10 with ResNet-20",
        "accuracy",
        "percent",
        True,
        (
            "train: 45,000 images, used to fine-tune",
            "calibration: 512 images of train, used for quantization ranges",
            "validation: 5,000 images held out of train, used to choose plans",
            "test: 10,000 images, used once for the numbers in this report",
        ),
    )
    sign = 1 if task.higher_is_better else -1
    unit = abs(dense) / 92.6
    rows, latency = [], {}
    for index in range(points):
        t = index / max(1, points - 1)
        made = layers(rng, 0.2 + 0.8 * t, layer_count)
        value = dense - sign * unit * (-0.3 + 7 * t**2.6 + 0.2 * rng.random())
        ms = 9.4 - 6.2 * t + 0.5 * rng.random()
        name = f"p{index:02d}"
        size = 1.09e6 / (2.1 * math.exp(2.4 * t))
        rows.append(
            PointRow(
                id=name,
                trial=rng.randrange(max(1, trials)),
                label=f"{rng.randrange(8, 60)} % of channels cut, {rng.choice((3.1, 4.2, 5.6))} bit weights on average",
                fidelity="full",
                metrics=metrics(task.metric, task.unit, value, size, ms),
                layers=made,
                student="without layer2.1" if t > 0.6 else "",
                files={
                    "model.onnx": round(size),
                    "weights.safetensors": round(size * 1.02),
                    "archive.acz": round(size * 0.81),
                },
                agreement={"max_abs_error": 0.0021 * (1 + t), "cosine": 0.999991, "top1_agreement": 0.9994},
            )
        )
        if index == 0:
            rows[0] = replace(
                rows[0], metrics={**rows[0].metrics, "latency_ms": Metric(ms, ms - 0.1, ms + 0.1, "measured", "ms")}
            )
        latency[name] = estimate(rng, ms, made) if index else None
    baselines = (
        PointRow("dense", None, "dense fp16", "full", metrics(task.metric, task.unit, dense, 1.09e6, 12.6)),
        PointRow(
            "w8", None, "uniform 8 bit", "full", metrics(task.metric, task.unit, dense - sign * 0.1 * unit, 2.8e5, 12.6)
        ),
        PointRow(
            "w4",
            None,
            "uniform 4 bit",
            "full",
            metrics(task.metric, task.unit, dense - sign * 2.4 * unit, 1.42e5, 12.6),
        ),
        PointRow(
            "half",
            None,
            "half the channels",
            "full",
            metrics(task.metric, task.unit, dense - sign * 3.6 * unit, 2.9e5, 5.9),
        ),
    )
    broken = PointRow(
        "p99",
        17,
        "71 % of channels cut, 2 bit",
        "full",
        metrics(task.metric, task.unit, dense / 2, 6e4, 3.0),
        reason="top-1 agreement with the PyTorch model is 0.41; at least 0.99 is needed",
    )
    return ReportData(
        title="ResNet-20 on CIFAR-10 for Jetson Nano",
        command="autocompress search --task cifar10-resnet20 --target jetson-nano --budget 50 --seed 0",
        task=task,
        target=PROFILE,
        precision="fp16",
        seed=0,
        versions={
            "autocompress": "0.1.0",
            "torch": "2.13.0",
            "onnxruntime": "1.31.0",
            "python": "3.11.7",
            "git": "589742b",
        },
        started="2026-03-04T10:12:00+00:00",
        wall_seconds=5025.0,
        objectives=(task.metric, "size_bytes", "latency_ms"),
        constraints=("latency<=10ms", f"{task.metric}>=-8.0"),
        space="cnn-joint",
        decisions=2 * layer_count + 7,
        plans=7**layer_count * 5**layer_count * 96,
        baselines=baselines,
        points=tuple(rows),
        failed=(broken,) if points else (),
        trials=tuple(trial(rng, number, task.metric, task.unit, sign, dense) for number in range(trials)),
        untouched=(
            ("conv1", "reads the image; 3 input channels"),
            ("fc", "its outputs are the classes"),
            ("bn1", "folded into its convolution"),
            ("layer1.0.bn1", "folded into its convolution"),
        ),
        latency=latency,
        fidelity_correlations={"untrained to short": 0.71, "short to full": 0.93},
    )


class Page(HTMLParser):
    """Collects tags, attributes and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.seen: list[str] = []
        self.raw = ""
        self.feed(text)
        self.text = " ".join(" ".join(self.seen).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.raw = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self.raw = ""

    def handle_data(self, data):
        if not self.raw:
            self.seen.append(data)


def payload(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


IOU = TaskInfo("Carvana with a U-Net", "IoU", "", True)
LOSS = TaskInfo("language model", "loss", "nats", False)


@pytest.mark.parametrize(
    "data",
    [
        sample(),
        sample(points=0, trials=0),
        sample(points=1, trials=3),
        sample(points=20, trials=500, layer_count=150),
        sample(task=IOU, dense=0.871),
        sample(task=LOSS, dense=2.31),
        replace(sample(points=2, trials=4), baselines=(), latency={}, fidelity_correlations=None),
    ],
    ids=["usual", "empty", "one point", "large", "IoU", "loss", "no baseline"],
)
def test_renders_and_needs_no_network(data):
    text = render_report(data)
    page = Page(text)
    assert data.title in page.text
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "base", "object", "embed")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_numbers_shown_equal_the_data():
    data = sample()
    text = render_report(data)
    page, drawn = Page(text), payload(text)
    for row in (*data.baselines, *data.points):
        shown = next(each for each in drawn["rows"] if each["id"] == row.id)
        assert shown["metrics"] == {name: [m.value, m.low, m.high] for name, m in row.metrics.items()}
        for metric in row.metrics.values():
            assert format_value(metric.value, metric.unit) in page.text
        latency = row.metrics["latency_ms"]
        interval = f"[{format_number(latency.low)}, {format_number(latency.high)}]"
        assert f"{interval} {latency.origin}" in page.text
        assert [each["bytes"] for each in shown["layers"]] == [each.bytes for each in row.layers]
        for name, size in row.files.items():
            assert f"{name} {format_value(size, 'bytes')}" in page.text
    states = [trial.state for trial in data.trials]
    assert ", ".join(f"{states.count(state)} {state}" for state in TRIAL_STATES if state in states) in page.text
    assert [(t["number"], t["state"]) for t in drawn["trials"]] == [(t.number, t.state) for t in data.trials]
    for said in (*data.task.splits, *data.constraints, *data.versions.values(), data.command, *PROFILE.notes):
        assert said in page.text


def test_failed_artifacts_are_loud_and_not_on_the_front():
    text = render_report(sample())
    page = Page(text)
    assert "1 artifact failed verification" in page.text
    assert "top-1 agreement with the PyTorch model is 0.41" in page.text
    assert page.text.index("failed verification") < page.text.index("Smallest within")
    assert "p99" not in [row["id"] for row in payload(text)["rows"]]


def test_a_resumed_run_is_not_said_to_have_taken_what_its_last_stretch_did():
    data = sample(points=1, trials=3)
    assert "in 1 h 23 min, 1 verified" in Page(render_report(data)).text
    text = Page(render_report(replace(data, resumed="2026-03-06T08:00:00+00:00"))).text
    assert "in 1 h 23 min" not in text
    started = "Started 2026-03-04T10:12:00+00:00; resumed 2026-03-06T08:00:00+00:00, 1 h 23 min since then."
    assert started in text


def test_unfinished_trials_say_why():
    data = sample()
    page = Page(render_report(data))
    for each in data.trials:
        if each.error:
            assert each.error in page.text
    assert "int8 runs as fp16 here: smaller, not faster." in page.text


HOSTILE = "</script><img src=x onerror=alert(1)>\"'&<b>{{ 7 * 7 }}\u2028"


def test_hostile_names_stay_text():
    data = sample(points=3, trials=4)
    evil = replace(data.points[0].layers[0], layer=HOSTILE, what=HOSTILE, rank=HOSTILE)
    point = replace(data.points[0], id=HOSTILE, label=HOSTILE, student=HOSTILE, layers=(evil,), files={HOSTILE: 1})
    data = replace(
        data,
        title=HOSTILE,
        command=HOSTILE,
        points=(point, *data.points[1:]),
        failed=(replace(point, reason=HOSTILE),),
        trials=(TrialRow(0, HOSTILE, "failed", "cost", {}, 0.1, HOSTILE), *data.trials),
        untouched=((HOSTILE, HOSTILE),),
        versions={HOSTILE: HOSTILE},
        task=replace(data.task, name=HOSTILE, splits=(HOSTILE,)),
        target=replace(PROFILE, title=HOSTILE, notes=(HOSTILE,), how_to_run=(HOSTILE,)),
    )
    text = render_report(data)
    page = Page(text)
    assert "img" not in [tag for tag, _ in page.tags]
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "{{ 7 * 7 }}" in page.text
    shown = payload(text)["rows"][len(data.baselines)]
    assert (shown["id"], shown["layers"][0]["layer"]) == (HOSTILE, HOSTILE)


def test_script_builds_no_markup_from_text():
    script = render_report(sample(points=1, trials=1)).rsplit("<script>", 1)[1]
    for call in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "XMLHttpRequest"):
        assert call not in script


def test_findings_name_the_best_points():
    data = sample()
    smallest, fastest, best = findings(data)
    dense = data.baselines[0].metrics
    near = [row for row in data.points if row.metrics["accuracy"].value >= dense["accuracy"].value - 1]
    least = min(near, key=lambda row: row.metrics["size_bytes"].value)
    assert smallest.point == least.id
    times = dense["size_bytes"].value / least.metrics["size_bytes"].value
    assert smallest.big == f"{format_number(times, 2 if times < 10 else 3)}× smaller"
    assert fastest.point == min(near, key=lambda row: row.metrics["latency_ms"].value).id
    assert best.point == max(data.points, key=lambda row: row.metrics["accuracy"].value).id


def test_findings_say_when_nothing_is_near_and_when_a_baseline_wins():
    data = sample()
    assert findings(replace(data, points=data.points[-1:]))[0].big == "none"
    said = " ".join(findings(replace(data, points=data.points[:1]))[0].lines)
    assert "It does better than the search." in said


def test_findings_do_not_claim_speed_inside_the_interval():
    data = sample()
    slow = replace(data.points[0], metrics=metrics("accuracy", "percent", 92.5, 4e5, 12.0))
    fastest = findings(replace(data, points=(slow,)))[1]
    assert "Not clearly faster: the two intervals overlap." in fastest.lines


def test_lower_is_better_picks_the_lowest_loss():
    data = sample(task=LOSS, dense=2.31)
    best = findings(data)[-1]
    assert best.point == min(data.points, key=lambda row: row.metrics["loss"].value).id
    assert data.quality == "loss"
    assert not data.higher_is_better("loss")
    assert "within 1 % of the dense loss" in findings(data)[0].title


@pytest.mark.parametrize("data", [sample(), sample(points=0, trials=0), sample(task=IOU, dense=0.871)])
def test_json_round_trip(tmp_path, data):
    path = tmp_path / "report.json"
    save_report_data(path, data)
    again = load_report_data(path)
    assert again == data
    assert render_report(again) == render_report(data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version 2"),
        ({"seed": "0"}, "report.seed is '0'"),
        ({"objectivs": []}, "unknown key 'objectivs'"),
        ({"points": [{"id": "p"}]}, r"report.points\[0\] has no 'trial'"),
        ({"trials": {}}, "report.trials is {}"),
    ],
)
def test_wrong_data_is_named(change, said):
    with pytest.raises(InputError, match=said):
        ReportData.from_dict(sample(points=1, trials=1).to_dict() | change)


def test_unreadable_file_is_named(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("{")
    with pytest.raises(InputError, match=r"report\.json cannot be read"):
        load_report_data(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_report_data(tmp_path / "none.json")


def test_unknown_trial_state_is_refused():
    with pytest.raises(InputError, match="did you mean 'complete'"):
        TrialRow(0, "", "completed", "short", {}, 1.0)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (117_200, "bytes", "117 kB"),
        (912, "bytes", "912 B"),
        (40.81e6, "macs", "40.8 M"),
        (14.2349, "ms", "14.2 ms"),
        (0.01234, "ms", "0.0123 ms"),
        (91.254, "percent", "91.25 %"),
        (0.8712, "", "0.871"),
        (0, "count", "0"),
    ],
)
def test_format_value(value, unit, text):
    assert format_value(value, unit) == text


def test_ticks_are_round_and_inside():
    assert ticks(88.2, 92.9) == (89, 90, 91, 92)
    assert ticks(3e4, 1.2e6, log=True) == (5e4, 1e5, 2e5, 5e5, 1e6)
    assert ticks(5, 5) == (5,)
    assert format_tick(200_000, "bytes") == "200 kB"


def test_front_steps_skip_what_is_dominated():
    assert front_steps([(1, 90), (2, 89), (3, 92)], False, True) == ((1, 90), (3, 90), (3, 92))
    assert front_steps([(1, 0.9), (2, 0.5)], False, False) == ((1, 0.9), (2, 0.9), (2, 0.5))
    assert front_steps([], False, True) == ()


def test_front_svg_is_well_formed_and_escapes():
    data = sample(points=3)
    marks = [Mark(row.metrics["size_bytes"], row.metrics["accuracy"], HOSTILE) for row in data.points]
    marks.append(Mark(data.baselines[0].metrics["size_bytes"], data.baselines[0].metrics["accuracy"], "dense", "dense"))
    root = ElementTree.fromstring(
        front_svg(marks, Axis("size", "bytes", False, True), Axis("accuracy", "percent", True), "<t>")
    )
    assert len(root.findall(".//{*}circle")) == 3
    assert [path for path in root.iter() if path.get("class") == "dense"]
    assert "no verified point" in front_svg([], Axis("a", "", False), Axis("b", "", True))


def test_names_of_baselines_lie_on_no_mark_and_on_no_other_name():
    def at(size, accuracy, label, kind):
        return Mark(Metric.exact(size, "bytes"), Metric.exact(accuracy, "percent"), label, kind)

    # One that is on the front of the uniform plans, with others behind it at the same accuracy, as on an easy task.
    marks = [at(1000.0, 99.0, "dense", "dense"), at(30.0, 98.8, "one block left, w4", "uniform")]
    marks += [at(size, 98.8, "beaten", "uniform") for size in (40.0, 50.0, 60.0, 70.0, 80.0)]
    marks += [
        at(100.0, 98.9, "prune 0.5, w4", "uniform"),
        at(20.0, 98.7, "rank 0.5", "uniform"),
        at(25.0, 98.78, "t1", "point"),
    ]
    root = ElementTree.fromstring(
        front_svg(marks, Axis("size", "bytes", False, True), Axis("accuracy", "percent", True))
    )
    names = [text for text in root.iter() if text.get("class") == "name"]
    assert [name.text for name in names] == ["dense", "one block left, w4", "prune 0.5, w4", "rank 0.5"]
    boxes = []
    for name in names:
        x, y, wide = float(name.get("x")), float(name.get("y")), 6.0 * len(name.text)
        boxes.append((x - wide, x, y) if name.get("text-anchor") == "end" else (x, x + wide, y))
    squares = [(float(r.get("x")), float(r.get("y"))) for r in root.iter() if r.get("class") == "uniform"]
    for index, (left, right, y) in enumerate(boxes):
        assert not [1 for a, b in squares if left < a + 10 and a < right and b < y and y - 9 < b + 10]
        assert not [1 for a, b, other in boxes[:index] if left < b and a < right and abs(y - other) < 10]


def test_draw_front_draws_points_and_baselines(tmp_path, monkeypatch):
    import runpy
    import sys
    from pathlib import Path

    data = sample(points=4)
    save_report_data(tmp_path / "report.json", data)
    svg = tmp_path / "front.svg"
    script = Path(__file__).parents[2] / "scripts" / "draw_front.py"
    for least, shown in ((0.0, len(data.baselines)), (1000.0, 0)):
        words = ["draw_front.py", str(tmp_path), str(svg), "--log", "--x", "latency_ms", "--least", str(least)]
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(str(script), run_name="__main__")
        root = ElementTree.fromstring(svg.read_text())
        assert len(root.findall(".//{*}circle")) == 4
        squares = [node for node in root.iter() if node.get("class") == "uniform"]
        diamonds = [node for node in root.iter() if node.get("class") == "dense"]
        assert len(squares) + len(diamonds) == shown


def test_uniform_plans_that_lose_far_more_than_the_points_are_told_and_not_drawn():
    data = sample(points=4)
    useless = replace(data.baselines[1], id="u", label="everything at once")
    metrics_ = {**useless.metrics, data.quality: replace_value(useless.metrics[data.quality], 10.0)}
    data = replace(data, baselines=(*data.baselines, replace(useless, metrics=metrics_)))
    page = render_report(data)
    drawn = payload(page)
    assert "everything at once" not in [row["label"] for row in drawn["rows"]]
    assert {"dense fp16", "uniform 8 bit"} <= {row["label"] for row in drawn["rows"]}
    assert "Not drawn, for losing over twice as much as the worst point: everything at once." in page
    # It keeps its line in the table.
    assert page.count("everything at once") == 2
    assert payload(render_report(replace(data, points=())))["rows"][-1]["label"] == "everything at once"


def test_sizes_that_spread_far_are_drawn_on_a_logarithm():
    data = sample(points=4)
    assert payload(render_report(data))["wide"] == ["size_bytes"]
    large = Metric.exact(5e5, "bytes")
    near = tuple(replace(row, metrics={**row.metrics, "size_bytes": large}) for row in data.points)
    assert payload(render_report(replace(data, points=near)))["wide"] == []


def replace_value(metric: Metric, value: float) -> Metric:
    return replace(metric, value=value, low=value, high=value)


WHY = Explanation(
    (Choice("prune:conv1</script>", "prune 0.5", 0.012, {"size_bytes": 0.21, "latency_ms": -0.01, "macs": 0.3}),),
    (Relaxed("size_bytes", 0.4, ("prune:conv1</script>",), 0.012),),
    (Left("shape:fc", "none of its options saves bytes, time or work on this target"),),
)


def test_a_point_is_explained_where_its_options_were_measured(tmp_path):
    plain = sample(points=2, trials=4)
    data = replace(plain, points=(replace(plain.points[0], why=WHY), *plain.points[1:]))
    text = render_report(data)
    rows = {row["id"]: row for row in payload(text)["rows"] if row["kind"] == "point"}
    told = rows[data.points[0].id]["why"]
    assert told["choices"][0]["saves"]["latency_ms"] == -0.01
    assert told["relaxed"][0]["taken_back"] == ["prune:conv1</script>"]
    assert told["left"] == [{"decision": "shape:fc", "why": WHY.left[0].why}]
    assert rows[data.points[1].id]["why"] is None
    assert "autocompress explain RUN" not in Page(text).text
    assert "autocompress explain RUN --point ID" in Page(render_report(plain)).text
    save_report_data(tmp_path / "report.json", data)
    assert load_report_data(tmp_path / "report.json") == data


def test_a_report_of_before_there_were_explanations_is_read(tmp_path):
    plain = sample(points=2, trials=4)
    written = plain.to_dict()
    for row in (*written["baselines"], *written["points"], *written["failed"]):
        del row["why"]
    (tmp_path / "report.json").write_text(json.dumps(written))
    assert load_report_data(tmp_path / "report.json") == plain


def test_where_no_point_is_faster_the_headline_says_so():
    data = sample(points=1, trials=3)
    dense = next(row for row in data.baselines if row.id == "dense")
    slow = replace(data.points[0], metrics={**dense.metrics, "latency_ms": Metric(30.0, 24.0, 36.0, "analytic", "ms")})
    fastest = next(one for one in findings(replace(data, points=(slow,))) if one.title.startswith("Fastest"))
    assert fastest.big == "None faster"
    assert re.fullmatch(r"The one that comes closest is [\d.]+× slower\.", fastest.lines[0])
    assert not any("Not clearly" in line for line in fastest.lines)
