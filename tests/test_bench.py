"""The benchmark's arithmetic and its protocol; that every side runs, on tiny bases."""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from textlora import bases, budget, cli
from textlora import config as configs
from textlora.bench import figures, limit, memory, task, worker
from textlora.bench.figures import Round
from textlora.bench.options import Options
from textlora.bench.pace import Pace, probe
from textlora.bench.workers import Failed, Sides
from textlora.errors import UsageError
from textlora.tables import bench_table

ROUNDS = st.lists(
    st.builds(Round, st.floats(0.1, 100), st.integers(1, 1000), st.integers(1, 10**5), st.integers(1, 50)), min_size=1
)


# ----------------------------------------------------------------------------------------------------------- arithmetic


@given(ROUNDS, st.floats(1, 500))
def test_rates_are_medians_with_their_spread(rounds, tokens_per_text):
    counted, by_length = (figures.rates(rounds, tokens_per_text, way) for way in (False, True))
    assert counted["samples_per_second"] == round(statistics.median(r.texts / r.seconds for r in rounds), 3)
    tokens = statistics.median(r.tokens / r.seconds for r in rounds)
    assert by_length["samples_per_second"] == pytest.approx(tokens / tokens_per_text, abs=1e-3)
    assert by_length["tokens_per_second"] == counted["tokens_per_second"] == round(tokens, 1)
    for rates in (counted, by_length):
        assert rates["spread"][0] <= rates["samples_per_second"] <= rates["spread"][1]


def test_ratios_leave_out_what_was_not_measured():
    peers = {"a": {"rate": 4.0}, "b": {"rate": 0.0}, "c": {}}
    assert figures.ratios(10.0, peers, "rate") == {"a": 2.5}
    assert figures.share(45.0, 100.0) == 0.45


@given(st.lists(st.floats(0, 10), min_size=1))
def test_a_percentile_is_the_nearest_rank(values):
    assert figures.percentile(values, 100) == max(values)
    middle = figures.percentile(values, 50)
    assert 2 * sum(v <= middle for v in values) >= len(values)
    assert 2 * sum(v < middle for v in values) < len(values)


def test_a_table_has_a_line_for_every_side_and_for_what_was_not_measured():
    rates = {"samples_per_second": 10.0, "spread": [9.0, 11.0], "tokens_per_second": 500.0}
    result = {"base": "b", "base_weights": "real", "data": "d", "isa": "amx", "threads": 2, "precision": "bfloat16"}
    result |= {"not_measured": {"gone": "no package"}, "ratio_to_peers": {"peer": 2.0}}
    trained = rates | {"training_rss_bytes": 10**9}
    training = {"what": "train", "ours": trained, "plain": trained, "peers": {"peer": trained}, "limit": rates}
    training |= {"ratio_to_plain": 1.5, "limit_share": 0.5}
    answers = rates | {"p50_ms": 1.0, "p99_ms": 2.0, "flips": {"count": 0}}
    predicting = {"what": "predict", "ours": answers, "peers": {"peer": answers}}
    for one, names in ((training, ["ours", "plain", "peer", "limit", "gone"]), (predicting, ["ours", "peer", "gone"])):
        lines = bench_table(result | one).splitlines()
        assert [line.split()[0].strip(":") for line in lines[2:]] == names


# ---------------------------------------------------------------------------------------------------------------- pace


def test_a_pace_counts_rounds_after_the_warm_up_and_stands_still_between_them():
    reports, answers = [], [0.0, 0.0, None]  # ready, one round, another, stop

    def ask(report):
        reports.append(report)
        return answers[len(reports) - 1]

    pace = Pace(ask, warm_up=2, least=3)
    assert pace.begin()
    going = [pace.done(texts=2, tokens=10) for _ in range(8)]
    assert going == [True] * 7 + [False]
    assert reports[0] is None
    assert [(r["texts"], r["tokens"], r["steps"]) for r in reports[1:]] == [(6, 30, 3), (6, 30, 3)]


def test_without_a_warm_up_the_first_step_counts():
    ask, found = probe(0.0)
    pace = Pace(ask, warm_up=0)
    assert pace.begin()
    assert not pace.done(4, 40)
    assert (found[0].texts, found[0].steps) == (4, 1)


def test_memory_peaks_are_seen_and_forgotten():
    memory.forget_peak()
    before = memory.peak()
    held = torch.ones(60 * 2**20, dtype=torch.uint8)
    assert memory.peak() - before > 0.9 * len(held)
    del held
    memory.forget_peak()
    assert memory.peak() - before < 30 * 2**20


# ------------------------------------------------------------------------------------------------------------ the limit


def matrices(base):
    """(in, out) of every linear in the blocks, as the budget counts them."""
    settings = configs.load("minilm-fast", {"target_modules": ["all-linear"], "lora_r": 1, "budget": 10**9})
    return budget.plan(settings, bases.find(base).shapes, 4, base).modules


@pytest.mark.parametrize("base", ["minilm", "roberta", "distilbert", "mpnet"])
def test_adapters_go_on_what_the_family_calls_query_and_value(base):
    known = bases.find(base)
    targets = task._query_and_value(known, Path("random:0"))
    settings = configs.load("minilm-fast", {"target_modules": targets, "lora_r": 1, "bag_of_tokens": False})
    assert len(budget.plan(settings, known.shapes, 4, base).modules) == 2 * known.shapes.num_hidden_layers


def test_modules_that_are_not_there_are_the_users_to_mend(tmp_path):
    with pytest.raises(UsageError, match="target_modules: 'querry' matches nothing"):
        task.make(Options(base_weights="random:0", target_modules="querry", rows=8), tmp_path)


@pytest.mark.parametrize("base", ["minilm", "roberta"])
def test_the_limits_products_are_the_blocks_matrices(base):
    shapes = bases.find(base).shapes
    D, F, layers = shapes.hidden_size, shapes.intermediate_size, shapes.num_hidden_layers
    counted = sum(2 * m.in_features * m.out_features for m in matrices(base))
    every = limit.products(D, F, layers, every_row=True)
    assert sum(p.flops for p in every if not p.backward) == counted
    assert sum(p.flops for p in every if p.backward) == counted - 2 * 3 * D * D  # but below the lowest adapters
    first = limit.products(D, F, layers)
    assert sum(p.flops for p in first) == sum(p.flops for p in every)
    assert {p.name for p in first if p.first_tokens and not p.backward} == {"query", "out", "up", "down"}
    assert sum(p.first_tokens for p in first) == 8


def test_one_block_alone_has_no_gradient_below_it():
    assert [p.name for p in limit.products(8, 16, 1) if p.backward] == ["down, back", "up, back", "out, back"]


def test_the_limit_does_every_product_on_its_own_rows(monkeypatch):
    done = []

    def call(x, weight, out):
        done.append((tuple(x.shape), tuple(out.shape)))

    monkeypatch.setattr(limit, "WAYS", {"mm": (call, False)})
    step = limit.Step(limit.products(8, 16, 2), [limit.Batch(3, 30, 25)], torch.float32)
    done.clear()
    step(texts=2, tokens=20)
    assert done[:3] == [((20, 8), (20, 24)), ((20, 8), (20, 8)), ((20, 8), (20, 16))]
    assert done[4:7] == [((20, 8), (20, 16)), ((2, 8), (2, 8)), ((2, 8), (2, 8))]


# -------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"rounds": -1}, {"seconds": 0.0}, {"threads": -1}, {"isa": "sse"}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(UsageError):
        Options(**wrong)


def test_an_instruction_set_and_threads_are_an_environment():
    environment = Options(isa="avx2", threads=3).environment
    assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert environment["ATEN_CPU_CAPABILITY"] == "avx2"
    assert environment["OMP_NUM_THREADS"] == "3"


# --------------------------------------------------------------------------------------------------- sides as processes


def test_a_missing_package_is_a_sides_reason(monkeypatch):
    said = []

    class Told:
        ask = None

        def say(self, what):
            said.append(what)

    def missing(name):
        raise ModuleNotFoundError("No module named 'openvino'", name="openvino")

    monkeypatch.setattr(worker, "Channel", Told)
    monkeypatch.setattr(worker.importlib, "import_module", missing)
    monkeypatch.setattr(worker.sys, "argv", ["worker", json.dumps({"side": "answer"})])
    worker.main()
    assert said == [{"failed": "openvino is missing: install textlora[bench]"}]


def test_a_side_that_dies_is_reported_and_the_others_go_on(tmp_path):
    lines = []
    with Sides(tmp_path, {}, lines.append) as sides:
        sides.start("broken", {"side": "no such side"})
        with pytest.raises(Failed, match="KeyError"):
            sides.once("broken too", {"side": "no such side"})
    assert "KeyError" in sides.failed["broken"]
    assert not sides.workers


def test_after_the_end_no_side_is_asked_again(tmp_path):
    class Worked:
        def stop(self):
            return {"peak": 1}

        def round(self, seconds):
            raise AssertionError("it has ended")

    with Sides(tmp_path, {}, lambda line: None) as sides:
        sides.workers["one"] = Worked()  # type: ignore[assignment]
        assert sides.finish() == {"one": {"peak": 1}}
        sides.rounds(1, 0.0)


def bench(capsys, tiny_base, family, *flags):
    folder = str(tiny_base(family))
    sizes = ["--rows", "96", "--rounds", "2", "--seconds", "0.2", "--threads", "1"]
    code = cli.main(["bench", *flags, "--base", family, "--base-weights", folder, *sizes, "--json"])
    out = capsys.readouterr()
    assert code == 0, out.err
    return json.loads(out.out)


@pytest.mark.slow
def test_training_is_measured_beside_peers_and_limit(capsys, tiny_base):
    result = bench(capsys, tiny_base, "bert", "train", "--peers")
    assert {"ours", "peers", "ratio_to_peers", "limit", "limit_share", "isa", "threads", "versions"} <= set(result)
    assert result["threads"] == 1
    assert result["not_measured"] == {}
    assert set(result["peers"]) == {"hf_longest_fp32", "hf_longest_bf16", "hf_max512_fp32", "trainer_expert"}
    ours = result["ours"]
    for name, peer in result["peers"].items():
        assert peer["training_rss_bytes"] > 0
        assert result["ratio_to_peers"][name] == round(ours["samples_per_second"] / peer["samples_per_second"], 2)
    assert result["limit_share"] == round(ours["samples_per_second"] / result["limit"]["samples_per_second"], 3)
    assert ours["startup_seconds"] > 0
    assert ours["engine"] in ("fast", "plain")
    assert result["peers"]["hf_max512_fp32"]["steps"] == 2
    assert not result["peers"]["trainer_expert"]["dropout"]
    assert len(result["peers"]["trainer_expert"]["tried"]) >= 4
    assert "trainer_expert" in bench_table(result)


@pytest.mark.campaign
def test_random_weights_need_no_tokenizer_of_their_own(capsys):
    base = ["--base", "electra-small", "--base-weights", "random:0"]
    code = cli.main(["bench", "train", *base, "--rows", "64", "--rounds", "1", "--seconds", "0.2"])
    out = capsys.readouterr()
    assert code == 0, out.err
    assert "electra-small-discriminator (random weights)" in out.out


@pytest.mark.slow
def test_prediction_is_measured_beside_peers(capsys, tiny_base):
    pytest.importorskip("onnxruntime", reason="it is of the extra bench: pip install '.[bench]'")
    pytest.importorskip("openvino", reason="it is of the extra bench: pip install '.[bench]'")
    result = bench(capsys, tiny_base, "bert", "predict", "--peers")
    assert result["not_measured"] == {}
    peers = {"hf_pipeline", "hf_batched", "onnx_fp32", "onnx_int8", "openvino_bf16", "openvino_int8"}
    assert set(result["peers"]) == set(result["ratio_to_peers"]) == peers
    for side in (result["ours"], *result["peers"].values()):
        assert 0 < side["p50_ms"] <= side["p99_ms"]
        assert side["flips"]["of"] == 96
    for exact in ("hf_pipeline", "onnx_fp32"):
        assert result["peers"][exact]["flips"]["count"] == 0
    assert "openvino_int8" in bench_table(result)


# -------------------------------------------------------------------------------------------------------------- growth


@cache
def growth():
    spec = importlib.util.spec_from_file_location("growth", ROOT / "benchmarks" / "growth.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["growth"] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.sampled_from([16, 64, 512]))
def test_texts_of_one_length_are_that_long(lengths, length):
    made = growth().of_length([np.arange(n, dtype=np.int32) for n in lengths], length)
    assert {len(text) for text in made} == {length}
    assert len(made) >= 8


@pytest.mark.campaign
def test_growth_is_measured_and_drawn(tiny_base, tmp_path, monkeypatch):
    module = growth()
    monkeypatch.setattr(module, "RANKS", (2,))
    monkeypatch.setattr(module, "LENGTHS", (16, 32))
    monkeypatch.setattr(module, "ROWS", (100, 200, 1000))
    flags = ["--base", "bert", "--base-weights", str(tiny_base("bert")), "--out", str(tmp_path), "--seconds", "0.1"]
    module.main([*flags, "--most-rows", "200"])
    found = json.loads((tmp_path / "growth.json").read_text())
    assert [p["tokens"] for p in found["tokens"]] == [16, 32]
    assert [p["rows"] for p in found["rows"]] == [100, 200]
    assert (tmp_path / "growth.png").stat().st_size > 10_000
