"""The rooms of the package and the arrows between them: every import counts, lazy ones and those for type checkers too."""

import ast
from pathlib import Path

import mera_hf


PACKAGE = Path(mera_hf.__file__).parent
# Each room may import itself and the rooms of all floors below
FLOORS = (
    ("cli",),
    ("app", "hub", "experiments"),
    ("training", "report"),
    ("evaluation",),
    ("data",),
    ("icd",),
)
GROUND = ("errors", "files", "machine", "blocks", "shipped")  # and the flat siblings that ship with a checkpoint
FLOOR = {room: -height for height, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """All modules of the package that a module imports, wherever in its text."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in known else base)
    return {module for module in found if module in known and module != name}


def room(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


def all_imports() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(name, path, known) for name, path in known.items()}


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Circles of imports, each once: what a search in depth comes back to."""
    done, found = set(), []

    def visit(name: str, way: list[str]) -> None:
        if name in way:
            found.append(way[way.index(name) :] + [name])
        elif name not in done:
            for other in sorted(arrows[name]):
                visit(other, [*way, name])
            done.add(name)

    for name in arrows:
        visit(name, [])
    return found


def arrows_up(arrows: dict[str, set[str]]) -> list[str]:
    up = []
    for name, others in arrows.items():
        for other in others:
            ours, theirs = room(name), room(other)
            if theirs in FLOOR and (ours not in FLOOR or ours != theirs and FLOOR[ours] <= FLOOR[theirs]):
                up.append(f"{name} -> {other}")
    return up


def test_no_arrow_runs_up():
    # The package itself names modules of all rooms, as text, and imports none of them
    assert arrows_up(all_imports()) == []


def test_there_is_no_circle():
    # A package and its modules are one: importing a module runs its package first
    assert circles({name: others - {"mera_hf"} for name, others in all_imports().items()}) == []


def test_every_room_is_on_a_floor():
    rooms = {room(name) for name in modules() if name.count(".") > 1 or (PACKAGE / name.split(".")[-1]).is_dir()}
    assert rooms - {""} <= FLOOR.keys()
    flat = {
        path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_") and not path.stem.endswith("_mera")
    }
    assert flat == set(GROUND)


def test_a_wrong_arrow_and_a_circle_are_seen():
    arrows = {
        "mera_hf.data.a": {"mera_hf.hub.b"},
        "mera_hf.hub.b": {"mera_hf.data.a"},
        "mera_hf.files": {"mera_hf.icd.c"},
    }
    arrows["mera_hf.icd.c"] = set()
    assert arrows_up(arrows) == ["mera_hf.data.a -> mera_hf.hub.b", "mera_hf.files -> mera_hf.icd.c"]
    assert circles(arrows) == [["mera_hf.data.a", "mera_hf.hub.b", "mera_hf.data.a"]]


def test_imports_are_written_in_one_style():
    for name, path in modules().items():
        flat = path.stem.endswith("_mera")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                ours = node.level > 0 or (node.module or "").split(".")[0] == "mera_hf"
                assert not ours or node.level == int(flat), f"{name}, line {node.lineno}"


def test_evaluation_stays_small():
    files = [path.relative_to(PACKAGE / "evaluation") for path in (PACKAGE / "evaluation").rglob("*.py")]
    assert len(files) <= 48
    assert sum(len(path.parts) == 1 for path in files) <= 12
