"""`pack --format parquet`: Hugging Face and pyarrow read what was packed; a pack continues."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dali_cutmix import FileList, ImageArrays, ParquetShards
from dali_cutmix.tools import pack_parquet
from dali_cutmix.tools.cli import app
from dali_cutmix.tools.pack import pack_images


def pack(images: Any, out: Path, **settings: Any) -> Any:
    return pack_images(
        images, out, **{"num_workers": 1, "per_shard": 8, "format": "parquet", **settings}
    )


def test_the_command_packs_what_hugging_face_reads(photo_folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "out"
    arguments = ["pack", str(photo_folder), str(out), "--format", "parquet", "--num-workers", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    files = FileList.from_folder(photo_folder)
    expected = sorted((Path(path).read_bytes(), label) for path, label in files.samples)
    data = datasets.Dataset.from_parquet(str(out / "000000.parquet"), cache_dir=str(tmp_path))
    assert data.features["label"].names == files.classes
    rows = data.cast_column("image", datasets.Image(decode=False))
    assert sorted((row["image"]["bytes"], row["label"]) for row in rows) == expected
    assert data[0]["image"].mode == "RGB"


def test_images_are_read_without_unpacking(photo_folder: Path, tmp_path: Path) -> None:
    pack(FileList.from_folder(photo_folder), tmp_path)
    for path in sorted(tmp_path.glob("*.parquet")):
        column = pq.ParquetFile(path).metadata.row_group(0).column(0)
        assert (column.path_in_schema, column.compression) == ("image.bytes", "UNCOMPRESSED")
        assert not column.has_dictionary_page


def test_a_pack_continues_and_notices_other_shards(photo_folder: Path, tmp_path: Path) -> None:
    files = FileList.from_folder(photo_folder)
    pack(files, tmp_path)
    first = (tmp_path / "000001.parquet").read_bytes()
    (tmp_path / "000001.parquet").unlink()
    assert pack(files, tmp_path).num_present == 2
    assert (tmp_path / "000001.parquet").read_bytes() == first
    (tmp_path / "000001.parquet").write_bytes(first[:-100])
    message = f"pack: {tmp_path / '000001.parquet'} exists, and does not hold its 8 samples"
    with pytest.raises(ValueError, match=re.escape(message)):
        pack(files, tmp_path)
    with pytest.raises(ValueError, match="settings: shards was 'parquet' and is now None"):
        pack(files, tmp_path, format="tar")


def test_a_shard_that_reads_back_otherwise_is_an_error_and_no_shard(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = pack_parquet.write_parquet

    def flipped(file: Any, samples: Any, classes: Any) -> None:
        write(file, [(name, data[:-1] + b"?", label) for name, data, label in samples], classes)

    monkeypatch.setattr("dali_cutmix.tools.pack_shard.write_parquet", flipped)
    with pytest.raises(OSError, match="does not read back as it was written"):
        pack(FileList.from_folder(photo_folder), tmp_path)
    assert not list(tmp_path.glob("*.parquet"))


def test_resized_images_and_numbered_classes_are_packed(photo_folder: Path, tmp_path: Path) -> None:
    encoded = [Path(path).read_bytes() for path, _ in FileList.from_folder(photo_folder).samples]
    pack(ImageArrays(encoded, [n % 2 for n in range(21)]), tmp_path, resize=32)
    shards = ParquetShards(tmp_path, progress=False)
    assert shards.classes == ["0", "1"]
    assert max(shards.stored(n).size for n in range(21)) < 6000


def test_another_format_is_refused(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`format` must be one of 'tar', 'parquet', got 'zip'"):
        pack(FileList.from_folder(photo_folder), tmp_path, format="zip")
