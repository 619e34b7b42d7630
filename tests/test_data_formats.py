"""data/lines.py, delimited.py, arrow.py: whatever a file is written in, the same rows come out, and it is said."""

import csv
import gzip
import io
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textlora import data
from textlora.data import delimited, lines, readers
from textlora.errors import DamagedError, DataError, UsageError

pa = pytest.importorskip("pyarrow")
ipc = pytest.importorskip("pyarrow.ipc")

ROWS = [
    ("The train was late again; nobody said a word.", "late"),
    ("Two coaches, one engine | and no heating", "cold"),
    ('A guard shouted "mind the gap"', "late"),
    ("Over the hills\nand down", "cold"),
    ("caf\u00e9 \u2013 d\u00e9j\u00e0 vu", "late"),
]
NAMES = ("cold", "late")
IDS = [1, 0, 1, 0, 1]


def table(rows=ROWS, separator=",", header=("text", "label")):
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator, lineterminator="\r\n").writerows([header, *rows])
    return out.getvalue()


def packed(content, kind):
    if kind == "zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()
    return gzip.compress(content) if kind == "gz" else content


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def assert_rows(path, rows=ROWS):
    split = data.load_split(str(path), label_names=NAMES)
    assert list(zip(split.texts, (NAMES[i] for i in split.labels), strict=True)) == rows
    return split


# ----------------------------------------------------------------------------------------------------------- encodings


@pytest.mark.parametrize(
    ("codec", "said"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", "read as UTF-16, as its byte order mark says"),
        ("utf-16-be", "read as UTF-16-BE: every second byte is NUL"),
        ("utf-16-le", "read as UTF-16-LE: every second byte is NUL"),
        ("utf-32", "read as UTF-32"),
        ("cp1252", 'read as Windows-1252 (cp1252), as it is not UTF-8: "caf\u00e9"'),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "csv.zst"])
def test_an_encoding_is_recognised_and_said(tmp_path, codec, said, kind):
    content = table().encode(codec)
    path = put(tmp_path, f"d.{kind}", packed(content, kind.rpartition(".")[2]))
    assert_rows(path)
    notes = readers.notes(path)
    assert (said in notes[0]) if said else notes == ()


WESTERN = {
    "German": "Gr\u00fc\u00dfe aus K\u00f6ln, \u201eVorsicht\u201c f\u00fcr 5\u00a0\u20ac",
    "French": "\u00ab\u00a0\u00c0 \u00bb, d\u00e9\u00e7ue\u2026 l\u2019\u0153uvre \u00ab All\u00e9\u00a0\u00bb",
    "Spanish": "\u00bfQu\u00e9 pas\u00f3? \u00a1Ma\u00f1ana ser\u00e1 ping\u00fcino!",
    "Portuguese": "N\u00e3o h\u00e1 solu\u00e7\u00f5es, s\u00f3 opini\u00f5es \u2014 \u00e9 assim",
    "Swedish": "Sm\u00f6rg\u00e5sbord p\u00e5 \u00d6land, \u00e4rade g\u00e4st",
    "Icelandic": "\u00deetta er \u00edsl\u00ednsk setning um \u00fe\u00e6r og \u00e6\u00f0i",
    "English": "It\u2019s \u201cfine\u201d \u2013 the na\u00efve fa\u00e7ade costs \u00a35 or 20\u00b0",
}


@pytest.mark.parametrize("text", WESTERN.values(), ids=WESTERN)
def test_western_texts_are_read_as_windows_1252(tmp_path, text):
    path = put(tmp_path, "d.csv", table([(text, "late")]).encode("cp1252"))
    assert_rows(path, [(text, "late")])
    assert "cp1252" in readers.notes(path)[0]


OTHER = {
    "Russian": (
        "cp1251",
        "\u041f\u043e\u0435\u0437\u0434 \u043e\u043f\u043e\u0437\u0434\u0430\u043b \u043d\u0430 \u0447\u0430\u0441",
    ),
    "Russian, KOI8": ("koi8-r", "\u041f\u043e\u0435\u0437\u0434 \u043e\u043f\u043e\u0437\u0434\u0430\u043b"),
    "Greek": ("cp1253", "\u03a4\u03bf \u03c4\u03c1\u03ad\u03bd\u03bf \u03ac\u03c1\u03b3\u03b7\u03c3\u03b5"),
    "Polish": ("cp1250", "Za\u017c\u00f3\u0142\u0107 g\u0119\u015bl\u0105 ja\u017a\u0144 na \u017c\u00f3\u0142to"),
    "Chinese": ("gbk", "\u5217\u8f66\u53c8\u665a\u70b9\u4e86\uff0c\u6ca1\u6709\u4eba\u8bf4\u8bdd"),
    "Japanese": (
        "shift-jis",
        "\u5217\u8eca\u306f\u307e\u305f\u9045\u308c\u3001\u8ab0\u3082\u4f55\u3082\u8a00\u308f\u306a\u304b\u3063\u305f\u3002",
    ),
    "Korean": ("euc-kr", "\uae30\ucc28\uac00 \ub610 \ub2a6\uc5c8\ub2e4"),
    "German, DOS": ("cp850", "Gr\u00fc\u00dfe aus K\u00f6ln, sch\u00f6n"),
    "French, Mac": ("mac-roman", "D\u00e9j\u00e0 vu, tr\u00e8s d\u00e9\u00e7ue"),
}


@pytest.mark.parametrize(("codec", "text"), OTHER.values(), ids=OTHER)
def test_other_code_pages_are_named_not_guessed(tmp_path, codec, text):
    path = put(tmp_path, "d.csv", table([("plain first row", "late"), (text, "cold")]).encode(codec))
    with pytest.raises(DataError, match=r"neither UTF-8 nor plainly Windows-1252: byte 0x.* \(line 3\)"):
        data.load(str(path))


BROKEN = {
    "one byte among many": table([("caf\u00e9 caf\u00e9 caf\u00e9", "late")] * 20).encode() + b"caf\xe9,late\n",
    "half of each": table().encode() + table().encode("cp1252"),
    "cut at the end": (table() + "caf\u00e9").encode()[:-1],
    "a half pair": b"text,label\nx\xed\xa0\xbdy,late\n",
    "a pair in halves": b"text,label\n\xed\xa0\xbd\xed\xb8\x80,late\n",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_damaged_utf8_is_not_taken_for_another_encoding(tmp_path, content):
    with pytest.raises(DataError, match=r"neither UTF-8 nor plainly Windows-1252"):
        data.load(str(put(tmp_path, "d.csv", content)))


def test_half_a_character_of_utf16_is_named(tmp_path):
    for content in (table().encode("utf-16")[:-1], "text,label\nx\ud800y,late\n".encode("utf-16", "surrogatepass")):
        with pytest.raises(DataError, match="is not UTF-16 throughout"):
            list(lines.lines(put(tmp_path, "d.csv", content)))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="cp1252", exclude_characters="\0"), min_size=1), min_size=1, max_size=5),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    st.sampled_from(",;\t|"),
    st.sampled_from(["", "gz", "zst"]),
)
def test_what_is_written_is_what_is_read(tmp_path_factory, texts, codec, separator, packing):
    rows = [(text, "late") for text in texts if text.strip()] or [("x", "late")]
    name = "d.csv" + (f".{packing}" if packing else "")
    content = packed(table(rows, separator).encode(codec), packing)
    assert_rows(put(tmp_path_factory.mktemp("law"), name, content), rows)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"PK\x03\x04rest", "an Excel workbook or a zip archive, whatever its name says"),
        (b"\xd0\xcf\x11\xe0rest", "Excel workbook"),
        (gzip.compress(b"text,label\n", mtime=0), "compressed with gzip"),
        (packed(b"text,label\n", "zst"), "compressed with zstd"),
        (b"PAR1rest", "Parquet"),
        (b"ARROW1\0\0", "Arrow"),
        (b"\x80\x04\x95rest", "pickle"),
        (b"%PDF-1.7", "PDF"),
        (b"SQLite format 3\0", "SQLite"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\n <!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, start, said):
    with pytest.raises(DataError, match=said) as caught:
        data.load(str(put(tmp_path, "d.csv", start)))
    assert caught.value.fix


# --------------------------------------------------------------------------------------------------------- compression


@pytest.mark.parametrize("kind", ["gz", "zst"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "ndjson", "json", "txt"])
def test_text_files_may_be_compressed(tmp_path, ending, kind):
    texts = [text.replace("\n", " ") for text, _ in ROWS]
    content = {
        "csv": table([(text, "late") for text in texts]),
        "tsv": table([(text, "late") for text in texts], "\t"),
        "json": json.dumps([{"text": text} for text in texts]),
        "txt": "\n".join(texts),
    }.get(ending, "\n".join(json.dumps({"text": text}) for text in texts))
    path = put(tmp_path, f"Test.{ending}.{kind}", packed(content.encode(), kind))
    assert list(data.read_texts(path)) == [texts]


def test_a_folder_of_compressed_splits(tmp_path):
    rows = [(f"item {i} " + " ".join(f"v{i}x{k}" for k in range(9)), "ab"[i % 2]) for i in range(40)]
    put(tmp_path, "train.csv.gz", packed(table(rows[:30]).encode(), "gz"))
    put(tmp_path, "test-00000-of-00001.csv.zst", packed(table(rows[30:]).encode(), "zst"))
    found = data.load(str(tmp_path))
    assert found.test is not None
    assert (len(found.train) + len(found.validation), len(found.test)) == (30, 10)
    put(tmp_path, "train.csv", table(rows[:30]).encode())
    with pytest.raises(UsageError, match=r"two train files: train\.csv and train\.csv\.gz"):
        data.load(str(tmp_path))


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_broken_compression_is_damage(tmp_path, kind):
    whole = packed(table(ROWS * 500).encode(), kind)
    for content in (whole[: len(whole) // 2], b"text,label\nx,a\n", whole[:30] + b"\xff\0" + whole[32:]):
        with pytest.raises(DamagedError, match=r"no whole (gzip|zstd) file"):
            list(data.read_texts(put(tmp_path, f"d.csv.{kind}", content)))
    with pytest.raises(DataError, match="empty once unpacked"):
        list(data.read_texts(put(tmp_path, f"d.csv.{kind}", packed(b"", kind))))


def test_parquet_is_not_compressed_twice(tmp_path):
    with pytest.raises(UsageError, match="no kind of file"):
        data.load(str(put(tmp_path, "d.parquet.gz", gzip.compress(b"PAR1", mtime=0))))


@pytest.mark.parametrize("name", ["d.csv", "d.csv.gz", "d.csv.zst", "d.arrow"])
def test_memory_stays_flat(tmp_path, name):
    count = 30_000
    if name == "d.arrow":
        rows = pa.table({"text": [f"text number {i} of a long file" for i in range(count)]})
        with ipc.new_file(tmp_path / name, rows.schema) as out:
            out.write_table(rows)  # one batch
        del rows
    else:
        content = "text\n" + "".join(f"text number {i} of a long file\n" for i in range(count))
        put(tmp_path, name, packed(content.encode(), name.rpartition(".")[2]))
    tracemalloc.start()
    assert sum(len(chunk) for chunk in data.read_texts(tmp_path / name)) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000  # two chunks of 8,192 texts; all of them would be 4 MB more for each 30,000


# ---------------------------------------------------------------------------------------------------------- separators


@pytest.mark.parametrize("separator", delimited.SEPARATORS)
@pytest.mark.parametrize("name", ["d.csv", "d.tsv"])
def test_a_separator_is_recognised_and_said(tmp_path, name, separator):
    path = put(tmp_path, name, table(separator=separator).encode())
    assert_rows(path)
    own = separator == ("," if name == "d.csv" else "\t")
    expected = () if own else (f"{name}: cells are separated by {delimited.SEPARATORS[separator]}",)
    assert readers.notes(path) == expected


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"', "\ufeffsep=;"])
def test_excels_line_about_the_separator_is_taken_at_its_word(tmp_path, first):
    path = put(tmp_path, "d.csv", f"{first}\r\n{table(separator=';')}".encode())
    assert_rows(path)
    with pytest.raises(DataError, match=r"row 2 \(line 4\) has 3 cells separated by semicolons, expected 2"):
        data.load(str(put(tmp_path, "d.csv", b"sep=;\ntext;label\nx;a\ny;z;b\n")))


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("text\none; two\n", ("text",)),
        ("text,label\na;b|c,x\n", ("text", "label")),  # what is inside rows divides nothing
        ("text;more,label\na;b,x\nc,y\n", ("text;more", "label")),  # commas are even, semicolons aren't
        ("text, long;label\na;x\nb, c, d;y\n", ("text, long", "label")),  # semicolons are
        ("a,b;c\n1,2;3\n", ("a", "b;c")),  # both: a .csv is of commas
        ("a|b;c;d\n1|2;3;4\n", ("a|b", "c", "d")),  # both: what divides more
        ('"text";"label"\n"a,b";"x"\n', ("text", "label")),
        ('"a;b";c\nx;y\n', ("a;b", "c")),
        ("\n\ntext;label\n\nx;a\n", ("text", "label")),
    ],
)
def test_a_separator_divides_the_header_and_the_first_rows_alike(tmp_path, content, columns):
    assert readers.columns(put(tmp_path, "d.csv", content.encode())) == columns


def test_ag_without_a_header_keeps_its_commas(tmp_path):
    path = put(tmp_path, "d.csv", b'1,"Talks; day one","Prices; rates; oil"\n2,Match;draw,It;ended;late\n')
    assert readers.columns(path) == delimited.AG_COLUMNS


def test_a_file_that_changes_is_recognised_anew(tmp_path):
    path = put(tmp_path, "d.csv", b"text;label\nx;a\n")
    assert readers.columns(path) == ("text", "label")
    put(tmp_path, "d.csv", b"text,gold,n\nx,a,1\n")
    assert readers.columns(path) == ("text", "gold", "n")


# --------------------------------------------------------------------------------------------------------------- Arrow


@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("name", ["d.arrow", "d.feather"])
def test_arrow_files_of_both_forms(tmp_path, name, form):
    rows = pa.table({"text": [t for t, _ in ROWS], "label": [label for _, label in ROWS], "n": range(5)})
    new = ipc.new_file if form == "file" else ipc.new_stream
    with new(tmp_path / name, rows.schema) as out:
        out.write_table(rows, max_chunksize=2)
    assert_rows(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for content in (whole[: len(whole) // 2], b"ARROW1\0\0", b"no arrow at all"):
        with pytest.raises(DamagedError, match="no readable Arrow file"):
            data.load(str(put(tmp_path, name, content)))


@pytest.fixture
def saved(tmp_path):
    """What `datasets` writes, rows with ClassLabel, in two shards."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["refund", "delivery"]))

    def rows(start, end):
        texts = [f"item {i} " + " ".join(f"v{i}x{k}" for k in range(9)) for i in range(start, end)]
        return datasets.Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(start, end)]}, features)

    both = datasets.DatasetDict(train=rows(0, 40), test=rows(40, 50), unlabelled=rows(50, 52))
    both.save_to_disk(str(tmp_path / "tickets"), num_shards={"train": 2, "test": 1, "unlabelled": 1})
    return tmp_path / "tickets"


def test_a_saved_dataset_dict_is_its_splits(saved):
    found = data.load(str(saved))
    assert found.test is not None
    assert (found.name, found.label_names) == ("tickets", ("refund", "delivery"))
    assert (len(found.train) + len(found.validation), len(found.test)) == (40, 10)
    assert found.test.row_ids[0] == "test/data-00000-of-00001.arrow:1"
    assert not {*found.train.row_ids, *found.validation.row_ids} & {*found.test.row_ids}


def test_a_saved_dataset_is_one_file(saved):
    found = data.load(str(saved / "train"))
    assert len(found.train) + len(found.validation) == 40
    assert data.load_split(str(saved / "test"), label_names=found.label_names).name == "test"
    assert [len(chunk) for chunk in data.read_texts(saved / "train")] == [40]
    (saved / "train" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"no file .*data-00001-of-00002"):
        data.load(str(saved))


def test_label_names_may_stand_beside_the_arrow_files(saved):
    folder = saved / "train"
    for path in folder.glob("*.arrow"):
        with ipc.open_stream(path.read_bytes()) as stream:
            bare = stream.read_all().replace_schema_metadata()
        with ipc.new_stream(path, bare.schema) as out:
            out.write_table(bare)
    assert data.load(str(folder)).label_names == ("refund", "delivery")


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        ("{", DamagedError, "not valid JSON"),
        ("[]", DamagedError, "not what the datasets library writes"),
        ("{}", DamagedError, "names no data files"),
        ('{"_data_files": [{"filename": "../../../etc/hosts.arrow"}]}', DataError, "there is no file .*train/hosts"),
        ('{"_indices_data_files": [{"filename": "indices.arrow"}]}', DataError, "order of its rows apart"),
    ],
)
def test_a_saved_folder_is_not_trusted(saved, state, error, said):
    (saved / "train" / "state.json").write_text(state)
    with pytest.raises(error, match=said):
        data.load(str(saved))
