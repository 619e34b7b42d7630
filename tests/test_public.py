"""What textlora shows of itself: names, docs, settings that do something, nothing unpickled, a wheel that is whole."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

import textlora
from textlora import config as configs

SRC = ROOT / "src" / "textlora"
MODULES = sorted(path for path in SRC.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
IDS = [path.relative_to(SRC).as_posix() for path in MODULES]
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNPICKLING = {"torch.load", "np.load", "numpy.load", "pd.read_pickle", "pandas.read_pickle"}
EXECUTING = {"eval", "exec", "os.system", "os.popen"}


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call, by its name as written: `torch.load`."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def imports(tree: ast.AST) -> set[str]:
    """Top-level names of all that is imported, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


# --------------------------------------------------------------------------------------------------------------- names


def test_public_names_are_sorted_distinct_and_all_there():
    assert textlora.__all__ == sorted(set(textlora.__all__), key=lambda name: (name[0].islower(), name))
    for name in textlora.__all__:
        value = getattr(textlora, name)
        assert callable(value), name
        assert value.__doc__, name
        assert value.__module__.startswith("textlora."), name


@pytest.mark.slow
@pytest.mark.parametrize("first", ["", "textlora.train", "textlora.evaluate", "textlora.cli"])
def test_a_public_function_stays_one_though_a_module_has_its_name(first):
    """`textlora.train` is a function; importing the module textlora.train must not put itself in its place."""
    code = f"import textlora{f', {first}' if first else ''}\n"
    code += "for name in textlora.__all__ * 2: assert callable(getattr(textlora, name)), name\n"
    code += "from textlora import evaluate, train; assert callable(evaluate) and callable(train)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        textlora.trian  # noqa: B018


def test_importing_textlora_imports_no_heavy_library():
    code = "import sys, textlora; print({'torch', 'transformers', 'numpy', 'peft', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_how_long_a_waiting_thread_spins_is_set_unless_the_environment_says_so(given, expected):
    around = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import os, textlora; print(os.environ.get('GOMP_SPINCOUNT'))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=around | given, check=True
    )
    assert answer.stdout.strip() == expected


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_every_module_imports_on_its_own(path):
    """A circle of imports shows only where one comes first."""
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    name = ".".join(part for part in parts if part != "__init__")
    if name.endswith("__main__"):
        return  # runs the command; test_cli does that
    assert importlib.import_module(name).__name__ == name


# ---------------------------------------------------------------------------------------------------------------- docs


def undocumented(path: Path) -> list[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in TREES[path].body if isinstance(node, kinds) and not node.name.startswith("_")]
    return [f"{path.name}:{node.lineno} {node.name}" for node in public if not ast.get_docstring(node)]


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_every_module_and_every_public_function_and_class_has_a_docstring(path):
    assert path.stat().st_size == 0 or ast.get_docstring(TREES[path]), path.name
    assert undocumented(path) == []


# ------------------------------------------------------------------------------------------------------------ settings


def read_attributes(path: Path) -> set[str]:
    """Names that are read as `something.name`; a keyword argument of that name is not a reading."""
    return {
        node.attr
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


READ = set().union(*(read_attributes(path) for path in MODULES if path.name != "config.py"))


@pytest.mark.parametrize("name", list(configs.setting_fields()))
def test_every_setting_has_help_and_is_read_by_somebody(name):
    help = configs.setting_fields()[name].metadata["help"]
    assert help
    assert help.endswith("...") or not help.endswith(".")
    assert "\n" not in help
    assert name in READ, f"config.{name} is read nowhere: a flag without effect"


def test_every_choice_belongs_to_a_setting_and_holds_its_default():
    for name, allowed in configs.CHOICES.items():
        assert name in configs.setting_fields()
        assert getattr(configs.Config(), name) in allowed


# -------------------------------------------------------------------------------------------------- nothing untrusted


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_nothing_is_unpickled_executed_or_run_from_a_hub(path):
    tree = TREES[path]
    assert not imports(tree) & UNPICKLERS
    for name, call in calls(tree):
        assert name not in UNPICKLING | EXECUTING, f"{path.name}:{call.lineno} {name}"
        for keyword in call.keywords:
            trusting = keyword.arg in ("trust_remote_code", "allow_pickle", "shell")
            said_no = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            assert not trusting or said_no, f"{path.name}:{call.lineno} {keyword.arg}"


def test_whatever_transformers_loads_is_told_not_to_run_code():
    loads = [
        (path, call)
        for path in MODULES
        for name, call in calls(TREES[path])
        if name.startswith("Auto") and name.endswith("from_pretrained")
    ]
    assert loads
    for path, call in loads:
        assert any(keyword.arg == "trust_remote_code" for keyword in call.keywords), f"{path.name}:{call.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_only_one_room_prints(path):
    if path.name == "printing.py":
        return
    assert [f"{path.name}:{call.lineno}" for name, call in calls(TREES[path]) if name == "print"] == []


# --------------------------------------------------------------------------------------------------------------- wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    missing = [name for name in ("build", "hatchling") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: a wheel can't be built without a network")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_the_wheel_is_pure_and_named_by_its_version(wheel):
    assert Path(wheel.filename).name == f"textlora-{textlora.__version__}-py3-none-any.whl"


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    source = {
        path.relative_to(SRC.parent).as_posix()
        for path in SRC.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == source
    for name in (
        *(f"recipes/{recipe}.toml" for recipe in configs.recipe_names()),
        "corpus/train.csv",
        "corpus/LICENSE",
    ):
        assert f"textlora/{name}" in packed


@pytest.mark.slow
def test_the_wheel_carries_its_licences_command_and_extras(wheel):
    info = f"textlora-{textlora.__version__}.dist-info"
    names = wheel.namelist()
    assert f"{info}/licenses/LICENSE" in names
    assert f"{info}/licenses/src/textlora/corpus/LICENSE" in names
    assert "textlora = textlora.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "Provides-Extra: embedded" in metadata


@pytest.mark.slow
def test_the_wheel_plans_without_the_repository(wheel, tmp_path):
    """Its recipes are found as package data. The installed libraries are those of this environment."""
    wheel.extractall(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from textlora import cli\n"
    code += f"assert cli.__file__.startswith({str(tmp_path)!r})\n"
    code += "sys.exit(cli.main(['plan', '--recipe', 'roberta-qv-r10']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "962,308" in done.stdout
