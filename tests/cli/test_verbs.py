"""Each verb does what its help says, and prints JSON where asked."""

import json
import subprocess
import sys

import pytest

from attar.evaluation import Report
from attar.names import FAMILIES, members

VERBS = ("bench", "compress", "demo", "evaluate", "inspect", "ls", "report")


def test_help_names_every_verb(attar):
    status, out, _ = attar("--help")
    assert status == 0
    for verb in VERBS:
        assert verb in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(attar, verb):
    status, out, _ = attar(verb, "--help")
    assert status == 0
    assert "--json" in out


def test_ls_lists_every_member_of_every_family(attar):
    status, out, _ = attar("ls")
    assert status == 0
    for family in FAMILIES:
        assert family in out
        for name in members(family):
            assert name in out
    assert "deep-compression" in out
    assert set(json.loads(attar("ls", "zoo", "--json")[1])) == {"zoo"}


def test_inspect_shows_layers_and_totals(attar):
    status, out, _ = attar("inspect", "zoo:lenet5")
    assert status == 0
    for said in ("conv1", "fc2", "400,000", "1,600,000", "431,080", "prune, quantize"):
        assert said in out
    found = json.loads(attar("inspect", "zoo:lenet5", "--json")[1])
    assert found["macs"] == 2_293_000
    assert found["flops"] == found["multiplications"] + found["additions"]
    assert [layer["multiplications"] for layer in found["layers"]] == [288_000, 1_600_000, 400_000, 5_000]


def test_inspect_a_user_s_network_without_a_graph(attar, tmp_path, monkeypatch):
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x) if x.sum() > 0 else x\n"
        "def build():\n"
        "    return Net(4, 4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    status, out, _ = attar("inspect", "mynet:build", "--shape", "4")
    assert status == 0
    assert "no graph: Net cannot be traced" in out
    assert attar("inspect", "mynet:build")[0] == 2


def test_compress_leaves_file_and_reports(compressed):
    assert {path.name for path in compressed.iterdir()} >= {"model.attar", "report.json", "report.md", "report.html", "run.json"}


def test_report_prints_every_format(attar, compressed):
    texts = {form: attar("report", compressed, "--format", form)[1] for form in ("text", "markdown", "json", "html")}
    report = Report.from_json(texts["json"])
    assert texts["text"].startswith(report.verdict)
    assert report.verdict in texts["markdown"]
    assert texts["html"] == (compressed / "report.html").read_text()
    assert attar("report", compressed, "--json")[1] == texts["json"]


def test_evaluate_in_a_new_process_is_bit_equal(compressed):
    command = [sys.executable, "-m", "attar.cli.main", "evaluate", str(compressed / "model.attar"), "--data", "digits", "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    report = Report.from_json((compressed / "report.json").read_text())
    assert found["fingerprint"] == report.result.fingerprint
    assert found["metrics"]["top-1"]["mean"] == report.result.metrics["top-1"].mean


def test_evaluate_against_another(attar, compressed):
    status, out, _ = attar("evaluate", compressed / "model.attar", "--data", "digits", "--against", compressed / "model.attar")
    assert status == 0
    assert "+0.00" in out
    assert "logits sha256" in out


def test_bench_times_and_compares(attar, compressed):
    status, out, _ = attar("bench", "zoo:digits_net", compressed / "model.attar", "--repeats", "3", "--threads", "1")
    assert status == 0
    assert "1 threads" in out
    rows = json.loads(attar("bench", "zoo:digits_net", "zoo:digits_net", "--repeats", "3", "--json")[1])["rows"]
    assert [row["network"] for row in rows] == ["zoo:digits_net (1)", "zoo:digits_net (2)"]
    assert rows[1]["output difference"] == 0


def test_overwrite_begins_again_and_resume_does_nothing_more(attar, compressed, recipe, tmp_path):
    out = tmp_path / "out"
    common = ("compress", "zoo:digits_net", "--data", "digits", "--recipe", recipe, "--out", out)
    assert attar(*common)[0] == 0
    first = (out / "model.attar").read_bytes()
    assert first == (compressed / "model.attar").read_bytes()
    assert attar(*common)[0] == 2
    assert attar(*common, "--resume")[0] == 0
    assert attar(*common, "--overwrite")[0] == 0
    assert (out / "model.attar").read_bytes() == first
    (out / "diary.txt").write_text("mine")
    status, _, err = attar(*common, "--overwrite")
    assert status == 2
    assert "diary.txt" in err
    assert (out / "model.attar").read_bytes() == first


def test_a_network_with_weights_is_not_trained_again(attar, compressed, recipe, tmp_path):
    status, out, _ = attar("compress", compressed / "model.attar", "--data", "digits", "--recipe", recipe, "--out", tmp_path / "o")
    assert status == 2  # its values are shared already: said by the recipe's check, not met after training
    (tmp_path / "r.yaml").write_text("- train: {epochs: 50, lr: 0.1}\n- finetune: {epochs: 1, lr: 0.0001}\n")
    status, out, _ = attar(
        "compress", compressed / "model.attar", "--data", "digits", "--recipe", tmp_path / "r.yaml", "--out", tmp_path / "o", "--json"
    )
    assert status == 0
    assert [row["stage"] for row in json.loads(out)["stages"]] == ["as given", "finetune", "code"]
