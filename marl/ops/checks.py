"""Shape and dtype checks: every function of `marl.ops` declares its arguments once, before any arithmetic."""

from torch import Tensor

__all__ = ["check", "check_numeric"]


def check(**arguments: tuple[Tensor, str]) -> None:
    """Compare each argument with its declaration, such as `check(q_tm1=(q_tm1, "float * A"), a_tm1=(a_tm1, "int *"))`.

    A declaration is a kind followed by axes. The kind is `float` (all float arguments must share one dtype), `int`,
    `bool` or `any`. An axis is a name (`A`), a name plus or minus a number (`T+1`, `T-1`), `*` for any number of
    batch axes, or `?*` for either those batch axes or none. Names and `*` take their sizes from the first argument
    that has them, and every later argument must have the same: nothing broadcasts. The time axis `T` is at least 1.

    Raises:
        ValueError: an argument differs from its declaration; the message names it, what was expected and what came.
        TypeError: an argument is not a tensor.
    """
    sizes: dict[str, int] = {}
    batch: tuple[int, ...] | None = None
    first_float: tuple[str, Tensor] | None = None
    for name, (tensor, declaration) in arguments.items():
        kind, *axes = declaration.split()
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a torch tensor ({declaration}), got {type(tensor).__name__}")
        first_float = _check_kind(name, tensor, kind, first_float)

        shape = tuple(tensor.shape)
        star = next((place for place, axis in enumerate(axes) if axis in ("*", "?*")), -1)
        fixed = len(axes) if star < 0 else len(axes) - 1
        if len(shape) < fixed or (star < 0 and len(shape) != fixed):
            amount = "" if star < 0 else "at least "
            raise ValueError(f"{name}: expected {amount}{fixed} axes ({', '.join(axes)}), got shape {shape}")
        free = len(shape) - fixed
        expected: tuple[int, ...] = ()
        for place, axis in enumerate(axes):
            if axis in ("*", "?*"):
                own = shape[place : place + free]
                if batch is None and axis == "*":
                    batch = own
                expected += own if axis == "?*" and (free == 0 or batch is None) else (batch or ())
                continue
            size = shape[place] if star < 0 or place < star else shape[place - 1 + free]
            base, shift = _split_axis(axis)
            if base not in sizes:
                if base == "T" and size <= shift:
                    raise ValueError(f"{name}: expected at least one time step ({', '.join(axes)}), got shape {shape}")
                sizes[base] = size - shift
            expected += (sizes[base] + shift,)
        if shape != expected:
            source = _source(name, {key: declared.split()[1:] for key, (_, declared) in arguments.items()})
            raise ValueError(f"{name}: expected shape {expected} ({', '.join(axes)}){source}, got {shape}")


def check_numeric(name: str, value: float | Tensor, like: Tensor) -> None:
    """A number, a scalar tensor, or a tensor of exactly the shape and dtype of `like`; anything else raises
    ValueError."""
    if not isinstance(value, Tensor):
        return
    if value.dim() == 0 and value.dtype.is_floating_point:
        return
    if value.shape != like.shape or value.dtype != like.dtype:
        expected = f"a number or shape {tuple(like.shape)} {like.dtype}"
        raise ValueError(f"{name}: expected {expected}, got shape {tuple(value.shape)} {value.dtype}")


def _source(name: str, declared: dict[str, list[str]]) -> str:
    """The arguments that set the sizes of the axes of `name`, since the mistake may be theirs."""
    bases = {key: ["*" if axis == "?*" else _split_axis(axis)[0] for axis in axes] for key, axes in declared.items()}
    first = {next(key for key, own in bases.items() if base in own): None for base in bases[name]}
    first.pop(name, None)
    return f" as {' and '.join(first)} has" if first else ""


def _split_axis(axis: str) -> tuple[str, int]:
    if "+" in axis:
        base, shift = axis.split("+")
        return base, int(shift)
    if "-" in axis:
        base, shift = axis.split("-")
        return base, -int(shift)
    return axis, 0


def _check_kind(
    name: str, tensor: Tensor, kind: str, first_float: tuple[str, Tensor] | None
) -> tuple[str, Tensor] | None:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if kind == "float":
        if not tensor.dtype.is_floating_point:
            raise ValueError(f"{name}: expected a floating-point tensor, got {dtype}")
        if first_float is None:
            return name, tensor
        if tensor.dtype != first_float[1].dtype:
            raise ValueError(f"{name}: expected {first_float[1].dtype} as {first_float[0]} has, got {dtype}")
    elif kind == "bool" and dtype != "bool":
        raise ValueError(f"{name}: expected a bool tensor, got {dtype}")
    elif kind == "int" and not dtype.startswith(("int", "uint")):
        raise ValueError(f"{name}: expected an integer tensor, got {dtype}")
    return first_float
