"""Hugging Face datasets: which rows and columns are served, and what is refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import Subset

from dali_cutmix import DataLoader, EvalTransform, HuggingFaceImages
from dali_cutmix.sources.open import open_source
from stored import Sample, hugging_face, saved

datasets = pytest.importorskip("datasets")

SAMPLES = [Sample(f"{n:02d}.jpg", b"image %02d" % n * (n + 1), n % 3) for n in range(30)]


def error_of(*arguments: Any, **settings: Any) -> str:
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        HuggingFaceImages(*arguments, **settings)
    return str(caught.value)


def rows_of(dataset: Any) -> list[tuple[bytes, int]]:
    """The samples as the package ``datasets`` reads them, one by one."""
    plain = dataset.cast_column("image", datasets.Image(decode=False))
    return [(row["image"]["bytes"], row["label"]) for row in plain]


def served(images: Any) -> list[tuple[bytes, int]]:
    return [(images.stored(n).tobytes(), int(images.targets[n])) for n in range(len(images))]


@pytest.mark.parametrize("in_memory", [False, True])
def test_rows_are_those_of_the_dataset_after_any_selection(tmp_path: Path, in_memory: bool) -> None:
    dataset = datasets.load_from_disk(saved(tmp_path, SAMPLES), keep_in_memory=in_memory)
    split = dataset.train_test_split(0.3, seed=2)
    for chosen in (
        dataset,
        dataset.select(range(3, 17)),  # a slice of the table, without a mapping
        dataset.select([29, 0, 0, 7]),
        dataset.shuffle(seed=1),
        dataset.shuffle(seed=1).select(range(5, 9)).shuffle(seed=3),
        dataset.filter(lambda label: label == 2, input_columns="label"),
        dataset.sort("label", reverse=True),
        split["train"],
        split["test"],
        datasets.concatenate_datasets([split["test"], dataset.select([1, 2]), split["train"]]),
        dataset.with_format("numpy"),
        dataset.flatten_indices(),
    ):
        images = HuggingFaceImages(chosen)
        assert served(images) == rows_of(chosen)
        assert images.classes == ["china", "flower", "portrait"]
        assert images.reads != in_memory


@pytest.mark.parametrize("size", [0, 4, 100, 0.5])
def test_a_damaged_file_of_a_folder_is_named(tmp_path: Path, size: float) -> None:
    folder = tmp_path / "saved"
    hugging_face(SAMPLES).save_to_disk(folder, num_shards=3)
    path = sorted(folder.glob("*.arrow"))[1]
    content = path.read_bytes()
    path.write_bytes(content[: int(size if size != 0.5 else len(content) // 2)])
    for opener in (HuggingFaceImages, open_source):
        with pytest.raises(ValueError, match=r"^HuggingFaceImages: ") as caught:
            opener(folder)
        begin, reason, end = str(caught.value).partition(str(caught.value.__cause__))
        assert (begin, end) == (
            f"HuggingFaceImages: {path} is damaged or truncated: ",
            ". Copy or save the dataset again.",
        )
        assert reason
    path.write_bytes(content)
    (folder / "state.json").write_text("{")
    assert error_of(folder) == (
        f"HuggingFaceImages: {folder} cannot be read: Expecting property name enclosed in double "
        "quotes: line 1 column 2 (char 1). Copy or save the dataset again."
    )
    (folder / "state.json").unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"{folder} is neither a `Dataset`")):
        HuggingFaceImages(folder)


def test_a_subset_of_a_dataset_serves_its_rows() -> None:
    dataset = hugging_face(SAMPLES).shuffle(seed=4)
    images = open_source(Subset(dataset, [4, 1]))
    assert served(images) == [rows_of(dataset)[4], rows_of(dataset)[1]]


def test_no_row_is_decoded_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(datasets.Image, "decode_example", fail)
    assert len(served(HuggingFaceImages(hugging_face(SAMPLES)))) == len(SAMPLES)


def test_rows_are_named_by_their_index_and_file() -> None:
    dataset = hugging_face(SAMPLES)
    dataset.info.splits, dataset._split = None, datasets.Split.TRAIN
    images = HuggingFaceImages(dataset.select([29, 4]))
    assert images.path(1) == images.path(-1) == "train[1] (04.jpg)"
    rows = {"image": [{"bytes": b"x", "path": None}], "label": [0]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int8")})
    assert HuggingFaceImages(datasets.Dataset.from_dict(rows, features)).path(0) == "dataset[0]"


def test_rows_without_bytes_are_read_from_their_files(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a file")
    rows = [str(tmp_path / "a.jpg"), None, str(tmp_path / "b.jpg"), "hf://datasets/a/b.jpg"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    dataset = datasets.Dataset.from_dict({"image": rows, "label": [0, 1, 2, 3]}, features)
    images = HuggingFaceImages(dataset)
    assert images.stored(0).tobytes() == b"a file"
    with pytest.raises(FileNotFoundError) as caught:
        images.stored(1)
    assert (caught.value.strerror, caught.value.filename) == ("the row has no image", "dataset[1]")
    with pytest.raises(FileNotFoundError) as caught:
        images.stored(2)
    assert caught.value.filename == str(tmp_path / "b.jpg")
    with pytest.raises(OSError, match="the row holds an address and no bytes"):
        images.stored(3)


@pytest.mark.parametrize("kind", ["int8", "uint64", "string", "large_string"])
def test_labels_may_be_numbers_or_texts(kind: str) -> None:
    is_text = "string" in kind
    labels = ["owl", "cat", "owl", "dog"] if is_text else [2, 0, 2, 1]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value(kind)})
    image = {"bytes": b"x", "path": None}
    dataset = datasets.Dataset.from_dict({"image": [image] * 4, "label": labels}, features)
    images = HuggingFaceImages(dataset)
    assert images.targets.tolist() == [2, 0, 2, 1]
    assert images.classes == (["cat", "dog", "owl"] if is_text else ["0", "1", "2"])
    some = HuggingFaceImages(dataset.select([0, 3]))
    assert some.targets.tolist() == ([1, 0] if is_text else [2, 1])
    assert some.classes == (["dog", "owl"] if is_text else ["0", "1", "2"])


def table(**columns: Any) -> Any:
    """A dataset of two rows with these features by column."""
    values = {"Image": {"bytes": b"x", "path": None}, "ClassLabel": 0}
    rows = {
        name: [values.get(type(feature).__name__, b"x" if feature.dtype == "binary" else 0)] * 2
        for name, feature in columns.items()
    }
    return datasets.Dataset.from_dict(rows, datasets.Features(columns))


def test_columns_are_found_or_named() -> None:
    image, classes = datasets.Image(), datasets.ClassLabel(names=["a", "b"])
    number, encoded = datasets.Value("int64"), datasets.Value("binary")
    for columns in (
        {"img": image, "fine": classes},
        {"img": image, "mask": encoded, "label": number, "area": number},
        {"jpg": encoded, "labels": number},
    ):
        images = HuggingFaceImages(table(**columns))
        assert images.stored(1).tobytes() == b"x"
        assert images.targets.tolist() == [0, 0]
    dataset = table(image=image, mask=image, label=classes, kind=classes)
    assert len(HuggingFaceImages(dataset, image="mask", label="kind").classes) == 2
    where = "HuggingFaceImages: `{}` must "
    assert error_of(dataset) == where.format("image") + (
        "name the column of images, since there are several, got None. Columns: 'image', 'mask'."
    )
    assert error_of(dataset, image="mask") == where.format("label") + (
        "name the column of classes, since there are several, got None. Columns: 'label', 'kind'."
    )
    rule = "name a column of images: encoded bytes, or a struct with `bytes`, got "
    for argument in ("label", "none"):
        assert error_of(dataset, image=argument).startswith(
            where.format("image") + rule + repr(argument)
        )
    assert error_of(table(area=number)) == (where.format("image") + rule + "None. Columns: 'area'.")
    assert error_of(table(image=image), label="area") == where.format("label") + (
        "name a column of classes, got 'area'. Columns: 'image'."
    )


def test_images_without_classes_are_refused_where_classes_are_needed() -> None:
    images = HuggingFaceImages(table(image=datasets.Image(), area=datasets.Value("float32")))
    assert images.classes == []
    message = (
        "DataLoader: `source` must have a column of classes, got the columns 'image', 'area'. Name "
        "the column: `HuggingFaceImages(dataset, label=...)`. An annotation as `target`, such as "
        "Masks, needs no class."
    )
    for source in (images, images.take([1])):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            DataLoader(source, transform=EvalTransform(8, 8))


def test_labels_that_are_no_classes_are_refused_by_row() -> None:
    image = {"bytes": b"x", "path": None}

    def labelled(kind: Any, *labels: Any) -> Any:
        features = datasets.Features({"image": datasets.Image(), "label": kind})
        rows = {"image": [image] * len(labels), "label": list(labels)}
        return datasets.Dataset.from_dict(rows, features)

    hidden = labelled(datasets.ClassLabel(names=["a", "b"]), 1, -1)  # as of a test split
    assert error_of(hidden) == (
        "HuggingFaceImages: `the label of dataset[1]` must be a class index of at least 0, got -1."
    )
    assert error_of(labelled(datasets.Value("int64"), 1, None)) == (
        "HuggingFaceImages: `label` must be known for every row of 'label', got none in row 1."
    )
    assert error_of(labelled(datasets.Value("float32"), 1.5)) == (
        "HuggingFaceImages: `label` must be classes, numbers or texts, got float. Add a column of "
        "classes, or cast this column to `datasets.ClassLabel`."
    )
    partly = labelled(datasets.Value("string"), "b", None, "a").select([0, 2])
    assert HuggingFaceImages(partly).targets.tolist() == [1, 0]


def test_other_objects_are_refused_with_the_way_out(tmp_path: Path) -> None:
    dataset = hugging_face(SAMPLES)
    splits = datasets.DatasetDict({"train": dataset, "test": dataset})
    assert error_of(splits) == (
        "HuggingFaceImages: `dataset` must be one split, got a DatasetDict of train, test. Pass "
        "`dataset['train']`."
    )
    assert error_of(dataset.to_iterable_dataset()) == (
        "HuggingFaceImages: `dataset` must be a datasets.Dataset, got IterableDataset. Its rows "
        "have no index: load the dataset without `streaming=True`."
    )
    assert error_of(3) == "HuggingFaceImages: `dataset` must be a datasets.Dataset, got int."
    assert "must have no transform of its own" in error_of(dataset.with_transform(dict))
    assert error_of(dataset.select([])) == (
        "HuggingFaceImages: `dataset` must have rows, got none."
    )
    gray = dataset.cast_column("image", datasets.Image(mode="L"))
    assert "must hold images of any mode in 'image', got L" in error_of(gray)
    splits.save_to_disk(tmp_path)
    assert error_of(tmp_path) == (
        "HuggingFaceImages: `dataset` must be one split, got splits test, train. Pass the folder "
        f"of a split, as in '{tmp_path}/test'."
    )
    assert len(open_source(tmp_path / "test")) == len(SAMPLES)


def test_missing_package_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path, SAMPLES)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError) as caught:
        open_source(folder)
    assert str(caught.value).startswith(f"HuggingFaceImages: {folder}: datasets cannot be")
    way_out = "Install it with `pip install -e '.[datasets]'` in the checkout."
    assert str(caught.value).endswith(way_out)


def test_the_fingerprint_ignores_how_the_rows_are_stored(tmp_path: Path) -> None:
    dataset = hugging_face(SAMPLES).shuffle(seed=1)
    dataset.save_to_disk(tmp_path / "saved", num_shards=3)
    copy = datasets.load_from_disk(tmp_path / "saved")
    prints = {HuggingFaceImages(each).fingerprint for each in (dataset, copy)}
    assert len(prints) == 1
    other = dataset.map(lambda label: {"label": 2 - label}, input_columns="label")
    prints |= {HuggingFaceImages(each).fingerprint for each in (other, dataset.shuffle(seed=2))}
    assert len(prints) == 3
    assert np.unique(HuggingFaceImages(dataset).targets).tolist() == [0, 1, 2]
