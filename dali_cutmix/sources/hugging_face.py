"""Images in a Hugging Face ``Dataset``: rows of Arrow tables, which lie in mapped files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dali_cutmix.core.checks import Told, local_path, refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.core.extras import import_extra
from dali_cutmix.core.reading import read_regular
from dali_cutmix.sources.base import StoredImages, check_labels, numbered
from dali_cutmix.sources.columns import find_image_column, find_label_column

WHERE = "HuggingFaceImages"

_OF_SPLITS = "dataset_dict.json"
#: A folder that ``save_to_disk`` of a ``DatasetDict`` or a ``Dataset`` wrote holds one of these.
SAVED = ({_OF_SPLITS}, {"state.json", "dataset_info.json"})


class HuggingFaceImages(StoredImages):
    """List images and labels of a Hugging Face ``datasets.Dataset``.

    Encoded bytes are read by index from the dataset's Arrow tables, and decoded in the graph: no
    row is decoded in Python. Rows are those of the dataset, after ``select``, ``shuffle``,
    ``train_test_split`` and ``concatenate_datasets``. Needs ``pip install -e '.[datasets]'`` in the
    checkout.

    A row without image bytes is read from the local file that the row names. A row without either
    is a bad image.

    Args:
        dataset: A ``datasets.Dataset``, of which the formats ``None`` and of arrays are ignored; or
            a folder that ``Dataset.save_to_disk`` wrote.
        image: Name of the column of images, of the feature ``Image``, or of encoded bytes. None
            takes the only such column.
        label: Name of the column of classes: a ``ClassLabel``, whole numbers or texts, which are
            indexed as sorted. None takes the only ``ClassLabel``, else a column named ``label`` or
            ``labels``. Without such a column the images have no classes.

    Raises:
        ImportError: datasets is missing, and ``dataset`` is a folder.
        FileNotFoundError: The folder does not exist.
        TypeError: ``dataset`` is another object, such as a dictionary of splits.
        ValueError: The dataset has no rows, no such column or a transform of its own; or a label is
            missing or below 0. Or a file in the folder is damaged.
    """

    kind = "encoded"

    def __init__(
        self,
        dataset: Any,
        *,
        image: str | None = None,
        label: str | None = None,
    ) -> None:
        if isinstance(dataset, (str, os.PathLike)):
            dataset = _load(local_path(WHERE, "dataset", dataset))
        _check_dataset(dataset)
        self.columns = list(dataset.features)
        features = {name: type(feature).__name__ for name, feature in dataset.features.items()}
        self._column = find_image_column(WHERE, dataset.features.arrow_schema, features, image)
        label = find_label_column(WHERE, dataset.features.arrow_schema, features, label)
        _refuse_other_mode(dataset.features[self._column], self._column)
        self._table = dataset.data  # pickled by the names of its files
        self._in_memory = not dataset.cache_files
        self._name = str(dataset.split or "dataset")
        self._rows = _rows_of(dataset)
        self._chunks: _Chunks | None = None
        if label is None:
            super().__init__(np.zeros(len(self._rows), np.int64), [])
            return
        targets, classes = _labels_of(dataset, label, self._rows)
        check_labels(WHERE, targets, self.path)
        super().__init__(targets, classes or numbered(int(targets.max()) + 1))

    @property
    def reads(self) -> bool:
        """Whether the tables lie in files."""
        return not self._in_memory

    def path(self, index: int) -> str:
        """Return the row of an image as ``train[17]``, and the file's name if the row has one."""
        index = range(len(self._rows))[index]
        _, name = self._column_chunks().row(int(self._rows[index]))
        return f"{self._name}[{index}]" + (f" ({name})" if name else "")

    def stored(self, index: int) -> np.ndarray:
        """Return the bytes of an image file: ``[size]`` uint8, not to be written to.

        Raises:
            FileNotFoundError: The row has neither bytes nor the path of a file, or no such file.
            OSError: The row's file cannot be read.
        """
        buffer, name = self._column_chunks().row(int(self._rows[index]))
        if buffer is not None:
            encoded = np.frombuffer(buffer, np.uint8)
            # Copied from a mapped file, so that a thread that reads ahead waits for the disk.
            return encoded if self._in_memory else encoded.copy()
        if not name:
            raise FileNotFoundError(errno.ENOENT, "the row has no image", self.path(index))
        if "://" in name:
            reason = "the row holds an address and no bytes. Embed the bytes: `Dataset.map`"
            raise OSError(errno.EINVAL, reason, self.path(index))
        return read_regular(name)

    def _column_chunks(self) -> _Chunks:
        if self._chunks is None:
            self._chunks = _Chunks(self._table.column(self._column))
        return self._chunks

    def _describe(self) -> Iterable[bytes]:
        yield np.ascontiguousarray(self._column_chunks().sizes[self._rows], "<i8").tobytes()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_chunks": None}  # whose pickle would hold all images


class _Chunks:
    """Find a row of a column that lies in many pieces.

    Args:
        column: Structs of ``bytes`` and ``path``, or bytes: a ``pyarrow.ChunkedArray``.
    """

    def __init__(self, column: Any) -> None:
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.compute as pc  # type: ignore[import-untyped]

        chunks = [chunk for chunk in column.chunks if len(chunk)]
        self._ends = np.cumsum([len(chunk) for chunk in chunks], dtype=np.int64)
        is_struct = pa.types.is_struct(column.type)
        # Of a missing struct the fields are missing too, which `field` does not say.
        self._bytes = [pc.struct_field(c, "bytes") if is_struct else c for c in chunks]
        has_paths = is_struct and "path" in [field.name for field in column.type]
        self._paths = [pc.struct_field(c, "path") for c in chunks] if has_paths else None
        sizes = [pc.fill_null(pc.binary_length(chunk), -1) for chunk in self._bytes]
        #: Bytes of every row's image: ``[number of rows]`` int64; -1 of a row without bytes.
        self.sizes = np.concatenate([size.to_numpy(zero_copy_only=False) for size in sizes])

    def row(self, row: int) -> tuple[Any, str | None]:
        """Return an image's bytes, a buffer, and the name of its file; None for each missing."""
        number = int(np.searchsorted(self._ends, row, side="right"))
        within = row - int(self._ends[number] - len(self._bytes[number]))
        name = None if self._paths is None else self._paths[number][within].as_py()
        return self._bytes[number][within].as_buffer(), name


def is_hugging_face(source: object) -> bool:
    """Return whether an object is of the package ``datasets``, without importing the package."""
    return type(source).__module__.partition(".")[0] == "datasets"


def _load(folder: str) -> Any:
    datasets = import_extra(f"{WHERE}: {folder}", "datasets", extra="datasets")
    splits = os.path.join(folder, _OF_SPLITS)
    if os.path.exists(splits):
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        way_out = f"Pass the folder of a split, as in {os.path.join(folder, names[0])!r}."
        refuse(WHERE, "dataset", "be one split", Told(f"splits {', '.join(names)}"), way_out)
    try:
        return datasets.load_from_disk(folder)
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the system; pyarrow's have no number
        problem = _damage_in(folder) or f"{folder} cannot be read: {error}"
        raise ValueError(
            f"{WHERE}: {printable(problem)}. Copy or save the dataset again."
        ) from error


def _damage_in(folder: str) -> str | None:
    """Return the first file of tables that cannot be read, with the reason."""
    import pyarrow as pa

    names = sorted(name for name in os.listdir(folder) if name.endswith(".arrow"))
    for path in (os.path.join(folder, name) for name in names):
        try:
            with pa.memory_map(path) as file:
                pa.ipc.open_stream(file).read_all()
        except (pa.ArrowException, OSError) as error:
            return f"{path} is damaged or truncated: {error}"
    return None


def _check_dataset(dataset: Any) -> None:
    name = type(dataset).__name__
    if is_hugging_face(dataset) and isinstance(dataset, dict):
        splits = ", ".join(map(str, dataset)) or "none"
        raise TypeError(
            f"{WHERE}: `dataset` must be one split, got a {name} of {splits}. Pass "
            f"`dataset[{next(iter(dataset), 'train')!r}]`."
        )
    if not is_hugging_face(dataset) or not hasattr(dataset, "data"):
        way_out = (
            " Its rows have no index: load the dataset without `streaming=True`."
            if is_hugging_face(dataset)
            else ""
        )
        raise TypeError(f"{WHERE}: `dataset` must be a datasets.Dataset, got {name}.{way_out}")
    if dataset.format["type"] == "custom":
        raise ValueError(
            f"{WHERE}: `dataset` must have no transform of its own, which cannot run in the graph. "
            "Pass `dataset.with_format(None)`, and `transform=TrainTransform(...)` or "
            "`EvalTransform(...)` to the loader."
        )
    if not len(dataset):
        refuse(WHERE, "dataset", "have rows", Told("none"))


def _refuse_other_mode(feature: Any, column: str) -> None:
    mode = getattr(feature, "mode", None)
    if mode not in (None, "RGB"):
        way_out = "Images are served as RGB: cast the column to `datasets.Image()`."
        refuse(WHERE, "dataset", f"hold images of any mode in {column!r}", Told(mode), way_out)


def _rows_of(dataset: Any) -> np.ndarray:
    """Return the row of the table for every sample: ``[len(dataset)]`` int64."""
    indices = dataset._indices  # after `select` and `shuffle`; there is no public name
    if indices is None:
        return np.arange(dataset.data.num_rows, dtype=np.int64)
    return indices.column(0).to_numpy().astype(np.int64)


def _labels_of(dataset: Any, label: str, rows: np.ndarray) -> tuple[np.ndarray, Sequence[str]]:
    """Return the class of every sample, ``[N]`` int64, and the classes' names or none."""
    import pyarrow as pa

    column = dataset.data.column(label)
    if column.null_count:
        missing = column.is_null().to_numpy()[rows]
        if missing.any():
            rule = f"be known for every row of {label!r}"
            refuse(WHERE, "label", rule, Told(f"none in row {int(missing.argmax())}"))
        column = column.fill_null(0 if pa.types.is_integer(column.type) else "")
    if pa.types.is_integer(column.type):
        targets = column.to_numpy()[rows].astype(np.int64)
        return targets, getattr(dataset.features[label], "names", None) or []
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        way_out = "Add a column of classes, or cast this column to `datasets.ClassLabel`."
        refuse(WHERE, "label", "be classes, numbers or texts", Told(str(column.type)), way_out)
    encoded = column.dictionary_encode().combine_chunks()
    numbers = encoded.indices.to_numpy()[rows]
    used = np.unique(numbers)
    classes = np.array(encoded.dictionary.to_pylist(), object)[used]
    order = np.argsort(classes)
    rank = np.zeros(len(encoded.dictionary), np.int64)
    rank[used[order]] = np.arange(len(used))
    return rank[numbers], classes[order].tolist()
