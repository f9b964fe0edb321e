"""A module of another library whose forward pass does more in one call, without a trace in the next or in another
thread's.

Its code, its parameters and their names stay as they are. A module is made an instance of a subclass of its class, as
PyTorch's `fully_shard` does it, and the subclass runs the forward pass that it inherits on a stand-in for the module,
some of whose submodules do more. What they need comes as an argument of the call. Nothing is kept on the module, no
hook either: a compiler guards the class of a module and the arguments, but no hooks, and a layer that is computed again
for its gradient, perhaps in another thread, is computed from its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn


class InThisCall:
    """A module as one call sees it: it has the module's attributes, but for some submodules, and may do more when it is
    called.

    Args:
        module: stays as it is.
        call: takes what the module would be called with. None: the module itself.
        replaced: attributes that are others in this call.
    """

    def __init__(
        self,
        module: nn.Module,
        call: Callable[..., Any] | None = None,
        replaced: Mapping[str, InThisCall | Sequence[InThisCall]] | None = None,
    ) -> None:
        self._module = module
        self._call = module if call is None else call
        self.was_called = False
        if replaced is not None:
            # Found here and not by the `__getattr__` of two classes, which takes a microsecond for each of the five
            # submodules that a decoder layer asks for.
            vars(self).update(module._modules)
            vars(self).update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.was_called = True
        return self._call(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As a call; transformers asks a layer's class for it, to see whose forward pass it is in."""
        return self(*args, **kwargs)


class Extended(nn.Module):
    """What comes before a module's own class in the class that `extend` gives it."""

    EXTENDED: ClassVar[type[nn.Module]]
    """The module's own class."""

    EXTENSION: ClassVar[type[Extended]]
    """What comes before it."""

    def forward_with(
        self, replaced: Mapping[str, InThisCall | Sequence[InThisCall]], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """The forward pass of the module's own class, with these submodules in place of its own.

        Raises:
            RuntimeError: it did not call one of them.
        """
        output = self.EXTENDED.forward(InThisCall(self, replaced=replaced), *args, **kwargs)
        for name, parts in replaced.items():
            was_called = parts.was_called if isinstance(parts, InThisCall) else all(part.was_called for part in parts)
            if not was_called:
                raise RuntimeError(
                    f"The forward pass of {self.EXTENDED.__name__} did not call {name}, where MMFS is attached: this "
                    "version of its library computes it differently. Install the version that constraints.txt names."
                )
        return output

    def __reduce_ex__(self, protocol: Any) -> Any:
        """For pickle, which cannot find the class by its name."""
        made = super().__reduce_ex__(protocol)
        assert isinstance(made, tuple), "of a module, it is how to make one, then its state"
        return _new, (self.EXTENDED, self.EXTENSION), *made[2:]


def extend(module: nn.Module, extension: type[Extended]) -> None:
    """Put `extension` before a module's own class. The new class has the name of the module's own, which libraries
    write into their files.

    Raises:
        ValueError: a forward pass of its own hides that of its class.
    """
    if "forward" in vars(module):
        raise ValueError(
            f"A {type(module).__name__} has a forward pass that was set on the module itself, as accelerate does for a "
            "model on several devices; MMFS cannot be attached there. Load it whole on one device, without "
            "device_map."
        )
    module.__class__ = _extended(type(module), extension)


_CLASSES: dict[tuple[type[nn.Module], type[Extended]], type[nn.Module]] = {}


def _extended(base: type[nn.Module], extension: type[Extended]) -> type[nn.Module]:
    """The class, the same for all modules of one class: what was compiled for one of them serves the others."""
    if (known := _CLASSES.get((base, extension))) is not None:
        return known
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    made = type(base.__name__, (extension, base), {**names, "EXTENDED": base, "EXTENSION": extension})
    return _CLASSES.setdefault((base, extension), made)


def _new(base: type[nn.Module], extension: type[Extended]) -> nn.Module:
    extended = _extended(base, extension)
    return extended.__new__(extended)
