"""The program that reads a pickle, in a process of its own: it records what a pickle asks for and does none of it.

A pickle is a program for a small stack machine (pickletools documents its opcodes). Here `Machine` runs it with a
difference: no name is ever looked up and nothing is called. A name on the list below becomes a `Name`, a call becomes
a `Made` that keeps what was given, and any other name ends the reading. Then the rest of this file takes the texts and
numbers out of what was recorded: from the layouts of pandas 1 to 3, datasets 2 to 5, NumPy and plain Python.

`unpickle.py` starts it bare (`python -I -S`, so only the standard library is there) with the file as its input; it
answers with one JSON object: {"columns": [...], "label_names": {...}} or {"refused": {...}}.
"""

from __future__ import annotations

import io
import json
import pickletools
import struct
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any

DAMAGED, DATA = 6, 3  # exit codes, see errors.py
MAX_OPCODES = 20_000_000  # of a pickle; a row of one text is two or three
MAX_CELLS = 20_000_000  # of its table
FREE_CHARACTERS = 64 << 20  # an answer may have these and, as strings can be repeated by reference, ...
CHARACTERS_A_BYTE = 8  # ... so many for each byte of the file
TEXT = "text"  # the column's name where a pickle has texts and no names
ADVICE = "write the texts as CSV or Parquet and use that file"


# What our code stumbles over where a file isn't what it should be; every one becomes a sentence.
MALFORMED = (LookupError, ArithmeticError, ValueError, TypeError, AttributeError, struct.error)


class Refused(Exception):
    """Why a pickle isn't read: `what` follows the file's name in the message."""

    def __init__(self, what: str, fix: str = ADVICE, code: int = DAMAGED) -> None:
        super().__init__(what)
        self.what, self.fix, self.code = what, fix, code


class Unreadable(Exception):
    """A column of something else than texts and numbers: an error only if it is wanted."""


# -------------------------------------------------------------------------------------------------- what may be asked


def _named(kind: str, modules: str, *names: str) -> dict[str, str]:
    """{"module name": kind} for each of the modules and names."""
    return {f"{module} {name}": kind for module in modules.split() for name in names or (kind,)}


# (module, name) as it stands in honest pickles -> the kind we record. Nothing here is imported. Found in pickles that
# the stated versions wrote (tests/golden/make_pickles.py) and in those libraries' sources.
KNOWN: dict[str, str] = {
    # Python; protocols 0 to 2 write Python 2's names
    **_named("encode", "_codecs"),
    **_named("reconstructor", "copyreg copy_reg", "_reconstructor"),
    **{
        key: kind
        for kind in ("bytes", "bytearray", "dict", "list", "object", "set", "frozenset", "slice")
        for key in _named(kind, "builtins __builtin__")
    },
    **_named("date", "datetime", "datetime", "date", "time", "timedelta", "timezone"),
    **_named("mapping", "collections", "OrderedDict", "defaultdict"),
    # NumPy 1 and 2
    **_named("ndarray", "numpy"),
    **_named("dtype", "numpy"),
    **_named("dtype", "numpy._core._internal", "_convert_to_stringdtype_kwargs"),
    **_named("reconstruct", "numpy.core.multiarray numpy._core.multiarray", "_reconstruct"),
    **_named("scalar", "numpy.core.multiarray numpy._core.multiarray"),
    **_named("frombuffer", "numpy.core.numeric numpy._core.numeric", "_frombuffer"),
    # pandas 1 to 3; from 3 on by their public names
    **_named("DataFrame", "pandas.core.frame pandas"),
    **_named("Series", "pandas.core.series pandas"),
    **_named("manager", "pandas.core.internals.managers", "BlockManager", "SingleBlockManager"),
    **_named("block", "pandas._libs.internals", "_unpickle_block"),
    **_named("new_index", "pandas.core.indexes.base", "_new_Index"),
    **_named("new_dates", "pandas.core.indexes.datetimes", "_new_DatetimeIndex"),
    **_named("Index", "pandas.core.indexes.base pandas"),
    **_named("Index", "pandas.core.indexes.numeric", "Int64Index", "UInt64Index", "Float64Index"),
    **_named("Index", "pandas.core.indexes.category pandas", "CategoricalIndex"),
    **_named("RangeIndex", "pandas.core.indexes.range pandas"),
    **_named("FrozenList", "pandas.core.indexes.frozen"),
    **_named("MultiIndex", "pandas.core.indexes.multi pandas"),
    **_named("dates", "pandas.core.indexes.datetimes pandas", "DatetimeIndex"),
    **_named("dates", "pandas.core.arrays.datetimes pandas.arrays", "DatetimeArray"),
    **_named("dates", "pandas.core.arrays.timedeltas pandas.arrays", "TimedeltaArray"),
    **_named("dates", "pandas._libs.tslibs.timestamps", "_unpickle_timestamp"),
    **_named("step of dates", "pandas._libs.tslibs.offsets pandas.tseries.offsets", "Day", "Hour", "Minute", "Second"),
    **_named("step of dates", "pandas._libs.tslibs.offsets pandas.tseries.offsets", "BusinessDay", "Week", "MonthEnd"),
    **_named("NA", "pandas._libs.missing pandas"),
    **_named("NA", "pandas._libs.tslibs.nattype pandas", "NaT", "_nat_unpickle"),
    **_named("backed", "pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"),
    **_named("Categorical", "pandas.core.arrays.categorical pandas"),
    **_named("StringArray", "pandas.core.arrays.string_", "StringArray", "StringArrayNumpySemantics"),
    **_named("StringArray", "pandas.arrays", "StringArray", "StringArrayNumpySemantics"),
    **_named("StringArray", "pandas.core.arrays.numpy_", "PandasArray", "NumpyExtensionArray"),
    **_named("StringArray", "pandas.arrays", "NumpyExtensionArray"),
    **_named("ArrowArray", "pandas.core.arrays.string_arrow", "ArrowStringArray", "ArrowStringArrayNumpySemantics"),
    **_named("ArrowArray", "pandas.core.arrays.arrow.array pandas.arrays", "ArrowExtensionArray"),
    **_named("ArrowArray", "pandas.arrays", "ArrowStringArray"),
    **_named("masked", "pandas.core.arrays.integer pandas.arrays", "IntegerArray"),
    **_named("masked", "pandas.core.arrays.boolean pandas.arrays", "BooleanArray"),
    **_named("masked", "pandas.core.arrays.floating pandas.arrays", "FloatingArray"),
    **_named("pandas dtype", "pandas.core.dtypes.dtypes pandas", "CategoricalDtype", "DatetimeTZDtype", "ArrowDtype"),
    **_named("pandas dtype", "pandas.core.arrays.arrow.dtype", "ArrowDtype"),
    **_named("pandas dtype", "pandas.core.dtypes.dtypes", "PandasDtype", "NumpyEADtype"),
    **_named("pandas dtype", "pandas.core.arrays.string_ pandas", "StringDtype"),
    **_named("pandas dtype", "pandas.core.arrays.boolean pandas", "BooleanDtype"),
    **_named("pandas dtype", "pandas.core.arrays.floating pandas", "Float32Dtype", "Float64Dtype"),
    **_named(
        "pandas dtype",
        "pandas.core.arrays.integer pandas",
        *(f"{sign}Int{bits}Dtype" for sign in ("", "U") for bits in (8, 16, 32, 64)),
    ),
    # pyarrow
    **_named("buffer", "pyarrow.lib", "py_buffer"),
    **_named("arrow array", "pyarrow.lib", "_restore_array"),
    **_named("chunked_array", "pyarrow.lib"),
    **_named("arrow table", "pyarrow.lib", "_reconstruct_table", "_reconstruct_record_batch"),
    **_named("schema", "pyarrow.lib"),
    **_named("field", "pyarrow.lib"),
    **_named("type_for_alias", "pyarrow.lib"),
    **_named("dictionary", "pyarrow.lib"),
    **_named(
        "arrow type", "pyarrow.lib", "list_", "large_list", "struct", "map_", "timestamp", "duration", "decimal128"
    ),
    # datasets 2 to 5
    **_named("Dataset", "datasets.arrow_dataset"),
    **_named("DatasetDict", "datasets.dataset_dict"),
    **_named("InMemoryTable", "datasets.table"),
    **_named("ConcatenationTable", "datasets.table"),
    **_named("MemoryMappedTable", "datasets.table"),
    **_named("about", "datasets.info", "DatasetInfo", "SupervisedKeysData", "PostProcessedInfo"),
    **_named("about", "datasets.splits", "NamedSplit", "SplitDict", "SplitInfo"),
    **_named("about", "datasets.utils.version", "Version"),
    **_named("Features", "datasets.features.features"),
    **_named("ClassLabel", "datasets.features.features"),
    **_named("feature", "datasets.features.features", "Value", "Sequence", "List", "LargeList", "Array2D", "Array3D"),
    **_named("feature", "datasets.features.translation", "Translation", "TranslationVariableLanguages"),
    **_named("feature", "datasets.features.image", "Image"),
    **_named("feature", "datasets.features.audio", "Audio"),
}
LIBRARIES = ("pandas", "numpy", "datasets", "pyarrow")  # of which not all is read; the message says so

OTHER_FILES = {  # first bytes of what is sometimes called .pkl, -> what it is
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"x\x01": "compressed with zlib, as joblib does",
    b"x\x9c": "compressed with zlib, as joblib does",
    b"x\xda": "compressed with zlib, as joblib does",
    b"PK\x03\x04": "a zip archive, as torch.save writes",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\x93NUMPY": "a NumPy file (.npy)",
    b"\x89HDF": "an HDF5 file",
}


class Name:
    """A known name that a pickle asks for."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind


class Made:
    """What a pickle would have made by calling `kind`: the arguments, then the state and pairs it was given."""

    __slots__ = ("args", "kind", "pairs", "state")

    def __init__(self, kind: str, args: tuple[Any, ...], pairs: dict[Any, Any] | None = None) -> None:
        self.kind, self.args, self.pairs = kind, args, pairs or {}
        self.state: Any = None


def name(module: str, attribute: str) -> Name:
    """The Name of a known name. Raises Refused for any other: here reading ends for whatever would do something."""
    kind = KNOWN.get(f"{module} {attribute}")
    if kind == "MemoryMappedTable":
        raise Refused(
            "holds no texts: its dataset lay in a cache on the disk of the machine that wrote it, and the pickle has"
            " only the path",
            "there, pickle Dataset.from_dict(dataset.to_dict()), or use dataset.to_csv or dataset.to_parquet",
        )
    if kind is None:
        asked = shown(f"{module}.{attribute}")
        if module.partition(".")[0] in LIBRARIES:
            raise Refused(f"asks for {asked}, which is not among what is read of that library")
        raise Refused(f"asks for {asked}, which is not data", f"nothing of it was run; {ADVICE}")
    return Name(kind)


# --------------------------------------------------------------------------------------------------------- the machine


class Machine:
    """The pickle machine without its calls: `result` is the recorded value. Raises Refused.

    A method `do_<opcode>` is what an opcode means; one without a method is refused.
    """

    def __init__(self, data: bytes) -> None:
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.result = self._run(io.BytesIO(data), len(data))

    def _run(self, stream: io.BytesIO, size: int) -> Any:
        steps = {op.name: getattr(self, f"do_{op.name.lower()}", None) for op in pickletools.opcodes}
        try:
            for count, (opcode, value, _) in enumerate(pickletools.genops(stream)):
                step = steps[opcode.name]
                if opcode.name in VALUES:
                    self.stack.append(value)
                elif step:
                    step(value)
                else:
                    raise Refused(FORBIDDEN.get(opcode.name, f"uses {opcode.name}, which data doesn't need"))
                if count >= MAX_OPCODES:
                    raise Refused(f"has more than {MAX_OPCODES:,} instructions")
            (result,), left = self.stack, self.marked
        except MALFORMED:
            raise Refused(
                f"is no pickle, or a damaged one (byte {stream.tell():,})", "fetch or write it again"
            ) from None
        if left or stream.tell() != size:
            raise Refused(f"goes on after its end, at byte {stream.tell():,}: it is more than one pickle")
        return result

    def below(self, count: int) -> list[Any]:
        """The top `count` items, taken off the stack."""
        if count > len(self.stack):
            raise IndexError
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def below_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def do_proto(self, _: Any) -> None:
        """Says which protocol; the opcodes tell anyway."""

    do_frame = do_stop = do_proto

    def do_string(self, value: str) -> None:
        """Python 2's strings: bytes whose meaning isn't said; plain ASCII is safe."""
        if not value.isascii():
            raise Refused("was written by Python 2, with bytes for texts")
        self.stack.append(value)

    do_binstring = do_short_binstring = do_string

    def do_bytearray8(self, value: bytearray) -> None:
        self.stack.append(bytes(value))

    def do_none(self, _: Any) -> None:
        self.stack.append(None)

    def do_newtrue(self, _: Any) -> None:
        self.stack.append(True)

    def do_newfalse(self, _: Any) -> None:
        self.stack.append(False)

    def do_mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def do_pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.below_mark()

    def do_pop_mark(self, _: Any) -> None:
        self.below_mark()

    def do_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def do_get(self, place: int) -> None:
        self.stack.append(self.memo[int(place)])

    do_binget = do_long_binget = do_get

    def do_put(self, place: int) -> None:
        self.memo[int(place)] = self.stack[-1]

    do_binput = do_long_binput = do_put

    def do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_tuple(self, _: Any) -> None:
        items = self.below_mark()
        self.stack.append(tuple(items))

    def do_empty_tuple(self, _: Any) -> None:
        self.stack.append(())

    def do_tuple1(self, _: Any) -> None:
        self.stack.append(tuple(self.below(1)))

    def do_tuple2(self, _: Any) -> None:
        self.stack.append(tuple(self.below(2)))

    def do_tuple3(self, _: Any) -> None:
        self.stack.append(tuple(self.below(3)))

    def do_empty_list(self, _: Any) -> None:
        self.stack.append([])

    def do_list(self, _: Any) -> None:
        items = self.below_mark()
        self.stack.append(items)

    def do_append(self, _: Any) -> None:
        self._extend(self.below(1))

    def do_appends(self, _: Any) -> None:
        self._extend(self.below_mark())

    def _extend(self, items: Sequence[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise Refused(f"appends to {described(target)}")
        target.extend(items)

    def do_empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def do_dict(self, _: Any) -> None:
        items = self.below_mark()
        self.stack.append({})
        self._update(items)

    def do_setitem(self, _: Any) -> None:
        self._update(self.below(2))

    def do_setitems(self, _: Any) -> None:
        self._update(self.below_mark())

    def _update(self, items: Sequence[Any]) -> None:
        target = self.stack[-1].pairs if type(self.stack[-1]) is Made else self.stack[-1]
        if type(target) is not dict:
            raise Refused(f"sets an item of {described(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, tuple | list | dict):  # a tuple's hash would descend into it
                raise Refused(f"has a dictionary with {described(key)} as a key")
            target[key] = value

    def do_empty_set(self, _: Any) -> None:
        self.stack.append(Made("set", ()))

    def do_additems(self, _: Any) -> None:
        self.below_mark()
        if type(self.stack[-1]) is not Made or self.stack[-1].kind != "set":
            raise Refused(f"adds items to {described(self.stack[-1])}")

    def do_frozenset(self, _: Any) -> None:
        self.below_mark()
        self.stack.append(Made("set", ()))

    def do_global(self, value: str) -> None:
        module, _, attribute = value.partition(" ")
        self.stack.append(name(module, attribute))

    def do_inst(self, value: str) -> None:
        """An object of Python 1's classes; the name first, for the message."""
        self.do_global(value)
        raise Refused("uses INST, which data doesn't need")

    def do_stack_global(self, _: Any) -> None:
        module, attribute = self.below(2)
        if type(module) is not str or type(attribute) is not str:
            raise Refused("asks for a name that is no string")
        self.stack.append(name(module, attribute))

    def do_reduce(self, _: Any) -> None:
        """A call: recorded, not done."""
        function, args = self.below(2)
        if type(function) is not Name or type(args) is not tuple:
            raise Refused(f"calls {described(function)} with {described(args)}")
        self.stack.append(AT_ONCE[function.kind](args) if function.kind in AT_ONCE else Made(function.kind, args))

    do_newobj = do_reduce

    def do_build(self, _: Any) -> None:
        (state,) = self.below(1)
        if type(self.stack[-1]) is not Made:
            raise Refused(f"sets the state of {described(self.stack[-1])}")
        self.stack[-1].state = state


# Opcodes whose argument is the value itself: pickletools has read it, and found it to be whole.
VALUES = {
    *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
FORBIDDEN = {
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), "asks for an entry of copyreg's extension registry, which is not data"),
    **dict.fromkeys(
        ("PERSID", "BINPERSID"), "refers to objects outside of it (a persistent id), as torch.save's files"
    ),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), "was written without its buffers (protocol 5, out of band)"),
}


def _encode(args: tuple[Any, ...]) -> bytes:
    """`_codecs.encode(text, "latin1")`: how protocols 0 to 2 write bytes."""
    text, encoding = args
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise ValueError
    return text.encode("latin1")


def _bytes(args: tuple[Any, ...]) -> bytes:
    """`bytes()`, `bytearray(b"...")`, `bytearray("...", "latin-1")`, `py_buffer(b"...")`."""
    if len(args) == 2:
        return _encode(args)
    (value,) = args or (b"",)
    if type(value) is not bytes:
        raise ValueError
    return value


def _reconstructed(args: tuple[Any, ...]) -> Made:
    """`copyreg._reconstructor(class, base, state)`: how protocols 0 and 1 make an object."""
    made, base, state = args
    if type(made) is not Name or type(base) is not Name:
        raise ValueError
    return Made(made.kind, (), dict(state) if type(state) is dict else None)


def _mapping(args: tuple[Any, ...]) -> dict[Any, Any]:
    """`OrderedDict()`, `defaultdict(factory)`: their pairs follow, as a plain dictionary's do."""
    if len(args) > 1 or not all(type(factory) is Name for factory in args):
        raise ValueError
    return {}


AT_ONCE: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "encode": _encode,
    "bytes": _bytes,
    "bytearray": _bytes,
    "buffer": _bytes,
    "mapping": _mapping,
    "reconstructor": _reconstructed,
}


def shown(text: Any) -> str:
    """A string out of a pickle, fit for a terminal and a line."""
    return ascii(text[:80])[1:-1] + "..." * (len(text) > 80)


def described(value: Any) -> str:
    """What a recorded value is, in words."""
    if isinstance(value, Name | Made):
        return {"dates": "a date", "date": "a date", "set": "a set"}.get(value.kind, f"a {value.kind}")
    words = {
        str: "a string",
        bytes: "bytes",
        type(None): "None",
        bool: "a truth value",
        int: "a number",
        float: "a number",
    }
    return words.get(type(value), f"a {type(value).__name__}")


# ------------------------------------------------------------------------------------------------------------- columns

Column = list[Any] | str  # its cells, or what it holds instead of texts and numbers
Table = dict[str, Column]


class Budget:
    """What may be taken out of the pickle at hand: its parts can be referred to again and again."""

    cells = characters = 0

    @classmethod
    def begin(cls, size: int) -> None:
        """For a pickle of `size` bytes."""
        cls.cells, cls.characters = MAX_CELLS, FREE_CHARACTERS + CHARACTERS_A_BYTE * size

    @classmethod
    def spend(cls, cells: int, characters: int = 0) -> None:
        cls.cells -= cells
        cls.characters -= characters
        if min(cls.cells, cls.characters) < 0:
            raise Refused("unfolds to far more cells or characters than its size says")


def table(value: Any) -> Table:
    """The columns of a recorded value. Raises Refused where it isn't a table, a list or an array of texts."""
    if isinstance(value, list | tuple):
        return _of_rows(value) if value and type(value[0]) is dict else {TEXT: column(value)}
    if isinstance(value, dict):
        return _of_dict(value)
    if isinstance(value, Made) and value.kind in TABLES:
        return TABLES[value.kind](value)
    if isinstance(value, Made) and value.kind in ARRAYS:
        return {TEXT: column(value)}
    raise Refused(f"holds {described(value)}, expected a table or a list of texts", code=DATA)


def column(value: Any) -> Column:
    """The cells of a list or array, or in words what they are instead."""
    try:
        return cells(value)
    except Unreadable as what:
        return str(what)


def cells(value: Any) -> list[Any]:
    """Strings, numbers, truth values and None of a list or array. Raises Unreadable for anything else."""
    if isinstance(value, list | tuple):
        Budget.spend(len(value))
        return [_cell(item, row) for row, item in enumerate(value, 1)]
    if not isinstance(value, Made) or value.kind not in ARRAYS:
        raise Unreadable(described(value))
    return ARRAYS[value.kind](value)


def _cell(value: Any, row: int) -> Any:
    kind = type(value)
    if kind is str or kind is float or kind is bool or value is None or (kind is int and value.bit_length() <= 64):
        return value
    if isinstance(value, Name | Made) and value.kind == "NA":
        return None
    if isinstance(value, Made) and value.kind == "scalar":
        dtype, data = value.args
        return _unpacked(dtype, 1, data)[0]
    raise Unreadable(f"{described(value)} in row {row:,}")


def _of_rows(rows: Sequence[Any]) -> Table:
    names = list(rows[0])
    for row, cells_of_row in enumerate(rows, 1):
        if type(cells_of_row) is not dict or set(cells_of_row) != set(names):
            raise Refused(f"has other keys in row {row:,} than in row 1", "give every row the same keys", DATA)
    return {_column_name(key): column([row[key] for row in rows]) for key in names}


def _of_dict(value: dict[Any, Any]) -> Table:
    if value and all(isinstance(part, Made) and part.kind in TABLES for part in value.values()):
        return _of_splits(value)
    if not value or not all(isinstance(part, list | tuple | Made) for part in value.values()):
        what = f"a dictionary with {described(next(iter(value.values())))} in it" if value else "an empty dictionary"
        raise Refused(f"holds {what}, expected a list of texts for each column's name", code=DATA)
    return {_column_name(key): column(part) for key, part in value.items()}


def _of_splits(parts: dict[Any, Any]) -> Table:
    if len(parts) > 1:
        names = ", ".join(shown(_column_name(key)) for key in list(parts)[:9])
        raise Refused(f"holds several tables ({names}), expected one", "write each to a file of its own", DATA)
    return table(next(iter(parts.values())))


def _column_name(key: Any) -> str:
    if type(key) not in (str, int, float, bool):
        raise Refused(f"has {described(key)} as a column's name", "give the columns strings as names", DATA)
    return str(key)


# --------------------------------------------------------------------------------------------------------------- NumPy

NUMBERS = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
NUMBERS |= {"f2": "e", "f4": "f", "f8": "d"}


def _array_rows(array: Made) -> list[list[Any]]:
    """The rows of a NumPy array of one or two dimensions (one dimension: one row)."""
    shape, dtype, fortran, data = _array_parts(array)
    if len(shape) not in (1, 2):
        raise Unreadable(f"an array of {len(shape)} dimensions")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError
    rows, length = (1, *shape)[-2:]
    Budget.spend(max(prod(shape), *shape))
    if isinstance(data, list):
        if len(data) != prod(shape):
            raise ValueError
        flat, fortran = [_cell(item, place % length + 1) for place, item in enumerate(data)], False  # always in C order
    else:
        flat = _unpacked(dtype, prod(shape), data)
    return [flat[row::rows] if fortran else flat[row * length : (row + 1) * length] for row in range(rows)]


def _array_parts(array: Made) -> tuple[Any, Any, bool, Any]:
    """(shape, dtype, whether columns come first, data) of both ways to write an array."""
    if array.kind == "frombuffer":
        data, dtype, shape, order = array.args
        return shape, dtype, order == "F", data
    _, shape, dtype, fortran, data = array.state  # the arguments of _reconstruct make an empty one
    return shape, dtype, bool(fortran), data


def _unpacked(dtype: Any, count: int, data: Any) -> list[Any]:
    """`count` items of a NumPy type from their bytes. Raises Unreadable for types other than texts and numbers."""
    code, order = str(dtype.args[0]).lstrip("<>=|"), dtype.state[1]
    if dtype.kind != "dtype" or not (code in NUMBERS or code[:1] == "U"):
        raise Unreadable({"M": "dates", "m": "durations", "S": "bytes"}.get(code[:1], f"NumPy's type {shown(code)}"))
    if code in NUMBERS:
        return list(struct.unpack(f"{'>' if order == '>' else '<'}{count}{NUMBERS[code]}", data))
    width = 4 * int(code[1:])
    if width * count != len(data):
        raise ValueError
    Budget.spend(0, len(data) // 4)
    text = data.decode("utf-32-be" if order == ">" else "utf-32-le", "surrogatepass")
    return [text[i * width // 4 : (i + 1) * width // 4].rstrip("\0") for i in range(count)]


def _array(array: Made) -> list[Any]:
    rows = _array_rows(array)
    if len(rows) > 1 and any(len(row) > 1 for row in rows):
        raise Unreadable(f"an array of {len(rows)} rows and {len(rows[0])} columns")
    return rows[0] if len(rows) == 1 else [cell for row in rows for cell in row]


# -------------------------------------------------------------------------------------------------------------- pandas


def _frame(frame: Made) -> Table:
    axes, blocks = _manager(frame)
    names = [_column_name(key) for key in cells(axes[0])]
    if len(set(names)) != len(names):
        raise Refused("has two columns of the same name", "rename or remove one of them", DATA)
    columns: list[Column | None] = [None] * len(names)
    for values, placement in blocks:
        places = _places(placement, len(names))
        for place, row in zip(places, _block_rows(values, len(places)), strict=True):
            columns[place] = row
    if any(cells_of_column is None for cells_of_column in columns):
        raise ValueError
    return dict(zip(names, columns, strict=True))  # type: ignore[arg-type]


def _manager(holder: Made) -> tuple[Sequence[Any], list[tuple[Any, Any]]]:
    """(axes, [(values, placement)]) of a frame or a series: the layout of pandas 1.3 and later, or the one before."""
    manager = holder.state["_mgr" if "_mgr" in holder.state else "_data"]
    if manager.kind != "manager":
        raise ValueError
    if manager.args:
        blocks, axes = manager.args
        return axes, [(block.args[0], block.args[1]) for block in blocks]
    layout = manager.state[3]["0.14.1"]  # the version of pandas that began to write it
    return layout["axes"], [(block["values"], block["mgr_locs"]) for block in layout["blocks"]]


def _block_rows(values: Any, count: int) -> list[Column]:
    try:
        return list(_array_rows(values)) if values.kind in ("reconstruct", "frombuffer") else [cells(values)]
    except Unreadable as what:
        return [str(what)] * count


def _places(placement: Any, count: int) -> list[int]:
    """Which of `count` columns a block holds."""
    if isinstance(placement, Made) and placement.kind == "slice":
        return list(range(count)[slice(*placement.args)])
    return cells(placement)


def _series(series: Made) -> list[Any]:
    (values, _), *_ = _manager(series)[1]
    return cells(values)


def _index(index: Made) -> list[Any]:
    made, parts = index.args
    if made.kind == "RangeIndex":
        span = range(parts["start"], parts["stop"], parts["step"])
        Budget.spend(len(span))
        return list(span)
    if made.kind != "Index":
        raise Unreadable(described(made))
    return cells(parts["data"])


def _backed(array: Made) -> list[Any]:
    """Arrays that pandas wraps around a NumPy array, from 1.3 on."""
    made = array.args[0]
    dtype, values = (array.state or array.args[2])[:2]
    if dtype.kind in ("reconstruct", "frombuffer"):  # as pandas' own reader allows
        dtype, values = values, dtype
    if made.kind == "StringArray":
        return cells(values)
    if made.kind != "Categorical":
        raise Unreadable(described(made))
    return _categories(values, dtype)


def _categorical(array: Made) -> list[Any]:
    return _categories(array.state["_codes"], array.state["_dtype"])


def _categories(codes: Made, dtype: Made) -> list[Any]:
    names = cells(dtype.state["categories"])
    return [None if code == -1 else names[_checked(code, names)] for code in _array(codes)]


def _masked(array: Made) -> list[Any]:
    values, mask = _array(array.state["_data"]), _array(array.state["_mask"])
    return [None if missing else value for value, missing in zip(values, mask, strict=True)]


def _checked(place: Any, within: Sequence[Any]) -> int:
    if type(place) is not int or not 0 <= place < len(within):
        raise IndexError
    return place


# --------------------------------------------------------------------------------------------------- Arrow and datasets

ARROW_NUMBERS = {"int8": "b", "int16": "h", "int32": "i", "int64": "q", "halffloat": "e", "float": "f", "double": "d"}
ARROW_NUMBERS |= {"uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q"}
ARROW_OFFSETS = {"string": "i", "utf8": "i", "large_string": "q", "large_utf8": "q"}


def _arrow_array(array: Made) -> list[Any]:
    """Cells of an Arrow array from its buffers, by the columnar format: validity bits, then offsets or values."""
    kind, length, _, offset, buffers, _, dictionary = array.args[0][:7]
    if not (type(length) is type(offset) is int and length >= 0 and offset >= 0):
        raise ValueError
    Budget.spend(length)
    if kind.kind == "dictionary":
        names = cells(dictionary)
        values = _arrow_values(kind.args[0].args[0], length, offset, buffers)
    else:
        names = None
        values = _arrow_values(kind.args[0] if kind.kind == "type_for_alias" else "", length, offset, buffers)
    valid = [True] * length if buffers[0] is None else _bits(buffers[0], length, offset)
    if names is not None:
        return [names[_checked(v, names)] if ok else None for v, ok in zip(values, valid, strict=True)]
    return [value if ok else None for value, ok in zip(values, valid, strict=True)]


def _arrow_values(kind: str, length: int, offset: int, buffers: Sequence[Any]) -> list[Any]:
    if kind in ARROW_OFFSETS:
        return _arrow_texts(ARROW_OFFSETS[kind], length, offset, buffers[1] or b"", buffers[2] or b"")
    if kind in ARROW_NUMBERS:
        code = ARROW_NUMBERS[kind]
        return list(struct.unpack_from(f"<{length}{code}", buffers[1] or b"", offset * struct.calcsize(code)))
    if kind == "bool":
        return _bits(buffers[1] or b"", length, offset)
    if kind == "null":
        return [None] * length
    raise Unreadable(f"Arrow's type {shown(kind) or 'of lists, structures or the like'}")


def _arrow_texts(code: str, length: int, offset: int, offsets: bytes, data: bytes) -> list[str]:
    if not length:
        return []
    ends = struct.unpack_from(f"<{length + 1}{code}", offsets, offset * struct.calcsize(code))
    if ends[0] < 0 or ends[-1] > len(data) or any(a > b for a, b in pairwise(ends)):
        raise ValueError
    Budget.spend(0, ends[-1] - ends[0])
    return [data[start:end].decode("utf-8") for start, end in pairwise(ends)]


def _bits(data: bytes, length: int, offset: int) -> list[bool]:
    return [bool(data[i >> 3] >> (i & 7) & 1) for i in range(offset, offset + length)]


def _chunks(array: Made) -> list[Any]:
    return [cell for chunk in array.args[0] for cell in _arrow_array(chunk)]


def _arrow_table(made: Made) -> Table:
    arrays, schema = made.args
    names = [field.args[0] for field in schema.args[0]]
    return {_column_name(key): column(array) for key, array in zip(names, arrays, strict=True)}


def _hub_table(made: Made) -> Table:
    """The table inside `datasets`' own: one in memory, or blocks side by side and one below the other."""
    if made.kind == "InMemoryTable":
        return _arrow_table(made.state["table"])
    if made.kind != "ConcatenationTable":
        raise ValueError
    bands = [{k: v for block in band for k, v in _hub_table(block).items()} for band in made.state["blocks"]]
    return {key: _joined([band[key] for band in bands]) for key in bands[0]}


def _joined(parts: list[Column]) -> Column:
    unreadable = next((part for part in parts if isinstance(part, str)), None)
    return unreadable if unreadable is not None else [cell for part in parts for cell in part]


def _dataset(dataset: Made) -> Table:
    """The rows of a `datasets.Dataset`, in the order that select, shuffle and sort gave them."""
    columns, chosen = _hub_table(dataset.state["_data"]), dataset.state["_indices"]
    if chosen is None:
        return columns
    (rows,) = _hub_table(chosen).values()
    return {
        key: part if isinstance(part, str) else [part[_checked(row, part)] for row in rows]
        for key, part in columns.items()
    }


def label_names(value: Any) -> dict[str, list[str]]:
    """Label names by column of a pickled `datasets.Dataset` whose features say them, else {}."""
    if isinstance(value, Made) and value.kind == "DatasetDict":
        value = next(iter(value.pairs.values()))
    if not isinstance(value, Made) or value.kind != "Dataset" or not isinstance(value.state["_info"], Made):
        return {}
    features = value.state["_info"].state["features"]
    found = features.args[0] if features.args else features.pairs
    names = {str(key): f.state["names"] for key, f in found.items() if isinstance(f, Made) and f.kind == "ClassLabel"}
    Budget.spend(0, sum(len(label) for labels in names.values() for label in labels))
    if not all(type(labels) is list and all(type(label) is str for label in labels) for labels in names.values()):
        raise ValueError
    return names


TABLES: dict[str, Callable[[Made], Table]] = {
    "DataFrame": _frame,
    "Dataset": _dataset,
    "DatasetDict": lambda made: _of_splits(made.pairs),
    "arrow table": _arrow_table,
}
ARRAYS: dict[str, Callable[[Made], list[Any]]] = {
    "reconstruct": _array,
    "frombuffer": _array,
    "Series": _series,
    "new_index": _index,
    "backed": _backed,
    "Categorical": _categorical,
    "StringArray": lambda made: cells(made.state["_ndarray"]),
    "ArrowArray": lambda made: cells(made.state["_pa_array" if "_pa_array" in made.state else "_data"]),
    "masked": _masked,
    "arrow array": _arrow_array,
    "chunked_array": _chunks,
}


# -------------------------------------------------------------------------------------------------------------- answer


def read(data: bytes) -> dict[str, Any]:
    """The answer to a pickle's bytes. Raises Refused."""
    for start, what in OTHER_FILES.items():
        if data.startswith(start):
            raise Refused(
                f"is no pickle but {what}", "give the data itself, as CSV or Parquet or an uncompressed pickle"
            )
    recorded = Machine(data).result
    Budget.begin(len(data))
    try:
        columns, names = table(recorded), label_names(recorded)
    except Unreadable as what:
        raise Refused(f"holds {what}, expected texts", code=DATA) from None
    except MALFORMED:
        raise Refused("is damaged, or laid out as no version of its library that is known here") from None
    _check(columns)
    return {"columns": columns, "label_names": names}


def _check(columns: Table) -> None:
    """All columns of one length, and their texts no more than such a file can mean."""
    readable = {key: part for key, part in columns.items() if isinstance(part, list)}
    lengths = sorted({len(part) for part in readable.values()})
    if len(lengths) > 1:
        raise Refused(
            f"has columns of {lengths[0]:,} and {lengths[-1]:,} rows", "give all columns the same length", DATA
        )
    for part in readable.values():
        Budget.spend(0, sum(len(cell) for cell in part if type(cell) is str))


def _limit(memory: int, seconds: int) -> None:
    """Caps on what this process may take, where the system has them."""
    try:
        import resource
    except ImportError:  # Windows: the caps above and the parent's clock are what there is
        return
    for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):  # a lower limit is set already, or the system has none of the kind
            continue


def main(memory: int, seconds: int) -> None:
    """Reads a pickle from standard input and writes the answer to standard output."""
    _limit(memory, seconds)
    try:
        answer: dict[str, Any] = read(sys.stdin.buffer.read())
    except Refused as error:
        answer = {"refused": {"what": error.what, "fix": error.fix, "code": error.code}}
    except (MemoryError, RecursionError) as error:
        limit = "nests deeper" if isinstance(error, RecursionError) else "needs more memory"
        answer = {"refused": {"what": f"{limit} than data does", "fix": ADVICE, "code": DAMAGED}}
    sys.stdout.write(json.dumps(answer))  # in ASCII: lone surrogates stay what they are
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
