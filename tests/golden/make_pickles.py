"""Makes tests/golden/pickles: honest pickles as old and new libraries write them, each with what must be read from it.

Run it once in an environment of each set of versions; each run adds its own files. The files in git came from:

    python3.8  pandas==1.0.5 numpy==1.18.5
    python3.8  pandas==1.2.5 numpy==1.19.5
    python3.11 pandas==1.5.3 numpy==1.26.4 pyarrow==10.0.1 datasets==2.0.0
    python3.11 pandas==2.0.3 numpy==1.26.4 pyarrow==12.0.1 datasets==2.14.7
    python3.11 pandas==2.2.3 numpy==2.0.2  pyarrow==16.1.0 datasets==2.21.0
    python3.11 pandas==2.3.3 numpy==2.3.5  pyarrow==19.0.1 datasets==3.6.0
    python3.11 pandas==3.0.0 numpy==2.4.6 pyarrow==22.0.0 datasets==4.4.1
    python3.11 pandas==3.1.1 numpy==2.4.6 pyarrow==26.0.1 datasets==5.2.0

    pip install ...; python tests/golden/make_pickles.py tests/golden/pickles

Only writes pickles; nothing here or in the tests loads one.
"""

import json
import pickle
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

try:
    import datasets
except ImportError:
    datasets = None

TEXTS = [
    "The ferry left an hour late.",
    "Grüße aus Köln: die Brücke ist offen.",
    "",
    '雨が止んだ。 Two lines\nand a "quote"',
    "The ferry left an hour late.",
    "A kite 🪁 over the harbour",
]
IDS = [1, 0, 2, 1, 1, 0]
NAMES = ["travel", "city", "weather", "travel", "travel", "city"]
WITH_NONE = [None if text == "" else text for text in TEXTS]


def plain():
    """name -> (object, what is to be read from it); no library in it."""
    yield "list", list(TEXTS), {"text": TEXTS}
    yield "tuple", tuple(TEXTS), {"text": TEXTS}
    yield "dict-of-lists", {"text": list(TEXTS), "label": list(IDS)}, {"text": TEXTS, "label": IDS}
    rows = [{"text": text, "label": name} for text, name in zip(TEXTS, NAMES)]  # noqa: B905 - Python 3.8 has no strict
    yield "list-of-dicts", rows, {"text": TEXTS, "label": NAMES}


def arrays():
    yield "array-str", np.array(TEXTS), {"text": TEXTS}
    yield "array-object", np.array(TEXTS, object), {"text": TEXTS}
    both = {"text": np.array(TEXTS, object), "label": np.array(IDS)}
    yield "dict-of-arrays", both, {"text": TEXTS, "label": IDS}
    scalars = {"text": list(np.array(TEXTS)), "label": list(np.array(IDS, np.int32))}
    if hasattr(np, "dtypes") and hasattr(np.dtypes, "StringDType"):
        yield "array-stringdtype", np.array(TEXTS, dtype=np.dtypes.StringDType()), {"text": TEXTS}
    yield "numpy-scalars", scalars, {"text": TEXTS, "label": IDS}


def frames():
    frame = pd.DataFrame({"text": TEXTS, "label": IDS})
    yield "frame", frame, {"text": TEXTS, "label": IDS}
    yield "frame-text", frame[["text"]], {"text": TEXTS}
    picked = frame.sample(frac=1, random_state=0)[["label", "text"]].iloc[1:5]
    yield "frame-shuffled", picked, {"label": picked["label"].tolist(), "text": picked["text"].tolist()}
    many = frame.assign(title=NAMES, score=np.arange(6) / 4, flag=[True, False] * 3, small=np.array(IDS, "int8"))
    yield "frame-many", many, {name: many[name].tolist() for name in many}
    named = frame.assign(label=pd.Categorical(NAMES)).set_index(pd.Index(list("abcdef"), name="id"))
    yield "frame-categorical", named, {"text": TEXTS, "label": NAMES}
    typed = pd.DataFrame({"text": pd.array(WITH_NONE, dtype="string"), "label": pd.array(IDS, dtype="Int64")})
    yield "frame-string", typed, {"text": WITH_NONE, "label": IDS}
    dated = frame.assign(when=pd.Timestamp("2026-01-02"))
    yield "frame-dates", dated, {"text": TEXTS, "label": IDS, "when": None}
    rows = np.array([TEXTS, NAMES], object).T
    yield "frame-of-array", pd.DataFrame(rows, columns=["text", "label"]), {"text": TEXTS, "label": NAMES}
    numbers = pd.DataFrame(np.array([IDS, IDS[::-1]]).T, columns=["label", "other"])
    yield "frame-of-numbers", numbers.assign(text=TEXTS), {"label": IDS, "other": IDS[::-1], "text": TEXTS}
    yield "frame-reversed", frame[["label", "text"]].iloc[:, ::-1], {"text": TEXTS, "label": IDS}
    groups = frame.set_index(["label", "text"], drop=False)
    yield "frame-multi-index", groups, {"text": TEXTS, "label": IDS}
    dates = pd.to_datetime(["2026-01-01", "2026-01-03", "2026-01-02"] * 2)
    yield "frame-by-date", frame.set_index(dates), {"text": TEXTS, "label": IDS}
    yield "frame-by-day", frame.set_index(pd.date_range("2026-01-01", periods=6)), {"text": TEXTS, "label": IDS}
    yield "series-filtered", frame["text"][frame["label"] == 1], {"text": [TEXTS[0], TEXTS[3], TEXTS[4]]}
    yield "index", pd.Index(TEXTS), {"text": TEXTS}
    yield "series", frame["text"], {"text": TEXTS}
    yield "series-other-name", pd.Series(TEXTS, name="headline"), {"text": TEXTS}
    yield "series-unnamed", pd.Series(TEXTS), {"text": TEXTS}
    try:
        arrow = pd.DataFrame({"text": pd.array(WITH_NONE, dtype="string[pyarrow]")})
    except (TypeError, ImportError):  # an older pandas, or no pyarrow
        return
    yield "frame-arrow-string", arrow, {"text": WITH_NONE}
    if hasattr(pd, "ArrowDtype"):
        import pyarrow as pa

        yield "frame-arrow-dtype", arrow.astype(pd.ArrowDtype(pa.string())), {"text": WITH_NONE}
    if pd.__version__ >= "2.3":
        yield "frame-str", arrow.astype(pd.StringDtype("python", na_value=np.nan)), {"text": WITH_NONE}


def hub():
    text_only = datasets.Dataset.from_dict({"text": TEXTS})
    yield "dataset", text_only, {"text": TEXTS}
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=sorted(set(NAMES))))
    ids = [sorted(set(NAMES)).index(name) for name in NAMES]
    labelled = datasets.Dataset.from_dict({"text": TEXTS, "label": ids}, features=features)
    yield "dataset-labels", labelled, {"text": TEXTS, "label": ids}
    mixed = labelled.shuffle(seed=1)
    yield "dataset-shuffled", mixed, {"text": list(mixed["text"]), "label": list(mixed["label"])}
    some = text_only.select([4, 0, 3])
    yield "dataset-selected", some, {"text": [TEXTS[4], TEXTS[0], TEXTS[3]]}
    part = text_only.select(range(2, 5))
    yield "dataset-part", part, {"text": TEXTS[2:5]}
    twice = datasets.concatenate_datasets([text_only, text_only.select(range(1, 4))])
    yield "dataset-concatenated", twice, {"text": TEXTS + TEXTS[1:4]}
    yield "dataset-none", datasets.Dataset.from_dict({"text": WITH_NONE}), {"text": WITH_NONE}
    yield "dataset-from-pandas", datasets.Dataset.from_pandas(pd.DataFrame({"text": TEXTS})), {"text": TEXTS}
    lists = datasets.Dataset.from_dict({"text": TEXTS, "tags": [["a", "b"]] * 6, "at": [{"x": 1.0}] * 6})
    yield "dataset-of-lists", lists, {"text": TEXTS, "tags": None, "at": None}
    beside = datasets.concatenate_datasets([text_only, datasets.Dataset.from_dict({"label": IDS})], axis=1)
    yield "dataset-beside", beside, {"text": TEXTS, "label": IDS}
    with tempfile.TemporaryDirectory() as folder:
        text_only.to_csv(folder + "/texts.csv", index=False)
        read = datasets.load_dataset("csv", data_files=folder + "/texts.csv", cache_dir=folder, keep_in_memory=True)
        yield "dataset-of-csv", read, {"text": WITH_NONE}
    ordered = labelled.sort("label")
    yield "dataset-sorted", ordered, {"text": list(ordered["text"]), "label": list(ordered["label"])}
    yield "dataset-dict", datasets.DatasetDict({"test": text_only}), {"text": TEXTS}


def versions():
    library = "pandas" + pd.__version__, "datasets" + datasets.__version__ if datasets else ""
    python = "python{}.{}".format(*sys.version_info)
    for name, value, expected in plain():
        yield python, name, value, expected
    for name, value, expected in arrays():
        yield "numpy" + np.__version__, name, value, expected
    for name, value, expected in frames():
        yield library[0], name, value, expected
    for name, value, expected in hub() if datasets else ():
        yield library[1], name, value, expected


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / "expected.json"
    known = json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else {}
    for number, (library, name, value, expected) in enumerate(versions()):
        shift = sum(map(int, re.findall("[0-9]+", library)))  # so that each kind comes in each protocol
        for protocol in {(number + shift) % 6, 4 if name in ("list", "frame", "dataset") else (number + shift) % 6}:
            file = folder / f"{library}-{name}-p{protocol}.pkl"
            file.write_bytes(pickle.dumps(value, protocol=protocol))
            known[file.name] = expected
    text = json.dumps(dict(sorted(known.items())), ensure_ascii=False, indent=0)
    listed.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
