"""Pickles: honest ones of many versions are read, whatever else a pickle can be is refused, and nothing of it runs."""

from __future__ import annotations

import ast
import contextlib
import json
import math
import pickle
import random
import socket
import struct
import subprocess
import sys
import zlib
from collections import OrderedDict, defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textlora import data
from textlora.data import pickle_child, readers, unpickle
from textlora.errors import DamagedError, DataError, TextLoraError

GOLDEN = Path(__file__).parent / "golden" / "pickles"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))


def plain(table):
    """Columns with NaN as None, and None for a column that can't be read."""
    return {
        name: None if isinstance(cells, str) else [None if cell != cell else cell for cell in cells]
        for name, cells in table.items()
    }


def saved(folder, value, name="x.pkl", protocol=4):
    path = folder / name
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol))
    return path


# -------------------------------------------------------------------------------------------------------------- honest


def test_the_honest_pickles_are_many_and_of_the_stated_versions():
    assert len(EXPECTED) >= 250
    assert {file.name for file in GOLDEN.glob("*.pkl")} == set(EXPECTED)
    for library, majors in {"pandas": "123", "datasets": "2345", "numpy": "12"}.items():
        assert {file.removeprefix(library)[0] for file in EXPECTED if file.startswith(library)} == set(majors)
    assert {file[-5] for file in EXPECTED} == set("012345")


def test_every_honest_pickle_is_read():
    for file, expected in EXPECTED.items():
        columns = plain(pickle_child.read((GOLDEN / file).read_bytes())["columns"])
        assert list(columns.items()) == list(expected.items()), file


@pytest.mark.parametrize(
    "start", ["datasets2.0.0-dataset-labels", "pandas1.0.5-frame-many", "pandas3.1.1-frame-string"]
)
def test_the_process_gives_the_same(start):
    (file, *_) = GOLDEN.glob(f"{start}-p*")
    names = unpickle.columns(file)
    rows = list(unpickle.cells(file, names))
    assert names == tuple(EXPECTED[file.name])
    assert rows == list(zip(*EXPECTED[file.name].values(), strict=True))


@given(st.lists(st.text()), st.integers(0, 5))
@settings(max_examples=50)
def test_texts_come_back_as_pickle_itself_gives_them(texts, protocol):
    assert pickle_child.read(pickle.dumps(texts, protocol=protocol))["columns"] == {"text": texts}


CELLS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()


@given(st.lists(st.tuples(st.text(), CELLS), min_size=1), st.integers(0, 5), st.sampled_from(["rows", "columns"]))
@settings(max_examples=50)
def test_tables_come_back_as_pickle_itself_gives_them(rows, protocol, layout):
    columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    value = [{"text": text, "label": label} for text, label in rows] if layout == "rows" else columns
    assert json.loads(json.dumps(pickle_child.read(pickle.dumps(value, protocol=protocol))["columns"])) == columns


@pytest.mark.parametrize("protocol", range(6))
def test_rows_and_columns_in_other_dictionaries_are_read(protocol):
    rows = [OrderedDict(text="a", label=1), OrderedDict(text="b", label=2)]
    columns = defaultdict(list, {"text": ["a", "b"], "label": [1, 2]})
    for layout in (rows, columns, OrderedDict(columns)):
        assert pickle_child.read(pickle.dumps(layout, protocol=protocol))["columns"] == dict(columns)


def test_nan_stays_a_number(tmp_path):
    ((cell,),) = unpickle.cells(saved(tmp_path, [math.nan]), ["text"])
    assert math.isnan(cell)


def test_a_new_file_of_the_same_name_is_read_anew(tmp_path):
    assert list(unpickle.cells(saved(tmp_path, ["a"]), ["text"])) == [("a",)]
    assert list(unpickle.cells(saved(tmp_path, ["a", "b"]), ["text"])) == [("a",), ("b",)]


# ----------------------------------------------------------------------------------------------------- used everywhere


def test_the_competition_s_8000_texts_become_8000_rows(tmp_path, texts):
    from textlora import predict
    from textlora.longtext import Cut

    datasets = pytest.importorskip("datasets")
    many = [f"{texts[i % len(texts)]} {i}" for i in range(8000)]
    source = saved(tmp_path, datasets.Dataset.from_dict({"text": many}), "test_unlabelled.pkl")

    class Lengths:
        """Stands in for a trained classifier: a text's label is its length's remainder."""

        labels = ("World", "Sports", "Business", "Sci/Tech")
        settings = SimpleNamespace(text_columns=("title", "description"))

        def tokens(self, texts):
            return SimpleNamespace(texts=texts, cut=Cut("truncate", 128, texts=len(texts)))

        def predict_proba(self, tokens):
            return np.eye(4)[[len(text) % 4 for text in tokens.texts]]

        def results(self, texts, probabilities_BC, *_):
            return [{"label_id": int(label)} for label in probabilities_BC.argmax(1)]

    out = tmp_path / "inference_output.csv"
    assert predict.predict_file(Lengths(), str(source), out, format="kaggle") == 8000  # type: ignore[arg-type]
    rows = [line.split(",") for line in out.read_text().splitlines()]
    assert rows == [["ID", "Label"], *([str(i), str(len(text) % 4)] for i, text in enumerate(many))]


@pytest.mark.slow
def test_a_trained_run_predicts_a_pickle_as_it_does_a_csv(tmp_path, trained, tiny_base, texts):
    from textlora import predict

    predictor = predict.load(trained("bert"), base_weights=str(tiny_base("bert")), precision="fp32")
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:20]))
    for source in (saved(tmp_path, texts[:20]), tmp_path / "x.jsonl"):
        predict.predict_file(predictor, str(source), tmp_path / f"{source.suffix[1:]}.csv", format="kaggle")
    assert (tmp_path / "pkl.csv").read_bytes() == (tmp_path / "jsonl.csv").read_bytes()


def test_labelled_pickles_are_training_data(tmp_path):
    rows = [{"text": f"text {i} about {'ab'[i % 2] * 9}{i}", "label": "ab"[i % 2]} for i in range(40)]
    loaded = data.load(str(saved(tmp_path, rows)))
    assert loaded.label_names == ("a", "b")
    assert len(loaded.train.texts) + len(loaded.validation.texts) == 40


def test_a_dataset_brings_its_label_names_in_order(tmp_path):
    datasets = pytest.importorskip("datasets")
    names = ["zebra", "ant"]
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=names))
    rows = {"text": [f"text {i} about {'ab'[i % 2] * 9}{i}" for i in range(40)], "label": [i % 2 for i in range(40)]}
    path = saved(tmp_path, datasets.Dataset.from_dict(rows, features=features), "train.pickle")
    assert data.load(str(path)).label_names == tuple(names)
    assert readers.class_label_names(path, "text") == ()


# ----------------------------------------------------------------------------------------------------------- malicious

P = pickle.PROTO
MEMOIZED = pickle.MEMOIZE


def unicode(text):
    raw = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw


def value(item):
    """An argument as opcodes; bytes are opcodes already."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return unicode(item)
    if isinstance(item, int):
        return pickle.BININT + struct.pack("<i", item)
    opening, closing = (pickle.MARK, pickle.TUPLE) if isinstance(item, tuple) else (pickle.MARK, pickle.LIST)
    return opening + b"".join(map(value, item)) + closing


def named(module, name, protocol=2):
    if protocol >= 4:
        return unicode(module) + unicode(name) + pickle.STACK_GLOBAL
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def call(module, name, *args, protocol=2):
    """A pickle that is the result of module.name(*args)."""
    return named(module, name, protocol) + value(args) + pickle.REDUCE


def whole(*parts, protocol=4):
    return P + bytes([protocol]) + b"".join(parts) + pickle.STOP


TOUCH = "open({canary!r}, 'w').close()"
REACH = "__import__('socket').create_connection(('127.0.0.1', {port})).close()"

# (module, name, arguments): each does harm with `pickle.load` where the library is installed.
GADGETS = [
    ("os", "system", "touch {canary}"),
    ("posix", "system", "touch {canary}"),
    ("nt", "system", "echo > {canary}"),
    ("os", "popen", "touch {canary}"),
    ("os", "execv", "/bin/touch", ["touch", "{canary}"]),
    ("os", "spawnlp", 0, "touch", "touch", "{canary}"),
    ("os", "mkdir", "{canary}"),
    ("os", "remove", "{canary}"),
    ("os", "putenv", "LD_PRELOAD", "{canary}"),
    ("os", "_exit", 0),
    ("subprocess", "call", ["touch", "{canary}"]),
    ("subprocess", "check_output", ["touch", "{canary}"]),
    ("subprocess", "run", ["touch", "{canary}"]),
    ("subprocess", "Popen", ["touch", "{canary}"]),
    ("subprocess", "getoutput", "touch {canary}"),
    ("commands", "getoutput", "touch {canary}"),
    ("builtins", "eval", TOUCH),
    ("builtins", "exec", TOUCH),
    ("__builtin__", "eval", REACH),
    ("__builtin__", "execfile", "{canary}"),
    ("builtins", "compile", TOUCH, "x", "exec"),
    ("builtins", "open", "{canary}", "w"),
    ("builtins", "__import__", "antigravity"),
    ("builtins", "getattr", "x", "__class__"),
    ("builtins", "setattr", "x", "y", "z"),
    ("builtins", "map", "x", "y"),
    ("builtins", "type", "X", (), "x"),
    ("builtins", "input", "?"),
    ("builtins", "breakpoint"),
    ("io", "open", "{canary}", "w"),
    ("_io", "FileIO", "{canary}", "w"),
    ("pathlib", "Path", "{canary}"),
    ("importlib", "import_module", "antigravity"),
    ("runpy", "run_path", "{canary}"),
    ("runpy", "_run_code", TOUCH),
    ("pty", "spawn", ["touch", "{canary}"]),
    ("platform", "popen", "touch {canary}"),
    ("shutil", "rmtree", "{canary}"),
    ("shutil", "copyfile", "/etc/passwd", "{canary}"),
    ("socket", "create_connection", ("127.0.0.1", "{port}")),
    ("urllib.request", "urlopen", "http://127.0.0.1:{port}/"),
    ("http.client", "HTTPSConnection", "127.0.0.1"),
    ("webbrowser", "open", "http://127.0.0.1:{port}/"),
    ("smtplib", "SMTP", "127.0.0.1", "{port}"),
    ("ctypes", "CDLL", "{canary}"),
    ("code", "InteractiveInterpreter"),
    ("timeit", "timeit", TOUCH),
    ("pdb", "run", TOUCH),
    ("profile", "run", TOUCH),
    ("cProfile", "run", TOUCH),
    ("trace", "Trace"),
    ("doctest", "debug_script", TOUCH),
    ("lib2to3.pgen2.pgen", "ParserGenerator", "{canary}"),
    ("idlelib.debugobj", "ObjectTreeItem", "x", "y"),
    ("unittest.mock", "_importer", "antigravity"),
    ("logging.config", "_resolve", "os.system"),
    ("pickle", "loads", b"C\x01."),
    ("_pickle", "loads", b"C\x01."),
    ("marshal", "loads", b"C\x01."),
    ("types", "FunctionType", "x"),
    ("types", "CodeType", 0),
    ("functools", "partial", "x"),
    ("functools", "reduce", "x", "y"),
    ("operator", "attrgetter", "system"),
    ("operator", "methodcaller", "system", "touch {canary}"),
    ("_codecs", "decode", "x", "zip"),
    ("codecs", "encode", "x", "rot13"),
    ("_codecs", "encode", "x", "rot13"),
    ("copyreg", "__newobj__", "x"),
    ("copyreg", "add_extension", "os", "system", 7),
    ("sys", "exit", 0),
    ("sys", "setrecursionlimit", 2),
    ("signal", "raise_signal", 9),
    ("threading", "Timer", 0, "x"),
    ("multiprocessing.util", "spawnv_passfds", "/bin/touch", ["touch", "{canary}"], ()),
    ("asyncio.unix_events", "_UnixSubprocessTransport._start", "touch {canary}"),
    ("pip", "main", ["install", "x"]),
    ("pydoc", "pipepager", "x", "touch {canary}"),
    ("site", "addsitedir", "{canary}"),
    ("sqlite3", "connect", "{canary}"),
    ("tarfile", "open", "{canary}", "w"),
    ("zipfile", "ZipFile", "{canary}", "w"),
    ("numpy", "load", "{canary}"),
    ("numpy", "save", "{canary}", "x"),
    ("numpy", "fromfile", "{canary}"),
    ("numpy.testing._private.utils", "runstring", TOUCH, ()),
    ("numpy.f2py.crackfortran", "getlincoef", TOUCH, ()),
    ("numpy.distutils.exec_command", "_exec_command", "touch {canary}"),
    ("pandas", "read_pickle", "{canary}"),
    ("pandas", "eval", TOUCH),
    ("pandas.core.computation.eval", "eval", TOUCH),
    ("pandas.io.common", "get_handle", "{canary}", "w"),
    ("pandas", "DataFrame.to_csv", "{canary}"),
    ("pyarrow", "OSFile", "{canary}", "w"),
    ("pyarrow.lib", "memory_map", "{canary}"),
    ("pyarrow.lib", "PyExtensionType.__arrow_ext_deserialize__", "x"),
    ("datasets", "load_dataset", "{canary}"),
    ("datasets.table", "MemoryMappedTable.from_file", "{canary}"),
    ("datasets.table", "_memory_mapped_arrow_table_from_file", "{canary}"),
    ("torch", "load", "{canary}"),
    ("torch._utils", "_rebuild_tensor_v2", "x"),
    ("torch.storage", "_load_from_bytes", b"C\x01."),
    ("torch.jit.unsupported_tensor_ops", "execWrapper", TOUCH),
    ("joblib", "load", "{canary}"),
    ("joblib.numpy_pickle", "NumpyArrayWrapper", "x"),
    ("sklearn.utils._pprint", "_safe_repr", "x"),
    ("dill._dill", "_create_function", "x"),
    ("dill._dill", "_eval_repr", TOUCH),
    ("cloudpickle.cloudpickle", "_make_function", "x"),
    ("jax._src.core", "eval_jaxpr", "x"),
    ("sympy", "sympify", TOUCH),
    ("nltk.data", "load", "{canary}"),
    ("__main__", "harm", "{canary}"),
    ("textlora.data.pickle_child", "main", 0),
    ("builtins\u200b", "bytes", "x"),  # looks like an allowed one
    ("builtins ", "bytes"),
    ("", "bytes"),
]


def gadget_pickles(canary, port):
    """name -> a pickle for each gadget, in a protocol and a way to ask that change from one to the next."""
    made = {}
    for number, (module, name, *args) in enumerate(GADGETS):
        protocol = (2, 4)[number % 2] if module.strip().isascii() and " " not in module else 4
        args = tuple(fill(arg, canary, port) for arg in args)
        made[f"{module}.{name}"] = whole(call(module, name, *args, protocol=protocol), protocol=protocol)
    return made


def fill(arg, canary, port):
    if isinstance(arg, str):
        return port if arg == "{port}" else arg.format(canary=str(canary), port=port)
    if isinstance(arg, list | tuple):
        return type(arg)(fill(item, canary, port) for item in arg)
    return arg


def harm(canary):
    return call("os", "system", f"touch {canary}")


OBJECTS = call("numpy", "dtype", "O8", 0, 1) + value((3, "|", b"N", b"N", b"N", -1, -1, 63)) + pickle.BUILD
INT64 = call("numpy", "dtype", "i8", 0, 1) + value((3, "<", b"N", b"N", b"N", -1, -1, 0)) + pickle.BUILD
EMPTY = named("numpy.core.multiarray", "_reconstruct") + value((named("numpy", "ndarray"), (0,), "b")) + pickle.REDUCE
BYTES8 = pickle.SHORT_BINBYTES + b"\x08" + b"\x41" * 8


def array(shape, dtype, content):
    return EMPTY + value((1, shape, dtype, b"\x89", content)) + pickle.BUILD


def arrow(kind, length, buffers, offset=0):
    parts = (call("pyarrow.lib", "type_for_alias", kind), length, 0, offset, buffers, [], b"N")
    return call("pyarrow.lib", "_restore_array", parts)


def raw(content):
    return pickle.BINBYTES + struct.pack("<I", len(content)) + content


def dataset(indices):
    """A pickled Dataset of two texts with rows chosen by `indices`."""
    texts = arrow("string", 2, [b"N", raw(struct.pack("<3i", 0, 1, 2)), raw(b"ab")])
    chosen = arrow("int64", len(indices), [b"N", raw(struct.pack(f"<{len(indices)}q", *indices))])

    def table(name, column):
        schema = call("pyarrow.lib", "schema", [call("pyarrow.lib", "field", name)], b"N")
        made = call("pyarrow.lib", "_reconstruct_table", [column], schema)
        return mapped("datasets.table", "InMemoryTable", {"table": made})

    return mapped(
        "datasets.arrow_dataset",
        "Dataset",
        {"_data": table("text", texts), "_indices": table("i", chosen), "_info": b"N"},
    )


def mapped(module, name, state):
    """An object of a class with a state, by NEWOBJ and BUILD."""
    items = b"".join(unicode(key) + part for key, part in state.items())
    return named(module, name) + b")" + pickle.NEWOBJ + b"}(" + items + pickle.SETITEMS + pickle.BUILD


def laughs(levels):
    """Lists of ten times the list before: 10 ** levels in a few hundred bytes."""
    lists = b"".join(b"](" + (b"h" + bytes([level])) * 10 + b"e" + MEMOIZED + b"0" for level in range(levels))
    return b"]" + MEMOIZED + b"0" + lists + b"h" + bytes([levels])


def categorical_laughs(levels):
    """A categorical whose codes and categories are both the one before."""
    inner = array((1,), INT64, raw(b"\0" * 8)) + pickle.BINPUT + b"\0" + b"0"
    for level in range(levels):
        dtype = mapped("pandas", "CategoricalDtype", {"categories": pickle.BINGET + bytes([level])})
        inner += mapped("pandas", "Categorical", {"_codes": pickle.BINGET + bytes([level]), "_dtype": dtype})
        inner += pickle.BINPUT + bytes([level + 1]) + b"0"
    return inner + pickle.BINGET + bytes([levels])


def array_in_array(levels):
    """Arrays of pandas around the array before."""
    outer = named("pandas.arrays", "StringArray") + b")" + pickle.NEWOBJ + b"}" + unicode("_ndarray")
    return outer * levels + array((1,), INT64, BYTES8) + (pickle.SETITEM + pickle.BUILD) * levels


def range_index(stop):
    parts = (
        b"}(" + b"".join(unicode(k) + v for k, v in {"start": value(0), "stop": stop, "step": value(1)}.items()) + b"u"
    )
    return call("pandas.core.indexes.base", "_new_Index", named("pandas", "RangeIndex"), parts)


def long(number):
    packed = number.to_bytes((number.bit_length() + 8) // 8, "little", signed=True)
    return pickle.LONG1 + bytes([len(packed)]) + packed


def tricks(canary):
    """name -> a pickle that asks for nothing new, but misuses the machine, an allowed name, or the file's layout."""
    touch = harm(canary)
    frame = named("pandas", "DataFrame")
    return {
        "INST": whole(b"(" + value("touch x") + pickle.INST + b"os\nsystem\n"),
        "a defaultdict's factory called": whole(call("collections", "defaultdict", harm(canary))),
        "an OrderedDict of pairs": whole(call("collections", "OrderedDict", [["text", "x"]])),
        "OBJ": whole(b"(" + frame + value("x") + pickle.OBJ),
        "OBJ of a gadget": whole(b"(" + named("os", "system") + value(f"touch {canary}") + pickle.OBJ),
        "NEWOBJ of a gadget": whole(named("subprocess", "Popen") + value((f"touch {canary}",)) + pickle.NEWOBJ),
        "NEWOBJ_EX": whole(frame + b")}" + pickle.NEWOBJ_EX),
        "EXT1": whole(pickle.EXT1 + b"\x07"),
        "EXT4": whole(pickle.EXT4 + b"\x07\0\0\0"),
        "PERSID": b"Pos.system\n.",
        "BINPERSID": whole(value("x") + pickle.BINPERSID),
        "NEXT_BUFFER": whole(pickle.NEXT_BUFFER, protocol=5),
        "READONLY_BUFFER": whole(value("x") + pickle.READONLY_BUFFER, protocol=5),
        "a gadget as an argument": whole(b"(" + value("text") + touch + pickle.LIST),
        "a gadget dropped again": whole(touch + pickle.POP + value(["text"])),
        "a gadget as a state": whole(call("pandas", "DataFrame") + touch + pickle.BUILD),
        "a gadget's name alone": whole(named("os", "system") + pickle.POP + value(["text"])),
        "a gadget in the memo": whole(named("os", "system") + MEMOIZED + b"0" + value(["text"])),
        "a name from the memo": whole(
            *(unicode("system") + MEMOIZED, b"0" + unicode("os") + MEMOIZED, b"0h\1h\0" + pickle.STACK_GLOBAL),
            *(value((f"touch {canary}",)), pickle.REDUCE),
        ),
        "a gadget after the end": whole(value(["text"])) + whole(touch),
        "a gadget under the result": whole(touch, value(["text"])),
        "a dotted name": whole(call("builtins", "bytes.__class__", protocol=4)),
        "a dotted way out": whole(call("pandas", "core.common.os.system", f"touch {canary}", protocol=4)),
        "_reconstructor of a gadget": whole(
            call("copyreg", "_reconstructor", named("os", "system"), named("builtins", "object"), b"N")
        ),
        "_reconstructor of no class": whole(call("copyreg", "_reconstructor", "x", named("builtins", "object"), b"N")),
        "calls a string": whole(value("os.system") + value(("x",)) + pickle.REDUCE),
        "calls a result": whole(call("pandas", "DataFrame") + value(("x",)) + pickle.REDUCE),
        "calls with a list": whole(frame + value(["x"]) + pickle.REDUCE),
        "calls with a mapping": whole(frame + b"}" + pickle.REDUCE),
        "sets a class's state": whole(frame + b"}" + pickle.BUILD),
        "sets a list's state": whole(value(["x"]) + b"}" + pickle.BUILD),
        "appends to an object": whole(call("pandas", "DataFrame") + value("x") + pickle.APPEND),
        "sets an item of a class": whole(frame + value("x") + value("y") + pickle.SETITEM),
        "adds to a list as to a set": whole(value(["x"]) + b"(" + value("x") + pickle.ADDITEMS),
        "a name of numbers": whole(value(1) + value(2) + pickle.STACK_GLOBAL),
        "a key that is a tuple": whole(b"}" + value((1,)) + value("x") + pickle.SETITEM),
        "encode to another codec": whole(call("_codecs", "encode", "x", "zlib")),
        "a huge bytes()": whole(call("builtins", "bytes", 2**30)),
        "a huge bytearray()": whole(call("builtins", "bytearray", 2**30)),
        "an array of 2**62 cells": whole(array((long(2**62),), INT64, BYTES8)),
        "an array larger than its data": whole(array((10**6,), INT64, BYTES8)),
        "an array of negative length": whole(array((-1,), INT64, BYTES8)),
        "a string array of no width": whole(
            array((10**7 * 3,), call("numpy", "dtype", "U0", 0, 1) + value((3, "<")) + pickle.BUILD, b"C\0")
        ),
        "an array without state": whole(EMPTY),
        "Arrow offsets beyond the data": whole(
            arrow("string", 1, [b"N", raw(struct.pack("<2i", 0, 2**30)), raw(b"ab")])
        ),
        "Arrow offsets below it": whole(arrow("string", 1, [b"N", raw(struct.pack("<2i", -8, 2)), raw(b"ab")])),
        "Arrow offsets in disorder": whole(arrow("string", 2, [b"N", raw(struct.pack("<3i", 2, 0, 2)), raw(b"ab")])),
        "an Arrow array of 2**62 cells": whole(arrow("null", long(2**62), [b"N"])),
        "an Arrow array at 2**62": whole(arrow("int64", 1, [b"N", BYTES8], offset=long(2**62))),
        "Arrow text that is no UTF-8": whole(arrow("string", 1, [b"N", raw(struct.pack("<2i", 0, 1)), raw(b"\xff")])),
        "Arrow validity bits too few": whole(arrow("int64", 1, [raw(b""), BYTES8])),
        "rows chosen beyond the table": whole(dataset([0, 2])),
        "rows chosen before the table": whole(dataset([-1])),
        "an index of 10**15": whole(range_index(long(10**15))),
        "bytes of 2**62": whole(pickle.BINBYTES8 + struct.pack("<Q", 2**62) + b"abc"),
        "a string of 2**62": whole(pickle.BINUNICODE8 + struct.pack("<Q", 2**62) + b"abc"),
        "a bytearray of 2**62": whole(pickle.BYTEARRAY8 + struct.pack("<Q", 2**62) + b"abc", protocol=5),
        "a number of 2**31 bytes": whole(pickle.LONG4 + struct.pack("<i", 2**31 - 1) + b"abc"),
        "a number of negative length": whole(pickle.LONG4 + struct.pack("<i", -1)),
        "a number of a million digits": b"L" + b"9" * 10**6 + b"L\n.",
        "a frame of 2**62": whole(pickle.FRAME + struct.pack("<Q", 2**62), value(["x"]))[:-1],
        "a memo place never set": whole(b"j\xff\xff\xff\xff"),
        "marks that end nowhere": whole(b"(" * 1000, value(["x"])),
        "an end without a value": whole(),
        "no end": whole(value(["x"]))[:-1],
        "cut inside a text": whole(value("some text"))[:-6],
        "an unknown opcode": whole(b"\xff"),
        "a mark missing": whole(b"t"),
        "an empty stack": whole(b"0"),
        "half a pair": whole(b"(" + value("x") + pickle.DICT),
        "a protocol of the future": P + b"\xff" + b"\x99\x99.",
        "text of Python 2": b"S'\\xff'\n.",
        "a cache's path": whole(mapped("datasets.table", "MemoryMappedTable", {"path": unicode("/x.arrow")})),
        "gzip": b"\x1f\x8b" + bytes(20),
        "bzip2": b"BZh9" + bytes(20),
        "xz": b"\xfd7zXZ\0" + bytes(20),
        "joblib": zlib.compress(whole(touch)),
        "torch.save": b"PK\x03\x04" + bytes(30),
        "torch.save before 1.6": whole(long(0x1950A86A20F9469CFC6C)) + whole(value(1001)),
        "a Parquet file": b"PAR1" + bytes(20),
        "a CSV file": b"text,label\nsome text,1\n",
        "zeros": bytes(100),
        "noise": random.Random(0).randbytes(1000),
    }


def repeated_text(times):
    """A list of one text of 10,000 letters, again and again."""
    return unicode("ha" * 5000) + MEMOIZED + b"0(" + b"h\0" * times + pickle.LIST


# Small files that would need a lot; our limits or the process's end them. With the exit code.
BOMBS = {
    "a billion laughs": (whole(laughs(9)), 3),
    "a text of 3 GB by reference": (whole(repeated_text(300_000)), 6),
    "a million lists in one another": (whole(b"]" * 10**6 + b"a" * (10**6 - 1)), 3),
    "a million tuples in one another": (whole(b")" + pickle.TUPLE1 * 10**6), 3),
    "a list that holds itself": (whole(b"]" + MEMOIZED + b"h\0a"), 3),
    "an array in an array, 10,000 times": (whole(array_in_array(10_000)), 6),
    "a categorical of categoricals": (whole(categorical_laughs(200)), 6),
}


@pytest.fixture
def canary(tmp_path):
    """A path that no pickle may create and a port on loopback that none may reach; checked at the end."""
    path = tmp_path / "canary"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield path, server.getsockname()[1]
        assert not path.exists(), "a pickle wrote a file"
        with pytest.raises(BlockingIOError):
            server.accept()


def test_there_are_more_than_sixty_kinds_of_each():
    assert len(GADGETS) >= 100
    assert len(tricks("x")) >= 80


def test_the_gadgets_are_live(tmp_path):
    """With `pickle.load` the canary is hit: what is refused below isn't harmless by mistake."""
    hit = 0
    for number, wanted in enumerate(["os.system", "os.popen", "subprocess.call", "builtins.eval", "builtins.open"]):
        canary = tmp_path / str(number)
        payload = saved(tmp_path, gadget_pickles(canary, 0)[wanted])
        program = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
        subprocess.run([sys.executable, "-I", "-S", "-c", program, str(payload)], capture_output=True, check=False)
        hit += canary.exists()
    assert hit == 5


def test_every_gadget_is_refused_by_name(canary):
    for asked, payload in gadget_pickles(*canary).items():
        with pytest.raises(pickle_child.Refused) as refused:
            pickle_child.read(payload)
        assert refused.value.code == 6, asked
        if asked != "_codecs.encode":  # a known name, another use of it
            assert f"asks for {ascii(asked)[1:-1]}," in refused.value.what


def test_every_trick_is_refused(canary):
    for trick, payload in tricks(canary[0]).items():
        try:
            pytest.fail(f"{trick} was read as {pickle_child.read(payload)}")
        except pickle_child.Refused as error:
            refused = error
        assert refused.code == 6, (trick, refused.what)
        assert "\n" not in refused.what
        assert len(refused.what) < 200


@pytest.mark.parametrize("trick", ["os.system", "a gadget after the end", "noise", "a cache's path", "bytes of 2**62"])
def test_a_refused_pickle_is_one_sentence_and_exit_6(tmp_path, canary, trick):
    payload = (gadget_pickles(*canary) | tricks(canary[0]))[trick]
    with pytest.raises(DamagedError) as error:
        data.load(str(saved(tmp_path, payload)))
    assert error.value.code == 6
    assert str(error.value).startswith("x.pkl ")
    assert error.value.fix
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_process_refuses_all_of_them(tmp_path, canary):
    for number, payload in enumerate((gadget_pickles(*canary) | tricks(canary[0])).values()):
        with pytest.raises((DamagedError, DataError)):
            unpickle.columns(saved(tmp_path, payload, f"{number}.pkl"))


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_end_in_a_sentence(tmp_path, bomb):
    payload, code = BOMBS[bomb]
    path = saved(tmp_path, payload)
    with pytest.raises(TextLoraError) as error:
        list(unpickle.cells(path, unpickle.columns(path)))
    assert error.value.code == code, str(error.value)
    assert len(str(error.value)) < 300


def test_too_much_memory_and_too_much_time_are_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, [f"text {i}" for i in range(50_000)])
    monkeypatch.setattr(unpickle, "FREE_SECONDS", 0)
    monkeypatch.setattr(unpickle, "BYTES_A_SECOND", 1 << 30)
    with pytest.raises(DamagedError, match=r"seconds|time"):
        unpickle.columns(path)
    monkeypatch.undo()
    pytest.importorskip("resource")
    monkeypatch.setattr(unpickle, "FREE_MEMORY", 12 << 20)
    monkeypatch.setattr(unpickle, "MEMORY_A_BYTE", 0)
    with pytest.raises(DamagedError, match="memory"):
        unpickle.columns(path)


def test_too_many_instructions_are_refused(monkeypatch):
    monkeypatch.setattr(pickle_child, "MAX_OPCODES", 1000)
    assert pickle_child.read(whole(b"N0" * 490, value(["x"])))
    with pytest.raises(pickle_child.Refused, match="1,000 instructions"):
        pickle_child.read(whole(b"N0" * 500, value(["x"])))


def again_and_again(part, times):
    """A dictionary with `part` as each of its columns, written once."""
    names = b"".join(value(str(i)) + b"h\0" for i in range(times))
    return whole(part + MEMOIZED + b"0}(" + names + pickle.SETITEMS)


@pytest.mark.parametrize(
    ("part", "free"),
    [
        (value(["a"] * 100), 9),
        (array((100,), INT64, raw(bytes(800))), 9),
        (array((1001, 0), INT64, raw(b"")), 0),
        (arrow("int64", 100, [b"N", raw(bytes(800))]), 9),
        (arrow("null", 100, [b"N"]), 9),
        (call("pyarrow.lib", "chunked_array", [arrow("null", 100, [b"N"])]), 9),
        (range_index(value(100)), 9),
        (value(["a" * 200]), 9),
        (array((1,), call("numpy", "dtype", "U200", 0, 1) + value((3, "<")) + pickle.BUILD, raw(b"a\0\0\0" * 200)), 4),
        (arrow("string", 1, [b"N", raw(struct.pack("<2i", 0, 200)), raw(b"a" * 200)]), 4),
    ],
)
def test_what_is_referred_to_again_and_again_is_counted(monkeypatch, part, free):
    for name, most in {"MAX_CELLS": 1000, "FREE_CHARACTERS": 2000, "CHARACTERS_A_BYTE": 0}.items():
        monkeypatch.setattr(pickle_child, name, most)
    if free:
        assert len(pickle_child.read(again_and_again(part, free))["columns"]) == free
    with pytest.raises(pickle_child.Refused, match="unfolds to far more"):
        pickle_child.read(again_and_again(part, 11))


# Python's own reader of old pickles' strings warns of a backslash before a letter; nobody reads the child's warnings.
ESCAPES = pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")


@ESCAPES
@given(st.sampled_from(sorted(EXPECTED)), st.data())
@settings(max_examples=50)
def test_broken_pickles_are_read_or_refused_and_nothing_else(file, draw):
    content = bytearray((GOLDEN / file).read_bytes())
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(content) - 1))
        content[place : place + draw.draw(st.integers(0, 3))] = draw.draw(st.binary(max_size=3))
    with contextlib.suppress(pickle_child.Refused):
        pickle_child.read(bytes(content))


OPCODES = [op.code.encode("latin-1") for op in pickle_child.pickletools.opcodes]


@ESCAPES
@given(st.lists(st.sampled_from(OPCODES) | st.binary(max_size=2)))
@settings(max_examples=50)
def test_any_opcodes_are_read_or_refused_and_nothing_else(parts):
    with contextlib.suppress(pickle_child.Refused):
        pickle_child.read(b"".join(parts) + b".")


def test_the_program_has_the_standard_library_alone_and_looks_up_no_name():
    tree = ast.parse(Path(pickle_child.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    bare = {"io", "itertools", "json", "math", "pickletools", "resource", "struct", "sys", "typing"}
    assert imported == bare | {"__future__", "collections.abc"}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"eval", "exec", "compile", "open", "__import__", "globals", "vars", "setattr"}


# ---------------------------------------------------------------------------------------- honest, but no table of texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one text", "holds a string, expected a table or a list of texts"),
        (b"\x80\x03C\x05bytes.", "holds bytes"),
        (7, "holds a number"),
        (None, "holds None"),
        ({}, "an empty dictionary"),
        ({"a", "b"}, "holds a set"),
        ({"id": "text"}, "a dictionary with a string in it"),
        ({"text": {0: "a"}}, "a dictionary with a dict in it"),
        ([{"text": "a"}, {"texts": "b"}], "other keys in row 2"),
        ([{"text": "a"}, "b"], "other keys in row 2"),
        ({"text": ["a"], "label": [1, 2]}, "columns of 1 and 2 rows"),
        ({"text": ["a"], None: [1]}, "None as a column's name"),
    ],
)
def test_other_contents_exit_3(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as error:
        unpickle.columns(saved(tmp_path, content))
    assert error.value.code == 3
    assert error.value.fix


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        (["a", 2**70], "a number in row 2"),
        ([["a"], ["b"]], "a list in row 1"),
        (["a", b"b"], "bytes in row 2"),
        ([("a", 1)], "a tuple in row 1"),
        ([{"a"}], "a set in row 1"),
    ],
)
def test_other_cells_exit_3_where_they_are_wanted(tmp_path, cells, what):
    path = saved(tmp_path, {"text": cells, "id": list(range(len(cells)))})
    assert unpickle.columns(path) == ("text", "id")
    assert len(list(unpickle.cells(path, ["id"]))) == len(cells)
    with pytest.raises(DataError, match=f"column 'text' holds {what}"):
        unpickle.cells(path, ["text"])


def test_an_object_array_of_addresses_is_no_column(tmp_path):
    """NumPy would take such bytes for pointers into memory."""
    path = saved(tmp_path, whole(array((1,), OBJECTS, BYTES8)))
    with pytest.raises(DataError, match="NumPy's type O8"):
        unpickle.cells(path, unpickle.columns(path))


def test_several_tables_are_not_one(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["a"]})
    with pytest.raises(DataError, match=r"several tables \(train, test\)"):
        unpickle.columns(saved(tmp_path, {"train": frame, "test": frame}))
    twice = pandas.DataFrame([["a", "b"]], columns=["text", "text"])
    with pytest.raises(DataError, match="two columns of the same name"):
        unpickle.columns(saved(tmp_path, twice))


def test_empty_and_missing_files_are_said(tmp_path):
    with pytest.raises(DataError, match="empty"):
        readers.columns(saved(tmp_path, b""))
    with pytest.raises(DataError, match="no file"):
        readers.columns(tmp_path / "none.pkl")
