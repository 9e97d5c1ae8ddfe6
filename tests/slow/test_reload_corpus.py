"""Every network of the corpus is saved, reloaded in a fresh process without its class, and gives bit-equal outputs."""

import json
import os
import subprocess
import sys

import corpus
import pytest
import torch
from torch.utils import _pytree as pytree

from attar.coding import save
from attar.errors import AttarError
from attar.graph import call_with, eval_mode, trace

RUN = """
import sys, json, torch
from attar.coding import load
from attar.graph import call_with, eval_mode
folder = sys.argv[1]
for name in json.load(open(f"{folder}/names.json")):
    program = load(f"{folder}/{name}.attar").program()
    example = torch.load(f"{folder}/{name}.example")
    with eval_mode(program), torch.no_grad():
        torch.save(call_with(program, example), f"{folder}/{name}.result")
assert "transformers" not in sys.modules
"""


def plain(output: object) -> object:
    """Outputs of registered classes as the dict that the reloaded network gives."""
    if isinstance(output, torch.Tensor) or output is None:
        return output
    if isinstance(output, dict):
        return {key: plain(value) for key, value in output.items()}
    return type(output)(plain(value) for value in output) if type(output) in (list, tuple) else plain(dict(vars(output)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what `transformers` warns of is not ours
def test_the_corpus_reloads_bit_equal_in_a_fresh_process(tmp_path):
    expected, refused = {}, {}
    for name, model, example in corpus.networks():
        with eval_mode(model), torch.no_grad():
            output = call_with(model, example)
        try:
            save(trace(model, example), tmp_path / f"{name}.attar")
        except AttarError as error:
            refused[name] = str(error)
            continue
        expected[name] = plain(output)
        torch.save(example, tmp_path / f"{name}.example")
    (tmp_path / "names.json").write_text(json.dumps(list(expected)))
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], check=True, env=os.environ | threads)
    different = []
    for name, output in expected.items():
        got, want = (pytree.tree_leaves(o) for o in (torch.load(tmp_path / f"{name}.result"), output))
        got, want = ([leaf for leaf in leaves if leaf is not None] for leaves in (got, want))
        if len(got) != len(want) or not all(torch.equal(g, w) and g.dtype == w.dtype for g, w in zip(got, want, strict=True)):
            different.append(name)
    print(f"{len(expected)} networks reloaded, {len(refused)} refused: {refused}")
    assert not different
    assert len(expected) >= 150
    assert sum(name.startswith("transformers_") for name in expected) >= 45
    assert {name: reason.partition(" (")[0] for name, reason in refused.items()} == {
        "transformers_Rwkv": "the network writes to its own state while it runs"  # it scales its weights in eval mode
    }
