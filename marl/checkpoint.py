"""Checkpoints: a directory of tensors and JSON, hashed, written atomically, read without unpickling anything.

``manifest.json`` names every other file with its size and SHA-256, and holds its own hash; ``tree.json`` is the state
with placeholders where tensors and arrays were, and these lie in ``tensors.safetensors``. Nothing is opened that is no
regular file, read before its size is right, or used before its hash is.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import uuid
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from marl import files, parallel
from marl.memory.limits import free_memory
from marl.types import CheckpointError, ConfigError, NonFiniteError

SCHEMA = 3  # 1: lists were written as tuples, options that are no JSON left out; 2: each part of training by itself
MANIFEST, TREE, TENSORS = "manifest.json", "tree.json", "tensors.safetensors"
LARGEST_MANIFEST = 64 * 2**20  # bytes; a manifest of thousands of agents has less than one million


def fingerprint() -> dict[str, str]:
    """What must be equal for a resumed run to give the very same numbers."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": str(parallel.threads()),
        **{package: _version(package) for package in ("marl-system", "gymnasium", "pettingzoo")},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def save(path: str | Path, state: Mapping[str, Any], meta: Mapping[str, Any]) -> Path:
    """Write a tree of tensors, arrays and JSON values to the directory ``path``, replacing what is there in one move.

    Raises:
        OSError: if the disk refuses; what was there before is intact.
        NonFiniteError: if a floating-point parameter is not finite.
        ConfigError: if something other than a checkpoint is at ``path``.
    """
    path = Path(os.path.abspath(path))
    _refuse_foreign(path)
    tensors: dict[str, Tensor] = {}
    tree = _strip(state, "", tensors)
    contents = {TREE: json.dumps(tree).encode(), TENSORS: save_tensors(tensors)}
    manifest = {
        "schema": SCHEMA,
        "meta": dict(meta),
        "fingerprint": fingerprint(),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
        "sizes": {name: len(data) for name, data in contents.items()},
    }
    manifest["sha256"] = _own_hash(manifest)
    contents[MANIFEST] = json.dumps(manifest, indent=1).encode()
    return replace_folder(path, contents)


def packed(state: Mapping[str, Any]) -> bytes:
    """A tree as bytes, for another rank of this job."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_strip(state, "", tensors)).encode()
    return len(tree).to_bytes(8, "little") + tree + save_tensors(tensors)


def unpacked(data: bytes) -> Any:
    """The tree of :func:`packed`."""
    end = 8 + int.from_bytes(data[:8], "little")
    return _restore(json.loads(data[8:end]), load_tensors(data[end:]))


def replace_folder(path: Path, contents: Mapping[str, bytes]) -> Path:
    """Write a folder of files, replacing what is there in one move. Raises OSError; what was there is intact then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    previous = path.with_name(f".{path.name}.previous")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir()
        for name, data in contents.items():
            files.write_new(temporary / name, data)
        _sync(temporary)
        if path.exists():
            os.rename(path, previous)
        os.rename(temporary, path)
        _sync(path.parent)
    except BaseException:
        if previous.exists() and not path.exists():
            os.rename(previous, path)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(previous, ignore_errors=True)
    return path


def _refuse_foreign(path: Path) -> None:
    """Refuse to replace anything but a checkpoint or an empty directory."""
    if not path.exists():
        return
    if not path.is_dir():
        raise ConfigError(f"{path} is a file; a checkpoint is a directory: choose another path")
    foreign = sorted({entry.name for entry in path.iterdir()} - {MANIFEST, TREE, TENSORS})
    if foreign:
        raise ConfigError(f"{path} holds {foreign[0]!r}, so it is no checkpoint to be replaced: choose another path")


def _own_hash(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of everything a manifest says, but for this hash."""
    said = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def remove_leftovers_in(folder: Path) -> None:
    """Finish or undo interrupted saves in a folder of checkpoints."""
    for left in folder.glob(".*.previous"):
        remove_leftovers(folder / left.name[1 : -len(".previous")])
    for left in folder.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Finish or undo what an interrupted save of ``path`` left: restore the previous state, remove temporary ones."""
    previous = path.with_name(f".{path.name}.previous")
    if previous.exists():
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)
        else:
            os.rename(previous, path)
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        if left.name.startswith(f".{path.name}.") and left.name.endswith(".tmp"):
            shutil.rmtree(left, ignore_errors=True)


def load(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state and the whole manifest of a checkpoint.

    Raises:
        CheckpointError: if anything is missing, damaged, foreign or of a newer schema.
    """
    path = Path(os.path.abspath(path))
    try:
        return _load(path)
    except CheckpointError:
        # A save that replaces this checkpoint may be between its two moves, or have been killed there.
        previous = path.with_name(f".{path.name}.previous")
        if previous.exists() and not path.exists():
            return _load(previous)
        raise


def _load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    path = _folder(path)
    manifest = read_manifest(path)
    contents: dict[str, bytes] = {}
    for name in (TREE, TENSORS):
        try:
            data = files.read(path / name, free_memory() or sys.maxsize, manifest.get("sizes", {}).get(name))
        except files.WrongSizeError as error:
            raise CheckpointError(
                f"checkpoint {path}: {name} is damaged ({error.strerror}); use another checkpoint"
            ) from None
        except (OSError, MemoryError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it does not fit into memory"
            raise CheckpointError(
                f"checkpoint {path}: {name} cannot be read ({reason}); use another checkpoint"
            ) from None
        if hashlib.sha256(data).hexdigest() != manifest["files"][name]:
            raise CheckpointError(
                f"checkpoint {path}: {name} is damaged (its SHA-256 differs from the manifest); use another one"
            )
        contents[name] = data
    try:
        state = _restore(json.loads(contents[TREE]), load_tensors(contents[TENSORS]))
    except CheckpointError:
        raise
    except Exception as error:  # the hashes are right, so whoever wrote this did not write a checkpoint
        raise CheckpointError(
            f"checkpoint {path}: its contents make no sense ({type(error).__name__}: {error})"
        ) from None
    if not isinstance(state, dict):
        raise CheckpointError(f"checkpoint {path}: {TREE} holds a {type(state).__name__}, not a state")
    return state, manifest


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest alone. Raises CheckpointError if it is missing, edited, damaged, or newer than this version."""
    path = _folder(Path(path))
    try:
        manifest = json.loads(files.read(path / MANIFEST, LARGEST_MANIFEST))
        schema, hashes, sizes = manifest["schema"], manifest["files"], manifest.get("sizes", {})
        own = _own_hash(manifest)
        if not isinstance(hashes, dict) or not isinstance(sizes, dict):
            raise TypeError
        if not all(type(number) is int and number >= 0 for number in (schema, *sizes.values())):
            raise TypeError
    except FileNotFoundError:
        raise CheckpointError(
            f"checkpoint {path}: {MANIFEST} is missing, so it is no checkpoint or an incomplete one{_meant(path)}"
        ) from None
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: {MANIFEST} is damaged: {error.strerror}") from None
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise CheckpointError(f"checkpoint {path}: {MANIFEST} is damaged{_meant(path)}") from None
    if schema > SCHEMA:
        raise CheckpointError(
            f"checkpoint {path}: schema {schema} is newer than this version's {SCHEMA}; upgrade marl-system"
        )
    if manifest.get("sha256") != own or not isinstance(manifest.get("meta"), dict):
        raise CheckpointError(
            f"checkpoint {path}: {MANIFEST} is damaged or was edited (its SHA-256 differs); use another checkpoint"
        )
    if set(hashes) != {TREE, TENSORS}:
        odd = ", ".join(sorted(set(hashes) ^ {TREE, TENSORS}))
        raise CheckpointError(f"checkpoint {path}: unknown or missing components: {odd:.200} (schema {schema})")
    return dict(manifest)


def _meant(path: Path) -> str:
    """What a folder is that is no checkpoint, as a hint."""
    within = path / "checkpoints" / "last"
    if within.exists():
        return f"; it is a run folder: name one of its checkpoints, such as {within}"
    return " or no checkpoint's: marl_runtime.load reads a bundle" if (path / "policy_0.json").exists() else ""


def _folder(path: Path) -> Path:
    """A checkpoint's folder itself; of links those to a checkpoint beside them are followed, as ``last`` is."""
    if path.is_symlink():
        target = os.readlink(path)
        beside = path.with_name(target) if Path(target).name == target else None
        if beside is None or beside.is_symlink():
            raise CheckpointError(f"checkpoint {path} is a link to {target!r}: name what it leads to, if you mean that")
        path = beside
    if not path.is_dir():
        what = "is a file, not a checkpoint directory" if path.exists() else "does not exist"
        raise CheckpointError(f"checkpoint {path} {what}")
    return path


def fingerprint_differences(manifest: Mapping[str, Any]) -> list[str]:
    """Differences between this process and the one that saved; without any, resuming is bit-exact."""
    saved, now = manifest.get("fingerprint", {}), fingerprint()
    return [f"{key} {saved.get(key)} -> {now[key]}" for key in now if saved.get(key) != now[key]]


def _strip(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON of a tree, its tensors and arrays moved to ``tensors`` under their path."""
    if isinstance(value, Tensor | np.ndarray):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value, order="C"))
        # Parameters are views into one matrix; each is saved as a tensor of its own.
        tensors[name] = tensor.cpu().clone(memory_format=torch.contiguous_format)
        if (
            name.startswith("/learners")
            and "/model/" in name
            and tensor.is_floating_point()
            and not tensor.isfinite().all()
        ):
            raise NonFiniteError(
                f"not saved: parameter {name} is not finite; lower the learning rate or check the rewards"
            )
        return {"$": kind, "at": name}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and "$" not in value:
            return {key: _strip(item, f"{name}/{key}", tensors) for key, item in value.items()}
        pairs = [[_strip(key, "", {}), _strip(item, f"{name}/{key}", tensors)] for key, item in value.items()]
        return {"$": "pairs", "items": pairs}
    if isinstance(value, tuple | list):
        items = [_strip(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]
        return {"$": "tuple", "items": items} if isinstance(value, tuple) else items
    if isinstance(value, np.generic):
        return _strip(value.item(), name, tensors)
    if isinstance(value, bytes):
        return {"$": "bytes", "hex": value.hex()}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise CheckpointError(
        f"not saved: {name or 'state'} is a {type(value).__name__}; checkpoints hold tensors, arrays and JSON values"
    )


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restore(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("$")
    if kind is None:
        return {key: _restore(item, tensors) for key, item in value.items()}
    if kind == "tensor":
        return tensors[value["at"]]
    if kind == "array":
        return tensors[value["at"]].numpy().copy()
    if kind == "pairs":
        return {_restore(key, tensors): _restore(item, tensors) for key, item in value["items"]}
    if kind == "tuple":
        return tuple(_restore(item, tensors) for item in value["items"])
    if kind == "bytes":
        return bytes.fromhex(value["hex"])
    raise CheckpointError(f"checkpoint holds an unknown kind of value {kind!r}")


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
