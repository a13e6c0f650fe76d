"""The command line: what it writes, and one sentence with the right exit status where it cannot."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

import dali_cutmix
from dali_cutmix.tools.cli import app


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def sentence(result: Any, status: int) -> str:
    """What was said on the error stream, in one line, when it ended with ``status``."""
    assert result.exit_code == status
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.replace("│", " ").split())


# show


@pytest.mark.slow
@pytest.mark.parametrize(
    "mix",
    ["cutmix", "mixup", "cutout", "resizemix", "ricap", "fmix", "gridmix", "saliencymix", "none"],
)
def test_show_draws_a_batch_of_a_folder_of_photos(
    mix: str, photo_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made" / "on demand" / "sheet.png"
    result = call("show", photo_folder, "--out", out, "--mix", mix, "--size", "64")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"Wrote {out}\n", "")
    with Image.open(out) as sheet:
        sheet.load()
        assert (sheet.format, sheet.mode) == ("PNG", "RGB")
        # Photographs have thousands of colours, and text on white has few.
        assert len(sheet.getcolors(1 << 24)) > 5000


def test_show_draws_as_many_images_as_asked_for(numbered_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    for count in (4, 9):
        call("show", numbered_folder, "--out", out, "--batch-size", str(count), "--size", "8",
             "--mix", "none")  # fmt: skip
        with Image.open(out) as sheet:
            colours = np.asarray(sheet)[:, :, 0].ravel()
        # Every file is one gray of 10 * number, shown as a square of 160 px.
        shown = np.bincount(colours, minlength=256)[0:230:10] >= 160 * 160
        assert shown.sum() == count


def test_show_draws_the_same_sheet_for_the_same_seed(photo_folder: Path, tmp_path: Path) -> None:
    pictures = []
    for number, seed in enumerate((3, 3, 4)):
        out = tmp_path / f"{number}.png"
        call("show", photo_folder, "--out", out, "--size", "48", "--seed", str(seed))
        pictures.append(np.asarray(Image.open(out))[70:])  # the titles differ
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_show_mixes_nothing_at_prob_0(photo_folder: Path, tmp_path: Path) -> None:
    pictures = []
    for options in (("--mix", "none"), ("--prob", "0")):
        out = tmp_path / "sheet.png"
        assert call("show", photo_folder, "--out", out, "--size", "48", *options).exit_code == 0
        pictures.append(np.asarray(Image.open(out))[70:])  # the titles differ
    assert np.array_equal(pictures[0], pictures[1])


@pytest.mark.slow
def test_show_needs_no_package_of_the_demo(photo_folder: Path, tmp_path: Path) -> None:
    # In a process of its own, since both packages are imported in this one.
    code = (
        "import sys; sys.modules |= {'sklearn': None, 'matplotlib': None}; "
        "from dali_cutmix.tools.cli import app; app()"
    )
    out = tmp_path / "sheet.png"
    subprocess.run([sys.executable, "-c", code, "show", photo_folder, "--out", out], check=True)
    assert out.exists()


def test_show_of_a_missing_folder_says_what_is_wanted(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    out = tmp_path / "new" / "sheet.png"
    assert sentence(call("show", nowhere, "--out", out), 1) == (
        "DataLoader: `source` must be a folder with one subfolder per class, but "
        f"{str(nowhere)!r} does not exist. A list of (path, class) is taken as well."
    )
    assert not out.parent.exists()


def test_show_names_a_file_that_cannot_be_decoded(photo_folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(photo_folder, tmp_path / "data")
    bad = data / "china" / "00.jpg"
    bad.write_bytes(b"no picture")
    for other in data.glob("*/0[1-6].jpg"):
        other.unlink()
    said = sentence(call("show", data, "--out", tmp_path / "sheet.png"), 1)
    assert said.startswith(f"DataLoader: cannot decode {bad}: ")
    assert said.endswith(". `dali-cutmix check` lists all bad files.")
    assert "on_error" not in said


def test_show_passes_on_what_the_library_refuses(photo_folder: Path, tmp_path: Path) -> None:
    result = call("show", photo_folder, "--out", tmp_path / "sheet.png", "--alpha", "0")
    assert sentence(result, 1) == (
        "CutMix: `alpha` must be finite and above 0, got 0.0. To mix nothing, pass `prob=0.0`."
    )


def test_show_says_when_the_picture_cannot_be_written(photo_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert sentence(call("show", photo_folder, "--out", file / "sheet.png"), 1) == (
        f"dali-cutmix: cannot make the folder {file} for `--out`: File exists."
    )
    (tmp_path / "sheet.png").mkdir()
    assert sentence(call("show", photo_folder, "--out", tmp_path / "sheet.png"), 1) == (
        f"dali-cutmix: cannot use {tmp_path / 'sheet.png'}: Is a directory."
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--mix", "none", "--prob", "1"), "--prob: has no meaning with --mix none"),
        (("--mix", "cutout", "--alpha", "1"), "--alpha: has no meaning with --mix cutout"),
        (("--mix", "ricap", "--alpha", "1"), "--alpha: has no meaning with --mix ricap"),
        (("--mix", "ricap", "--batch-size", "1"), "must be at least 2 with --mix ricap"),
        (("--batch-size", "1"), "--batch-size: must be at least 2 with --mix cutmix"),
        (("--out", "sheet.gif"), "--out: must end in .png, got 'sheet.gif'."),
        (("--size", "0"), "--size"),
        (("--seed", "-1"), "--seed"),
        (
            ("--mix", "blend"),
            "--mix': must be one of cutmix, mixup, cutout, resizemix, ricap, fmix, gridmix, "
            "saliencymix, tube, temporal, cuboid, moving, none, got 'blend'.",
        ),
    ],
)
def test_show_takes_no_options_without_meaning(
    options: tuple[str, ...], says: str, photo_folder: Path
) -> None:
    assert says in sentence(call("show", photo_folder, *options), 2)


# demo


@pytest.mark.slow
def test_demo_writes_digits_a_contact_sheet_and_a_report_and_prints_the_numbers(
    tmp_path: Path,
) -> None:
    out = tmp_path / "made" / "on demand"
    result = call("demo", "--out", out, "--epochs", "1", "--runs", "1")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == [
        "contact-sheet.png",
        "digits-10-per-class-seed-0",
        "report.html",
    ]
    with Image.open(out / "contact-sheet.png") as sheet:
        sheet.load()
    report = (out / "report.html").read_text(encoding="utf-8")
    rows = [line.split("│")[1:4] for line in result.stdout.splitlines() if "│" in line]
    assert len(rows) == 7
    for name, *numbers in rows:
        assert name.strip() in report
        for number in numbers:
            assert f"<td>{number.strip()}</td>" in report
    said = " ".join(result.stdout.split())
    assert "Too few runs to tell: one run decides nothing" in said
    assert f"Wrote {out / 'report.html'} Wrote {out / 'contact-sheet.png'}" in said


def test_demo_without_its_packages_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    said = sentence(call("demo", "--out", tmp_path / "out"), 1)
    assert said.startswith("demo: sklearn cannot be imported")
    assert said.endswith("Install it with `pip install -e '.[demo]'` in the checkout.")
    assert not (tmp_path / "out").exists()


def test_demo_says_when_its_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert sentence(call("demo", "--out", tmp_path / "file"), 1) == (
        f"dali-cutmix: cannot make the folder {tmp_path / 'file'} for `--out`: File exists."
    )


@pytest.mark.parametrize("option", ["--epochs", "--runs"])
def test_demo_of_nothing_is_refused(option: str, tmp_path: Path) -> None:
    assert option in sentence(call("demo", "--out", tmp_path, option, "0"), 2)


# All


def test_version_is_printed() -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"dali-cutmix {dali_cutmix.__version__}\n")


def test_help_describes_every_command_and_option() -> None:
    group = get_command(app)
    names = ["bench", "check", "demo", "exposure", "frames", "pack", "show", "tune"]
    assert sorted(group.commands) == names
    overview = call("--help").stdout
    for name, command in group.commands.items():
        assert name in overview
        text = " ".join(call(name, "--help").stdout.replace("│", " ").split())
        for parameter in command.params:
            assert parameter.help, parameter.name
            assert parameter.help.split(",")[0][:24] in text


README = Path(dali_cutmix.__file__).parent / "tools/README.md"
COMMANDS = re.findall(r"^dali-cutmix (.*)$", README.read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_readme_have_the_options_that_it_names(line: str) -> None:
    name, *arguments = line.split()
    command = get_command(app).commands[name]
    command.make_context(name, arguments).close()


def test_readme_shows_every_command() -> None:
    assert {line.split()[0] for line in COMMANDS} == set(get_command(app).commands)


@pytest.mark.slow
def test_installed_command_runs() -> None:
    command = Path(sys.executable).parent / "dali-cutmix"
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    assert said == f"dali-cutmix {dali_cutmix.__version__}\n"


# Numbers


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        *[("bench", "--seconds", value) for value in ("-1", "nan", "inf")],
        *[("tune", "--seconds", value) for value in ("0", "nan", "inf")],
        *[("tune", "--max-memory", value) for value in ("0", "nan", "inf")],
    ],
)
def test_a_number_out_of_range_is_refused_by_its_option(
    command: str, option: str, value: str, photo_folder: Path
) -> None:
    assert f"Invalid value for '{option}'" in sentence(
        call(command, photo_folder, option, value), 2
    )
