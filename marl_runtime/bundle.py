"""Bundles: a folder of JSON and arrays that holds trained agents. Everything is checked before it is parsed.

``manifest.json`` names every file with its size and SHA-256. A program is data: its operations are looked up in a
table, nothing in a bundle chooses code to run, and no path leaves the folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from marl_runtime import files
from marl_runtime.program import Array, Operation, Program, ProgramError, Stage
from marl_runtime.shapes import LARGEST, shapes_of

FORMAT = 2  # of 1, all constants were in the file of weights
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 64 * 2**20  # bytes
LARGEST_FILE = 2**31  # bytes
MOST_OPERATIONS = 100_000
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
DTYPES = {"F32": "<f4", "F16": "<f2", "I8": "<i1", "I64": "<i8", "BOOL": "?"}


class BundleError(ValueError):
    """A bundle that is damaged, foreign, or asks for what no bundle may: one line says what."""


class Bundle(NamedTuple):
    """What a folder holds: its manifest, the program of each policy with its shapes, the contents of all files."""

    path: Path
    manifest: dict[str, Any]
    programs: list[Program]
    shapes: list[dict[str, tuple[int, ...]]]
    contents: dict[str, bytes]


def own_hash(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of everything a manifest says, but for this hash."""
    said = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a bundle. Raises BundleError if it is missing, damaged, edited or of a newer format."""
    if path.is_symlink() or not path.is_dir():
        raise BundleError(f"bundle {path}: expected a folder that is no link")
    try:
        manifest = json.loads(files.read(path / MANIFEST, LARGEST_MANIFEST))
        own, version = own_hash(manifest), manifest["format"]
    except FileNotFoundError:
        raise BundleError(f"bundle {path}: {MANIFEST} is missing, so it is no bundle") from None
    except OSError as error:
        raise BundleError(f"bundle {path}: {MANIFEST} cannot be read: {error.strerror}") from None
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise BundleError(f"bundle {path}: {MANIFEST} is damaged") from None
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise BundleError(f"bundle {path}: format {version!r:.40} is not known here; upgrade marl-system")
    if manifest.get("sha256") != own:
        raise BundleError(f"bundle {path}: {MANIFEST} is damaged or was edited (its SHA-256 differs)")
    return dict(manifest)


def read_files(path: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """The contents of every file that the manifest names. Raises BundleError unless size and hash are right."""
    contents = {}
    named = manifest.get("files")
    if not isinstance(named, dict):
        raise BundleError(f"bundle {path}: {MANIFEST} names no files")
    for name, said in named.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise BundleError(f"bundle {path}: {name!r:.80} is no plain file name")
        size, digest = (said.get("bytes"), said.get("sha256")) if isinstance(said, dict) else (None, None)
        if type(size) is not int or not 0 <= size <= LARGEST_FILE:
            raise BundleError(f"bundle {path}: {name}: {size!r:.40} is no size of a file")
        try:
            contents[name] = files.read(path / name, LARGEST_FILE, size)
        except (OSError, MemoryError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it does not fit into memory"
            raise BundleError(f"bundle {path}: {name} cannot be read: {reason}") from None
        if hashlib.sha256(contents[name]).hexdigest() != digest:
            raise BundleError(f"bundle {path}: {name} is damaged (its SHA-256 differs from the manifest)")
    return contents


def read(path: str | Path) -> Bundle:
    """A bundle with everything in it checked. Raises BundleError, and reads nothing outside the folder."""
    path = Path(path)
    manifest = read_manifest(path)
    contents = read_files(path, manifest)
    programs: list[Program] = []
    shapes: list[dict[str, tuple[int, ...]]] = []
    try:
        for policy in manifest["policies"]:
            said = json.loads(contents[policy["program"]])
            program = _program(said, _arrays(contents[policy["weights"]]) | _numbers(said.get("numbers", {})))
            shapes.append(shapes_of(program))
            programs.append(program)
    except ProgramError as error:
        raise BundleError(f"bundle {path}: policy {len(programs)}: {error}") from None
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        what = " ".join(str(error).split())
        raise BundleError(
            f"bundle {path}: policy {len(programs)} makes no sense ({type(error).__name__}: {what:.100})"
        ) from None
    return Bundle(path, manifest, programs, shapes, contents)


# --- programs ---------------------------------------------------------------------------------------------------------


def _program(data: Any, constants: dict[str, Array]) -> Program:
    inputs = {_text(name): _shape(shape) for name, shape in data["inputs"].items()}
    stages = tuple(_stage(stage) for stage in data["stages"])
    heads = {_text(name): _stage(stage) for name, stage in data["heads"].items()}
    count = sum(len(stage.operations) for stage in (*stages, *heads.values()))
    if count > MOST_OPERATIONS or not stages or {"greedy", "sample"} - heads.keys():
        raise ProgramError(f"{count:,} operations in {len(stages)} stages, with heads {sorted(heads)!s:.80}")
    if "parameters" not in stages[-1].results or any("message" not in one.results for one in stages[:-1]):
        raise ProgramError("a stage lacks its results: messages of each, parameters of the last")
    return Program(inputs, constants, stages, heads)


def _numbers(data: Any) -> dict[str, Array]:
    """Constants of a single number."""
    found = {_text(name): np.array(value, np.float32) for name, value in data.items()}
    if not all(value.size == 1 and np.isfinite(value) for value in found.values()):
        raise ProgramError(f"expected single numbers, got {data!s:.80}")
    return found


def _stage(data: Any) -> Stage:
    operations = tuple(
        Operation(_text(kind), _text(out), tuple(map(_text, inputs)), _settings(settings))
        for kind, out, inputs, settings in data["operations"]
    )
    return Stage(operations, {_text(name): _text(value) for name, value in data["results"].items()})


def _settings(data: Any) -> dict[str, Any]:
    for name, value in data.items():
        if not isinstance(value, str):
            _shape(value if isinstance(value, list) else [abs(value)])
        _text(name)
    return dict(data)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200:
        raise ProgramError(f"expected a name, got {value!r:.80}")
    return value


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 8 or not all(type(n) is int and 0 <= n <= LARGEST for n in value):
        raise ProgramError(f"expected whole numbers from 0 to {LARGEST:,}, got {value!r:.80}")
    return tuple(value)


def program_json(program: Program, numbers: Mapping[str, Array]) -> dict[str, Any]:
    """A program with some of its constants, as JSON: the inverse of what a bundle is read by."""

    def stage(one: Stage) -> dict[str, Any]:
        return {"operations": [list(step) for step in one.operations], "results": dict(one.results)}

    return {
        "inputs": {name: list(shape) for name, shape in program.inputs.items()},
        "numbers": {name: _shortest(value) for name, value in numbers.items()},
        "stages": [stage(one) for one in program.stages],
        "heads": {name: stage(one) for name, one in program.heads.items()},
    }


def _shortest(value: Array) -> Any:
    """A number in as many brackets as it has axes, with as few digits as float32 needs."""
    found: Any = float(str(value.reshape(())[()]))
    for _ in value.shape:
        found = [found]
    return found


# --- arrays -----------------------------------------------------------------------------------------------------------


def _arrays(data: bytes) -> dict[str, Array]:
    """The constants of a safetensors file, int8 and float16 as float32. Raises ProgramError."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ProgramError("its weights are cut off")
    header, body = json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]
    found, covered = {}, 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape = np.dtype(DTYPES[entry["dtype"]]), _shape(entry["shape"])
        start, stop = entry["data_offsets"]
        size = math.prod(shape) * dtype.itemsize
        if type(start) is not int or start < 0 or stop - start != size or stop > len(body):
            raise ProgramError(f"weights {name!r:.80} of shape {shape} do not fit into {len(body):,} bytes")
        covered += size
        found[_text(name)] = np.frombuffer(body, dtype, math.prod(shape), start).reshape(shape)
    if covered != len(body):
        raise ProgramError(f"its weights have {len(body):,} bytes, and {covered:,} are named")
    return {name: _float(name, value, found) for name, value in found.items() if not name.endswith("/scale")}


def _float(name: str, value: Array, found: Mapping[str, Array]) -> Array:
    if value.dtype == np.float16:
        return value.astype(np.float32)
    if value.dtype != np.int8:
        return value
    scale = found[f"{name}/scale"]  # as many axes, one number for each output channel
    if (
        scale.dtype not in (np.float16, np.float32)
        or scale.ndim != value.ndim
        or np.broadcast_shapes(value.shape, scale.shape) != value.shape
    ):
        raise ProgramError(f"weights {name!r:.80}: a scale of shape {scale.shape} does not fit {value.shape}")
    wide: Array = value.astype(np.float32) * scale.astype(np.float32)
    return wide
