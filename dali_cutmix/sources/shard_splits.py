"""What names of shards tell: the split, and number and total as in ``train-00000-of-00002``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import count, takewhile

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.sources.base import SPLIT

#: A name as TensorFlow and Hugging Face's hub have it: ``train-00000-of-00002-ab12cd.parquet``.
_PART = re.compile(r"(.+?)-(\d+)-of-(\d+)(?!\d)")
#: Shards of a split whose names a pattern is made of.
_EXAMPLES = 8


def refuse_several_splits(where: str, plain: str, shards: Sequence[str]) -> None:
    """Refuse the shards of a folder or a pattern if their names tell several splits.

    Args:
        where: Name of the caller, for messages.
        plain: The folder or the pattern, as it was passed.
        shards: Paths or URLs of its shards.
    """
    levels = zip(*(shard.split("/")[:-1] for shard in shards), strict=False)
    num_shared = len(list(takewhile(lambda names: len(set(names)) == 1, levels)))
    splits: dict[str, list[str]] = {}
    for shard in shards:
        if split := _split_of(shard, num_shared):
            splits.setdefault(split, []).append(shard)
    if len(splits) < 2:
        return
    names = sorted(splits)
    chosen = next((name for name in names if "train" in name), names[0])
    others = [shard for name in names if name != chosen for shard in splits[name]]
    pattern = _pattern_of(sorted(splits[chosen]), others)
    is_folder = "*" not in plain and "?" not in plain
    rule = f"be shards of one split, and this {'folder has' if is_folder else 'pattern matches'} "
    way_out = f"a pattern like {pattern!r}" if pattern else "a list of the shards of one split"
    way_out = f"Pass {way_out}. To mix splits, pass a list of patterns."
    refuse(where, "shards", rule + ", ".join(names), plain, way_out)


def check_totals(where: str, plain: str, shards: Sequence[str], *, is_folder: bool) -> None:
    """Refuse shards of two totals, or two of one number, which hold images twice.

    A folder that lacks shards is warned of.

    Args:
        where: Name of the caller, for messages.
        plain: The folder or the pattern, as it was passed.
        shards: Paths or URLs of its shards.
        is_folder: Whether a folder was passed. A pattern may leave out shards on purpose.
    """
    by_prefix: dict[str, dict[int, dict[int, str]]] = {}
    for shard in sorted(shards):
        folder, slash, name = shard.rpartition("/")
        if part := _PART.match(name):
            totals = by_prefix.setdefault(folder + slash + part[1], {})
            numbered = totals.setdefault(int(part[3]), {})
            if (other := numbered.setdefault(int(part[2]), shard)) != shard:
                rule = f"be shards of numbers of their own, and two are {other!r} and {shard!r}"
                way_out = "Pass a list of the shards of one export."
                refuse(where, "shards", rule, plain, way_out)
    for prefix, totals in by_prefix.items():
        name = prefix.rpartition("/")[2]
        # The shards that are complete, else those of the larger total.
        total = max(totals, key=lambda total: (len(totals[total]) >= total, total))
        numbered = totals[total]
        example = next(iter(numbered.values()))
        if len(totals) > 1:
            kind = "folder has" if is_folder else "pattern matches"
            listed = " and of ".join(map(str, sorted(totals)))
            rule = f"be shards of one total, and this {kind} {name!r} of {listed} shards"
            way_out = f"a pattern like {_pattern_of_total(example)!r}"
            way_out = way_out if len(by_prefix) == 1 else "a list of the shards of one total"
            way_out = f"Pass {way_out}. To read all, pass a list of patterns."
            refuse(where, "shards", rule, plain, way_out)
        if is_folder and len(numbered) < total:
            first = int(total in numbered)  # some programs number from 1
            missing = next(number for number in count(first) if number not in numbered)
            warnings.warn(
                f"{where}: {printable(plain)} holds {len(numbered)} of the {total} shards of "
                f"{printable(name)!r}, and lacks number {missing}. Copy the missing shards, or "
                f"pass a pattern like {next(_patterns_of(example))!r} to take what is there.",
                RuntimeWarning,
                stacklevel=2,
            )


def _pattern_of_total(shard: str) -> str:
    """Return a pattern for the shards of the prefix and total of a shard."""
    folder, slash, name = shard.rpartition("/")
    part = _PART.match(name)
    assert part is not None
    tail = name[part.end() :]
    ending = _ending_of(tail)
    wildcard = "" if tail == ending else "*"  # such as the hub's digests
    return f"{folder}{slash}{part[1]}-{'?' * len(part[2])}-of-{part[3]}{wildcard}{ending}"


def _split_of(shard: str, num_shared: int) -> str | None:
    """Return the split that the name of a shard or of its folders tells, or None.

    Args:
        shard: Path or URL of the shard.
        num_shared: Number of folders that the shard shares with all others. They tell no splits
            apart.
    """
    *folders, name = shard.split("/")
    part = _PART.match(name)
    if part is None:
        return _word_in([name]) or _word_in(folders[num_shared:]) or _word_in(folders[-1:])
    prefix = part[1].lower()
    # Such as `train/data-00000-of-00001.parquet`, as `Dataset.save_to_disk` names Arrow files.
    word = None if SPLIT.search(prefix) else _word_in(folders[num_shared:])
    return f"{word}/{prefix}" if word else prefix


def _word_in(names: Sequence[str]) -> str | None:
    """Return the split's word in the last of the names that have one."""
    words = (SPLIT.search(name) for name in reversed(names))
    return next((word[1].lower() for word in words if word), None)


def _pattern_of(shards: Sequence[str], others: Sequence[str]) -> str | None:
    """Return a pattern that matches most of a split's shards and none of other splits, or None."""
    best, most = None, 0
    for pattern in dict.fromkeys(p for shard in shards[:_EXAMPLES] for p in _patterns_of(shard)):
        folder, slash, last = pattern.rpartition("/")
        match = re.compile(re.escape(folder + slash) + regex_of(last)).fullmatch
        count = sum(match(shard) is not None for shard in shards)
        if count > most and not any(map(match, others)):
            best, most = pattern, count
    return best


def _patterns_of(shard: str) -> Iterator[str]:
    """Yield patterns for a shard's split, the shortest first.

    A pattern ends as the shard does, so that `DataLoader` knows the kind of the shards.
    """
    folder, slash, name = shard.rpartition("/")
    part = _PART.match(name)
    tail = name[part.end() :] if part else name
    ending = _ending_of(tail)
    if part:
        digits = "?" * len(part[2])
        yield f"{folder}{slash}{part[1]}-*{ending or '-of-*'}"
        yield f"{folder}{slash}{part[1]}-{digits}-of-*{ending}"
    elif word := SPLIT.search(name):
        yield f"{folder}{slash}*{word[1]}*{ending}"
        yield f"{folder}{slash}{name[: word.end()]}*{ending}"
    else:
        yield f"{folder}{slash}*{ending}"


def _ending_of(name: str) -> str:
    # Not `os.path.splitext`, for which `.parquet` is a name without an ending.
    return "." + name.rpartition(".")[2] if "." in name else ""


def regex_of(name: str) -> str:
    """Return the regular expression of a name with wildcards."""
    parts = ({"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char)) for char in name)
    return "".join(parts)
