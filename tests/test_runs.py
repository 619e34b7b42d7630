"""The run folder: nothing half-written, nothing lost that isn't ours, and no changed byte goes unseen."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textlora import runs
from textlora.config import Config
from textlora.errors import DamagedError, ResourceError, UsageError
from textlora.runs import Run

CONFIG = Config(batch_tokens=512, data='a "quoted"\npath', label_names=("ü", "\u2028"))
texts = st.text(st.characters(codec="utf-8"), max_size=30)
records = st.lists(st.dictionaries(texts, texts | st.integers() | st.booleans(), max_size=3), max_size=5)


def new_run(folder: Path) -> Run:
    """A run with an adapter, sealed."""
    run = runs.create(folder)
    run.write_config(CONFIG)
    (run.adapter / "adapter_config.json").write_text("{}")
    (run.adapter / "adapter_model.safetensors").write_bytes(bytes(range(200)))
    run.note({"step": 1})
    run.seal()
    return run


@pytest.fixture
def run(tmp_path) -> Run:
    return new_run(tmp_path / "run")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------------- create


def test_a_new_run_has_its_folders_and_nothing_else(tmp_path):
    run = runs.create(tmp_path / "a" / "run")
    assert sorted(path.name for path in run.folder.iterdir()) == ["adapter", "checkpoints", "evaluation"]
    assert files_of(run.folder) == {}


def test_an_empty_folder_may_become_a_run(tmp_path):
    (tmp_path / "run").mkdir()
    assert runs.create(tmp_path / "run").adapter.is_dir()


def test_an_existing_run_is_refused_and_left_as_it_is(run):
    before = files_of(run.folder)
    with pytest.raises(UsageError, match=r"exists.*--overwrite"):
        runs.create(run.folder)
    assert files_of(run.folder) == before


def test_of_a_run_that_was_stopped_it_says_how_to_go_on(tmp_path):
    run = runs.create(tmp_path / "run")
    run.write_config(Config())
    with pytest.raises(UsageError, match=rf"textlora train --resume --out {re.escape(str(run.folder))}; or choose"):
        runs.create(run.folder)


def test_overwrite_replaces_a_run(run):
    again = runs.create(run.folder, overwrite=True)
    assert files_of(again.folder) == {}
    assert again.adapter.is_dir()


def test_overwrite_replaces_a_run_that_was_killed_before_its_first_file(tmp_path):
    runs.create(tmp_path / "run")
    assert runs.create(tmp_path / "run", overwrite=True).adapter.is_dir()


@pytest.mark.parametrize(
    "content",
    [
        {"letters/dear.txt": "dear"},
        {"config.toml": "baseURL = 'https://example.org'", "content/post.md": "a site of mine"},  # Hugo's, Cargo's name
        {"adapter/notes.txt": "mine", "checkpoints/a": "", "evaluation/b": ""},
    ],
)
def test_overwrite_never_deletes_a_folder_that_is_no_run(tmp_path, content):
    folder = tmp_path / "home"
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    before = files_of(folder)
    with pytest.raises(UsageError, match="is no run"):
        runs.create(folder, overwrite=True)
    assert files_of(folder) == before


def test_overwrite_never_deletes_a_file(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="exists"):
            runs.create(tmp_path / "thesis.tex", overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_folder_that_cannot_be_made_is_a_clear_refusal(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"can't write .*run"):
        runs.create(tmp_path / "file" / "run")


def test_default_folders_of_one_minute_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs.time, "strftime", lambda _: "2026-11-22-0800")
    for expected in ("2026-11-22-0800-minilm", "2026-11-22-0800-minilm-2", "2026-11-22-0800-minilm-3"):
        folder = runs.default_folder("minilm")
        assert folder == Path("runs") / expected
        runs.create(folder)


# --------------------------------------------------------------------------------------------------------------- open


def test_a_run_gives_its_settings_back(run):
    assert runs.open_run(run.folder).config() == CONFIG


def test_what_is_no_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="is no run"):
            runs.open_run(path)


def test_the_adapter_is_found_in_a_run_and_on_its_own(run):
    assert runs.adapter_folder(run.folder) == run.adapter
    assert runs.adapter_folder(run.adapter) == run.adapter
    assert runs.adapter_folder(str(run.folder)) == run.adapter


def test_no_adapter_is_told_apart_by_its_reason(run, tmp_path):
    (run.adapter / "adapter_config.json").unlink()
    with pytest.raises(DamagedError, match=r"adapter_config.json is missing"):
        runs.adapter_folder(run.folder)
    (run.folder / runs.MANIFEST).unlink()
    with pytest.raises(UsageError, match=r"hasn't finished.*textlora train --resume --out"):
        runs.adapter_folder(run.folder)
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UsageError, match="no run and no adapter folder"):
            runs.adapter_folder(path)


def test_a_changed_adapter_is_refused_before_it_is_read(run):
    (run.adapter / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(DamagedError, match="sha256 differs"):
        runs.adapter_folder(run.folder)


# ------------------------------------------------------------------------------------------------------ seal and verify


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_no_flipped_byte_of_a_sealed_run_goes_unseen(tmp_path_factory, place, mask):
    run = new_run(tmp_path_factory.mktemp("run") / "run")
    runs.verify(run.folder)
    paths = sorted(path for path in run.folder.rglob("*") if path.is_file() and path.name != runs.MANIFEST)
    path = paths[place % len(paths)]
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= mask
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=path.name):
        runs.verify(run.folder)


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl", "adapter/adapter_model.safetensors"])
def test_a_missing_file_of_a_sealed_run_is_named(run, name):
    (run.folder / name).unlink()
    with pytest.raises(DamagedError, match=rf"{name} is missing"):
        runs.verify(run.folder)


def test_verify_can_keep_to_a_part(run):
    (run.folder / "config.toml").write_text("changed")
    runs.verify(run.folder, only="adapter/")
    with pytest.raises(DamagedError, match=r"config\.toml"):
        runs.verify(run.folder)


def test_the_manifest_lists_every_file_but_itself(run):
    (run.evaluation / "loss.png").write_bytes(b"png")
    run.seal()
    listed = runs.read_json(run.folder / runs.MANIFEST)["sha256"]
    assert set(listed) == set(files_of(run.folder)) - {runs.MANIFEST}
    run.seal()
    assert runs.read_json(run.folder / runs.MANIFEST)["sha256"] == listed


def test_sealing_a_part_never_blesses_a_file_outside_it_that_was_damaged(run):
    before = runs.listed(run.folder)
    (run.adapter / "adapter_model.safetensors").write_bytes(b"damaged")
    (run.evaluation / "report.json").write_text("{}")
    run.seal("evaluation/")
    after = runs.listed(run.folder)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"evaluation/report.json"}
    with pytest.raises(DamagedError, match="sha256 differs"):
        runs.adapter_folder(run.folder)


def test_sealing_a_part_follows_what_changed_in_it_and_forgets_what_was_deleted(run):
    for path in (run.evaluation / "old.png", run.evaluation / "report.json", run.checkpoints / "optimizer.safetensors"):
        path.write_text("one")
    run.seal()
    (run.evaluation / "old.png").unlink()
    (run.evaluation / "report.json").write_text("two")
    (run.checkpoints / "optimizer.safetensors").unlink()  # people do, for room
    run.seal("evaluation/")
    runs.verify(run.folder)
    assert runs.listed(run.folder) == runs.hashes(run.folder)


def test_sealing_a_part_refuses_a_damaged_manifest_and_makes_up_nothing_where_there_is_none(run):
    (run.folder / runs.MANIFEST).write_text("[]")
    with pytest.raises(DamagedError, match="lists no files"):
        run.seal("evaluation/")
    (run.folder / runs.MANIFEST).unlink()
    (run.evaluation / "report.json").write_text("{}")
    run.seal("evaluation/")
    assert set(runs.listed(run.folder)) == {"evaluation/report.json"}


def test_only_what_is_read_from_an_adapter_is_checked(run):
    (run.adapter / "README.md").write_text("written by textlora")
    (run.adapter / "tokenizer.json").write_text("{}")
    (run.checkpoints / "optimizer.safetensors").write_text("state")
    run.seal()
    (run.adapter / "README.md").write_text("and by me")
    (run.checkpoints / "optimizer.safetensors").unlink()
    assert runs.adapter_folder(run.folder) == run.adapter
    (run.adapter / "README.md").unlink()
    assert runs.adapter_folder(run.folder) == run.adapter
    (run.adapter / "tokenizer.json").unlink()
    with pytest.raises(DamagedError, match=r"tokenizer\.json is missing"):
        runs.adapter_folder(run.folder)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", "{}", '{"sha256": []}', '{"sha256": {"config.toml": 3}}', '{"sha256": null}']
)
def test_a_damaged_manifest_is_a_damaged_file(run, content):
    (run.folder / runs.MANIFEST).write_text(content)
    with pytest.raises(DamagedError):
        runs.verify(run.folder)


# ------------------------------------------------------------------------------------------------------------- writing


@given(old=texts, new=texts)
def test_a_file_is_replaced_whole(tmp_path_factory, old, new):
    path = tmp_path_factory.mktemp("w") / "deep" / "file.txt"
    for text in (old, new):
        with runs.replacing(path, newline="") as file:
            file.write(text)
        assert path.read_bytes() == text.encode()
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask for readers")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o027, 0o640), (0o077, 0o600)])
def test_those_may_read_what_is_written_whom_the_umask_lets(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        runs._usual_mode.cache_clear()
        runs.write_text(tmp_path / "a", "b")
        assert (tmp_path / "a").stat().st_mode & 0o777 == mode
        assert os.umask(umask) == umask  # reading it has not changed it
    finally:
        os.umask(before)
        runs._usual_mode.cache_clear()


def half_write(path: Path, error: BaseException) -> None:
    with runs.replacing(path) as file:
        file.write("half")
        raise error


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), DamagedError("x")])
@pytest.mark.parametrize("existed", [True, False])
def test_nothing_is_left_when_the_body_raises(tmp_path, error, existed):
    path = tmp_path / "file.txt"
    if existed:
        path.write_text("old")
    with pytest.raises(type(error)):
        half_write(path, error)
    assert files_of(tmp_path) == ({"file.txt": b"old"} if existed else {})


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize(
    ("number", "phrase"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, "can't write .*ermission denied"),
    ],
)
def test_nothing_is_left_when_the_disk_refuses(tmp_path, monkeypatch, call, number, phrase):
    (tmp_path / "summary.json").write_text("old")

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(runs.os, call, refuse)
    with pytest.raises(ResourceError, match=phrase):
        runs.write_json(tmp_path / "summary.json", {"accuracy": 1})
    assert files_of(tmp_path) == {"summary.json": b"old"}


LIMITED = """
import resource, sys
from pathlib import Path
from textlora import runs
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    runs.write_text(Path(sys.argv[1]), "x" * 100_000)
except runs.ResourceError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes to stand for a full disk")
def test_a_disk_that_is_really_full_leaves_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "big")], capture_output=True, text=True, timeout=60
    )
    assert "the disk is full" in done.stdout, done.stderr
    assert files_of(tmp_path) == {}


def test_an_error_that_already_says_it_is_passed_on_as_it_is(tmp_path):
    said = ResourceError("no such device", "plug it in")
    with pytest.raises(ResourceError) as caught, runs.storing(tmp_path):
        raise said
    assert caught.value is said


# ------------------------------------------------------------------------------------------------------------- reading


@given(records)
def test_lines_are_read_as_they_were_written(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("lines") / "metrics.jsonl"
    for record in written:
        runs.append_line(path, record)
    assert runs.read_lines(path) == written


@given(records.filter(len), st.data())
def test_a_torn_last_line_is_passed_over_and_the_next_one_is_whole(tmp_path_factory, written, data):
    """A kill may cut anywhere, inside a character too; what is noted later must not be lost with it."""
    path = tmp_path_factory.mktemp("lines") / "metrics.jsonl"
    for record in written:
        runs.append_line(path, record)
    whole = path.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    cut = data.draw(st.integers(start, len(whole) - 1))
    path.write_bytes(whole[:cut])
    left = written if cut == len(whole) - 1 else written[:-1]  # without its line's end alone, a record is whole
    assert runs.read_lines(path) == left
    runs.append_line(path, {"after": 1})
    assert runs.read_lines(path) == [*left, {"after": 1}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_null_since_json_has_no_nan(tmp_path, value):
    run = runs.create(tmp_path / "run")
    run.note({"step": 1, "loss": value, "accuracy": 0.5})
    run.metrics_file.write_text(run.metrics_file.read_text() + json.dumps({"step": 2, "loss": value}) + "\n")
    run.forget_after(2)  # a file of before, written again, is mended
    for line in run.metrics_file.read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert run.metrics() == [{"step": 1, "loss": None, "accuracy": 0.5}, {"step": 2, "loss": None}]


def test_no_file_is_no_lines(tmp_path):
    assert runs.read_lines(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"{'a': 1}"])
def test_a_damaged_json_file_is_named(tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"plan\.json is damaged"):
        runs.read_json(tmp_path / "plan.json")
    with pytest.raises(DamagedError, match=r"other\.json is missing"):
        runs.read_json(tmp_path / "other.json")


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(0, 9))
def test_forget_after_keeps_just_the_lines_up_to_a_step(tmp_path_factory, steps, last):
    run = runs.create(tmp_path_factory.mktemp("run") / "run")
    for step in sorted(steps):
        run.note({"step": step, "split": "ü"})
    run.forget_after(last)
    assert [record["step"] for record in run.metrics()] == [step for step in sorted(steps) if step <= last]
    run.note({"step": 10})
    assert run.metrics()[-1] == {"step": 10}


def test_each_reading_of_the_test_split_is_counted(run):
    assert [run.record_test_read({"accuracy": 0.5, "data": "a\u2028b"}) for _ in range(3)] == [1, 2, 3]
    lines = (run.evaluation / "test_reads.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["accuracy"] for line in lines.split("\n")[:-1]] == [0.5] * 3


# ---------------------------------------------------------------------------------------------------------- provenance


def test_a_run_notes_versions_and_machine_but_no_person_and_no_host():
    import getpass
    import platform

    noted = json.dumps(runs.versions() | runs.machine())
    assert {"python", "torch", "transformers", "peft", "numpy"} <= runs.versions().keys()
    assert runs.machine()["cpu_count"] == os.cpu_count()
    for private in (platform.node(), getpass.getuser(), str(Path.home())):
        assert f'"{private}"' not in noted


def test_a_package_that_is_not_there_is_said_to_be_missing(monkeypatch):
    monkeypatch.setattr(runs, "PACKAGES", ("no-such-package-on-earth",))
    assert runs.versions()["no-such-package-on-earth"] == "not installed"


def test_peak_memory_is_in_bytes_and_never_falls():
    before = runs.peak_rss_bytes()
    assert 10_000_000 < before < 1 << 40
    held = random.randbytes(min(before // 4, 1 << 26))
    assert runs.peak_rss_bytes() >= before
    del held
    assert runs.peak_rss_bytes() >= before
