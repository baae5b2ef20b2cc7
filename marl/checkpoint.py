"""Checkpoints: a directory of tensors and JSON, hashed, written atomically, read without unpickling anything.

``manifest.json`` names every other file with its SHA-256; ``tree.json`` is the state with placeholders where tensors and
arrays were, and these lie in ``tensors.safetensors``. Nothing is parsed before its hash is right.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from marl.types import CheckpointError

SCHEMA = 1
MANIFEST, TREE, TENSORS = "manifest.json", "tree.json", "tensors.safetensors"


def fingerprint() -> dict[str, str]:
    """What must be equal for a resumed run to give the very same numbers."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def save(path: str | Path, state: Mapping[str, Any], meta: Mapping[str, Any]) -> Path:
    """Write a tree of tensors, arrays and JSON values to the directory ``path``, replacing what is there in one move.

    Raises:
        OSError: if the disk refuses; what was there before is intact.
        CheckpointError: if a floating-point parameter is not finite.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    tensors: dict[str, Tensor] = {}
    tree = _strip(state, "", tensors)
    files = {TREE: json.dumps(tree).encode(), TENSORS: save_tensors(tensors)}
    manifest = {
        "schema": SCHEMA,
        "meta": dict(meta),
        "fingerprint": fingerprint(),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    files[MANIFEST] = json.dumps(manifest, indent=1).encode()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir()
        for name, data in files.items():
            with open(temporary / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync(temporary)
        previous = path.with_name(f".{path.name}.previous")
        if path.exists():
            os.rename(path, previous)
        os.rename(temporary, path)
        _sync(path.parent)
        shutil.rmtree(previous, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return path


def sweep(path: Path) -> None:
    """Finish or undo what an interrupted save of ``path`` left: restore the previous state, remove temporary directories."""
    previous = path.with_name(f".{path.name}.previous")
    if previous.exists():
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)
        else:
            os.rename(previous, path)
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def load(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state and the whole manifest of a checkpoint.

    Raises:
        CheckpointError: if anything is missing, damaged, foreign or of a newer schema.
    """
    path = Path(path)
    if not path.exists() and path.with_name(f".{path.name}.previous").exists():
        path = path.with_name(f".{path.name}.previous")
    manifest = read_manifest(path)
    contents: dict[str, bytes] = {}
    for name in (TREE, TENSORS):
        expected = manifest["files"].get(name)
        try:
            data = (path / name).read_bytes()
        except OSError as error:
            raise CheckpointError(f"checkpoint {path}: {name} cannot be read ({error.strerror}); use another checkpoint") from None
        if hashlib.sha256(data).hexdigest() != expected:
            raise CheckpointError(f"checkpoint {path}: {name} is damaged (its SHA-256 differs from the manifest); use another one")
        contents[name] = data
    tensors = load_tensors(contents[TENSORS])
    state = _restore(json.loads(contents[TREE]), tensors)
    return state, manifest


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest alone. Raises CheckpointError if it is missing, no manifest, or newer than this version understands."""
    path = Path(path)
    if not path.is_dir():
        what = "is a file, not a checkpoint directory" if path.exists() else "does not exist"
        raise CheckpointError(f"checkpoint {path} {what}")
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        schema, files = manifest["schema"], manifest["files"]
        if not isinstance(files, dict) or not isinstance(schema, int):
            raise TypeError
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path}: {MANIFEST} is missing, so it is no checkpoint or an incomplete one") from None
    except (ValueError, KeyError, TypeError, OSError):
        raise CheckpointError(f"checkpoint {path}: {MANIFEST} is damaged") from None
    if schema > SCHEMA:
        raise CheckpointError(f"checkpoint {path}: schema {schema} is newer than this version's {SCHEMA}; upgrade marl-system")
    return dict(manifest)


def differences(manifest: Mapping[str, Any]) -> list[str]:
    """How this process differs from the one that saved: resuming is bit-exact only where nothing does."""
    saved, now = manifest.get("fingerprint", {}), fingerprint()
    return [f"{key} {saved.get(key)} -> {now[key]}" for key in now if saved.get(key) != now[key]]


def _strip(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON of a tree, its tensors and arrays moved to ``tensors`` under their path."""
    if isinstance(value, Tensor | np.ndarray):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value, order="C"))
        # Parameters are views into one matrix; each is saved as a tensor of its own.
        tensors[name] = tensor.cpu().clone(memory_format=torch.contiguous_format)
        if name.startswith("/learners") and "/model/" in name and tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"not saved: parameter {name} is not finite")
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
    raise CheckpointError(f"not saved: {name or 'state'} is a {type(value).__name__}; checkpoints hold tensors, arrays and JSON values")


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
