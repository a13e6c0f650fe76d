"""A shard whose descriptor has become stale, as on a network file system, is opened anew."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from test_tar import numbered as write_tar_shard

from dali_cutmix import TarShards


def test_a_shard_is_opened_anew_after_a_failed_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = TarShards(write_tar_shard(tmp_path / "0.tar", range(3)))
    content = images.stored(1).tobytes()

    def fail(*_: int) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            images.stored(1)
    opened: list[Any] = []
    open_file = os.open
    monkeypatch.setattr(os, "open", lambda *way: opened.append(way[0]) or open_file(*way))
    assert images.stored(1).tobytes() == content
    assert opened == [str(tmp_path / "0.tar")]
