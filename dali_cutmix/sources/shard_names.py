"""Names of shards: from patterns, and in folders."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence

from dali_cutmix.core.checks import local_path, refuse
from dali_cutmix.sources.bucket import Bucket, as_prefix, is_url, split_url
from dali_cutmix.sources.shard_splits import check_totals, refuse_several_splits, regex_of

#: Endings of the indexes that this package writes beside shards.
_INDEXES = (".index.npz", ".index")
#: What may follow the pattern of a shard's name where the shard is compressed.
_COMPRESSED = r"\.(gz|bz2|xz|zst|lz4|Z)|[^.].*\.(tgz|tbz2?|txz|tzst)"
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def find_shards(
    where: str, shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], names: str
) -> list[str]:
    """Return the paths and URLs of all shards that patterns name.

    Args:
        where: Name of the caller, for messages.
        shards: A path or URL, or several; ``~`` is the home folder. Each may be a folder (in a
            bucket: end with a slash), or hold brace ranges and lists as in WebDataset,
            ``train-{0000..0127}.tar``, or the wildcards ``*`` and ``?``. Matches and the shards of
            a folder are sorted. A folder without shards may hold a single folder with some.
        names: Regular expression that the full names of shards in a folder match, in either case.
            Where none does, compressed shards are returned, to be refused for what they are.

    Raises:
        FileNotFoundError: A pattern or a folder has no shards.
        ValueError: No shard is named, a shard is named twice, a folder or the matches of wildcards
            have several splits or several totals as in ``train-00000-of-00002``, or a pattern holds
            a zero byte.

    Warns:
        RuntimeWarning: A folder lacks shards of the total that names tell.
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
    if is_folder:
        matching = _shards_in(where, plain, names)
    elif is_url(plain):
        matching, beside = _match_in_bucket(plain)
    else:
        matching = glob.glob(plain.replace("[", "[[]"))
    matching = [path for path in matching if not path.endswith(_INDEXES)]
    if not matching:
        what = "holds no shards" if is_folder else "matches no file"
        way_out = f" Beside it lie {', '.join(sorted(beside)[:3])}." if beside else ""
        raise FileNotFoundError(f"{where}: {plain!r} {what}.{way_out}")
    refuse_several_splits(where, plain, matching)
    check_totals(where, plain, matching, is_folder=is_folder)
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
        chosen += "/" if is_url(folder) else ""
        refuse(where, "shards", rule, folder, f"Pass one of these folders, as in {chosen!r}.")
    paths = [path for name in below for path in _paths_in(os.path.join(folder, name))]
    return _shards_of(names, paths)


def folders_of_shards(folder: str, names: str) -> list[str]:
    """Return the folders that hold shards, at most two levels below a folder, sorted.

    Hidden folders are left out, such as those of ``git`` and of Hugging Face's downloads.

    Args:
        folder: The folder, or the URL of one in a bucket.
        names: Regular expression that the full names of shards match, in either case.
    """
    if is_url(folder):
        shards = _named(names, visible_below(folder))
        parents = {os.path.dirname(shard) or "." for shard in shards}
        return sorted(parent for parent in parents if parent.count("/") < 2)
    holding = []
    for parent, folders, files in os.walk(folder):
        inside = os.path.relpath(parent, folder)
        folders[:] = [name for name in folders if not name.startswith(".")]
        if os.sep in inside:
            folders.clear()
        if _named(names, files):
            holding.append(inside)
    return sorted(holding)


def visible_below(url: str) -> list[str]:
    """Return the keys below a folder in a bucket, without the folder's; none of hidden folders."""
    bucket, key = split_url(url)
    prefix = as_prefix(key)
    keys = (listed.removeprefix(prefix) for listed in Bucket(bucket).list_below(prefix))
    return [key for key in keys if "/." not in f"/{os.path.dirname(key)}"]


def _paths_in(folder: str) -> list[str]:
    if is_url(folder):
        return _match_in_bucket(folder.rstrip("/") + "/")[0]
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
    # Wildcards leave out hidden names, as those of local files do.
    pattern = ("(?!\\.)" if last.startswith(("*", "?")) else "") + regex_of(last) or ".*"
    matching: list[str] = []
    beside: list[str] = []
    for listed in keys:
        base = listed.rpartition("/")[2]
        (matching if re.fullmatch(pattern, base) else beside).append(base)
    return [bucket.url(folder + slash + base) for base in matching], beside
