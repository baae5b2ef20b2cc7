"""The door to compiled code: what may stand in for torch, decided once for each learner and each network.

Compiled code stands below what it speeds up and imports none of it. A network tells what it is as data
(:class:`DenseLayers`); a compiled gradient names the one class of learner, the settings and the equations that it was
written for (:func:`covers`). Whatever is not named, a subclass, a new setting, a function of the user's, goes through
torch.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from types import FunctionType, TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils.hooks import RemovableHandle

from marl.types import ConfigError, MarlError

G = TypeVar("G")
K = TypeVar("K", bound="type[Kernel]")

WORDS = ("auto", "off", "check")
VARIABLE = "MARL_COMPILED"
SWITCHED_OFF = f"compiled code is switched off (marl.compiled.use or {VARIABLE})"
# What registers gradients.
KERNELS = ("marl.compiled.ppo", "marl.compiled.dqn", "marl.compiled.mixed", "marl.compiled.sac")
PARTS = 3  # inputs of a compiled network that may come side by side
CHECKED = 10  # updates of each learner that "check" computes both ways
# Methods that compute a module's numbers.
COMPUTES = (
    *("forward", "read", "read_all", "encode", "evaluate", "critic_value", "value_of", "values_of", "inputs"),
    *("converse", "speak", "ask", "modulate", "hear"),
)


class MismatchError(MarlError, RuntimeError):
    """Compiled code and torch computed different numbers (exit status 1); raised by ``use("check")`` alone."""

    exit_code = 1


# --- whether compiled code is used ------------------------------------------------------------------------------------


def _checked_word(word: str, where: str) -> str:
    if word not in WORDS:
        raise ConfigError(f"{where}: expected 'auto', 'off' or 'check', got {word!r}")
    return word


word = _checked_word(os.environ.get(VARIABLE) or "auto", VARIABLE)
enabled = word != "off"  # read on every call: no more than an attribute
checking = word == "check"


def _switch(to: str) -> None:
    global word, enabled, checking
    word, enabled, checking = to, to != "off", to == "check"


class use:
    """Say whether compiled code stands in for torch: from now on, or within a ``with`` statement.

    Args:
        word: ``"auto"`` uses it wherever it fits; ``"off"`` computes everything with torch; ``"check"`` computes both
            and compares: the first ten updates of every learner, and every call of a network. The environment variable
            ``MARL_COMPILED`` says the same for a whole process.

    Raises:
        ConfigError: for another word.
    """

    def __init__(self, word: str) -> None:
        """Takes effect at once."""
        self._before = globals()["word"]
        _switch(_checked_word(word, "marl.compiled.use"))

    def __enter__(self) -> None:
        """What was said holds until the end of the statement."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Back to what was said before."""
        _switch(self._before)


@contextmanager
def plainly() -> Iterator[None]:
    """A context in which torch computes everything, for comparisons."""
    before = word
    _switch("off")
    try:
        yield
    finally:
        _switch(before)


def recorded() -> bool:
    """Whether torch writes operations down, to trace, export or compile them: it would miss what kernels compute."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


# --- networks ---------------------------------------------------------------------------------------------------------


class DenseLayers(NamedTuple):
    """A stacked network of fully connected layers, as data: all that compiled code knows of a network.

    ``plain(parts, parameters)`` computes it with torch from inputs ``(T, B, N, F)`` side by side, with the given
    ``[W_1, b_1, ..., W_k, b_k]``.
    """

    weights: list[nn.Parameter]  # of each layer (P, in, out)
    biases: list[nn.Parameter]  # (P, out)
    activation: str
    members: Any  # (P, most) the agents of each parameter set, unused places -1
    sizes: Any  # (P,) how many agents each has
    ids: Tensor  # (N, I) beside every agent's observation, in play
    plain: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """``[W_1, b_1, ..., W_k, b_k]``."""
        return [part for pair in zip(self.weights, self.biases, strict=True) for part in pair]


class RecurrentLayers(NamedTuple):
    """A stacked network of fully connected layers around a recurrent unit, as data, like :class:`DenseLayers`.

    Layers: those of the encoder, the products with the inputs and with the hidden state, the output layer.
    ``plain(x, carry, start, acting, parameters)`` gives outputs ``(T, B, N, O)`` and carries ``(T, B, N, C)``.
    """

    unit: Any  # the compiled recurrent unit
    weights: list[nn.Parameter]  # of each layer (P, in, out)
    biases: list[nn.Parameter]  # (P, out)
    activation: str  # of the encoder
    members: Any
    sizes: Any
    ids: Tensor  # (N, I) beside every agent's observation, in play
    plain: Callable[[Tensor, Tensor, Tensor, Tensor, Sequence[Tensor]], tuple[Tensor, Tensor]]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """``[W_1, b_1, ..., W_k, b_k]``."""
        return [part for pair in zip(self.weights, self.biases, strict=True) for part in pair]


class TalkingLayers(NamedTuple):
    """A network with a recurrent unit whose agents hear in a step what was said in the one before, as data.

    Its body reads observations, ids and a summary of what arrives; carries are laid out ``[unit's, query, message,
    loudness, edges]``, columns of edges beside the inputs ``[edges, ears]``. ``body.plain`` computes the whole of it.
    """

    body: RecurrentLayers
    weights: list[nn.Parameter]  # of the layers that read features: messages if it ``says`` them, gate, query
    biases: list[nn.Parameter]
    says: bool  # otherwise features are the message
    gated: bool
    private: int  # numbers of a query, and of a signature that begins a message; 0: listeners take the mean
    size: int  # numbers of a message
    edges: Tensor  # (N, N)
    changes: bool  # whether edges are part of inputs and carries instead
    keeps_last: bool  # whether those who are not acting are heard with their last words

    @property
    def parameters(self) -> list[nn.Parameter]:
        """``[W_1, b_1, ..., W_k, b_k]``, without the body's."""
        return [part for pair in zip(self.weights, self.biases, strict=True) for part in pair]


class FastNetwork(Protocol):
    """A compiled network."""

    def __call__(self, *parts: Tensor) -> Tensor:
        """Outputs ``(T, B, N, O)`` of inputs ``(T, B, N, F)`` side by side, with their gradients."""
        ...

    def choose(
        self, obs: Tensor, action_mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """A draw from ``softmax(outputs)`` for observations ``(E, N, F)``: actions and log-probabilities ``(E, N)``."""
        ...


class FastRecurrentNetwork(Protocol):
    """A compiled network with a recurrent unit."""

    def __call__(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs ``(T, B, N, O)`` and carries ``(T, B, N, C)`` of inputs ``(T, B, N, F)``, with their gradients."""
        ...

    def once(self, obs: Tensor, carry: Tensor, started: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        """One step of play: outputs ``(E, N, O)`` and the next carry of observations ``(E, N, F)`` without ids."""
        ...


class FastTalkingNetwork(Protocol):
    """A compiled network whose agents talk from step to step."""

    @property
    def share(self) -> Any:
        """``(B, N, N)``: what each listener gave to each speaker in the newest step."""
        ...

    def __call__(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        """As of :class:`FastRecurrentNetwork`."""
        ...


class DescribesLayers(Protocol):
    """A network that can say what it is."""

    @property
    def head(self) -> nn.Module:
        """The last layer."""
        ...

    def dense(self) -> DenseLayers | None:
        """The fully connected layers as data; None for any other network."""
        ...

    def around_unit(self) -> RecurrentLayers | None:
        """The layers around a recurrent unit as data; None for any other network."""
        ...

    def that_talks(self) -> TalkingLayers | None:
        """The layers of a network whose agents talk as data; None for any other network."""
        ...


class ChosenNetwork:
    """What was decided for a network, good until it is :attr:`stale`."""

    __slots__ = ("_hooks", "_place", "_weight", "_word", "network", "recurrent", "talking", "touched")

    def __init__(self, net: DescribesLayers) -> None:
        """Looks at the network as it is."""
        weight: Any = net.head.weight
        self._word, self._hooks, self._weight, self._place = word, RemovableHandle.next_id, weight, weight.data_ptr()
        self.network: FastNetwork | None = None
        self.recurrent: FastRecurrentNetwork | None = None
        self.talking: FastTalkingNetwork | None = None
        self.touched = touched(cast(nn.Module, net))  # whether torch has to call every module
        if not enabled or self.touched:
            return
        layers = net.around_unit()
        if layers is not None:
            recurrent_net = importlib.import_module("marl.compiled.recurrent_net")
            self.recurrent = recurrent_net.CompiledRecurrent.maybe(layers)
        talks = net.that_talks()
        if talks is not None:
            self.talking = importlib.import_module("marl.compiled.talking").CompiledTalking.of(talks)
        dense = net.dense()
        if dense is not None:
            acting = importlib.import_module("marl.compiled.acting")
            network = acting.Acting.maybe(dense)
            self.network = acting.CheckedActing(network, dense) if checking and network is not None else network

    @property
    def stale(self) -> bool:
        """Whether parameters lie elsewhere by now, somebody hooked into something, or :func:`use` was called."""
        return (
            self._weight.data_ptr() != self._place or word is not self._word or RemovableHandle.next_id != self._hooks
        )


def network_for(net: DescribesLayers) -> ChosenNetwork:
    """What computes a network's outputs: a compiled one if it is plain layers in a flat matrix on the CPU.

    So are fully connected networks, those with a recurrent unit between their layers, and teams of these that talk.
    """
    return ChosenNetwork(net)


class SmallNets(NamedTuple):
    """Several small networks that read the same input, with rectifiers between their layers, as data.

    ``plain(x, parameters)`` computes their outputs ``(..., widths)`` side by side with torch.
    """

    parameters: list[nn.Parameter]  # [W_1 (in, out), b_1 (1, out), ...] of one network after the other
    depths: list[int]  # layers of each
    plain: Callable[[Tensor, Sequence[Tensor]], Tensor]


class DescribesNets(Protocol):
    """Networks that can say what they are."""

    @property
    def parts(self) -> Sequence[nn.Module]:
        """The networks."""
        ...

    def small(self) -> SmallNets | None:
        """The networks as data; None if they are of another kind."""
        ...


class ChosenNets:
    """What was decided for several small networks, good until it is :attr:`stale`."""

    def __init__(self, nets: DescribesNets) -> None:
        """Looks at the networks as they are."""
        self._word, self._hooks = word, RemovableHandle.next_id
        self.nets: Callable[[Tensor], Tensor] | None = None
        small = nets.small() if enabled and not any(map(touched, nets.parts)) else None
        self._weight = None if small is None else small.parameters[0]
        self._place = 0 if self._weight is None else self._weight.data_ptr()
        if small is not None:
            self.nets = importlib.import_module("marl.compiled.side_by_side").CompiledNets.maybe(small)

    @property
    def stale(self) -> bool:
        """Whether parameters lie elsewhere by now, somebody hooked into something, or :func:`use` was called."""
        moved = self._weight is not None and self._weight.data_ptr() != self._place
        return moved or word is not self._word or RemovableHandle.next_id != self._hooks


def nets_for(nets: DescribesNets) -> ChosenNets:
    """What computes several small networks: one compiled call if they are plain layers in a flat matrix on the CPU."""
    return ChosenNets(nets)


def touched(module: nn.Module) -> bool:
    """Whether hooks or replaced functions make it necessary that torch calls a module."""
    if torch_module._has_any_global_hook():  # type: ignore[no-untyped-call]
        return True
    for part in module.modules():
        own = vars(part)
        hooks = own["_forward_hooks"], own["_forward_pre_hooks"], own["_backward_hooks"], own["_backward_pre_hooks"]
        if any(hooks) or any(name in own for name in COMPUTES):
            return True
    return False


# --- gradients --------------------------------------------------------------------------------------------------------


class Kernel(Protocol):
    """A compiled gradient: it has the methods of the learner's own gradient, and these."""

    @property
    def flats(self) -> Sequence[Any]:
        """The matrices whose gradients it fills."""
        ...

    @classmethod
    def refuses(cls, learner: Any) -> str | None:
        """Why it does not fit a learner of its class; None: it does."""
        ...

    @classmethod
    def of(cls, learner: Any) -> Any:
        """For a learner that it fits."""
        ...

    @classmethod
    def modules(cls, learner: Any) -> Iterable[nn.Module]:
        """The modules that it computes in torch's place."""
        ...

    @property
    def stale(self) -> bool:
        """Whether parameters lie elsewhere by now."""
        ...


class Covered(NamedTuple):
    """What a compiled gradient stands for."""

    kernel: type[Kernel]
    settings_class: str
    equations: tuple[str, ...]
    settings: frozenset[str]


_registered: dict[tuple[str, str | None], Covered] = {}  # by learner and credit; None: any other


def covers(
    learner: str, settings_class: str, *, equations: Sequence[str], settings: Iterable[str], credits: Sequence[str] = ()
) -> Callable[[K], K]:
    """Register a compiled gradient for exactly one class of learner.

    Args:
        learner: the whole name of the class; subclasses are not meant.
        settings_class: that of its settings.
        credits: classes of its credit with which this gradient takes the place of another; none: with any credit.
        equations: the learner's functions that are computed in its place; ``part.function`` is one of a part's.
        settings: those that the kernel, or what surrounds it, implements whatever their value; every other one must be
            at its default. So a setting that is added later leaves the learner to autograd until somebody lists it.
    """

    def register(kernel: K) -> K:
        for credit in credits or (None,):
            _registered[learner, credit] = Covered(kernel, settings_class, tuple(equations), frozenset(settings))
        return kernel

    return register


def whole_name(thing: Any) -> str:
    """Module and name of a thing's class."""
    kind = type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


def covered(learner: str, credit: str = "") -> Covered | None:
    """What stands in for the learner of that name, with a credit of that name."""
    for name in KERNELS:
        importlib.import_module(name)
    return _registered.get((learner, credit), _registered.get((learner, None)))


class Chosen:
    """What was decided for a learner, good until it is :attr:`stale`."""

    def __init__(self, learner: Any, autograd: Any) -> None:
        """Looks at the learner as it is."""
        self._learner, self._word, self._hooks = learner, word, RemovableHandle.next_id
        self._settings = learner.settings
        self.gradient, self.compiled, self.left = autograd, False, 0
        self._look: Callable[[Any], Any] = type  # at all the equations at once
        self._kernel: Kernel | None = None
        self.reason = self._refusal()
        self._seen = self._look(learner)
        if not self.reason:
            self.compiled = True
            self._kernel = self.gradient = self._covered().kernel.of(learner)
            if checking:
                self.gradient, self.left = Checked(learner, self._kernel, autograd), CHECKED

    def _refusal(self) -> str:
        """Why there is no compiled gradient; empty if there is one."""
        learner = self._learner
        if not enabled:
            return SWITCHED_OFF
        found = self._covered()
        if found is None:
            for base in type(learner).__mro__:
                if covered(f"{base.__module__}.{base.__qualname__}") is not None:
                    return f"{type(learner).__name__} may compute something else than {base.__name__}"
            return f"there is no compiled one for {type(learner).__name__}"
        self._look = attrgetter(*found.equations)
        for name in found.equations:
            if not _is_own(learner, name, _function(learner, name)):
                return f"{name} was replaced by another function"
        if whole_name(learner.settings) != found.settings_class:
            return f"{type(learner.settings).__name__} may mean something else than {found.settings_class}"
        for name in changed(learner.settings):
            if name not in found.settings:
                return f"setting {name!r} is not among those that the kernel computes"
        if any(touched(module) for module in found.kernel.modules(learner)):
            return "somebody hooked into a network, or replaced a function of one"
        return found.kernel.refuses(learner) or ""

    def _covered(self) -> Any:
        return covered(whole_name(self._learner), whole_name(getattr(self._settings, "credit", None)))

    @property
    def stale(self) -> bool:
        """Whether anything that was looked at may have changed; looks at what costs next to nothing."""
        kernel = self._kernel
        if word is not self._word or RemovableHandle.next_id != self._hooks or (kernel is not None and kernel.stale):
            return True
        if self._learner.settings is not self._settings:
            return True
        return bool(self._look(self._learner) != self._seen)  # methods of one object are equal if their functions are

    def __reduce__(self) -> Any:
        """A copy of a learner decides for itself."""
        return type(None), ()


def gradient_for(learner: Any, autograd: G) -> G:
    """What fills a learner's gradients: a compiled gradient if one covers it, else ``autograd``.

    Asked when a learner is made and before every update. The decision is kept in ``learner.chosen`` and said in one
    line; it is made anew if :func:`use` was called, settings, a function or a network were replaced, or somebody hooked
    into one.
    """
    chosen: Chosen | None = learner.chosen
    if chosen is None or chosen.stale:
        before, chosen = chosen, Chosen(learner, autograd)
        learner.chosen = chosen
        if before is None or (before.compiled, before.reason) != (chosen.compiled, chosen.reason):
            what = "compiled gradient" if chosen.compiled else f"autograd, because {chosen.reason}"
            who = f"{learner.team.name}: {type(learner.settings).__name__}"
            logging.getLogger("marl.compiled").info("%s: %s", who, what)
    elif chosen.left:
        chosen.left -= 1
        if not chosen.left:
            chosen.gradient = chosen._kernel
    return cast(G, chosen.gradient)


def decisions(learners: Iterable[Any]) -> dict[str, dict[str, str]]:
    """What was decided for each team whose learner asked, for a run's ``config.json``."""
    found = {}
    for learner in learners:
        chosen: Chosen | None = getattr(learner, "chosen", None)
        if chosen is not None:
            words = {"gradient": "compiled" if chosen.compiled else "autograd"}
            words |= {"reason": chosen.reason} if chosen.reason else {}
            for stepper in getattr(learner, "optimizers", dict)().values():  # all are of one setting
                reason = stepper.refusal if enabled else SWITCHED_OFF
                words |= {"optimizer": f"torch, because {reason}" if reason else "compiled"}
            found[learner.team.name] = words
    return found


def changed(settings: Any) -> list[str]:
    """The settings that are not at their defaults."""
    return [field.name for field in dataclasses.fields(settings) if getattr(settings, field.name) != field.default]


def _owner(learner: Any, name: str) -> tuple[Any, str]:
    """What has the method of a dotted name, the learner or a part of it, and the method's own name."""
    path, _, method = name.rpartition(".")
    return (attrgetter(path)(learner) if path else learner), method


def _function(learner: Any, name: str) -> Any:
    """The function behind a method, whether it stands in the class or was put into the instance."""
    owner, method = _owner(learner, name)
    found = getattr(owner, method)
    return getattr(found, "__func__", found)


def _is_own(learner: Any, name: str, function: Any) -> bool:
    """Whether a method is the one that its class was written with."""
    if not isinstance(function, FunctionType):
        return False
    owner, method = _owner(learner, name)
    return any(
        function.__code__.co_qualname == f"{base.__qualname__}.{method}" and function.__module__ == base.__module__
        for base in type(owner).__mro__
    )


# --- comparing --------------------------------------------------------------------------------------------------------

TOLERANCE = 0.01  # of the largest number: gradients that differ by more differ by an error, not by rounding
LEAST = 1e-6  # differences of this size are rounding whatever they are compared with


class Checked:
    """Both gradients, compared: calls of a method go to torch, then to compiled code, whose numbers are kept."""

    def __init__(self, learner: Any, compiled: Any, autograd: Any) -> None:
        """``compiled`` stands in for ``autograd``."""
        self._learner, self._compiled, self._autograd = learner, compiled, autograd
        self._updates = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Any of their methods."""
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *data: self._both(name, data)

    def _both(self, name: str, data: tuple[Any, ...]) -> Any:
        off = self._difference(name, data)
        if off > TOLERANCE:
            # A row on the border of a clip falls to either side by rounding: an error shows in other rows as well.
            split = getattr(self._compiled, "pieces", None)
            pieces: list[Any] = [] if split is None else split(name, *data)
            if not pieces or all(self._difference(name, piece) > TOLERANCE for piece in pieces):
                self._raise(name, off)
            self._difference(name, data)
        return self._found

    def _difference(self, name: str, data: tuple[Any, ...]) -> float:
        learner = self._learner
        before = learner.generator.get_state()
        with plainly():
            wanted = getattr(self._autograd, name)(*data)
        gradients = [flat.gradients.clone() for flat in self._compiled.flats]
        learner.generator.set_state(before)
        self._found = getattr(self._compiled, name)(*data)
        off = max(
            difference(flat.gradients, gradient) for flat, gradient in zip(self._compiled.flats, gradients, strict=True)
        )
        if wanted is None:
            return off
        if isinstance(wanted, Tensor):  # parts of a loss by parameter set, or the mean of all sets in the row of each
            told = [(self._found.sum(0), wanted.sum(0))]
        else:
            told = list(zip(self._found, wanted, strict=True))
        size = max(float(reference.abs().max()) for _, reference in told)
        return max(off, *(difference(ours, reference, 0.01 * size) for ours, reference in told))

    def _raise(self, name: str, off: float) -> None:
        learner = self._learner
        told = ", ".join(f"{field}={getattr(learner.settings, field)!r}" for field in changed(learner.settings))
        what = f"gradient of the {name.removeprefix('fill_')}" if name.startswith("fill_") else "gradient"
        raise MismatchError(
            f"{learner.team.name}: {type(learner.settings).__name__}: update {1 + CHECKED - learner.chosen.left}: the "
            f"compiled {what} differs from autograd's by {off:.2g} of the largest; settings not at their defaults: "
            f"{told or 'none'}; marl.compiled.use('off') or {VARIABLE}=off learns without it"
        )


def difference(found: Tensor, wanted: Tensor, size: float = 0.0) -> float:
    """The largest difference, as a share of the largest number wanted, or of ``size`` if that is larger."""
    found, wanted = found.detach().double(), wanted.detach().double()
    if not wanted.numel():
        return 0.0
    if not bool(wanted.isfinite().all()):
        return 0.0 if not bool(found.isfinite().all()) else float("inf")
    off = float((found - wanted).abs().max())
    if off != off:
        return float("inf")
    return 0.0 if off <= LEAST else off / max(float(wanted.abs().max()), size, 1e-12)


def require_equal(what: str, *pairs: tuple[Tensor, Tensor], tolerance: float = TOLERANCE) -> None:
    """Raise MismatchError if what a kernel computed is not what torch computed."""
    off = max(difference(found, wanted) for found, wanted in pairs)
    if off > tolerance:
        raise MismatchError(
            f"{what}: compiled code differs from torch by {off:.2g} of the largest number; marl.compiled.use('off') or "
            f"{VARIABLE}=off does without it"
        )
