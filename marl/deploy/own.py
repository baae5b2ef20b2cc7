"""Networks of a user's own (``marl.Custom``) as ONNX graphs, by torch's exporter."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from marl.types import ConfigError
from marl_runtime.onnx import OPERATIONS

OPSET = 18  # the lowest that torch's exporter writes


def graph_of(module: nn.Module, width: int) -> Any:
    """A module that maps ``(N, width)`` to ``(N, features)`` as an ONNX model of one input and one output.

    Raises:
        ConfigError: one line, if torch cannot export it, or if it needs operations that no bundle may hold.
    """
    name = type(module).__name__
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigError("onnxscript is not installed: pip install 'marl-system[export]'") from None
    batch = {0: torch.export.Dim("N")}
    try:
        with _quiet():
            alone = copy.deepcopy(module).cpu().eval()
            # Two rows: with one, torch takes the batch for a constant.
            made = torch.onnx.export(
                alone,
                (torch.zeros(2, width),),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=(batch,),
                verbose=False,
            )
            assert made is not None
            model: Any = made.model_proto
    except Exception as error:  # a user's code runs here, and the exporter's errors have no common class
        text = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"{name} is a network of your own that torch.onnx.export does not take ({text[0]:.200}); change it, or "
            "teach a network of this library what it does: --distill 64,64"
        ) from None
    foreign = sorted({node.op_type for node in model.graph.node if node.domain or node.op_type not in OPERATIONS})
    if foreign or model.functions:
        held = ", ".join(foreign) or "functions"
        raise ConfigError(
            f"{name} is a network of your own whose graph has {held:.200}, which no bundle may hold; change it, or "
            "teach a network of this library what it does: --distill 64,64"
        )
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the exporter says of itself is not for whoever exports a policy."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
