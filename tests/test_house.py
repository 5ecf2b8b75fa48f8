"""What keeps the house a house: import arrows, nothing that unpickles, no strangers' addresses, readable modules."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("contrec", "model", "training", "service")
MODULES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# Who may see whom; and, of the world outside, what a room does without.
ARROWS = {"model": {"model"}, "training": {"training", "model"}, "service": {"service", "model"}, "contrec": set(ROOMS)}
STRANGERS = {
    "model": {"fastapi", "starlette", "uvicorn", "httpx", "redis", "polars", "pandas", "typer", "rich"},
    "training": {"fastapi", "starlette", "uvicorn", "redis", "typer"},
    "training/stages": {"polars", "pandas"},  # fit functions know prepared arrays only
    "service": {"polars", "pandas", "scipy", "peft", "typer"},
}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth, and every literal given to import_module."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "" if not node.level else named(path).partition("/")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "import_module",
            "__import__",
        ):
            yield ast.literal_eval(node.args[0]) if isinstance(node.args[0], ast.Constant) else "a computed name"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_the_import_arrows(path: Path) -> None:
    seen = {name.partition(".")[0] for name in imports(path)}
    assert "a computed name" not in seen, "an import whose name is computed hides its arrow"
    room = named(path).partition("/")[0]
    assert seen & set(ROOMS) <= ARROWS[room], f"{named(path)} may see {ARROWS[room]} only"
    for place, strangers in STRANGERS.items():
        if named(path).startswith(place + "/"):
            assert not seen & strangers, f"{place} does without these"


UNPICKLERS = {"pickle", "cPickle", "_pickle", "pickle5", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
LOADERS = {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle", "pd.read_pickle"}


def unpickling(module: ast.Module) -> Iterator[str]:
    """What in a module could run code that it reads from a file or a string."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            for name in [alias.name for alias in node.names]:
                whole = f"{origin}.{name}" if origin else name
                if {origin.partition(".")[0], name.partition(".")[0]} & UNPICKLERS or whole in LOADERS:
                    yield f"line {node.lineno}: imports {whole}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called in {"eval", "exec", "compile"} | LOADERS or called.endswith(".jit.load"):
            yield f"line {node.lineno}: calls {called}"
        if keywords.get("allow_pickle", "False") != "False":
            yield f"line {node.lineno}: {called} with allow_pickle"
        if keywords.get("trust_remote_code", "False") != "False":
            yield f"line {node.lineno}: {called} with trust_remote_code"
        owner, _, method = called.rpartition(".")
        if method == "from_pretrained" and "Model" in owner and keywords.get("use_safetensors") != "True":
            yield f"line {node.lineno}: {called} without use_safetensors=True may fall back to a pickle"


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=named)
def test_nothing_unpickles(path: Path) -> None:
    assert list(unpickling(tree(path))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "from torch import load",
        "import torch\ntorch.load('x')",
        "np.load('x', allow_pickle=True)",
        "np.load('x', allow_pickle=flag)",
        "eval('1')",
        "AutoModelForCausalLM.from_pretrained('x')",
        "AutoModel.from_pretrained('x', use_safetensors=True, trust_remote_code=True)",
        "yaml.load(text)",
    ],
)
def test_the_search_for_unpickling_finds_it(code: str) -> None:
    assert list(unpickling(ast.parse(code)))


def test_the_search_for_unpickling_lets_the_rest_be() -> None:
    code = "network.eval(); re.compile('x'); np.load('x', allow_pickle=False); np.load('y'); json.loads('{}')"
    assert list(unpickling(ast.parse(code))) == []


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_opens_with_what_it_is_and_can_be_held(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), (
            "a module opens with what it is, what it does not know, how it is called"
        )
    assert len(text.splitlines()) < 450, "split it by noun"


def test_the_service_needs_no_training_library() -> None:
    code = """
import importlib, pkgutil, sys
for absent in ("polars", "scipy", "peft", "pandas", "sklearn", "training"):
    sys.modules[absent] = None  # an import of it now fails, as where it is not installed
import model, service
names = [m.name for room in (model, service) for m in pkgutil.walk_packages(room.__path__, room.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 3


def test_a_fit_function_runs_where_little_more_than_torch_is_installed() -> None:
    """torch, transformers, safetensors, and FAISS since it validates through what serves: a rented GPU has no more."""
    code = """
import importlib, pkgutil, sys
for absent in ("polars", "scipy", "peft", "pandas", "pydantic", "typer", "rich", "httpx", "service", "contrec"):
    sys.modules[absent] = None
import training.stages
names = [m.name for m in pkgutil.iter_modules(training.stages.__path__, "training.stages.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 4


# ------------------------------------------------------------------------------------------- what is committed

# A registry is found without naming one: whatever looks like a public host is refused, but for these.
HOST = re.compile(r"(?:[a-z0-9-]+\.)+(?:org|com|co|io|net|dev|ai|cn|edu)(?![a-z])", re.IGNORECASE)
WELCOME = {
    "grouplens.org",  # where MovieLens is described
    *("files.grouplens.org", "snap.stanford.edu", "mcauleylab.ucsd.edu"),  # publishers of data sets: sources.py
    "www.apache.org",  # where the licence lies
    "www.w3.org",  # the name of a namespace, which an SVG has to say; nobody asks it for anything
    # Names of Kubernetes' own, which are no addresses either.
    *("app.kubernetes.io", "pod-security.kubernetes.io", "kubernetes.io", "prometheus.io"),
    *("kustomize.config.k8s.io", "networking.k8s.io"),
}
ADDRESS = {  # the one address that the house names, wherever it can be overridden
    "Makefile": "TORCH_INDEX ?=",
    "Dockerfile": "ARG TORCH_INDEX=",
    "docker-compose.yml": "    TORCH_INDEX: ${TORCH_INDEX:-",
}
MACHINE = re.compile(r"(?<![\w.])/(?:work|root|home/\w+|opt|Users)/[\w.]")
TEXTS = {".py", ".toml", ".txt", ".md", ".json", ".yaml", ".yml", ".cfg", ".html", ".js", ".css", ".sh", ""}


def committed() -> list[Path]:
    """Files that git holds or would take; where there is no git (an archive), every file of the rooms."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        found = [ROOT / name for name in done.stdout.split("\0") if name]
    else:
        found = [path for room in (*ROOMS, "tests", "docs", ".ci", ".") for path in (ROOT / room).glob("*")]
    return [path for path in found if path.is_file() and path.suffix in TEXTS]


def test_no_registry_and_no_path_of_one_machine_is_committed() -> None:
    faults = []
    files = committed()
    assert len(files) > 20
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.startswith(ADDRESS.get(named(path), "\n")):
                continue
            if set(HOST.findall(line)) - WELCOME or MACHINE.search(line):
                faults.append(f"{named(path)}:{number}: {line.strip()[:100]}")
    assert faults == []


def test_every_dependency_is_pinned_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    exact = re.compile(r"[A-Za-z0-9._-]+==(\d+!)?[A-Za-z0-9.]+")
    assert all(exact.fullmatch(pin) for pin in pins), "exact, and no local version"
    names = [normal(pin) for pin in pins]
    assert len(set(names)) == len(names)
    assert {normal(name) for name in wanted} <= set(names)


def normal(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name.group()).lower()
