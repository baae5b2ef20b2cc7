"""Bundles from somebody else: what is wrong is refused in one line, before it is parsed; nothing outside is read."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import marl
import marl_runtime
from marl.deploy.export import safetensors, write_bundle
from marl_runtime import BundleError, files
from marl_runtime.bundle import MANIFEST, own_hash, read
from tests.support.policies import system_of

PROGRAM, WEIGHTS = "policy_0.json", "policy_0.safetensors"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    system = system_of(marl.PPO(channel=marl.CommNet(size=3), rollout=8, minibatches=1))
    return system.export(tmp_path_factory.mktemp("hostile") / "bundle")


@pytest.fixture
def bundle(source, tmp_path, monkeypatch):
    """A copy of a bundle that may be forged: its manifest and files; loading must read nothing outside of it."""
    return Forged(source, tmp_path / "bundle", monkeypatch)


class Forged:
    def __init__(self, source: Path, path: Path, monkeypatch) -> None:
        self.path = path
        path.mkdir()
        self.manifest = json.loads((source / MANIFEST).read_text())
        self.contents = {name: (source / name).read_bytes() for name in self.manifest["files"]}
        self.opened: list[str] = []
        opened = files.opened

        def watched(file, flags, mode=0o644):
            self.opened.append(os.path.realpath(file))
            return opened(file, flags, mode)

        monkeypatch.setattr(files, "opened", watched)

    def write(self, sign=True) -> None:
        for name, data in self.contents.items():
            (self.path / name).write_bytes(data)
            if sign and name in self.manifest["files"]:
                self.manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        if sign:
            self.manifest["sha256"] = own_hash(self.manifest)
        (self.path / MANIFEST).write_text(json.dumps(self.manifest))

    def refused(self, reason: str, sign=True) -> None:
        self.write(sign)
        self.is_refused(reason)

    def is_refused(self, reason: str) -> None:
        with pytest.raises(BundleError, match=reason) as found:
            marl_runtime.load(self.path)
        assert "\n" not in str(found.value)
        assert len(str(found.value)) < 600
        inside = os.path.realpath(self.path) + os.sep
        assert all(name.startswith(inside) for name in self.opened)

    def program(self, change) -> None:
        data = json.loads(self.contents[PROGRAM])
        change(data)
        self.contents[PROGRAM] = json.dumps(data).encode()

    def arrays(self, **changed) -> None:
        self.contents[WEIGHTS] = safetensors(changed)


def test_the_bundle_itself_is_taken(bundle):
    bundle.write()
    assert list(marl_runtime.load(bundle.path)) == ["a", "b", "c"]


def test_a_bundle_of_the_first_format_acts_as_before(bundle):
    bundle.write()
    row = np.full(5, 0.3, np.float32)
    wanted = marl_runtime.load(bundle.path)["a"].act(row)
    whole = read(bundle.path).programs[0].constants
    bundle.manifest["format"] = 1
    bundle.program(lambda data: data.pop("numbers"))
    bundle.arrays(**whole)
    bundle.write()
    np.testing.assert_array_equal(marl_runtime.load(bundle.path)["a"].act(row), wanted)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "x", [1.0, 2.0], [], None, {"a": 1}, [[[]]]])
def test_a_constant_of_the_program_is_a_single_number(bundle, value):
    bundle.program(lambda data: data["numbers"].update(c99=value))
    bundle.refused("policy 0")


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "a/b", "a\\b", ".hidden", "", "a" * 200, "<script>", "ä"]
)
def test_a_name_that_is_no_plain_file_name_is_refused(bundle, name):
    bundle.manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    bundle.refused("is no plain file name")


def test_a_link_in_place_of_a_file_or_of_the_folder_is_refused(bundle, tmp_path):
    bundle.write()
    secret = tmp_path / "secret"
    secret.write_bytes(bundle.contents[WEIGHTS])
    (bundle.path / WEIGHTS).unlink()
    (bundle.path / WEIGHTS).symlink_to(secret)
    with pytest.raises(BundleError, match=r"cannot be read: it is a link"):
        marl_runtime.load(bundle.path)
    (bundle.path / WEIGHTS).unlink()
    os.link(secret, bundle.path / WEIGHTS)
    with pytest.raises(BundleError, match=r"has another name elsewhere"):
        marl_runtime.load(bundle.path)
    (tmp_path / "link").symlink_to(bundle.path)
    with pytest.raises(BundleError, match="that is no link"):
        marl_runtime.load(tmp_path / "link")


def test_a_pipe_in_place_of_a_file_hangs_nobody(bundle):
    bundle.write()
    (bundle.path / WEIGHTS).unlink()
    os.mkfifo(bundle.path / WEIGHTS)
    bundle.is_refused("it is a pipe")


def test_a_flipped_bit_anywhere_is_found(bundle):
    bundle.write()
    for name in (MANIFEST, PROGRAM, WEIGHTS):
        good = (bundle.path / name).read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        (bundle.path / name).write_bytes(bad)
        bundle.is_refused("damaged")
        (bundle.path / name).write_bytes(good)


def test_a_file_of_another_size_is_not_even_read(bundle):
    bundle.write()
    with open(bundle.path / WEIGHTS, "ab") as file:
        file.truncate(2**40)  # it holds nothing: no disk has so much
    bundle.is_refused(r"cannot be read: .* bytes instead of")


def test_files_that_are_missing_are_named(bundle):
    bundle.write()
    (bundle.path / PROGRAM).unlink()
    bundle.is_refused(rf"{PROGRAM} cannot be read")
    (bundle.path / MANIFEST).unlink()
    bundle.is_refused("is missing, so it is no bundle")


@pytest.mark.parametrize("cut", [0, 4, 8, 100, -1])
def test_weights_that_are_cut_off_are_refused(bundle, cut):
    bundle.contents[WEIGHTS] = bundle.contents[WEIGHTS][:cut]
    bundle.refused("policy 0")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(format=99), "format 99 is not known here"),
        (lambda m: m.update(format="1"), "format '1' is not known here"),
        (lambda m: m.update(policies="x" * 1000), "makes no sense"),
        (lambda m: m.update(policies=[]), "no policy 0"),
        (lambda m: m.update(agents=[1]), "makes no sense"),
        (lambda m: m.update(turn_based=10**400), "whether agents take turns"),
        (lambda m: m["agents"]["a"].update(policy=10**400), "has no policy"),
        (lambda m: m["agents"]["a"].update(policy=-1), "has no policy"),
        (lambda m: m["agents"]["a"].update(policy=[]), "has no policy"),
        (lambda m: m["agents"]["a"].update(policy=[[float("nan"), 0]]), "has no policy"),
        (lambda m: m["agents"]["a"].update(observation_shape=[2**40]), "whole number from 0 to"),
        (lambda m: m["agents"]["a"].update(observation_shape=[4]), "observation has 5 numbers"),
        (lambda m: m["agents"]["a"].update(observation_shape=[7]), "observation has the shape"),
        (lambda m: m["agents"]["a"].update(observation_space={"type": "os.system"}), "is not known"),
        (lambda m: m["agents"]["a"]["observation_space"].update(shape=[2**30, 2**30]), "whole number from 0 to"),
        (lambda m: m["agents"]["a"]["action_space"].update(dtype="O"), "type object is not known"),
        (lambda m: m["agents"]["a"].update(identity=[1.0] * 1000), "identity of shape"),
        (lambda m: m["agents"]["a"].update(team="<script>alert(1)</script>"), "makes no sense"),
        (lambda m: m["agents"].update({"<script>": m["agents"]["a"]}), "has no place in its team"),
        (lambda m: m["channels"]["team"].update(size=2**50), "makes no sense for 3 agents"),
        (lambda m: m["channels"]["team"].update(size=4), "message has the shape"),
        (lambda m: m["channels"]["team"].update(adjacency=[[1.0]]), "makes no sense for 3 agents"),
        (lambda m: m["policies"][0].update(program="../manifest.json"), "makes no sense"),
        (lambda m: m.pop("files"), "names no files"),
        (lambda m: m["files"][PROGRAM].update(bytes=10**400), "is no size of a file"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(bundle, change, reason):
    bundle.write()
    change(bundle.manifest)
    bundle.manifest["sha256"] = own_hash(bundle.manifest)
    bundle.contents = {}
    bundle.refused(reason, sign=False)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "[" * 100_000, '{"format": 1}', '{"format": 1, "sha256": "0"}', "\xff\xfe"]
)
def test_a_manifest_that_is_no_manifest_is_refused(bundle, text):
    bundle.write()
    (bundle.path / MANIFEST).write_bytes(text.encode("latin-1"))
    bundle.is_refused("damaged|format")


def first_step(data, **changed):
    """Put an operation before all others."""
    step = {"kind": "tanh", "out": "extra", "inputs": ["observation"], "settings": {}} | changed
    data["stages"][0]["operations"].insert(0, [step["kind"], step["out"], step["inputs"], step["settings"]])


def doubling(data):
    """A value that grows by a factor of 1,000 with each step."""
    value = "observation"
    for k in range(8):
        data["stages"][0]["operations"].insert(k, ["concat", f"extra_{k}", [value] * 1000, {}])
        value = f"extra_{k}"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: first_step(d, kind="os.system", settings={"command": "true"}), "unknown operation 'os.system'"),
        (lambda d: first_step(d, kind="__import__"), "unknown operation '__import__'"),
        (lambda d: first_step(d, inputs=["nowhere"]), "reads 'nowhere', which nothing before it computes"),
        (lambda d: first_step(d, settings={"out": "x"}), "do not fit"),
        (lambda d: first_step(d, kind="layer", inputs=["observation"] * 3), "do not fit"),
        (lambda d: first_step(d, kind="layer", inputs=["observation"] * 3, settings={"activation": "x"}), "do not fit"),
        (lambda d: first_step(d, kind="unflatten", settings={"shape": [2**20, 2**20]}), "do not fit"),
        (lambda d: first_step(d, kind="unflatten", settings={"shape": [2**60]}), "whole numbers from 0"),
        (lambda d: first_step(d, kind="slice", settings={"start": 0, "stop": 6}), "do not fit"),
        (lambda d: first_step(d, out=["x"]), "expected a name"),
        (lambda d: first_step(d, kind="x" * 10**6), "expected a name"),
        (lambda d: d["inputs"].update(huge=[2**15, 2**15]), "numbers are taken"),
        (lambda d: d["inputs"].update(huge=[2**60]), "whole numbers from 0"),
        (lambda d: d["inputs"].update(observation=[6]), "do not fit"),
        (lambda d: d["heads"].pop("greedy"), "with heads"),
        (lambda d: d.update(stages=[]), "in 0 stages"),
        (lambda d: d["stages"][0]["results"].pop("parameters"), "lacks its results"),
        (lambda d: d["stages"][0]["results"].update(parameters="nowhere"), "is computed by no operation"),
        (lambda d: d["stages"][0]["results"].update(carry="observation"), "reads another carry than it writes"),
        (lambda d: d["stages"][0]["results"].update(message="observation"), "says something else"),
        (lambda d: d["stages"].append(d["stages"][0]), ""),
        (doubling, "numbers are the most"),
    ],
)
def test_a_program_that_makes_no_sense_is_refused_before_it_runs(bundle, change, reason):
    bundle.program(change)
    if reason:
        bundle.refused(reason)
    else:  # what it computes twice is computed twice
        bundle.write()
        marl_runtime.load(bundle.path)


def test_arrays_that_are_not_there_are_refused(bundle):
    good = bundle.contents[WEIGHTS]
    length = int.from_bytes(good[:8], "little")
    header, body = json.loads(good[8 : 8 + length]), good[8 + length :]
    name = next(iter(header))

    def forged(**changed):
        text = json.dumps(header | {name: header[name] | changed}).encode()
        return len(text).to_bytes(8, "little") + text + body

    for changed, reason in (
        ({"shape": [2**14, 2**14]}, "do not fit into"),
        ({"shape": [2**60]}, "whole numbers from 0"),
        ({"shape": [-1]}, "whole numbers from 0"),
        ({"dtype": "O"}, "makes no sense"),
        ({"data_offsets": [0, 2**60]}, "do not fit into"),
        ({"data_offsets": [-8, 0]}, "do not fit into"),
    ):
        bundle.contents[WEIGHTS] = forged(**changed)
        bundle.refused(reason)
    bundle.contents[WEIGHTS] = good + b"more"
    bundle.refused("are named")
    bundle.contents[WEIGHTS] = (2**62).to_bytes(8, "little") + good[8:]
    bundle.refused("cut off")


def test_scales_that_do_not_fit_are_refused(bundle):
    arrays = {"w": np.ones((2, 3), np.int8), "w/scale": np.ones((3,), np.float32)}
    bundle.arrays(**arrays)
    bundle.refused(r"a scale of shape \(3,\) does not fit \(2, 3\)")
    bundle.arrays(**arrays | {"w/scale": np.ones((5, 2, 3), np.float32)})
    bundle.refused("does not fit")
    bundle.arrays(w=arrays["w"])
    bundle.refused("makes no sense")


def test_nothing_is_imported_by_a_bundle(bundle, monkeypatch):
    """Whatever it says, the modules are the same before and after."""
    bundle.manifest["agents"]["a"]["observation_space"] = {"type": "antigravity:Space", "spaces": []}
    bundle.program(lambda data: first_step(data, kind="antigravity.fly"))
    before = set(sys.modules)
    bundle.refused("unknown operation")
    assert set(sys.modules) == before


def test_a_bundle_is_never_written_over_something_else(tmp_path):
    system = system_of(marl.PPO(rollout=8, minibatches=1))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(marl.ConfigError, match=r"holds 'thesis\.tex', so it is no bundle"):
        system.export(mine)
    assert (mine / "thesis.tex").read_text() == "years of work"
    (tmp_path / "link").symlink_to(mine)
    with pytest.raises(marl.ConfigError, match="no bundle to be replaced"):
        system.export(tmp_path / "link")
    out = system.export(tmp_path / "bundle")
    before = (out / WEIGHTS).read_bytes()
    assert (system.export(out) / WEIGHTS).read_bytes() == before


def test_a_bundle_that_was_written_again_is_as_before(source, tmp_path):
    manifest = json.loads((source / MANIFEST).read_text())
    contents = {name: (source / name).read_bytes() for name in manifest["files"]}
    written = write_bundle(tmp_path / "again", manifest, contents)
    assert json.loads((written / MANIFEST).read_text()) == manifest


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    system = system_of(marl.PPO(rollout=8, minibatches=1))
    return system.export(tmp_path_factory.mktemp("graph") / "bundle", format="onnx")


def forgeries(onnx):
    """Graphs that reach out of their file, or do what no policy does."""
    helper, types = onnx.helper, onnx.TensorProto

    def outside(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = types.EXTERNAL
        tensor.external_data.add(key="location", value="../../secret")

    def in_an_attribute(model):
        value = helper.make_tensor("x", types.FLOAT, [1], [1.0])
        value.external_data.add(key="location", value="/etc/hostname")
        model.graph.node.append(helper.make_node("Identity", ["observation"], ["extra"], value=value))

    def custom(model):
        model.graph.node.append(helper.make_node("RunShell", ["observation"], ["extra"], domain="evil"))

    def subgraph(model):
        model.graph.node.append(helper.make_node("Identity", ["observation"], ["extra"], body=onnx.GraphProto()))

    def large(model):
        model.graph.node.append(helper.make_node("ConstantOfShape", ["observation"], ["extra"]))

    def reads(model):
        model.graph.input.append(helper.make_tensor_value_info("password", types.FLOAT, ["N", 1]))

    def wide(model):
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**30

    def silent(model):
        del model.graph.output[0]

    return {
        "data outside": (outside, "data outside of its file"),
        "data outside in an attribute": (in_an_attribute, "data outside of its file"),
        "an operation of its own": (custom, "operation 'RunShell'"),
        "a graph in a graph": (subgraph, "an inner graph"),
        "a gigabyte": (large, "operation 'ConstantOfShape'"),
        "another input": (reads, "reads 'password'|does not take its graph"),
        "another shape": (wide, "of shape|does not take its graph"),
        "an output less": (silent, "computes .* alone"),
    }


def test_graphs_that_reach_out_of_their_file_are_refused(graph, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    for place, (change, reason) in enumerate(forgeries(onnx).values()):
        forged = Forged(graph, tmp_path / str(place), monkeypatch)
        model = onnx.load_from_string(forged.contents["policy_0.onnx"])
        change(model)
        forged.contents["policy_0.onnx"] = model.SerializeToString()
        forged.write()
        with pytest.raises(BundleError, match=reason) as found:
            marl_runtime.load(forged.path, "onnx")
        assert "\n" not in str(found.value)


def test_graphs_that_are_cut_off_are_refused_wherever_they_end(graph, tmp_path, monkeypatch):
    forged = Forged(graph, tmp_path / "cut", monkeypatch)
    whole = forged.contents["policy_0.onnx"]
    for cut in range(1, len(whole), max(1, len(whole) // 40)):
        forged.contents["policy_0.onnx"] = whole[:cut]
        forged.write()
        with pytest.raises(BundleError):
            marl_runtime.load(forged.path, "onnx")
    marl_runtime.load(graph, "onnx")


def test_a_bundle_without_graphs_says_so(source):
    with pytest.raises(BundleError, match="it has no ONNX graphs"):
        marl_runtime.load(source, "onnx")
    with pytest.raises(BundleError, match="engine: expected one of numpy, onnx, torch"):
        marl_runtime.load(source, "jax")


def test_an_operation_that_graphs_alone_know_is_refused_before_it_runs(bundle):
    def more(data):
        operations = data["stages"][0]["operations"]
        operations.append(["network", "more", [operations[0][1]], {"number": 0, "size": 3}])

    bundle.program(more)
    bundle.refused("operation 'network' is not known here; engine='onnx'")
    with pytest.raises(BundleError, match="operation 'network' is not one of torch's here; load it with engine='onnx'"):
        marl_runtime.load(bundle.path, "torch")
