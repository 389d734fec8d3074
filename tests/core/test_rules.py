from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.ladder import MAX_RUNGS
from autocompress.core.model_info import ChannelGroup, ModelInfo
from autocompress.core.plan import LowRank, Prune, Quantize, Sparsify
from autocompress.core.rules import SpaceRules, build_space, load_rules, lowrank_shrinks
from autocompress.core.shipped import shipped_dir
from autocompress.core.space import Option
from autocompress.errors import InputError
from tests.core.example_models import LENET, RESNET, make_layer

SHIPPED = sorted(file.stem for file in shipped_dir("search_spaces").iterdir() if file.suffix in (".yaml", ".py"))


@pytest.fixture
def resnet() -> ModelInfo:
    return RESNET


@pytest.fixture
def lenet() -> ModelInfo:
    return LENET


def options(model: ModelInfo, *rules: dict[str, Any], **keys: Any) -> dict[str, tuple[Option, ...]]:
    space = build_space(SpaceRules.from_dict({"rules": list(rules), **keys}), model)
    return {decision.name: decision.options for decision in space.decisions}


def refusal(model: ModelInfo, *rules: dict[str, Any], **keys: Any) -> str:
    with pytest.raises(InputError) as caught:
        options(model, *rules, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The shipped spaces.


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_spaces_fit_a_residual_net(name: str, resnet: ModelInfo) -> None:
    rules = load_rules(name)
    assert rules.name == name
    space = build_space(rules, resnet)
    assert space.size > 1
    for vector in (space.dense_vector, space.extreme_vector, space.random(np.random.default_rng(0))):
        assert space.encode(space.decode(vector)) == vector
    assert 1 <= len(space.uniform_plans()) <= MAX_RUNGS


def test_all_spaces_are_shipped() -> None:
    assert SHIPPED == ["custom_example", "joint", "lowrank", "prune", "quantize", "student"]


def test_joint_in_order(resnet: ModelInfo) -> None:
    space = build_space(load_rules("joint"), resnet)
    assert [decision.name for decision in space.decisions] == [
        "resolution",
        "drop:layer1.0",
        "drop:layer1.1",
        "prune:conv1",
        "shape:conv1",
        "quantize:conv1",
        "prune:layer1.0.conv1",
        "shape:layer1.0.conv1",
        "quantize:layer1.0.conv1",
        "shape:layer1.0.conv2",
        "quantize:layer1.0.conv2",
        "prune:layer1.1.conv1",
        "shape:layer1.1.conv1",
        "quantize:layer1.1.conv1",
        "shape:layer1.1.conv2",
        "quantize:layer1.1.conv2",
        "prune:layer2.down",
        "shape:layer2.down",
        "quantize:layer2.down",
        "shape:linear",
        "quantize:linear",
    ]
    assert space.decode(space.dense_vector).is_dense
    assert (space.distill_temperature, space.distill_weight) == (4.0, 0.7)
    assert [name for name, _ in space.uniform_plans()] == [
        "uniform w8a8",
        "w6a8, ends w8a8",
        "resolution 0.75, w4a8",
        "w2a8, ends w8a8",
        "rank 0.5 svd, w4a8",
        "prune 0.125 inside blocks, w4a8",
        "prune 0.125, w4a8",
        "every second block dropped, w4a8",
        "prune 0.125 inside blocks at resolution 0.75, w4a8",
        "every second block dropped at resolution 0.5, w4a8",
        "prune 0.375 inside blocks, w4a8",
        "uniform w2a8",
        "prune 0.375 inside blocks at resolution 0.75, w4a8",
        "prune 0.5 inside blocks, w4a8",
        "prune 0.5 inside blocks at resolution 0.75, w4a8",
        "prune 0.5, w4a8",
        "50% of every choice",
        "rank 0.17 spatial, w4a8",
        "75% of every choice",
        "100% of every choice",
    ]


def test_joint_fits_a_model_without_blocks(lenet: ModelInfo) -> None:
    space = build_space(load_rules("joint"), lenet)
    assert {decision.kind for decision in space.decisions} == {"prune", "shape", "quantize"}
    assert "leaves nothing to decide" in refusal(lenet, {"op": "drop"})


# What rules mean.


def test_lists_multiply_and_are_ordered(lenet: ModelInfo) -> None:
    got = options(lenet, {"op": "quantize", "w_bits": [4, 8], "a_bits": [8, None], "name": "fc"})
    assert got == {"quantize:fc": (None, Quantize(8), Quantize(8, 8), Quantize(4), Quantize(4, 8))}


def test_sixteen_bits_in_a_list_have_float_activations(lenet: ModelInfo) -> None:
    got = options(lenet, {"op": "quantize", "w_bits": [4, 16], "a_bits": 8, "name": "fc", "optional": False})
    assert got == {"quantize:fc": (Quantize(16), Quantize(4, 8))}
    assert "a_bits with w_bits 16" in refusal(lenet, {"op": "quantize", "w_bits": 16, "a_bits": 8})


def test_the_last_matching_rule_counts(resnet: ModelInfo) -> None:
    got = options(
        resnet,
        {"op": "quantize", "w_bits": 4},
        {"op": "quantize", "w_bits": 8, "name": r"layer1\..*", "except": [r".*\.conv2"]},
        {"op": "quantize", "w_bits": 2, "name": "linear", "optional": False},
    )
    assert got["quantize:conv1"] == (None, Quantize(4))
    assert got["quantize:layer1.0.conv1"] == (None, Quantize(8))
    assert got["quantize:layer1.0.conv2"] == (None, Quantize(4))
    assert got["quantize:linear"] == (Quantize(2),)


def test_prune_options_that_remove_nothing_or_the_same_are_dropped(lenet: ModelInfo) -> None:
    # Of 6 channels 0.05 keeps 6, and 0.2 and 0.15 both keep 5.
    got = options(lenet, {"op": "prune", "sparsity": [0.5, 0.2, 0.15, 0.05]})
    assert got == {"prune:conv": (None, Prune(0.15), Prune(0.5))}
    assert "nothing to decide" in refusal(lenet, {"op": "prune", "sparsity": 0.5, "round_to": 8})
    assert "no option removes one of its 6 channels" in refusal(
        lenet, {"op": "prune", "sparsity": 0.5, "round_to": 8, "name": "conv"}
    )


def test_shape_holds_rank_and_sparsity_together(resnet: ModelInfo) -> None:
    rank = {"op": "lowrank", "rank_ratio": 0.5, "name": "layer1.0.conv1"}
    sparse = {"op": "sparsify", "sparsity": [0.5, 0.9], "name": "layer1.0.conv1"}
    name = "shape:layer1.0.conv1"
    assert options(resnet, rank, sparse)[name] == (None, LowRank(0.5), Sparsify(0.5), Sparsify(0.9))
    assert options(resnet, {**rank, "optional": False}, sparse)[name] == (LowRank(0.5),)
    message = refusal(resnet, {**rank, "optional": False}, {**sparse, "optional": False})
    assert "must have sparsify" in message
    assert "a layer takes only one" in message


def test_two_of_four_needs_whole_fours(resnet: ModelInfo) -> None:
    got = options(resnet, {"op": "sparsify", "pattern": ["unstructured", "2:4"], "sparsity": [0.5, 0.7]})
    assert got["shape:conv1"] == (None, Sparsify(0.5), Sparsify(0.7))  # 27 weights per output channel
    assert got["shape:linear"] == (None, Sparsify(0.5), Sparsify(0.5, "2:4"), Sparsify(0.7))
    assert "no option fits conv2d" in refusal(resnet, {"op": "sparsify", "pattern": "2:4", "name": "conv1"})


def test_embeddings_keep_their_activations() -> None:
    model = ModelInfo((make_layer("emb", "embedding", (100, 16)),), (), (), 1600, 0)
    got = options(
        model, {"op": "quantize", "w_bits": [8, 4], "a_bits": [8, None]}, {"op": "lowrank", "rank_ratio": 0.1}
    )
    assert got == {"quantize:emb": (None, Quantize(8), Quantize(4))}


def test_drop_may_be_an_order(resnet: ModelInfo) -> None:
    assert options(resnet, {"op": "drop", "name": r"layer1\.1"}) == {"drop:layer1.1": (False, True)}
    assert options(resnet, {"op": "drop", "optional": False})["drop:layer1.0"] == (True,)


def test_resolution_is_what_the_model_accepts(resnet: ModelInfo, lenet: ModelInfo) -> None:
    quantize = {"op": "quantize"}
    assert options(resnet, resolution=[0.6, 0.75, 1])["resolution"] == (1.0, 0.75)
    assert options(resnet, resolution=0.5) == {"resolution": (0.5,)}
    assert "resolution" not in options(lenet, quantize, resolution=[1.0, 0.75])
    assert "the model accepts: 1.0" in refusal(lenet, quantize, resolution=0.75)


def test_student_choices(resnet: ModelInfo, lenet: ModelInfo) -> None:
    assert options(resnet, student="all") == {"student:width": (16, 8, 4), "student:act": ("silu", "relu")}
    got = options(resnet, student={"width": [8.0, 4], "act": "relu"})
    assert got == {"student:width": (8, 4), "student:act": ("relu",)}
    assert all(type(option) is int for option in got["student:width"])
    assert "did you mean 'width'" in refusal(resnet, student={"widht": [8]})
    assert "student.width is 5; the builder allows: 16, 8, 4" in refusal(resnet, student={"width": [5]})
    assert "no choice 'width'" in refusal(lenet, student={"width": [8]})


# Rules that miss.


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"op": "quantize", "name": "layer1.0.conv3"}, "did you mean 'layer1.0.conv2', 'layer1.0.conv1'"),
        ({"op": "quantize", "name": r"layer1\.0"}, "matches no layer"),
        ({"op": "drop", "name": "layer1.9"}, "matches no block that can be changed by drop; did you mean 'layer1"),
        ({"op": "prune", "sparsity": 0.5, "name": "layer1.0.conv2"}, "cut with group 'conv1'; write that name"),
        ({"op": "prune", "sparsity": 0.5, "name": "linear"}, "linear: blocked by the model's output"),
        ({"op": "lowrank", "rank_ratio": 0.9, "name": "layer2.down"}, "no option fits conv2d with weights [32, 16,"),
        ({"op": "quantize", "except": "lineer"}, "except 'lineer' matches nothing; did you mean 'linear'"),
    ],
)
def test_rules_that_miss_say_what_there_is(resnet: ModelInfo, rule: dict[str, Any], message: str) -> None:
    got = refusal(resnet, rule)
    assert message in got
    assert got.startswith("space rules: rules[0]")


def test_frozen_layers_are_skipped_unless_named() -> None:
    layers = (make_layer("a", frozen="its weights are used by two modules"), make_layer("b"))
    model = ModelInfo(layers, (ChannelGroup("a", 16, ("a", "b"), (), "concat at x"),), (), 1, 1)
    assert set(options(model, {"op": "quantize"}, {"op": "prune", "sparsity": 0.5})) == {"quantize:b"}
    assert set(options(model, {"op": "quantize", "name": "a|b"})) == {"quantize:b"}
    assert "a: its weights are used by two modules" in refusal(model, {"op": "quantize", "name": "a"})
    assert "a: blocked by concat at x" in refusal(model, {"op": "prune", "sparsity": 0.5, "name": "a"})


# Low rank.


@pytest.mark.parametrize(
    ("op", "weight", "groups", "lowrank", "expected"),
    [
        ("linear", (10, 120), 1, LowRank(0.5), True),  # 5 * 130 < 1200
        ("linear", (16, 16), 1, LowRank(0.5), False),  # 8 * 32 = 256
        ("linear", (16, 16), 1, LowRank(0.4), True),
        ("linear", (16, 16), 1, LowRank(0.1, "tucker"), False),
        ("conv2d", (32, 16, 1, 1), 1, LowRank(0.5, "svd"), True),  # 8 * 48 < 512
        ("conv2d", (16, 16, 3, 3), 1, LowRank(0.5), True),
        ("conv2d", (16, 16, 3, 3), 1, LowRank(0.95), False),  # 2 * 16 * 15 + 15 * 15 * 9 > 2304
        ("conv2d", (16, 16, 3, 3), 1, LowRank(0.95, "cp"), True),  # 15 * 38 < 2304
        ("conv2d", (16, 16, 3, 3), 1, LowRank(0.45, "spatial"), True),  # 22 * 96 < 2304
        ("conv2d", (16, 16, 3, 3), 1, LowRank(0.5, "spatial"), False),  # 24 * 96 = 2304
        ("conv2d", (32, 16, 1, 1), 1, LowRank(0.4, "spatial"), False),
        ("linear", (16, 16), 1, LowRank(0.1, "spatial"), False),
        ("conv2d", (16, 16, 3, 3), 1, LowRank(0.5, "svd"), False),
        ("conv2d", (16, 1, 3, 3), 16, LowRank(0.5), False),
        ("conv1d", (16, 16, 3), 1, LowRank(0.5), False),
        ("conv_transpose2d", (16, 16, 3, 3), 1, LowRank(0.5), False),
        ("embedding", (1000, 16), 1, LowRank(0.1), False),
    ],
)
def test_where_low_rank_shrinks(
    op: str, weight: tuple[int, ...], groups: int, lowrank: LowRank, expected: bool
) -> None:
    assert lowrank_shrinks(make_layer("l", op, weight, groups), lowrank) is expected


# Files.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "s.yaml is empty"),
        ("# only a comment\n", "s.yaml is empty"),
        ("- op: prune\n", "s.yaml holds a list; it must be a mapping"),
        ("name: a\nrules: [\n", "s.yaml:3: not valid YAML"),
        ("name: a\nname: b\n", "s.yaml:2: not valid YAML: the key 'name' stands twice"),
        (
            "rules:\n  - op: prune\n    sparsity: 0.5\n    sparsity: 0.6\n",
            "s.yaml:4: not valid YAML: the key 'sparsity'",
        ),
        ("when: 2020-99-99\n", "s.yaml: not valid YAML"),
        ("name: \0\n", "s.yaml: not valid YAML"),
        ("rulez: []\n", "s.yaml:1: rulez: unknown key 'rulez'; did you mean 'rules'"),
        ("rules: 3\n", "s.yaml:1: rules is 3; it must be a mapping"),
        ("rules:\n  - name: x\n", "s.yaml:2: rules[0] has no key 'op'"),
        ("rules:\n  - op: prun\n", "s.yaml:2: rules[0].op: unknown op 'prun'; did you mean 'prune'"),
        ("rules:\n  - op: prune\n", "s.yaml:2: rules[0]: prune needs the term 'sparsity'"),
        ("rules:\n  - op: drop\n    w_bits: 8\n", "s.yaml:3: rules[0].w_bits: unknown key"),
        (
            "rules:\n  - op: quantize\n    wbits: 8\n",
            "s.yaml:3: rules[0].wbits: unknown key 'wbits'; did you mean 'w_bits'",
        ),
        ("rules:\n  - op: quantize\n    w_bits: [8, 9]\n", "s.yaml:2: rules[0]: Quantize.w_bits is 9; allowed: (2"),
        (
            "rules:\n  - op: quantize\n    w_bits: [8, x]\n",
            "s.yaml:3: rules[0].w_bits[1] is 'x'; it must be an integer",
        ),
        ("rules:\n  - op: quantize\n    w_bits: true\n", "rules[0].w_bits is True; it must be an integer"),
        ("rules:\n  - op: quantize\n    a_bits: x\n", "rules[0].a_bits is 'x'; it must be an integer or null"),
        ("rules:\n  - op: quantize\n    w_bits: []\n", "rules[0].w_bits is an empty list"),
        ("rules:\n  - op: quantize\n    name: '('\n", "s.yaml:3: rules[0].name: '(' is not a regular expression"),
        ("rules:\n  - op: quantize\n    except: ['*']\n", "rules[0].except: '*' is not a regular expression"),
        ("rules:\n  - op: quantize\n    optional: 1\n", "rules[0].optional is 1; it must be true or false"),
        ("resolution: [1.0, 1.5]\n", "s.yaml:1: resolution is 1.5; allowed: 0 < resolution <= 1"),
        ("resolution: []\n", "resolution is an empty list"),
        ("student: 3\n", "student is 3; write 'all' or a mapping"),
        ("student: {width: [[1]]}\n", "student.width[0] is [1]"),
        ("distill: {temperature: 0}\n", "s.yaml:1: distill.temperature is 0.0"),
        ("distill: {weight: 1.5}\n", "distill.weight is 1.5; allowed: 0 to 1"),
        ("distill: {temprature: 4}\n", "did you mean 'temperature'"),
        ("distill: 4\n", "distill is 4; it must be a mapping"),
        ("a: &a {b: *a}\n", "unknown key 'a'"),
    ],
)
def test_bad_files_say_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_rules(str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_bytes(b"name: \xff\xfe")
    with pytest.raises(InputError, match="not valid YAML"):
        load_rules(str(file))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=4), st.lists, max_leaves=4))
def test_any_value_anywhere_is_read_or_refused(value: Any) -> None:
    for key in ("name", "rules", "resolution", "student", "distill"):
        for data in ({key: value}, {"rules": [{"op": "quantize", key: value}]}, {"rules": [{"op": value}]}):
            message = ""
            try:
                SpaceRules.from_dict(data)
            except InputError as error:
                message = str(error)
            assert "\n" not in message


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_rules("joint").name == "joint"
    with pytest.raises(InputError, match="no space 'joynt'; did you mean 'joint'"):
        load_rules("joynt")
    with pytest.raises(InputError, match=r"'mine\.yaml' does not exist"):
        load_rules("mine.yaml")
    (tmp_path / "mine.txt").write_text("name: x\n")
    with pytest.raises(InputError, match=r"ends in '\.txt'; allowed: \.yaml, \.yml, \.py"):
        load_rules(str(tmp_path / "mine.txt"))
    # A file of the user's with a shipped name is the one that is meant.
    (tmp_path / "joint.yaml").write_text("rules: [{op: quantize}]\ndistill: {weight: 0.1}\n")
    assert load_rules("joint").distill_weight == 0.1
    assert load_rules("./joint.yaml").name == "joint"


def test_python_spaces(tmp_path: Path, lenet: ModelInfo) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def rules():\n    return {'rules': [{'op': 'quantize', 'w_bits': [2 ** n for n in (3, 2)]}]}\n")
    assert load_rules(str(file)).name == "mine"
    space = build_space(load_rules(str(file)), lenet)
    assert space.decisions[0].options == (None, Quantize(8), Quantize(4))
    file.write_text(
        "from autocompress.core.rules import Rule, SpaceRules\n"
        "def rules():\n    return SpaceRules('x', (Rule('drop'),))\n"
    )
    assert load_rules(str(file)).where == str(file)
    for text, message in (
        ("def rules(:\n", "mine.py:1: not valid Python"),
        ("x = 1\n", "defines no function rules()"),
        ("def rules():\n    return 3\n", "rules() returned a int"),
        ("def rules():\n    return {'rulez': []}\n", "mine.py: rulez: unknown key"),
    ):
        file.write_text(text)
        with pytest.raises(InputError) as caught:
            load_rules(str(file))
        assert message in str(caught.value)


def test_a_folder_that_is_not_shipped() -> None:
    assert shipped_dir("search_spaces").name == "search_spaces"
    with pytest.raises(InputError, match="'nothing' is missing"):
        shipped_dir("nothing")


def test_a_rule_speaks_of_all_groups_of_a_layer() -> None:
    parts = tuple(replace(group, name=name) for group in RESNET.groups[:1] for name in (group.name, f"{group.name}#2"))
    model = replace(RESNET, groups=parts)
    first = parts[0].name
    assert {f"prune:{part.name}" for part in parts} <= set(options(model, {"op": "prune", "sparsity": 0.5}))
    named = options(model, {"op": "prune", "sparsity": 0.5, "name": first})
    assert {f"prune:{part.name}" for part in parts} == set(named)
    assert set(options(model, {"op": "prune", "sparsity": 0.5, "name": f"{first}#2"})) == {f"prune:{first}#2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_that_name\n", "space.py:1: ModuleNotFoundError"),
        ("def rules():\n    return unknown\n", "space.py:2: NameError"),
    ],
)
def test_what_a_python_space_raises_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(text)
    with pytest.raises(InputError, match=message):
        load_rules(str(tmp_path / "space.py"))
