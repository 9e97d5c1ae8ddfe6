"""Weights from safetensors files: they land where they belong, and a file that does not fit says why."""

import pytest
import torch
from safetensors.torch import save_file

from attar import names, zoo
from attar.errors import AttarError, DataError, FormatError
from attar.zoo._weights import PRETRAINED
from attar.zoo.cifar_resnet import resnet20
from attar.zoo.lenet import lenet5, lenet_300_100


@pytest.fixture
def saved(tmp_path):
    def save(state):
        path = tmp_path / "net.safetensors"
        save_file({name: value.contiguous() for name, value in state.items()}, path)
        return path

    return save


def test_round_trip_without_batch_counters(saved):
    source, target = resnet20(), resnet20()
    for buffer in source.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    path = saved({name: value for name, value in source.state_dict().items() if "num_batches" not in name})
    assert zoo.load_weights(target, path) is target
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(source.eval()(x), target.eval()(x))


def test_caffes_names(saved):
    source = lenet5()
    path = saved({name.replace("fc", "ip"): value for name, value in source.state_dict().items()})
    loaded = zoo.load_weights(lenet5(), path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in source.state_dict().items())


def test_a_file_that_does_not_fit_changes_nothing_and_says_why(saved):
    state = lenet_300_100().state_dict()
    state["fc3.wieght"] = state.pop("fc3.weight")
    state["fc1.bias"] = torch.zeros(299)
    model = lenet_300_100()
    before = model.fc2.weight.clone()
    with pytest.raises(AttarError) as caught:
        zoo.load_weights(model, saved(state))
    message = str(caught.value)
    assert "'fc3.weight' is not in the file, did you mean 'fc3.wieght'?" in message
    assert "'fc3.wieght' is not in the network" in message
    assert "'fc1.bias' is [299] in the file and [300] in the network" in message
    assert "\n" not in message
    assert torch.equal(model.fc2.weight, before)


def test_long_lists_of_faults_are_cut(saved):
    with pytest.raises(AttarError, match=r"and [0-9]+ more"):
        zoo.load_weights(resnet20(), saved(lenet5().state_dict()))


@pytest.mark.parametrize("content", [b"", b"garbage that is no header", (2**60).to_bytes(8, "little") + b"{}"])
def test_damaged_files(tmp_path, content):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="not a sound safetensors file"):
        zoo.load_weights(lenet5(), path)


def test_truncated_file(saved):
    path = saved(lenet5().state_dict())
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(FormatError):
        zoo.load_weights(lenet5(), path)


def test_where_weights_lie(tmp_path):
    with pytest.raises(AttarError, match="no pretrained weights for 'resnet65', did you mean 'resnet56'"):
        zoo.weights("resnet65", tmp_path)
    with pytest.raises(DataError, match="--weights"):
        zoo.weights("resnet56", tmp_path)
    with pytest.raises(AttarError, match="there is no file"):
        zoo.load_weights(lenet5(), tmp_path / "absent.safetensors")
    path = tmp_path / "pretrained" / "resnet56-cifar10.safetensors"
    path.parent.mkdir()
    path.touch()
    assert zoo.weights("resnet56", tmp_path) == path


def test_pretrained_names_are_in_the_zoo():
    assert set(PRETRAINED) <= set(names.members("zoo"))


def test_preprocessing_of_a_network_that_says_nothing():
    assert zoo.preprocessing(torch.nn.Linear(2, 2)) == {}
