"""Images in Parquet files, in the layout of the Hugging Face hub."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, BinaryIO

import numpy as np

from dali_cutmix.core.checks import check_count, refuse
from dali_cutmix.sources.bucket import Timeouts
from dali_cutmix.sources.columns import find_image_column, find_label_column
from dali_cutmix.sources.page_cache import PageCache
from dali_cutmix.sources.parquet_columns import (
    DIRECT,
    Footer,
    Rows,
    find_rows,
    names_images,
    read_dictionary,
    read_rows,
)
from dali_cutmix.sources.parquet_files import (
    WHERE,
    damage_refused,
    features_of,
    first_line,
    import_pyarrow,
    is_damage,
    open_table,
    refuse_damaged,
)
from dali_cutmix.sources.parquet_labels import checked_texts, find_texts, is_text, read_labels
from dali_cutmix.sources.parquet_pages import Values
from dali_cutmix.sources.shard_files import ShardFiles
from dali_cutmix.sources.shard_indexes import Index
from dali_cutmix.sources.shard_names import find_shards
from dali_cutmix.sources.shards import PackedImages

#: Names of files in a folder of shards.
NAMES = r"[^.].*\.parquet"

#: Bytes of decompressed pages that a process keeps: two dictionaries of 1,024 images of 110 KB,
#: which is the most that pyarrow puts into one.
PAGE_BYTES = 256 << 20

#: Bytes that are read at once of a shard in a bucket where only the column of classes is read.
_LABEL_BYTES = 1 << 16


class ParquetShards(PackedImages):
    """List images and labels in Parquet files, as Hugging Face's hub keeps them.

    A column holds encoded images: bytes, or structs of ``bytes`` and ``path``. Another column holds
    class indices, or texts, which are indexed as sorted. A row without bytes is an empty image.
    Needs ``pip install -e '.[parquet]'`` in the checkout. See `PackedImages` for the indexes.

    Images are read by index. Where an image's page is uncompressed and plainly encoded, as
    ``datasets`` and ``dali-cutmix pack`` write, only the bytes of the image are read. Else the page
    and its dictionary are read and decompressed, which may hold all images of a row group. A
    process keeps the pages used last, up to ``page_bytes``, so that reading in order decompresses
    each page once. A full shuffle of more data decompresses a page and a dictionary for nearly
    every image. So does ``shuffle="shards"``, unless ``page_bytes`` hold the images of ``window``
    shards. Or pack such files once with ``dali-cutmix pack``.

    Args:
        shards: A path or the URL of a bucket, or several. Each may hold ``{00000..00127}`` and
            ``{a,b}``, or ``*`` and ``?``, or be a folder of ``*.parquet``. A folder without any may
            hold a single folder that does, such as ``data`` in a clone from the hub.
        image: Name of the column of images. None takes the only one.
        label: Name of the column of classes, whole numbers or texts. None takes Hugging Face's only
            ``ClassLabel``, else a column named ``label`` or ``labels``.
        classes: Names of the classes, in the order of their indices. None takes the names in the
            first file, or the indices as text where names are missing. Where classes are texts,
            None takes all texts in the shards, sorted: each process reads that column of all shards
            to find them. Texts of another split may be fewer, and have other indices then: pass
            ``classes=train.classes`` there. An index serves these classes in this order only.
        page_bytes: Most bytes of decompressed pages that each process keeps, at least 0. The two
            pages used last are kept in any case. Each of up to 16 threads of a loader holds a page
            that is being decompressed beside these, as stored and as decompressed. Without effect
            on images that are read alone.
        index_dir: Local folder for the indexes, made if missing; None for the shards' folder.
        cache_dir, cache_bytes: Of shards in a bucket; see `TarShards`.
        progress: Show a bar on stderr, if it is a terminal, while shards are scanned, and while a
            batch waits for a shard.
        connect_timeout_s, read_timeout_s: Of shards in a bucket; see `BucketFiles`.

    Raises:
        ImportError: pyarrow is missing.
        FileNotFoundError: A shard does not exist, or a pattern matches none.
        OSError: A shard cannot be read, or ``index_dir`` or ``cache_dir`` cannot be written.
        ValueError: A shard is damaged, has no such columns, or names images by path and holds the
            bytes of none. No shard holds the bytes of an image. A label is missing, or a text has
            no name in ``classes``. Images are encoded so that none can be read alone. A folder or a
            pattern has several splits.
    """

    def __init__(
        self,
        shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        image: str | None = None,
        label: str | None = None,
        classes: Sequence[str] | None = None,
        page_bytes: int = PAGE_BYTES,
        index_dir: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        progress: bool = True,
        connect_timeout_s: float = 3.0,
        read_timeout_s: float = 15.0,
    ) -> None:
        import_pyarrow()
        check_count(WHERE, "page_bytes", page_bytes, at_least=0)
        timeouts = Timeouts.checked(WHERE, connect_timeout_s, read_timeout_s)
        paths = find_shards(WHERE, shards, NAMES)
        schema = _schema_of(paths[0], timeouts)
        features = features_of(schema)
        kinds = {name: feature.get("_type", "") for name, feature in features.items()}
        self._image = find_image_column(WHERE, schema, kinds, image)
        label_column = find_label_column(WHERE, schema, kinds, label)
        if label_column is None:
            listed = ", ".join(map(repr, schema.names))
            refuse(WHERE, "label", "name a column of classes", None, f"Columns: {listed}.")
        self._label = label_column
        self.layout = f"parquet {self._image} {self._label}"
        self._texts: list[str] | None = None
        if is_text(schema.field(self._label).type):
            if classes is None:
                self._texts = _find_classes(paths, self._label, timeouts)
            else:
                self._texts = checked_texts(classes)
            digest = blake2b(json.dumps(self._texts).encode(), digest_size=8)
            self.layout += f" {digest.hexdigest()}"  # an index of other classes is ignored
        self._footers: dict[int, Footer] = {}
        self._pages: PageCache[Rows | Values] = PageCache(page_bytes)
        super().__init__(
            paths,
            self._texts or classes or features.get(self._label, {}).get("names"),
            index_dir=index_dir,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
            progress=progress,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
        )
        if not any(self._span(index).size for index in range(len(self))):  # ends at the first image
            rule = "name a column with the bytes of an image in some row"
            way_out = f"Every row of the shards is empty, from {paths[0]} on."
            refuse(WHERE, "image", rule, self._image, way_out)

    def stored(self, index: int) -> np.ndarray:
        """Return the bytes of an image file: ``[size]`` uint8, not to be written to; maybe none.

        Raises:
            FileNotFoundError: The shard no longer exists.
            OSError: The shard cannot be read, is damaged, or has changed since it was indexed.
        """
        if self._span(index).head == DIRECT:
            return super().stored(index)
        with self._damage_named(index):
            return self._from_page(range(len(self))[index])

    def _from_page(self, index: int) -> np.ndarray:
        number, offset, size, head = self._span(index)
        footer = self._footer(number)
        chunk = footer.chunk_at(offset)

        def read(at: int, size: int) -> memoryview:
            return self._files.read(number, at, size).data

        rows = self._pages.get(
            (number, offset),
            lambda: read_rows(read, offset - head, head + size, chunk, footer.most_level),
        )
        assert isinstance(rows, Rows)
        value = rows.number(self._joined.num_before(index))
        if value < 0:
            return np.zeros(0, np.uint8)
        values = rows.values or self._pages.get(
            (number, chunk.dictionary, "dictionary"), lambda: read_dictionary(read, chunk)
        )
        assert isinstance(values, Values)
        return values.value(value)

    def _footer(self, number: int) -> Footer:
        if number not in self._footers:
            self._files.read(number, 0, 4)  # notices whether the shard has changed
            with self._files.scan(number) as file:
                metadata = open_table(file, self._files.names[number]).metadata
            self._footers[number] = Footer(metadata, self._image)
        return self._footers[number]

    @contextmanager
    def _damage_named(self, index: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not is_damage(error):
                raise
            reason = f"the image's page is damaged ({first_line(error)})"
            raise OSError(errno.EIO, reason, self.path(index)) from error

    def _scan(self, file: BinaryIO, size: int, shard: str) -> Index:
        table = open_table(file, shard)
        with damage_refused(shard):
            labels = read_labels(table, self._label, shard, self._texts)
            footer = Footer(table.metadata, self._image)
            chunks = footer.chunks
            rows = [row for chunk in chunks for row in find_rows(file, chunk, footer.most_level)]
        if len(rows) != len(labels):
            refuse_damaged(shard, f"{len(rows)} images and {len(labels)} labels")
        if rows and (footer.num_missing == len(rows) or not any(size for _, size, _ in rows)):
            if names_images(table, self._image):
                raise ValueError(
                    f"{WHERE}: no row of {shard} holds the bytes of an image in {self._image!r}. "
                    "Embed the images before they are written: `dataset.with_format('arrow').map("
                    "datasets.table.embed_table_storage, batched=True).to_parquet(...)`."
                )
            rows = [(begin, 0, DIRECT) for begin, _, _ in rows]  # empty images, as of other shards
        offset, image_size, head = np.array(rows, np.int64).reshape(-1, 3).T
        if not len(rows) or (offset + image_size).max() > size:
            refuse_damaged(shard, "an image ends beyond the file" if rows else "there are no rows")
        columns = (offset, image_size, labels, head)
        return Index(*map(np.ascontiguousarray, columns))

    def _member(self, index: int) -> str:
        return f", row {self._record(index)}"

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_footers": {}}


def _schema_of(shard: str, timeouts: Timeouts) -> Any:
    with ShardFiles(WHERE, [shard], timeouts).scan(0) as file, damage_refused(shard):
        return open_table(file, shard).schema_arrow


def _find_classes(shards: Sequence[str], label: str, timeouts: Timeouts) -> list[str]:
    """Return all texts in the column of classes of all shards, sorted."""
    files = ShardFiles(WHERE, shards, timeouts)

    def find(number: int) -> list[str]:
        shard = shards[number]
        with files.scan(number, _LABEL_BYTES) as file, damage_refused(shard):
            return find_texts(open_table(file, shard), label, shard)

    return sorted({text for texts in files.map(find, range(len(files))) for text in texts})
