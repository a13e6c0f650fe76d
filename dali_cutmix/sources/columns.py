"""Which columns of a table hold images and classes: of Arrow tables and Parquet files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from dali_cutmix.core.checks import refuse

#: Names of a column of classes, where no column says that its numbers are classes.
_LABELS = ("label", "labels")


def find_image_column(
    where: str, schema: Any, features: Mapping[str, str], image: str | None
) -> str:
    """Return the name of the column of images.

    Args:
        where: Name of the caller, for messages.
        schema: The table's ``pyarrow.Schema``.
        features: Class of the Hugging Face feature by column, such as ``"Image"``; may be empty.
        image: The column that the user names, or None for the only one.

    Raises:
        ValueError: The column does not exist or holds something else; or there are several.
    """
    able = [field.name for field in schema if _holds_bytes(field.type)]
    if image is not None:
        if image not in able:
            rule = "name a column of images: encoded bytes, or a struct with `bytes`"
            _refuse_column(where, "image", rule, image, schema)
        return image
    columns = [name for name in able if features.get(name) == "Image"] or able
    if len(columns) != 1:
        rule = "name the column of images, since there are several" if columns else ""
        rule = rule or "name a column of images: encoded bytes, or a struct with `bytes`"
        _refuse_column(where, "image", rule, None, schema, columns)
    return columns[0]


def find_label_column(
    where: str, schema: Any, features: Mapping[str, str], label: str | None
) -> str | None:
    """Return the name of the column of classes; None where no column is one.

    Args:
        where: Name of the caller, for messages.
        schema: The table's ``pyarrow.Schema``.
        features: Class of the Hugging Face feature by column, such as ``"ClassLabel"``.
        label: The column that the user names, or None.

    Raises:
        ValueError: The column does not exist, or several columns hold classes.
    """
    names = list(schema.names)
    if label is not None:
        if label not in names:
            _refuse_column(where, "label", "name a column of classes", label, schema)
        return label
    columns = [name for name in names if features.get(name) == "ClassLabel"]
    columns = columns or [name for name in _LABELS if name in names]
    if len(columns) > 1:
        rule = "name the column of classes, since there are several"
        _refuse_column(where, "label", rule, None, schema, columns)
    return columns[0] if columns else None


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa  # type: ignore[import-untyped]

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _refuse_column(
    where: str,
    argument: str,
    rule: str,
    name: str | None,
    schema: Any,
    columns: Sequence[str] = (),
) -> NoReturn:
    listed = ", ".join(map(repr, columns or schema.names))
    refuse(where, argument, rule, name, f"Columns: {listed}.")
