"""Pruned networks of six kinds leave the library: as ONNX they give the same numbers, as `.attar` in a fresh process the same bits."""

import os
import subprocess
import sys

import corpus
import pytest
import torch
from torch.utils import _pytree as pytree

from attar.coding import save
from attar.evaluation import compare
from attar.graph import call_with, eval_mode, trace
from attar.pruning import prune_structure

NETWORKS = ["residual", "mobilenet_v2", "unet", "vit_fused", "zoo_resnet20", "transformers_Bert"]

RELOAD = """
import sys, torch
from attar.coding import load
from attar.graph import call_with, eval_mode
from torch.utils import _pytree as pytree
program, example = load(f"{sys.argv[1]}/network.attar").program(), torch.load(f"{sys.argv[1]}/example.pt")
with eval_mode(program), torch.no_grad():
    leaves = pytree.tree_leaves(call_with(program, example))
torch.save([leaf for leaf in leaves if isinstance(leaf, torch.Tensor)], f"{sys.argv[1]}/outputs.pt")
"""


def outputs(model, example):
    with eval_mode(model), torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(call_with(model, example)) if isinstance(leaf, torch.Tensor)]


@pytest.fixture(params=NETWORKS)
def pruned(request):
    """A network at half of its filters and heads, and an example."""
    [(_, model, example)] = corpus.networks([request.param])
    surgery = prune_structure(model, example, keep=0.5, allocation="layer")
    before, after = surgery.selection.parameters
    assert after == sum(parameter.numel() for parameter in surgery.model.parameters())
    assert after < 0.8 * before
    return surgery.model.eval(), example


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the exporter and `transformers` warn of is not ours
def test_onnx_runtime_gives_the_same_numbers(pruned, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, example = pruned
    wanted = outputs(model, example)
    args, kwargs = ((), dict(example)) if isinstance(example, dict) else (tuple(example), None)
    with eval_mode(model):
        torch.onnx.export(model, args, tmp_path / "network.onnx", kwargs=kwargs, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    values = [leaf.numpy() for leaf in pytree.tree_leaves(example)]
    got = session.run(None, dict(zip([node.name for node in session.get_inputs()], values, strict=True)))
    assert compare([torch.from_numpy(value) for value in got], wanted) < 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_fresh_process_gives_the_same_bits(pruned, tmp_path):
    model, example = pruned
    wanted = outputs(model, example)
    save(trace(model, example), tmp_path / "network.attar")
    torch.save(example, tmp_path / "example.pt")
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-c", RELOAD, str(tmp_path)], check=True, env=os.environ | threads)
    got = torch.load(tmp_path / "outputs.pt")
    assert [leaf.dtype for leaf in got] == [leaf.dtype for leaf in wanted]
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
