"""The corpus itself: enough networks, each the same in every process, none of them degenerate, and those without a graph refused."""

import subprocess
import sys
import warnings

import corpus
import pytest
import torch
from corpus.small import SMALL
from torch.utils import _pytree as pytree

from attar.errors import TraceError
from attar.graph import call_with, trace


def tensors(output: object) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def test_names_are_unique_and_many_enough():
    names = corpus.names()
    assert len(set(names)) == len(names)
    assert len(corpus.HAND_WRITTEN) - len(SMALL) >= 25
    assert len(corpus.TRANSFORMERS) >= 45
    assert not set(names) & set(corpus.UNTRACEABLE)


@pytest.mark.parametrize("name", corpus.HAND_WRITTEN)
def test_a_network_gives_finite_floats_for_two_samples_and_is_the_same_when_built_again(name):
    ((_, model, example),), ((_, again, _),) = (corpus.networks([name]) for _ in range(2))
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        outputs, repeated = tensors(call_with(model, example)), tensors(call_with(again, example))
    for output, other in zip(outputs, repeated, strict=True):
        assert output.dtype == torch.float32
        assert output.isfinite().all()
        assert torch.equal(output, other)
    assert any(2 in output.shape and output.std() > 1e-6 for output in outputs)


def test_transformers_is_imported_only_for_its_own():
    code = "import sys, corpus; list(corpus.networks(['unet', 'zoo_lenet5'])); assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def refuses(name: str) -> None:
    make, example, reason = corpus.UNTRACEABLE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make()
    with pytest.raises(TraceError) as caught:
        trace(model, example)
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", [name for name in corpus.UNTRACEABLE if not name.startswith("transformers_")])
def test_a_network_without_a_graph_is_refused_with_the_reason(name):
    refuses(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what `transformers` warns of is not ours
@pytest.mark.parametrize("name", [name for name in corpus.UNTRACEABLE if name.startswith("transformers_")])
def test_a_transformer_without_a_graph_is_refused_with_the_reason(name):
    refuses(name)
