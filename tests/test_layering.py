"""The house keeps its order: floors, no circles, no star imports, no printing, nothing too long.

The rules are checked on the syntax trees of `src/equicert`, and the checks themselves on a small
tree with faults.
"""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = "equicert"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE

FLOORS = {
    0: "checker kernels errors arrays norms activations scalar_roots boxes rounding definiteness",
    1: "operators",
    2: "enclosures contraction monotonicity weights solution policies problems solvers",
    3: "implicit_diff materialised stored network trainable torch_layers propagation affine_maps"
    " assembly layered sequential layers exact_outputs",
    4: "queries proofs relaxation targets falsifier witnesses bounds attacks lipschitz"
    " lipschitz_below conditions deployed properties conjunctions",
    5: "data mnist vectors models losses adversarial recipes runs settings schedules presets"
    " certificates records small_boxes compressed s_expressions vnnlib onnx_models"
    " onnx_operators zoo",
    6: "training augmentation initialisation checkpoints certification certify_run processes"
    " image radius jobs evaluation attack_run inspection verification instances",
    7: "comparison experiments report figures",
    8: "cli __main__",
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names.split()}
TOP = max(FLOORS)
CHECKER = f"{PACKAGE}.checker"
MAY_PRINT = {f"{PACKAGE}.cli"}
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60  # without the docstring

Trees = dict[str, ast.Module]
Rule = Callable[[Trees], list[str]]
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def parse_package(root: Path) -> Trees:
    """Return the syntax tree of every module below `root`, by its dotted name."""
    trees: Trees = {}
    for path in sorted(root.rglob("*.py")):
        parts = (PACKAGE, *path.relative_to(root).with_suffix("").parts)
        trees[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text("utf-8"))
    return trees


def floor(module: str) -> int:
    """Return the floor of a dotted module name; the package's front door is on the top floor."""
    return TOP if module == PACKAGE else FLOOR_OF[module.split(".")[1]]


def is_known(module: str) -> bool:
    return module == PACKAGE or module.split(".")[1] in FLOOR_OF


def imports(module: str, trees: Trees) -> set[str]:
    """Return the other modules of the package that `module` imports, anywhere in its text."""
    named = {name for node in ast.walk(trees[module]) for name in _named_by(node, trees)}
    return {name for name in named if name in trees} - {module}


def _named_by(node: ast.AST, trees: Trees) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module is not None:
        for alias in node.names:
            submodule = f"{node.module}.{alias.name}"
            yield submodule if submodule in trees else node.module


def dependent_checker(trees: Trees) -> list[str]:
    """Find what the checker imports beside itself and the standard library."""
    return [
        f"{module}:{node.lineno} imports {name}"
        for module, tree in trees.items()
        if module.startswith(CHECKER)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in _roots(node)
        if name.partition(".")[0] not in sys.stdlib_module_names
        and name != CHECKER
        and not name.startswith(f"{CHECKER}.")
    ]


def _roots(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""]


def unplaced_modules(trees: Trees) -> list[str]:
    return [f"{module}: give it a floor in FLOORS" for module in trees if not is_known(module)]


def upward_imports(trees: Trees) -> list[str]:
    return [
        f"{module} (floor {floor(module)}) imports {target} (floor {floor(target)})"
        for module in trees
        if module != PACKAGE and is_known(module)
        for target in sorted(imports(module, trees))
        if is_known(target) and floor(target) > floor(module)
    ]


def import_cycles(trees: Trees) -> list[str]:
    graph = {module: imports(module, trees) for module in trees if module != PACKAGE}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" -> ".join(reversed(error.args[1]))]
    return []


def relative_imports(trees: Trees) -> list[str]:
    """Find `from . import x`, which `imports` does not resolve."""
    return [
        f"{module}:{node.lineno} imports relatively"
        for module, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]


def star_imports(trees: Trees) -> list[str]:
    return [
        f"{module}:{node.lineno} imports *"
        for module, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]


def prints(trees: Trees) -> list[str]:
    return [
        f"{module}:{node.lineno} prints"
        for module, tree in trees.items()
        if module not in MAY_PRINT
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == "print"
    ]


def long_functions(trees: Trees) -> list[str]:
    return [
        f"{module}:{node.lineno} {node.name} has {length} lines, {MAX_FUNCTION_LINES} at most"
        for module, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, FunctionNode)
        and (length := _lines_without_docstring(node)) > MAX_FUNCTION_LINES
    ]


def _lines_without_docstring(node: FunctionNode) -> int:
    first = node.body[0]
    documented = ast.get_docstring(node, clean=False) is not None
    return _lines(node) - (_lines(first) if documented else 0)


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def long_files(root: Path) -> list[str]:
    counts = {
        path: len(path.read_text("utf-8").splitlines()) for path in sorted(root.rglob("*.py"))
    }
    return [
        f"{path.relative_to(root)} has {count} lines, {MAX_FILE_LINES} at most"
        for path, count in counts.items()
        if count > MAX_FILE_LINES
    ]


TREE_RULES: list[Rule] = [
    dependent_checker,
    unplaced_modules,
    upward_imports,
    import_cycles,
    relative_imports,
    star_imports,
    prints,
    long_functions,
]


@pytest.mark.parametrize("rule", TREE_RULES, ids=lambda rule: rule.__name__)
def test_package_obeys(rule: Rule) -> None:
    trees = parse_package(SOURCE)
    assert trees, f"no modules below {SOURCE}"
    assert rule(trees) == []


def test_package_files_are_short() -> None:
    assert long_files(SOURCE) == []


def test_import_is_light() -> None:
    code = (
        f"import sys, {PACKAGE}; "
        "print(*sorted({'torch', 'numpy', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []


CLEAN = {
    "__init__.py": "if TYPE_CHECKING:\n    from equicert.certification import certify\n",
    "errors.py": "class EquicertError(Exception): ...\n",
    "norms.py": "import torch\nfrom equicert import errors\n",
    "operators/__init__.py": "from equicert.operators.dense import Dense\n",
    "operators/base.py": "from equicert.errors import EquicertError\n",
    "operators/dense.py": "from equicert.operators.base import Operator\n",
    "certification.py": "import equicert.norms\nfrom equicert.operators import Dense\n",
    "cli.py": "from equicert import __version__\nprint(__version__)\n",
}

# What is added to the clean tree, the rule that must object, and a piece of what it must say.
FAULTS: dict[str, tuple[dict[str, str], Rule, str]] = {
    "unplaced": ({"helpers.py": ""}, unplaced_modules, "equicert.helpers"),
    "unplaced package": ({"extra/one.py": ""}, unplaced_modules, "equicert.extra.one"),
    "upward": (
        {"boxes.py": "from equicert.certification import f\n"},
        upward_imports,
        "equicert.certification",
    ),
    "upward, as a module": ({"boxes.py": "import equicert.cli\n"}, upward_imports, "equicert.cli"),
    "upward, from the package": (
        {"boxes.py": "from equicert import certification\n"},
        upward_imports,
        "equicert.certification",
    ),
    "upward, to a package": (
        {"boxes.py": "from equicert.operators import Dense\n"},
        upward_imports,
        "equicert.operators",
    ),
    "upward, late": (
        {"boxes.py": "def f():\n    from equicert import certification\n"},
        upward_imports,
        "equicert.certification",
    ),
    "upward, to the front door": (
        {"boxes.py": "from equicert import __version__\n"},
        upward_imports,
        "equicert (floor 8)",
    ),
    "checker with numpy": (
        {"checker/exact.py": "import json\nimport numpy as np\n"},
        dependent_checker,
        "equicert.checker.exact:2 imports numpy",
    ),
    "checker with the prover": (
        {"checker/exact.py": "def f():\n    from equicert.norms import g\n"},
        dependent_checker,
        "equicert.checker.exact:2 imports equicert.norms",
    ),
    "checker with the front door": (
        {"checker/exact.py": "from equicert import norms\n"},
        dependent_checker,
        "equicert.checker.exact:1 imports equicert",
    ),
    "cycle of two": (
        {"boxes.py": "import equicert.rounding\n", "rounding.py": "import equicert.boxes\n"},
        import_cycles,
        "equicert.boxes -> equicert.rounding",
    ),
    "cycle through a package": (
        {"operators/base.py": "from equicert.operators import Dense\n"},
        import_cycles,
        "equicert.operators.base",
    ),
    "relative": ({"boxes.py": "from . import errors\n"}, relative_imports, "equicert.boxes:1"),
    "star": ({"boxes.py": "from math import *\n"}, star_imports, "equicert.boxes:1"),
    "prints": ({"boxes.py": "def f():\n    print()\n"}, prints, "equicert.boxes:2"),
    "long function": (
        {"boxes.py": "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES},
        long_functions,
        "equicert.boxes:1 f",
    ),
    "long method": (
        {"boxes.py": "class A:\n    async def f(self):\n" + "        x = 1\n" * MAX_FUNCTION_LINES},
        long_functions,
        "equicert.boxes:2 f",
    ),
}


def _write(root: Path, files: dict[str, str]) -> Trees:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    return parse_package(root)


@pytest.mark.parametrize("rule", TREE_RULES, ids=lambda rule: rule.__name__)
def test_rule_accepts_a_clean_tree(rule: Rule, tmp_path: Path) -> None:
    assert rule(_write(tmp_path, CLEAN)) == []


@pytest.mark.parametrize("name", FAULTS)
def test_rule_finds_the_fault(name: str, tmp_path: Path) -> None:
    added, rule, expected = FAULTS[name]
    found = rule(_write(tmp_path, CLEAN | added))
    assert len(found) == 1
    assert expected in found[0]


def test_docstring_is_not_counted(tmp_path: Path) -> None:
    text = 'def f():\n    """One.\n' + "\n" * MAX_FUNCTION_LINES + '    """\n'
    body = "    x = 1\n" * (MAX_FUNCTION_LINES - 1)
    assert long_functions(_write(tmp_path, {"boxes.py": text + body})) == []


def test_file_length_is_counted_exactly(tmp_path: Path) -> None:
    _write(tmp_path, {"boxes.py": "x = 1\n" * MAX_FILE_LINES})
    assert long_files(tmp_path) == []
    _write(tmp_path, {"boxes.py": "x = 1\n" * (MAX_FILE_LINES + 1)})
    assert len(long_files(tmp_path)) == 1
