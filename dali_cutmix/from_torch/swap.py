"""Coming from a torch ``DataLoader``: answers for its keywords, and one taken over as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch.utils.data import DataLoader as TorchLoader

Made = TypeVar("Made", bound="FromTorch")

#: By keyword: what torch has when it is not given, and what to do instead.
_TORCH: dict[str, tuple[tuple[Any, ...], str]] = {
    "dataset": ((), "Pass the folder or list first, without a name."),
    "collate_fn": ((None,), "For a mix, pass `mix=CutMix()`; `from_torch` translates."),
    "timeout": ((0,), "There are no worker processes to wait for: leave it out."),
    "worker_init_fn": ((None,), "There are no worker processes: leave it out."),
    "multiprocessing_context": ((None,), "There are no worker processes: leave it out."),
    "generator": ((None,), "Pass `seed=`, from which every random number comes."),
    "prefetch_factor": ((None, 2), "Pass `prefetch=`, the number of batches made ahead in all."),
    "pin_memory_device": (("", None), "Batches are made on `device=`: leave it out."),
    "in_order": ((True,), "Batches always come in order: leave it out."),
}


def check_torch_keywords(given: dict[str, Any]) -> None:
    """Pass torch's keywords where they say nothing, and refuse others with the way out.

    Raises:
        TypeError: A keyword of torch's with a value that asks for something, or an unknown one.
    """
    for name, value in given.items():
        if name not in _TORCH:
            raise TypeError(f"DataLoader: got an unexpected keyword argument {name!r}.")
        silent, instead = _TORCH[name]
        if not any(value is one or (value == one) is True for one in silent):
            raise TypeError(f"DataLoader: `{name}` of torch's DataLoader is not taken. {instead}")


class FromTorch:
    """Is made from arguments, or from a torch loader."""

    @classmethod
    def from_torch(
        cls: type[Made],
        loader: TorchLoader[Any],
        *,
        report: Callable[[str], object] | None = print,
        **changes: Any,
    ) -> Made:
        """Build the loader that does what a torch ``DataLoader`` does, from its own parts.

        Taken over are the dataset, what its ``transform`` holds, the order of samples, the sizes of
        batches, and the mix in ``collate_fn``. That mix is found in what the function holds, and
        tried: the function is called with 100 made-up batches for each mix that it holds, until it
        does to the bit what that mix does in all of them. A ``transform`` that is a function or an
        object of the user's is called alike with 60 made-up images, of sizes from 1 to 2 million
        pixels, for each transform that it holds. So counters of their own move on, and what they
        do with other data, or seldom, is not seen; torch's, NumPy's and Python's generators are put
        back. Draws have the distribution they had; the draws themselves are others, and come from
        ``seed``.

        Args:
            loader: Over torchvision's ``ImageFolder``, ``DatasetFolder``, ``CIFAR10`` or
                ``CIFAR100``, or a ``Subset`` of one, with transforms of torchvision's, v1 or v2.
                It stays as it is.
            report: Called with each line of what became what; None: silent.
            changes: Arguments of `DataLoader` that replace what was found: ``device=``, ``seed=``.
                What ``transform=``, ``mix=``, ``sampler=``, ``batch_sampler=`` or ``source=``
                replaces is not translated at all, so that it may be anything.

        Returns:
            The loader. Its ``dataset`` is a copy without transforms of the one given.

        Raises:
            TypeError: ``loader`` is no torch ``DataLoader``, or one of ``changes`` is unknown.
            ValueError: Some of it has no counterpart. All of that is named at once, with its class,
                its place and the way out, before any image is read.
        """
        # Imported here: it takes torchvision's datasets, and most loaders are made without.
        from dali_cutmix.from_torch.translate import report_of, translate_loader

        found = translate_loader(loader, changes)
        make: Any = cls
        made: Any = make(found.source, **found.settings)
        if found.epoch:
            made.set_epoch(found.epoch)
        if report is not None:
            for line in report_of(found, made):
                report(line)
        return made


class FixedSettings:
    """Has attributes that say what a graph was made with, and refuses to change them."""

    _fixed: frozenset[str] = frozenset()

    def _fix(self, but: set[str]) -> None:
        # Changing one later would change nothing, or half of it.
        self._fixed = frozenset(vars(self)) - but

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed:
            raise AttributeError(
                f"DataLoader: `{name}` cannot be changed after the loader is made. Make another "
                "DataLoader; `mixup_enabled` and `set_epoch` are what can be changed."
            )
        super().__setattr__(name, value)
