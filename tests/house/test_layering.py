"""The rules of the rooms: who imports whom, who draws, and who may speak."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import dali_cutmix

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "dali_cutmix"

#: Imports go to the left only. Rooms in braces do not know each other.
ORDER = (
    "core < {mixing, transforms, sources, order} < annotations < serving < from_torch "
    "< {loader, pictures} < __init__ < {trainers, tools}"
)
#: Files of the root that repeat names of one room, or import nothing of the package.
DOORS = {"augmentations": {"core", "transforms"}, "integrations": {"trainers"}}
ALONE = {"_version", "waits"}

LEVELS = [set(re.findall(r"\w+", level)) for level in ORDER.split("<")]
BELOW = {
    room: set().union(*LEVELS[:number], ALONE)
    for number, level in enumerate(LEVELS)
    for room in level
}


def files() -> list[Path]:
    return sorted(LIBRARY.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    """A file by its place in the package: ``order/sampler``."""
    return path.relative_to(LIBRARY).with_suffix("").as_posix()


def room_of(path: Path) -> str:
    return name_of(path).split("/")[0]


def imports_of(tree: ast.Module) -> set[str]:
    """Rooms and files of the root that a module imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports would escape these rules"
            if node.module == "dali_cutmix":
                found |= {a.name if (LIBRARY / a.name).exists() else "__init__" for a in node.names}
            elif node.module and node.module.startswith("dali_cutmix."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("dali_cutmix.")}
    return found


def test_every_room_has_its_place_in_the_order() -> None:
    assert {room_of(path) for path in files()} <= set(BELOW) | set(DOORS) | ALONE


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_imports_go_to_rooms_below(path: Path) -> None:
    room = room_of(path)
    allowed = DOORS.get(room, set()) if room in DOORS.keys() | ALONE else BELOW[room] | {room}
    assert imports_of(tree_of(path)) <= allowed


def test_root_of_the_package_holds_at_most_eight_files() -> None:
    assert len(list(LIBRARY.glob("*.py"))) <= 8


def test_adapters_for_trainers_use_the_public_names_only() -> None:
    for path in (LIBRARY / "trainers").glob("*.py"):
        assert imports_of(tree_of(path)) <= {"__init__", "trainers"}, name_of(path)


#: What runs in environments of other loaders, which have no DALI.
RACE = {"child", "contestant", "inspection", "loaders", "probe", "race", "steps", "work"}


def test_what_races_loaders_knows_the_public_names_only() -> None:
    for name in RACE:
        path = LIBRARY / "tools" / "bench" / f"{name}.py"
        assert imports_of(tree_of(path)) <= {"__init__", "tools"}, name


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
    drawers = {
        name_of(path)
        for path in files()
        if room_of(path) != "tools" and any(map(drawing.match, names_in(tree_of(path))))
    }
    # The crop, whose image's size is known in the graph only, and all else that a batch draws; and
    # what calls a user's sampler, tries a user's function or replays its draws, and puts generators
    # back as they were. Names of unfinished files are of no batch.
    names = "chances", "comparison", "policies", "published"
    of_functions = {f"from_torch/{name}" for name in names}
    assert drawers == {
        *("transforms/crop", "order/sampler", "order/user_sampler"),
        *("core/graph_draws", "core/host_draws", "core/writing"),
        *of_functions,
    }


def test_every_random_operator_of_a_graph_has_a_seed_or_a_state() -> None:
    """An unseeded one follows the order of the graph, so that adding another shifts its numbers."""
    for name in ("core/graph_draws", "transforms/crop"):
        for node in ast.walk(tree_of(LIBRARY / f"{name}.py")):
            if isinstance(node, ast.Call) and re.match(
                r"fn\.(random\.|batch_permutation|random_crop)", ast.unparse(node.func)
            ):
                given = {k.arg or ast.unparse(k.value) for k in node.keywords}
                assert given & {"seed", "state"}, ast.unparse(node)


def test_dali_is_imported_in_one_place() -> None:
    for path in files():
        name = name_of(path)
        if name == "core/dali" or name.split("/")[-1] in RACE:
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "nvidia" not in ast.unparse(node), name


def test_cpus_are_counted_in_one_place() -> None:
    """Else a container's quota is seen by some counts, and by others not."""
    for path in files():
        used = [name for name in names_in(tree_of(path)) if re.search("affinity|cpu_count", name)]
        assert name_of(path) == "core/threads" or not used, (name_of(path), used)


def test_library_does_not_print_read_the_environment_or_touch_global_random_state() -> None:
    forbidden = re.compile(
        r"print$|os\.environ|os\.getenv|(torch|np\.random|random)\.(manual_)?seed$|sys\.std(in|out|err)"
    )
    # The latter as the default of an argument only.
    allowed = {("order/sampler", "os.environ"), ("loader", "print")}
    # `comparison.call` puts the states back.
    allowed |= {("from_torch/comparison", name) for name in ("np.random.", "random.see")}
    for path in files():
        if room_of(path) == "tools":
            continue
        for used in names_in(tree_of(path)):
            is_allowed = (name_of(path), used[:10]) in allowed
            assert not forbidden.match(used) or is_allowed, (name_of(path), used)


def test_recipes_and_benchmarks_use_public_names_only() -> None:
    for folder in ("pipelines", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            source = path.read_text()
            rooms = r"tools\.bench|augmentations|trainers"
            if path.name == "mask_decoders.py":  # measures what the loader hands to DALI
                rooms += r"|annotations\.planes"
            if path.name == "gpu_host.py":  # measures draws alone, and graphs without their copies
                rooms += r"|core\.host_draws|core\.frame|serving\.outputs"
            imported = rf"dali_cutmix\.(?!({rooms})\b)[\w.]+ import|import dali_cutmix\."
            assert not re.search(imported, source), path.name
            assert not re.search(r"\b(dc|loader|train|val)\._(?!_)", source), path.name


def test_public_names_are_sorted_and_have_contracts() -> None:
    public = [name for name in dali_cutmix.__all__ if name != "__version__"]
    assert sorted(public) == sorted(set(public))
    for name in public:
        value = getattr(dali_cutmix, name)
        if callable(value):
            assert value.__doc__, name
            assert value.__module__.startswith("dali_cutmix."), name


def test_each_public_name_has_one_import_path() -> None:
    """A public name is imported from the package; the module that defines it is no second path.

    Two rooms have names of their own, which the package does not repeat. A third describes the
    machine of a result.
    """
    for path in [*(ROOT / "pipelines").rglob("*.py"), *ROOT.rglob("README.md")]:
        found = re.findall(r"from dali_cutmix\.(\w+)", path.read_text())
        assert set(found) <= {"augmentations", "trainers", "tools"}, path
        of_tools = re.findall(r"from dali_cutmix\.(tools\S*)", path.read_text())
        assert set(of_tools) <= {"tools.bench.machine"}, path
