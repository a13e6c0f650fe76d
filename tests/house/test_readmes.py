"""Every README.md: its Python runs, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from dali_cutmix import Tuning

ROOT = Path(__file__).parents[2]
READMES = sorted(
    path.relative_to(ROOT)
    for path in ROOT.rglob("README.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
#: What READMEs say of real runs, and what serves the photographs of the tests.
SMALL = {
    "batch_size=256": "batch_size=16",
    "256, True": "16, True",
    "size=224": "size=32",
    "resize=256": "resize=40",
    '["epoch"], 90)': '["epoch"], 1)',
    "range(90)": "range(1)",
}
#: A block of code, and the comment above that says why the block does not run.
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n)?```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def python_of(readme: Path) -> str:
    """Return the README's Python as one program, without what is marked as not run.

    Blocks fenced as ``py`` are not in the program: their rooms' tests run them.
    """
    blocks = BLOCK.findall((ROOT / readme).read_text())
    program = "\n".join(
        code for mark, language, code in blocks if language == "python" and not mark
    )
    for large, small in SMALL.items():
        program = program.replace(large, small)
    return program


@pytest.mark.parametrize("readme", list(filter(python_of, READMES)), ids=str)
def test_python_of_a_readme_runs_from_top_to_bottom(
    readme: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program finds ``data/train`` and ``data/val``, ImageFolder roots of 21 photographs.

    ``data/masks`` holds a mask for each.
    """
    (tmp_path / "data").mkdir()
    for part in ("train", "val"):
        (tmp_path / "data" / part).symlink_to(photo_folder, target_is_directory=True)
    if "data/masks" in python_of(readme):
        write_masks(photo_folder, tmp_path / "data" / "masks")
    Tuning(num_threads=1).write(tmp_path / "tuning.json")
    monkeypatch.chdir(tmp_path)
    exec(compile(python_of(readme), str(readme), "exec"), {"__name__": "__main__"})


def write_masks(photos: Path, masks: Path) -> None:
    for photo in photos.rglob("*.jpg"):
        mask = masks / photo.relative_to(photos).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(photo) as image:
            Image.new("L", image.size, 3).save(mask)


def test_the_front_page_has_python_that_runs() -> None:
    assert python_of(Path("README.md")).count("DataLoader(") >= 2


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_links_of_a_readme_lead_to_files_and_headings(readme: Path) -> None:
    text = (ROOT / readme).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, heading = target.partition("#")
        linked = ROOT / readme if not path else (ROOT / readme).parent / path
        assert linked.exists(), f"{readme}: {target}"
        if heading:
            assert heading in headings_of(linked), f"{readme}: {target}"


def headings_of(readme: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", readme.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
