"""`Session`: one epoch at a time, from its first batch to its last, past bad files.

The stock iterator of DALI continues in mid-epoch when iterated anew, loses a batch for each decode
error, and ends an epoch early without a word after a few. Here an epoch always starts where it is
due, ends after its last sample, and stops at a bad file with the file's name.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch.distributed as dist

from dali_cutmix.core.checks import is_whole
from dali_cutmix.core.errors import BadFileError, TroubleError
from dali_cutmix.core.reading import PAUSES, AwayError, patiently
from dali_cutmix.core.threads import Turn
from dali_cutmix.order.progress import Progress, check_flag, refuse_value
from dali_cutmix.order.ranks import disagreement
from dali_cutmix.serving.batches import Batch, Batches, Epoch, count_batches
from dali_cutmix.serving.diagnose import (
    Diagnosis,
    check_descriptors,
    diagnose,
    diagnose_masks,
    diagnose_sizes,
    find_failing,
    is_trouble,
    reason_of,
)
from dali_cutmix.serving.graph import FORKED, Pipelines, is_fork
from dali_cutmix.serving.replacements import MAX_TRUSTED, Replacements
from dali_cutmix.serving.settings import WHERE, LoaderSettings
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.decoders import Decodable

_ENDED = (
    "DataLoader: the loader was {} while this iteration was under way. One iteration runs at a "
    "time; make a second DataLoader to have two."
)

#: Seconds between tries of a batch that fails although all its images decode. A file may have been
#: incomplete while another process wrote it. `PAUSES` where DALI's error is trouble of the machine.
_PAUSES = PAUSES[:5:2]


class EndedError(RuntimeError):
    """Say that an iteration was ended by another iteration, or by `DataLoader.close`."""

    def __init__(self, how: str) -> None:
        super().__init__(_ENDED.format(how))
        self.how = how

    def __reduce__(self) -> tuple[type[EndedError], tuple[str]]:
        return type(self), (self.how,)


class Session:
    """Serve a loader's epochs, for one thread at a time: `at_work` waits for the turn.

    `close` alone may be called without the turn.

    Args:
        images: The data.
        settings: The loader's.
        progress: Where the run stands.
        num_batches: Batches in a whole epoch; None where the sampler has no length.

    Attributes:
        progress: Where the run stands.
        replacements: The images found bad.
        last_batch: The batch handed out last; None before the first batch and after `close`.
    """

    def __init__(
        self,
        images: StoredImages,
        settings: LoaderSettings,
        progress: Progress,
        num_batches: int | None,
    ) -> None:
        self.progress = progress
        self.replacements = Replacements(
            images, settings.seed, replaces=settings.on_error == "replace"
        )
        self.last_batch: Batch | None = None
        self._images = images
        self._decodable = Decodable(images.read_images, settings.max_pixels, settings.num_threads)
        self._settings = settings
        self._num_batches = num_batches
        self._batches = self._make_batches(mixes=True)
        self._pipelines: Pipelines | None = None
        self._kept: dict[int, Batch] = {}  # by number, from the start of a batch to its handing out
        self._failure: Exception | None = None  # of the batch to start next, raised when it is due
        self._num_started = self._num_taken = 0  # batches of the epoch's part
        self._num_retries = self._num_rounds = 0  # of the batch that is due
        self._iteration = 0
        self._turn = Turn()
        self._close_is_due = False

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Have the session to this thread."""
        self._turn.take()
        try:
            self._close_if_due()
            yield
        finally:
            self._turn.leave()
            self._close_if_due()

    def copy(self) -> Session:
        """Return a session of the same run at the same place, with graphs yet to be built."""
        twin = Session(self._images, self._settings, self.progress.copy(), self._num_batches)
        twin.replacements.take_from(self.replacements)
        return twin

    def state(self, mixes: bool) -> dict[str, Any]:
        """Return where the run stands, whether it mixes, and what it found bad.

        Args:
            mixes: Whether epochs that begin from now on mix.
        """
        bad = [[index, reason] for index, reason in self.replacements.bad.items()]
        enabled = None if self._settings.mix is None else mixes
        return {**self.progress.state(), "mixup_enabled": enabled, "bad": bad}

    def load(self, state: Mapping[str, Any], mixes: bool, allow: Collection[str]) -> bool:
        """Go on from a state; see `DataLoader.load_state_dict`.

        Returns:
            Whether epochs that begin from now on mix; ``mixes`` where the state or this run knows
            no mix.
        """
        position = self.progress.position_of(state, allow)
        bad, enabled = state.get("bad", []), state.get("mixup_enabled")
        _check_bad(bad, len(self._images))
        check_flag("mixup_enabled", enabled)
        self.progress.resume(position)
        self._close()  # an iteration under way would continue from the place that is left
        self.replacements.bad = dict(bad) if self.replacements.replaces else {}
        return mixes if enabled is None or self._settings.mix is None else bool(enabled)

    def start(self, mixes: bool) -> int:
        """Start the epoch that is due.

        Args:
            mixes: Whether it mixes, where the loader has a mix. The rest of an epoch that a state
                was taken in mixes as the epoch did.

        Returns:
            The number that `next` knows this iteration by.
        """
        position, left, whole = self.progress.begin()
        self.replacements.pool = None if whole is None else np.unique(whole)
        num_left = count_batches(len(left), self._settings.batch_size, self._settings.drop_last)
        if self._settings.mix is None:
            mixes, position = False, replace(position, mixing=None)
        elif position.mixing is None:
            position = replace(position, mixing=mixes)
        else:
            mixes = position.mixing
        self._end_epoch(mixes=mixes)
        pipelines = self._pipelines = self._pipelines or patiently(
            self._open, WHERE, f"starting epoch {position.epoch}"
        )
        num_samples = len(self._images) if whole is None else len(whole)
        self._batches.begin(Epoch(position, left, num_left, num_samples))
        self._forget()
        self._num_started = self._num_taken = self._num_retries = self._num_rounds = 0
        with self._closing_on_errors():
            self._fill(pipelines)
        self.progress.begun(position)
        if self._iteration == 0:
            self._warn_of_ranks(stacklevel=4)  # where the loader is iterated
        self._iteration += 1
        return self._iteration

    def next(self, iteration: int, cuda_stream: Any = None) -> tuple[Sequence[Any], Batch] | None:
        """Wait for the next batch of an iteration.

        Args:
            iteration: As `start` returned it.
            cuda_stream: A stream that is made to wait for the images. None waits here.

        Returns:
            Images, as `Graph.images` returns them, and what the host kept of the batch. None where
            the epoch is over.

        Raises:
            BadFileError: A file could not be read or decoded.
            RuntimeError: Another iteration was started, the loader was closed, or this process is a
                fork of the one that started the iteration.
        """
        pipelines = self._pipelines
        if pipelines is None or iteration != self._iteration:
            raise EndedError("closed" if pipelines is None else "iterated anew")
        if is_fork():
            raise RuntimeError(FORKED)
        if self._num_taken == self._batches.epoch.num_batches:
            self.progress.end()
            return None
        with self._closing_on_errors():
            images, batch = self._batches.complete(*self._take(pipelines, cuda_stream))
            self._num_taken += 1
            self._num_retries = self._num_rounds = 0
            self.last_batch = batch
            if self.replacements.not_warned:
                self.replacements.warn(stacklevel=4)  # where the loader is iterated
            self._fill(self._pipelines or pipelines)
        return images, batch

    def close(self) -> None:
        """Stop the threads and free the memory of the graphs.

        A thread that is at work ends its iteration and closes the session on its way out. Nobody
        waits for that thread, which may be waiting for the caller.
        """
        self._close_is_due = True
        self._close_if_due()

    def _close_if_due(self) -> None:
        # Tried again after each turn: another thread may have asked in between.
        while self._close_is_due and self._turn.take(wait=False):
            try:
                self._close_is_due = False
                self._close()
            finally:
                self._turn.leave()

    def _close(self) -> None:
        pipelines, self._pipelines = self._pipelines, None
        self._forget()
        if is_fork():
            return
        if pipelines is not None:
            pipelines.close()
        self._batches.close()
        self._decodable.close()
        for masks in self._settings.masks:
            masks.close()

    def __del__(self) -> None:
        if getattr(self, "_pipelines", None) is None:
            return
        if threading.current_thread() is threading.main_thread():
            self.close()
        else:  # maybe the garbage collector's call on a thread that the graphs wait for
            threading.Thread(target=self.close, daemon=True).start()

    def _warn_of_ranks(self, stacklevel: int) -> None:
        settings = self._settings
        if settings.user_order is not None or not (dist.is_available() and dist.is_initialized()):
            return  # the user deals out the samples, or nobody does
        warning = disagreement(
            self._images.fingerprint,
            settings.seed if settings.shuffle else None,
            settings.shard,
            is_chosen=settings.shard_is_chosen,
        )
        if warning is not None:
            warnings.warn(warning, RuntimeWarning, stacklevel=stacklevel + 1)

    def _make_batches(self, *, mixes: bool) -> Batches:
        return Batches(
            self._images, self._decodable, self._settings, self.replacements, mixes=mixes
        )

    def _forget(self) -> None:
        self._kept.clear()
        self._failure = None
        self.last_batch = None

    @contextmanager
    def _closing_on_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            was_closed = self._pipelines is None  # by a signal handler
            self._close()  # whatever else is under way in the graphs is not to be trusted
            if was_closed and isinstance(error, Exception):
                raise EndedError("closed") from error
            raise

    def _end_epoch(self, *, mixes: bool) -> None:
        """End what is under way; keep the graphs only where they serve the next epoch too."""
        if mixes != (self._batches.mix is not None):
            self._close()
            self._batches = self._make_batches(mixes=mixes)
        if self._pipelines is None:
            return
        try:
            self._pipelines.drain()
        except RuntimeError:  # a batch of the epoch that was left failed: nobody waits for it
            self._close()

    def _open(self) -> Pipelines:
        """Build the graphs; raise an ``OSError`` or `AwayError` where the machine is in trouble."""
        in_part = self._can_decode_in_part
        try:
            return Pipelines(self._batches, self._num_batches, decodes_in_part=in_part)
        except RuntimeError as error:
            # No file was seen: nvImageCodec failed for want of descriptors or memory.
            if any(words in str(error) for words in ("nvImageCodec failure", "bad_alloc")):
                raise AwayError(reason_of(error)) from error
            check_descriptors()
            raise

    @property
    def _can_decode_in_part(self) -> bool:
        settings = self._settings
        able = settings.device_id is None or settings.tuning.roi_decode
        able = able and settings.takes_part and self._images.kind != "pixels"
        return able and len(self.replacements.trusted) <= MAX_TRUSTED

    def _fill(self, pipelines: Pipelines) -> None:
        """Start on as many batches as are prepared ahead, up to a batch that cannot be drawn."""
        num_batches = self._batches.epoch.num_batches
        while pipelines.have_room and self._num_started < num_batches and self._failure is None:
            try:
                fed, self._kept[self._num_started] = self._batches.draw(self._num_started)
            except Exception as error:
                self._failure = error
                return
            if self._close_is_due:
                raise EndedError("closed")
            pipelines.run(fed)
            self._num_started += 1

    def _take(self, pipelines: Pipelines, cuda_stream: Any) -> tuple[Sequence[Any], Batch]:
        """Wait for the batch that is due, past bad files where these are replaced."""
        while True:
            if self._num_taken == self._num_started and self._failure is not None:
                raise self._failure
            try:
                images = pipelines.images(cuda_stream)
            except RuntimeError as error:
                if pipelines is not self._pipelines:
                    raise  # closed by a signal handler
                pipelines = self._recover(pipelines, error)
            else:
                return images, self._kept.pop(self._num_taken)

    def _recover(self, pipelines: Pipelines, error: RuntimeError) -> Pipelines:
        """Find what stopped the batch that is due; start again from there without it.

        The graphs are built anew, since what a failed batch leaves in them is not to be relied on.
        Batches are functions of their numbers, so that those after it come out as they would have.
        """
        number = self._batches.epoch.position.batch + self._num_taken
        what = f"batch {number} of epoch {self._batches.epoch.position.epoch}"
        # At once: their descriptors and their memory may be what is missing.
        pipelines.close()
        findings = patiently(self._diagnose, WHERE, f"looking for the bad files of {what}")
        try:
            is_new = self.replacements.note(findings.bad, findings.trailing)
        except BadFileError as bad_file:
            raise bad_file from error
        pauses = PAUSES if is_trouble(error) else _PAUSES
        if not is_new and self._num_retries >= len(pauses):
            self._note_failing(what, error)
        elif not is_new:
            time.sleep(pauses[self._num_retries])
            self._num_retries += 1
        self._pipelines = pipelines = patiently(self._open, WHERE, f"starting again at {what}")
        self._batches.begin(self._batches.epoch, self._num_taken)
        self._kept.clear()
        self._failure = None  # of a later batch, which is drawn anew
        self._num_started = self._num_taken
        self._fill(pipelines)
        return pipelines

    def _diagnose(self) -> Diagnosis:
        settings, batch = self._settings, self._kept[self._num_taken]
        files, indices, parts = self._images.read_images, batch.indices, batch.parts
        if files.kind == "pixels" and self._batches.depth:
            return Diagnosis({}, set())  # unread windows are known before the graph
        self._decodable.forget(parts)
        findings = diagnose(
            files,
            parts,
            self._decodable,
            num_threads=settings.num_threads,
            device_id=settings.device_id,
            max_pixels=settings.max_pixels,
        )
        if depth := self._batches.depth:
            bad = findings.bad or diagnose_sizes(files, parts, self._decodable, depth)
            return findings._replace(bad=self._batches.of_samples(bad, parts, indices))
        good = [index for index in indices if index not in findings.bad]
        if not settings.masks:
            return findings
        bad_masks = diagnose_masks(self._images, settings.masks, good, self._decodable)
        return findings._replace(bad=findings.bad | bad_masks)

    def _note_failing(self, what: str, error: RuntimeError) -> None:
        """Note the images that stop the graph each on its own, though they decode.

        Args:
            what: The batch that is due, for messages.
            error: What stopped the batch.

        Raises:
            BadFileError: There are such images, and bad images are not replaced.
            TroubleError: No image stops the graph on its own, and DALI's error is trouble.
            RuntimeError: No image stops the graph on its own, or each of several does.
        """
        batches, num_tries = self._make_batches(mixes=False), 0

        def failing() -> dict[int, str]:
            nonlocal num_tries
            num_tries += 1
            # In each try, since reading ahead goes forward only.
            batches.begin(self._batches.epoch, self._num_taken)
            in_part = self._can_decode_in_part
            return find_failing(batches, self._num_taken, decodes_in_part=in_part)

        try:
            bad = patiently(failing, WHERE, f"looking for the bad files of {what}")
            if len(bad) > 1 and bad.keys() == set(self._kept[self._num_taken].indices):
                raise RuntimeError(
                    f"{WHERE}: the graph stopped in {what} at each of its {len(bad)} images alone, "
                    "though all of them decode: a step of the transform fails. DALI says: "
                    f"{reason_of(error)}"
                ) from error
            self.replacements.note(bad, set())
        except BadFileError as bad_file:
            raise bad_file from error
        finally:
            batches.close()
        # Else there was trouble, which has passed: but trouble may come again without end.
        stays = not bad and (num_tries == 1 or self._num_rounds >= len(_PAUSES))
        if stays and is_trouble(error):
            raise TroubleError(WHERE, what, reason_of(error), self._num_retries) from error
        if stays:
            raise RuntimeError(
                f"{WHERE}: the graph stopped in {what}, also when it was tried again "
                f"{self._num_retries} times, though each of its images passes alone. DALI says: "
                f"{reason_of(error)}"
            ) from error
        self._num_retries, self._num_rounds = 0, self._num_rounds + 1


def _check_bad(bad: Any, num_samples: int) -> None:
    """Refuse all but pairs of an index of the data and a reason in a state."""
    if not isinstance(bad, (list, tuple)):
        refuse_value("bad", "be a list", bad)
    for pair in bad:
        is_pair = isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[1], str)
        if not is_pair or not is_whole(pair[0]) or not 0 <= pair[0] < num_samples:
            refuse_value("bad", f"hold pairs of an index below {num_samples} and a reason", pair)
