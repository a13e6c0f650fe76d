"""The rules of the rooms: who imports whom, who draws, and who may speak."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import dali_cutmix

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "dali_cutmix"

# Lowest first. An import goes to a lower layer only; modules of one layer do not know each other.
LAYERS = [
    {"_version", "_checks", "_dali", "errors", "waits", "crew"},
    {"arithmetic", "draws", "shard", "device", "decode", "resample", "stored"}
    | {"state", "jpeg", "findings", "tuning", "warp", "enhance", "policies"},
    {"cut", "partner", "place", "frame", "operations", "translated", "proof"},
    {"plan", "sampler", "given", "spares", "files", "bucket", "arrays", "diagnose", "ahead"}
    | {"jitter", "automatic", "erasing"},
    {"augmentations", "shard_files", "verdict", "progress"},
    {"packed", "check"},
    {"tar", "tfrecord"},
    {"readers", "pack_shard"},
    {"mix", "labels", "choice", "augment", "normalize", "pack"},
    {"mixes", "loss"},
    {"inputs", "arguments"},
    {"graph"},
    {"lanes"},
    {"feed", "tensors", "epoch"},
    {"device_memory"},
    {"serving"},
    # From a torch loader to the arguments of one.
    {"levels", "crops", "torch_order", "collate"},
    {"colours"},
    {"transform_list"},
    {"from_torch"},
    {"swap"},
    {"loader", "show"},
    {"__init__"},
]
# Programs on top of the public names; they may know each other.
INTEGRATIONS = {"integrations"}  # adapters for trainers, on top of the public names
PROGRAMS = {"cli", *(path.stem for path in (LIBRARY / "commands").glob("*.py"))} - {"__init__"}
# What measures loaders, this one and others, each in a process of its own.
MEASURING = {path.stem for path in (LIBRARY / "measuring").glob("*.py")} - {"__init__"}
# The public names, and what the commands are made of.
BENEATH_PROGRAMS = {
    "__init__",
    "show",
    "errors",
    "_version",
    "readers",
    "pack",
    "tuning",
    "device",
} | {
    "check",
    "findings",
    "verdict",
}


def files() -> list[Path]:
    """The library's modules; the packages in it only hold a sentence each."""
    return [p for p in LIBRARY.rglob("*.py") if p.name != "__init__.py" or p.parent == LIBRARY]


@cache
def modules() -> dict[str, ast.Module]:
    return {path.stem: ast.parse(path.read_text()) for path in files()}


def test_every_module_has_its_layer_and_a_name_of_its_own() -> None:
    assert set(modules()) == set().union(*LAYERS) | PROGRAMS | MEASURING | INTEGRATIONS
    assert len(modules()) == len(files())


def imports_of(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "dali_cutmix":
                found |= {
                    a.name if (LIBRARY / f"{a.name}.py").exists() else "__init__"
                    for a in node.names
                }
            elif node.level:
                raise AssertionError("relative imports would escape these rules")
            elif node.module.startswith("dali_cutmix."):
                found.add(node.module.split(".")[-1])
        elif isinstance(node, ast.Import):
            found |= {
                a.name.split(".")[-1] for a in node.names if a.name.startswith("dali_cutmix.")
            }
    return found


@pytest.mark.parametrize("name", sorted(set().union(*LAYERS)))
def test_module_imports_lower_layers_only(name: str) -> None:
    level = next(i for i, layer in enumerate(LAYERS) if name in layer)
    below = set().union(*LAYERS[:level])
    assert imports_of(modules()[name]) <= below


def test_adapters_for_trainers_use_the_public_names_only() -> None:
    for name in INTEGRATIONS:
        assert imports_of(modules()[name]) == {"__init__"}


def test_programs_use_the_public_names_and_what_shows_them() -> None:
    for name in PROGRAMS:
        assert imports_of(modules()[name]) <= PROGRAMS | BENEATH_PROGRAMS | MEASURING


def test_measuring_knows_nothing_of_the_library_but_its_public_names() -> None:
    """Another loader's environment, which has no DALI, runs the same files."""
    for name in MEASURING:
        assert imports_of(modules()[name]) <= MEASURING | {"__init__"}, name


def calls(tree: ast.Module) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def names_in(tree: ast.Module) -> set[str]:
    """Every name and dotted name that is read, and every module that is imported."""
    read = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, (ast.Name, ast.Attribute))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            read |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            read |= {f"{node.module}.{alias.name}" for alias in node.names}
    return read


def test_random_numbers_are_drawn_in_their_rooms_only() -> None:
    drawing = re.compile(
        r"fn\.(random\b|batch_permutation|random_crop_generator)"
        r"|(torch|np)\.rand|random$|secrets|uuid|os\.urandom"
    )
    rooms = {name for name, tree in modules().items() if any(map(drawing.match, names_in(tree)))}
    # The crop, whose image's size is known in the graph, and all else that a batch draws; and what
    # tries a user's function, and puts generators back as they were.
    assert rooms - PROGRAMS - MEASURING == {"augment", "sampler", "draws", "proof"}


def test_every_random_operator_of_a_graph_has_a_seed_or_a_state() -> None:
    """An unseeded one follows the order of the graph, so that adding another shifts its numbers."""
    for name in ("draws", "augment"):
        for node in ast.walk(modules()[name]):
            if isinstance(node, ast.Call) and re.match(
                r"fn\.(random\.|batch_permutation|random_crop)", ast.unparse(node.func)
            ):
                given = {k.arg or ast.unparse(k.value) for k in node.keywords}
                assert given & {"seed", "fed"}, ast.unparse(node)


def test_dali_is_imported_in_one_place() -> None:
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                alone = name == "_dali" or name in MEASURING
                assert alone or "nvidia" not in ast.unparse(node), name


def test_library_does_not_print_read_the_environment_or_touch_global_random_state() -> None:
    forbidden = re.compile(
        r"print$|os\.environ|os\.getenv|(torch|np\.random|random)\.(manual_)?seed$|sys\.std"
    )
    for name, tree in modules().items():
        if name in PROGRAMS | MEASURING:
            continue
        for used in names_in(tree):
            allowed = {("shard", "os.environ"), ("swap", "print")}  # the latter is a default only
            assert not forbidden.match(used) or (name, used[:10]) in allowed, (name, used)


def test_no_module_is_too_long() -> None:
    for path in files():
        assert len(path.read_text().splitlines()) <= 300, path.name


def test_recipes_and_benchmarks_use_public_names_only() -> None:
    for folder in ("pipelines", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            source = path.read_text()
            rooms = "measuring|augmentations|integrations"
            imported = rf"dali_cutmix\.(?!({rooms})\b)[\w.]+ import|import dali_cutmix\."
            assert not re.search(imported, source), path.name
            assert not re.search(r"\b(dc|loader|train|val)\._(?!_)", source), path.name


def test_public_names_fit_on_a_postcard_and_have_contracts() -> None:
    public = [name for name in dali_cutmix.__all__ if name != "__version__"]
    assert len(public) <= 30
    assert sorted(public) == sorted(set(public))
    for name in public:
        value = getattr(dali_cutmix, name)
        if callable(value):
            assert value.__doc__, name
            assert value.__module__.startswith("dali_cutmix."), name


def test_each_public_name_has_one_import_path() -> None:
    """A public name is imported from the package; the module that defines it is no second path.

    Two rooms have names of their own, which the package does not repeat.
    """
    for path in [*(ROOT / "pipelines").rglob("*.py"), ROOT / "README.md"]:
        found = re.findall(r"from dali_cutmix\.(\w+)", path.read_text())
        assert set(found) <= {"augmentations", "integrations"}, path.name
