"""The shape of the code: which way imports point, that they go in no circle, and how large things may become."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "modelplex"
MODULES = sorted(SOURCE.rglob("*.py"))

# From the bottom up. A module may import from its own room and from those below; rooms on one line see not each other.
ROOMS = [
    {"core", "errors"},
    {"wire", "config", "status"},
    {"context", "grpc_context", "config_file", "safetensors_header", "file_safety"},
    {"response", "metrics", "loaded", "threads", "tracing", "weights"},
    {"multiplex", "handle", "batching", "ingress", "loaders", "stores", "skeletons", "adapters"},
    {"deployment", "observe"},
    {"applications"},
    {"runtime"},
    {"engines", "sim", "protocols"},
    {"in_process_http", "build"},
    {"home", "follower"},
    {"admin_client"},
    {"system", "ray_system"},
    {"ray_driver", "ray_admin"},
    {"driver", "testing", "recorder"},
    {"serve"},
    {"demo", "reload", "cli_config", "cli_keys", "cli_system", "top"},
    {"cli_models", "cli_why"},
    {"cli", "pytest_plugin"},
]

FILE_LINES_MAX = 350
CLASS_LINES_MAX = 250
FUNCTION_LINES_MAX = 60


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> int:
    room = module.split(".")[1] if "." in module else ""
    return next((level for level, rooms in enumerate(ROOMS) if room in rooms), -1)


def imports(path: Path, *, at_import_only: bool = False) -> Iterator[str]:
    """The modules of the package that a module imports; those for types alone are left out."""
    names = {name_of(p) for p in MODULES}
    for node in _statements(ast.parse(path.read_text()), into_functions=not at_import_only):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("modelplex"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modelplex"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in names else str(node.module)


def _statements(tree: ast.AST, *, into_functions: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not into_functions:
            continue
        yield node
        yield from _statements(node, into_functions=into_functions)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    module = name_of(path)
    if module == "modelplex":
        assert list(imports(path)) == []
        return
    level = room_of(module)
    assert level >= 0, f"{module} has no room: say in ROOMS where it belongs"
    for imported in imports(path):
        if imported == "modelplex":
            continue  # the version
        same_room = imported.split(".")[1] == module.split(".")[1]
        assert same_room or room_of(imported) < level, f"{module} imports {imported}, which is not below it"


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent.name == "core"], ids=name_of)
def test_the_core_is_pure(path: Path) -> None:
    """Decisions know no clock, no event loop, no randomness, no input or output, and nothing outside of the core."""
    allowed = {"bisect", "collections", "collections.abc", "dataclasses", "enum", "heapq", "itertools", "math"} | {
        "operator",
        "typing",
        "zlib",
    }
    for node in ast.walk(ast.parse(path.read_text())):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [str(node.module)]
        for module in found:
            assert module in allowed or module.startswith("modelplex.core"), f"{name_of(path)} imports {module}"


def test_imports_go_in_no_circle() -> None:
    graph = {name_of(path): set(imports(path, at_import_only=True)) for path in MODULES}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' -> '.join((*way[way.index(module) :], module))}"
        if module not in done:
            for imported in sorted(graph.get(module, set()) - {module}):
                visit(imported, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_too_large(path: Path) -> None:
    text = path.read_text()
    assert sum(1 for line in text.splitlines() if line.strip()) <= FILE_LINES_MAX
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            limit = CLASS_LINES_MAX if isinstance(node, ast.ClassDef) else FUNCTION_LINES_MAX
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= limit, f"{node.name} has {lines} lines"


def test_names_say_what_is_inside() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "manager", "misc", "base"}
    assert not [path for path in MODULES if path.stem in vague]


def test_the_public_door_opens_without_the_heavy_things() -> None:
    """`import modelplex.serve` stays fast: nothing of the runtime is imported before something is served."""
    import subprocess
    import sys

    code = "import sys; import modelplex.serve; print(' '.join(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"uvicorn", "uvloop", "httptools", "numpy", "torch", "pydantic", "typer", "rich", "msgspec"} | {
        "fastapi",
        "websockets",
    }
    assert not heavy & set(printed)
    assert not [module for module in printed if module.startswith("modelplex.runtime")]


def test_a_process_starts_without_what_others_need() -> None:
    """Imports are most of a start: proxies have no models and no user code, controllers run neither."""
    path = "modelplex.runtime.child, modelplex.runtime.proxy, modelplex.runtime.process_metrics"
    assert not loaded_with(path) & {"starlette", "modelplex.core.cache", "modelplex.runtime.replica", "yaml"}
    assert not loaded_with("modelplex.driver") & {"modelplex.runtime.replica", "modelplex.core.cache", "uvloop"}


def loaded_with(modules: str) -> set[str]:
    """What a new interpreter has when it has imported these."""
    code = f"import sys, {modules}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())
