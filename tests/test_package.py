"""The package as a whole: what importing it costs and does, and the rules its modules keep."""

import ast
import compileall
import json
import re
import runpy
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import skddvi

ROOT = Path(__file__).parents[1]
PACKAGE = Path(skddvi.__file__).parent


def run_python(code, *, cwd, root=ROOT, timeout=120):
    """Run code in a fresh interpreter, without writing byte code; return the finished process."""
    process = subprocess.run(
        [sys.executable, "-B", "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{code}"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert process.returncode == 0, process.stderr
    return process


def parsed_modules(folder):
    """Return {path: syntax tree} of the Python files in a folder of the package."""
    paths = sorted(folder.rglob("*.py"))
    assert paths, f"no Python file in {folder}"
    return {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in paths}


def imported_names(tree):
    """Return the top-level names of all modules that a syntax tree imports, wherever it does."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_version_is_a_release_number():
    assert re.fullmatch(r"\d+\.\d+\.\d+", skddvi.__version__)


def test_public_names_exist():
    for name in skddvi.__all__:
        assert hasattr(skddvi, name), name


def test_import_time(tmp_path):
    code = (
        "import time, torch, sklearn\n"
        "start = time.perf_counter()\n"
        "import skddvi\n"
        "print(time.perf_counter() - start)"
    )
    limit = 0.2  # seconds beyond torch and scikit-learn
    # With its byte code, as pip installs it; a checkout may be without.
    no_byte_code = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "skddvi", tmp_path / "skddvi", ignore=no_byte_code)
    assert compileall.compile_dir(tmp_path / "skddvi", quiet=1)

    def seconds():
        return float(run_python(code, cwd=tmp_path, root=tmp_path).stdout)

    seconds()  # fills the file cache
    medians = []
    # A busy machine can spoil one round, hardly three; a slow import spoils them all.
    for _ in range(3):
        medians.append(statistics.median(seconds() for _ in range(3)))
        if medians[-1] <= limit:
            return
    pytest.fail(f"importing skddvi took {medians} s, wanted at most {limit} s")


def test_import_is_silent(tmp_path):
    process = run_python("import skddvi", cwd=tmp_path)
    assert process.stdout == ""
    assert process.stderr == ""


def test_import_has_no_side_effects(tmp_path):
    # The hook hears every file opened, folder made, process started and connection tried.
    code = """
import json, logging, os, torch, sklearn
events = []
def hook(event, args):
    if event == "open":
        _, mode, flags = args
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC):
            events.append(f"open {args}")
    elif event in {"os.mkdir", "os.remove", "os.rename", "subprocess.Popen", "os.system",
                   "os.fork", "os.posix_spawn", "socket.connect", "socket.getaddrinfo"}:
        events.append(f"{event} {args}")
handlers = list(logging.getLogger().handlers)
sys.addaudithook(hook)
import skddvi
from skddvi import baselines, likelihoods, metrics, noising, priors, regularizers
skddvi.DDVAETransformer()
baselines.AdversarialAutoencoder()
if list(logging.getLogger().handlers) != handlers or logging.getLogger("skddvi").handlers:
    events.append("a logging handler")
print(json.dumps(events))
"""
    assert json.loads(run_python(code, cwd=tmp_path).stdout) == []
    assert list(tmp_path.iterdir()) == []


def test_import_leaves_optional_packages_alone(tmp_path):
    # scikit-learn's modules bring some of them in by themselves, where they are installed. So the
    # same modules of scikit-learn and torch without skddvi are what skddvi is compared with.
    code = """
import importlib, json
for name in {names}:
    importlib.import_module(name)
optional = ["matplotlib", "pandas", "polars", "umap", "numba", "rich"]
print(json.dumps([
    [name for name in optional if name in sys.modules],
    [name for name in sys.modules if name.startswith("sklearn")],
]))
"""

    def imported_by(names):
        return json.loads(run_python(code.format(names=names), cwd=tmp_path).stdout)

    optional, of_sklearn = imported_by(["skddvi"])
    assert "sklearn.base" in of_sklearn
    assert optional == imported_by(["torch", *of_sklearn])[0]


def test_import_and_init_do_not_touch_cuda(tmp_path):
    # On a machine without CUDA is_initialized() is always False: so the calls are caught too.
    code = """
import json, torch
calls = []
def catch(owner, name):
    original = getattr(owner, name)
    def caught(*args, **kwargs):
        calls.append(name)
        return original(*args, **kwargs)
    setattr(owner, name, caught)
for name in ("_lazy_init", "init", "is_available", "device_count", "current_device"):
    catch(torch.cuda, name)
import skddvi
skddvi.DDVAETransformer(device="cuda")
print(json.dumps([calls, torch.cuda.is_initialized()]))
"""
    assert json.loads(run_python(code, cwd=tmp_path).stdout) == [[], False]


def test_engine_never_imports_scikit_learn():
    offenders = [
        path.name
        for path, tree in parsed_modules(PACKAGE / "_engine").items()
        if "sklearn" in imported_names(tree)
    ]
    assert offenders == []


def test_only_the_shell_commands_print():
    allowed = {"__main__.py", "_compare.py"}
    offenders = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path, tree in parsed_modules(PACKAGE).items()
        if path.name not in allowed
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert offenders == []


LEAKS = {
    "torch_random": "torch.rand(1)",
    "torch_dtype": "torch.set_default_dtype(torch.float64)",
    "torch_threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "torch_deterministic": "torch.use_deterministic_algorithms(True)",
    "torch_grad": "torch.set_grad_enabled(False)",
    "numpy_random": "np.random.rand()",
    "python_random": "random.random()",
}


def test_fixture_catches_changes_of_global_state(tmp_path):
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    lines = ["import random", "import numpy as np", "import torch"]
    for name, statement in LEAKS.items():
        lines += [f"def test_leak_{name}():", f"    {statement}"]
        lines += [f"def test_clean_after_{name}():", "    np.random.default_rng(0).random()"]
    (tmp_path / "test_leaks.py").write_text("\n".join(lines) + "\n")
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rE", "--tb=no"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 1, process.stdout + process.stderr
    caught = set(re.findall(r"^ERROR test_leaks\.py::test_leak_(\w+)", process.stdout, re.M))
    assert caught == set(LEAKS), process.stdout
    assert "test_clean_after" not in "".join(re.findall(r"^ERROR.*$", process.stdout, re.M))


def code_blocks(path):
    """Return the Python code blocks of a page, dedented, joined in order."""
    blocks = re.findall(
        r"^\.\. code-block:: python\n\n((?:(?: {4}.*)?\n)+)", path.read_text(encoding="utf-8"), re.M
    )
    assert blocks, f"no Python code block in {path}"
    return "\n".join(re.sub(r"^ {4}", "", block, flags=re.M) for block in blocks)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.rst", "doc/coming_from_pca_and_umap.rst"])
def test_code_in_pages_runs(page, tmp_path, monkeypatch):
    script = tmp_path / "page.py"
    script.write_text(code_blocks(ROOT / page))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))
    assert [path.name for path in tmp_path.iterdir()] == ["page.py"]
