"""Names of shards: from patterns, and in folders."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

from dali_cutmix.core.checks import local_path, refuse
from dali_cutmix.sources.bucket import Bucket, is_url, split_url

#: Endings of the indexes that this package writes beside shards.
_INDEXES = (".index.npz", ".index")
#: What may follow the pattern of a shard's name where the shard is compressed.
_COMPRESSED = r"\.(gz|bz2|xz|zst|lz4|Z)|[^.].*\.(tgz|tbz2?|txz|tzst)"
#: A name as TensorFlow and Hugging Face's hub have it: ``train-00000-of-00002-ab12cd.parquet``.
_PART = re.compile(r"(.+?)-(\d+)-of-\d+(?!\d)")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SPLIT = re.compile(r"(?<![a-z])(train|training|val|valid|validation|test)(?![a-z])", re.IGNORECASE)
#: Shards of a split whose names a pattern is made of.
_EXAMPLES = 8


def find_shards(
    where: str, shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], names: str
) -> list[str]:
    """Return the paths and URLs of all shards that patterns name.

    Args:
        where: Name of the caller, for messages.
        shards: A path or URL, or several; ``~`` is the home folder. Each may be a folder (in a
            bucket: end with a slash), or hold brace ranges and lists as in WebDataset,
            ``train-{0000..0127}.tar``, or the wildcards ``*`` and ``?``. Matches and the shards of
            a folder are sorted. A local folder without shards may hold a single folder with some.
        names: Regular expression that the full names of shards in a folder match, in either case.
            Where none does, compressed shards are returned, to be refused for what they are.

    Raises:
        FileNotFoundError: A pattern or a folder has no shards.
        ValueError: No shard is named, a shard is named twice, a folder or the matches of wildcards
            have several splits, or a pattern holds a zero byte.
    """
    if not isinstance(shards, (str, os.PathLike)) and not isinstance(shards, Iterable):
        refuse(where, "shards", "be a path or URL, or several", shards)
    patterns = [shards] if isinstance(shards, (str, os.PathLike)) else list(shards)
    paths = [
        path
        for pattern in patterns
        for plain in _expand_braces(local_path(where, "shards", pattern))
        for path in _match(where, plain, names)
    ]
    if not paths:
        refuse(where, "shards", "name at least one shard", shards)
    files = [path if is_url(path) else os.path.realpath(path) for path in paths]
    if len(set(files)) < len(files):
        twice = next(path for path, file in zip(paths, files, strict=True) if files.count(file) > 1)
        refuse(where, "shards", f"name each shard once, and {twice!r} comes twice", shards)
    return paths


def _expand_braces(pattern: str) -> list[str]:
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None or (not is_url(pattern) and os.path.exists(pattern)):
        return [pattern]
    head, tails = pattern[: braces.start()], _expand_braces(pattern[braces.end() :])
    return [head + item + tail for item in _items(braces[1]) for tail in tails]


def _items(braced: str) -> list[str]:
    ends = _RANGE.fullmatch(braced)
    if ends is None:
        return braced.split(",") if "," in braced else ["{" + braced + "}"]
    first, last = int(ends[1]), int(ends[2])
    padded = any(len(end) > 1 and end.startswith("0") for end in ends.groups())
    width = max(map(len, ends.groups())) if padded else 0
    step = 1 if first <= last else -1
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]


def _match(where: str, plain: str, names: str) -> list[str]:
    has_wildcard = "*" in plain or "?" in plain
    is_folder = plain.endswith("/") if is_url(plain) else os.path.isdir(plain)
    if not has_wildcard and not is_folder:
        return [plain]
    beside: list[str] = []
    if is_url(plain):
        matching, beside = _match_in_bucket(plain)
        matching = _shards_of(names, matching) if is_folder else matching
    elif is_folder:
        matching = _shards_in(where, plain, names)
    else:
        matching = glob.glob(plain.replace("[", "[[]"))
    matching = [path for path in matching if not path.endswith(_INDEXES)]
    if not matching:
        what = "holds no shards" if is_folder else "matches no file"
        way_out = f" Beside it lie {', '.join(sorted(beside)[:3])}." if beside else ""
        raise FileNotFoundError(f"{where}: {plain!r} {what}.{way_out}")
    _refuse_several_splits(where, plain, matching)
    return sorted(matching)


def _shards_in(where: str, folder: str, names: str) -> list[str]:
    """Return the shards in a folder, or in the only folder below that holds shards."""
    paths = _shards_of(names, _paths_in(folder))
    if paths:
        return paths
    below = folders_of_shards(folder, names)
    if len(below) > 1:
        rule = f"be a folder of shards, and shards lie in {', '.join(below)}"
        chosen = os.path.join(folder, next((name for name in below if "train" in name), below[0]))
        refuse(where, "shards", rule, folder, f"Pass one of these folders, as in {chosen!r}.")
    return [path for name in below for path in _shards_of(names, _paths_in(f"{folder}/{name}"))]


def folders_of_shards(folder: str, names: str) -> list[str]:
    """Return the folders that hold shards, at most two levels below a local folder, sorted.

    Hidden folders are left out, such as those of ``git`` and of Hugging Face's downloads.

    Args:
        folder: The folder.
        names: Regular expression that the full names of shards match, in either case.
    """
    holding = []
    for parent, folders, files in os.walk(folder):
        inside = os.path.relpath(parent, folder)
        folders[:] = [name for name in folders if not name.startswith(".")]
        if os.sep in inside:
            folders.clear()
        if _named(names, files):
            holding.append(inside)
    return sorted(holding)


def _paths_in(folder: str) -> list[str]:
    return [os.path.join(folder, name) for name in os.listdir(folder)]


def _shards_of(names: str, paths: Sequence[str]) -> list[str]:
    return _named(names, paths) or _named(f"({names}){_COMPRESSED}", paths)


def _named(names: str, paths: Sequence[str]) -> list[str]:
    pattern = re.compile(names, re.IGNORECASE)
    return [path for path in paths if pattern.fullmatch(path.rpartition("/")[2])]


def _match_in_bucket(plain: str) -> tuple[list[str], list[str]]:
    """Return ``(matching URLs, other names in the folder)``; only the name may have wildcards."""
    name, key = split_url(plain)
    bucket = Bucket(name)
    folder, slash, last = key.rpartition("/")
    _, keys = bucket.list_folder(folder + slash)
    pattern = _regex_of(last) or ".*"
    matching: list[str] = []
    beside: list[str] = []
    for listed in keys:
        base = listed.rpartition("/")[2]
        (matching if re.fullmatch(pattern, base) else beside).append(base)
    return [bucket.url(folder + slash + base) for base in matching], beside


def _refuse_several_splits(where: str, plain: str, shards: Sequence[str]) -> None:
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
    word = None if _SPLIT.search(prefix) else _word_in(folders[num_shared:])
    return f"{word}/{prefix}" if word else prefix


def _word_in(names: Sequence[str]) -> str | None:
    """Return the split's word in the last of the names that have one."""
    words = (_SPLIT.search(name) for name in reversed(names))
    return next((word[1].lower() for word in words if word), None)


def _pattern_of(shards: Sequence[str], others: Sequence[str]) -> str | None:
    """Return a pattern that matches most of a split's shards and none of other splits, or None."""
    best, most = None, 0
    for pattern in dict.fromkeys(p for shard in shards[:_EXAMPLES] for p in _patterns_of(shard)):
        folder, slash, last = pattern.rpartition("/")
        match = re.compile(re.escape(folder + slash) + _regex_of(last)).fullmatch
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
    # Not `os.path.splitext`, for which `.parquet` is a name without an ending.
    ending = "." + tail.rpartition(".")[2] if "." in tail else ""
    if part:
        digits = "?" * len(part[2])
        yield f"{folder}{slash}{part[1]}-*{ending or '-of-*'}"
        yield f"{folder}{slash}{part[1]}-{digits}-of-*{ending}"
    elif word := _SPLIT.search(name):
        yield f"{folder}{slash}*{word[1]}*{ending}"
        yield f"{folder}{slash}{name[: word.end()]}*{ending}"
    else:
        yield f"{folder}{slash}*{ending}"


def _regex_of(name: str) -> str:
    """Return the regular expression of a name with wildcards."""
    parts = ({"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char)) for char in name)
    return "".join(parts)
