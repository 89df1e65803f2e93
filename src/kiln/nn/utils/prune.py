"""Pruning: parameters some of whose entries are held at zero by a mask.

A pruned parameter `name` is kept as the parameter `name_orig` and the buffer `name_mask`, and is computed before
each forward. https://docs.pytorch.org/docs/stable/nn.html (torch.nn.utils.prune)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from ...autograd.modes import no_grad
from ...errors import KilnAssertionError, KilnIndexError, KilnTypeError, KilnValueError, describe
from ...ops.creation import ones_like, zeros_like
from ...ops.drawing import rand
from ...ops.joining import cat
from ...tensor import Tensor
from ..modules.module import Module


class BasePruningMethod(ABC):
    """A way to choose what is pruned: subclasses define `compute_mask` and their `PRUNING_TYPE`.

    The type is "unstructured" (entries), "structured" (slices along `dim`) or "global". It is a forward
    pre-hook of the module.
    """

    PRUNING_TYPE: str
    _tensor_name: str

    def __call__(self, module: Any, inputs: Any) -> None:
        setattr(module, self._tensor_name, self.apply_mask(module))

    @abstractmethod
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask of a tensor, of which `default_mask` has some entries masked already."""

    def apply_mask(self, module: Any) -> Tensor:
        """The pruned parameter of a module."""
        name = getattr(self, "_tensor_name", None)
        if name is None:
            raise KilnAssertionError(
                "prune", f"Module {module} has to be pruned", describe(module), ""
            )
        original = getattr(module, name + "_orig")
        return getattr(module, name + "_mask").to(original.dtype) * original

    @classmethod
    def apply(
        cls, module: Any, name: str, *args: Any, importance_scores: Tensor | None = None, **kwargs: Any
    ) -> BasePruningMethod:  # fmt: skip
        """Prune a parameter of a module, which may be pruned already; gives the method."""
        before = [
            h for h in module._forward_pre_hooks.values()
            if isinstance(h, BasePruningMethod) and h._tensor_name == name
        ]  # fmt: skip
        if len(before) > 1:
            raise KilnAssertionError(
                "prune", f"Avoid adding multiple pruning hooks to the same tensor {name} of module {module}. "
                "Use a PruningContainer.", len(before),
            )  # fmt: skip
        method: BasePruningMethod = cls(*args, **kwargs)
        method._tensor_name = name
        hook = method
        if before:
            old = before[0]
            hook = PruningContainer(*(old if isinstance(old, PruningContainer) else (old,)))
            hook.add_pruning_method(method)
        original = getattr(module, name)
        scores = original if importance_scores is None else importance_scores
        if scores.shape != original.shape:
            raise KilnAssertionError(
                "prune", f"importance_scores should have the same shape as parameter {name} of {module}",
                describe(importance_scores),
            )  # fmt: skip
        default = getattr(module, name + "_mask").detach() if before else ones_like(original)
        with no_grad():
            mask = hook.compute_mask(scores, default_mask=default.clone())
        if before:
            _take_out(module, before[0])
        else:
            module.register_parameter(name + "_orig", original)
            del module._parameters[name]
        module.register_buffer(name + "_mask", mask)
        setattr(module, name, hook.apply_mask(module))
        module.register_forward_pre_hook(hook)
        return hook

    def prune(
        self, t: Tensor, default_mask: Tensor | None = None, importance_scores: Tensor | None = None
    ) -> Tensor:
        """A pruned copy of a tensor."""
        scores = t if importance_scores is None else importance_scores
        if scores.shape != t.shape:
            raise KilnAssertionError(
                "prune", "importance_scores should have the same shape as tensor t", describe(scores)
            )  # fmt: skip
        default = ones_like(t) if default_mask is None else default_mask
        return t * self.compute_mask(scores, default_mask=default)

    def remove(self, module: Any) -> None:
        """Make the pruned values those of a plain parameter again; the hook is not removed by this."""
        name = getattr(self, "_tensor_name", None)
        if name is None:
            raise KilnAssertionError(
                "prune", f"Module {module} has to be pruned before pruning can be removed", None
            )
        weight = self.apply_mask(module)
        if hasattr(module, name):
            delattr(module, name)
        original = module._parameters.pop(name + "_orig")
        original.data = weight.data
        del module._buffers[name + "_mask"]
        setattr(module, name, original)


def _take_out(module: Any, hook: BasePruningMethod) -> None:
    for key, h in list(module._forward_pre_hooks.items()):
        if h is hook:
            del module._forward_pre_hooks[key]


class PruningContainer(BasePruningMethod):
    """Several ways to prune one parameter, one after the other."""

    def __init__(self, *args: Any) -> None:
        self._pruning_methods: tuple[BasePruningMethod, ...] = ()
        given = args[0] if len(args) == 1 and isinstance(args[0], Iterable) else args
        for i, method in enumerate(given):
            if i == 0 and isinstance(method, BasePruningMethod):
                self._tensor_name = method._tensor_name
            self.add_pruning_method(method)

    def add_pruning_method(self, method: BasePruningMethod | None) -> None:
        """Add a way, of the same parameter."""
        if method is not None and not isinstance(method, BasePruningMethod):
            raise KilnTypeError(
                "prune", f"{type(method)} is not a BasePruningMethod subclass", describe(method)
            )
        if method is not None and self._tensor_name != method._tensor_name:
            raise KilnValueError(
                "prune", "Can only add pruning methods acting on the parameter named "
                f"'{self._tensor_name}' to PruningContainer {self}. Found '{method._tensor_name}'", None,
            )  # fmt: skip
        self._pruning_methods += (method,)  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Any:
        return iter(self._pruning_methods)

    def __getitem__(self, i: Any) -> Any:
        return self._pruning_methods[i]

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """What the last way masks of that which `default_mask` leaves."""
        method = self._pruning_methods[-1]
        method._tensor_name = self._tensor_name
        mask = default_mask.to(t.dtype)
        kind = method.PRUNING_TYPE
        if kind == "unstructured":
            left: Any = mask == 1
        elif kind == "structured":
            dim = method.dim % t.ndim  # type: ignore[attr-defined]
            others = tuple(d for d in range(t.ndim) if d != dim)
            left = tuple(mask.sum(others) != 0 if d == dim else slice(None) for d in range(t.ndim))
        elif kind == "global":
            left = (slice(None),) * t.ndim
        else:
            raise KilnValueError("prune", f"Unrecognized PRUNING_TYPE {kind}", kind)
        part = method.compute_mask(t[left], default_mask=mask[left])
        mask = mask.clone()
        mask[left] = part.to(mask.dtype)
        return mask


class Identity(BasePruningMethod):
    """Nothing is pruned: the parameter only gets a mask of ones."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return default_mask

    @classmethod
    def apply(cls, module: Any, name: str) -> Any:  # type: ignore[override]
        return super().apply(module, name)


class _Amount(BasePruningMethod):
    """A number of entries or slices, or a fraction of them."""

    def __init__(self, amount: Any) -> None:
        _check_amount(amount)
        self.amount = amount


class RandomUnstructured(_Amount):
    """Entries at random."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        count = _count(self.amount, t.numel())
        return _without(default_mask, -rand(*t.shape), count) if count else default_mask

    @classmethod
    def apply(cls, module: Any, name: str, amount: Any) -> Any:  # type: ignore[override]
        return super().apply(module, name, amount=amount)


class L1Unstructured(_Amount):
    """The entries of the smallest magnitude."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return _without(default_mask, t.abs(), _count(self.amount, t.numel()))

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: Any, name: str, amount: Any, importance_scores: Tensor | None = None
    ) -> Any:
        return super().apply(module, name, amount=amount, importance_scores=importance_scores)


class _Structured(_Amount):
    """Whole slices along `dim`."""

    PRUNING_TYPE = "structured"

    def __init__(self, amount: Any, dim: int = -1) -> None:
        super().__init__(amount)
        self.dim = dim

    def _scores(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        if t.ndim < 2:
            raise KilnValueError(
                "prune", "Structured pruning can only be applied to multidimensional tensors. Found tensor of shape "
                f"{t.shape} with {t.ndim} dims", describe(t),
            )  # fmt: skip
        if self.dim >= t.ndim:
            raise KilnIndexError(
                "prune", f"Invalid index {self.dim} for tensor of size {t.shape}", describe(t)
            )
        size = t.shape[self.dim]
        kept = size - _count(self.amount, size)
        if kept == size:
            return default_mask
        best = self._scores(t).topk(kept, largest=True).indices
        mask = zeros_like(t).index_fill(self.dim, best, 1)
        return mask * default_mask.to(t.dtype)


class RandomStructured(_Structured):
    """Slices at random."""

    def _scores(self, t: Tensor) -> Tensor:
        return rand(t.shape[self.dim])

    @classmethod
    def apply(cls, module: Any, name: str, amount: Any, dim: int = -1) -> Any:  # type: ignore[override]
        return super().apply(module, name, amount=amount, dim=dim)


class LnStructured(_Structured):
    """The slices of the smallest norm."""

    def __init__(self, amount: Any, n: Any, dim: int = -1) -> None:
        super().__init__(amount, dim)
        self.n = n

    def _scores(self, t: Tensor) -> Tensor:
        dim = self.dim % t.ndim
        return t.norm(p=self.n, dim=tuple(d for d in range(t.ndim) if d != dim))

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: Any, name: str, amount: Any, n: Any, dim: int,
        importance_scores: Tensor | None = None,
    ) -> Any:  # fmt: skip
        return super().apply(
            module, name, amount=amount, n=n, dim=dim, importance_scores=importance_scores
        )


class CustomFromMask(BasePruningMethod):
    """What a mask says."""

    PRUNING_TYPE = "global"

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        if default_mask.shape != self.mask.shape:
            raise KilnAssertionError(
                "prune", f"default_mask shape {default_mask.shape} must match self.mask shape {self.mask.shape}",
                describe(self.mask),
            )  # fmt: skip
        return default_mask * self.mask.to(default_mask.dtype)

    @classmethod
    def apply(cls, module: Any, name: str, mask: Tensor) -> Any:  # type: ignore[override]
        return super().apply(module, name, mask=mask)


def _check_amount(amount: Any) -> None:
    if not isinstance(amount, int | float):
        raise KilnTypeError(
            "prune", f"Invalid type for amount: {amount}. Must be int or float.", describe(amount)
        )
    whole = isinstance(amount, int)
    if (whole and amount < 0) or (not whole and not 0 <= amount <= 1):
        raise KilnValueError(
            "prune", f"amount={amount} should either be a float in the range [0, 1] or a non-negative integer", amount
        )  # fmt: skip


def _count(amount: Any, size: int) -> int:
    """How many of `size` are pruned."""
    if not isinstance(amount, int):
        return round(amount * size)
    if amount > size:
        raise KilnValueError(
            "prune", f"amount={amount} should be smaller than the number of parameters to prune={size}", amount
        )  # fmt: skip
    return int(amount)


def _without(mask: Tensor, scores: Tensor, count: int) -> Tensor:
    """A mask without the entries of the `count` smallest scores."""
    mask = mask.clone()
    if count:
        mask.view(-1)[scores.reshape(-1).topk(count, largest=False).indices] = 0
    return mask


def identity(module: Any, name: str) -> Any:
    """Give a parameter a mask of ones; returns the module, as all of these functions do."""
    Identity.apply(module, name)
    return module


def random_unstructured(module: Any, name: str, amount: Any) -> Any:
    """Prune `amount` entries (int), or that fraction of them (float), at random."""
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(
    module: Any, name: str, amount: Any, importance_scores: Tensor | None = None
) -> Any:
    """Prune the entries of the smallest magnitude, or of the smallest importance."""
    L1Unstructured.apply(module, name, amount=amount, importance_scores=importance_scores)
    return module


def random_structured(module: Any, name: str, amount: Any, dim: int) -> Any:
    """Prune slices along `dim` at random."""
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(
    module: Any, name: str, amount: Any, n: Any, dim: int, importance_scores: Tensor | None = None
) -> Any:
    """Prune the slices along `dim` of the smallest n-norm."""
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def global_unstructured(
    parameters: Any, pruning_method: type[BasePruningMethod], importance_scores: Any = None, **kwargs: Any
) -> None:  # fmt: skip
    """Prune several parameters, (module, name) each, as one: those that matter least among all."""
    if not isinstance(parameters, Iterable):
        raise KilnTypeError(
            "global_unstructured", "global_unstructured(): parameters is not an Iterable", describe(parameters)
        )  # fmt: skip
    pairs = list(parameters)
    given = {} if importance_scores is None else importance_scores
    if not isinstance(given, dict):
        raise KilnTypeError(
            "global_unstructured", "global_unstructured(): importance_scores must be of type dict",
            describe(importance_scores),
        )  # fmt: skip

    def joined(get: Any) -> Tensor:
        return cat([get(module, name).detach().reshape(-1) for module, name in pairs])

    values = joined(lambda m, n: given.get((m, n), getattr(m, n)))
    default = joined(lambda m, n: getattr(m, n + "_mask", ones_like(getattr(m, n))))
    container = PruningContainer()
    container._tensor_name = "temp"
    method = pruning_method(**kwargs)
    method._tensor_name = "temp"
    container.add_pruning_method(method)
    if method.PRUNING_TYPE != "unstructured":
        raise KilnTypeError(
            "global_unstructured", f'Only "unstructured" PRUNING_TYPE supported for the `pruning_method`. Found '
            f"method {pruning_method} of type {method.PRUNING_TYPE}", pruning_method.__name__,
        )  # fmt: skip
    mask = container.compute_mask(values, default)
    start = 0
    for module, name in pairs:
        parameter = getattr(module, name)
        part = mask[start : start + parameter.numel()].reshape(parameter.shape)
        custom_from_mask(module, name, mask=part)
        start += parameter.numel()


def custom_from_mask(module: Any, name: str, mask: Tensor) -> Any:
    """Prune what a mask says."""
    CustomFromMask.apply(module, name, mask)
    return module


def remove(module: Any, name: str) -> Any:
    """Make a pruned parameter a plain one again, with zeros where it was pruned; gives the module."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            hook.remove(module)
            del module._forward_pre_hooks[key]
            return module
    raise KilnValueError(
        "remove", f"Parameter '{name}' of module {module} has to be pruned before pruning can be removed", name
    )  # fmt: skip


def is_pruned(module: Module) -> bool:
    """Whether a parameter of the module, or of one in it, is pruned."""
    return any(
        isinstance(hook, BasePruningMethod)
        for _, m in module.named_modules()
        for hook in m._forward_pre_hooks.values()
    )


__all__ = [
    "BasePruningMethod", "CustomFromMask", "Identity", "L1Unstructured", "LnStructured", "PruningContainer",
    "RandomStructured", "RandomUnstructured", "custom_from_mask", "global_unstructured", "identity", "is_pruned",
    "l1_unstructured", "ln_structured", "random_structured", "random_unstructured", "remove",
]  # fmt: skip
