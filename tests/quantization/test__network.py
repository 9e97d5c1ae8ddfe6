import pytest
import torch
from torch import nn

from attar import forms
from attar.errors import AttarError
from attar.quantization import quantize_weights
from attar.quantization.kmeans import kmeans


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 16), nn.Linear(16, 20))


def test_bits_by_pattern():
    model = network()
    made = quantize_weights(model, bits={"0": 5, "[34]": 2}, init="density", seed=1)
    assert {name: form.centroids.shape[0] for name, form in made.items()} == {"0": 32, "3": 4, "4": 4}
    assert all(forms.of(model[int(name)], "weight") is form for name, form in made.items())
    expected = kmeans(network()[3].weight, bits=2, init="density", seed=1)
    assert torch.equal(model[3].weight, expected())


def test_weights_that_no_pattern_names_stay_as_they_are():
    model = network()
    assert list(quantize_weights(model, bits={"3": 2})) == ["3"]
    assert list(quantize_weights(network(), bits=2, layers="[34]")) == ["3", "4"]
    assert list(quantize_weights(network(), bits={"*": 2}, layers=["4"])) == ["4"]
    assert forms.of(model[0], "weight") is None


def test_of_a_sparse_weight_the_kept_values_are_quantized():
    model = network()
    mask = model[3].weight.detach().abs() > 0.1
    values = model[3].weight.detach()[mask]
    forms.attach(model[3], "weight", forms.Sparse(mask, values))
    quantize_weights(model, bits=2, layers="3")
    form = forms.of(model[3], "weight")
    assert isinstance(form, forms.Sparse)
    assert torch.equal(form.values(), kmeans(values, bits=2)())
    assert not bool(model[3].weight[~mask].any())


def test_a_users_own_quantizer():
    model = nn.Linear(3, 2)
    quantize_weights(model, method=lambda weight, *, bits, seed: forms.Codebook(torch.zeros(2, 3, dtype=torch.long), torch.ones(1)))
    assert model.weight.tolist() == [[1.0] * 3] * 2


def test_tied_weights_share_one_form():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    assert list(quantize_weights(model)) == ["0"]
    assert forms.of(model[0], "weight") is forms.of(model[1], "weight")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, "bits must be a whole number from 1 to 16, got 0"),
        ({"bits": {"3": 4, "4": 17}}, "bits must be a whole number from 1 to 16, got 17"),
        ({"bits": {"fc*": 4}}, r"layer pattern 'fc\*' matches nothing"),
        ({"layers": "fc*"}, r"layer pattern 'fc\*' matches nothing"),
        ({"bits": {"3": 4}, "layers": "4"}, "Sequential has no weight to quantize"),
        ({"method": "kmean"}, "no quantization 'kmean', did you mean 'kmeans'"),
    ],
)
def test_bad_settings_change_nothing(settings, message):
    model = network()
    with pytest.raises(AttarError, match=message):
        quantize_weights(model, **settings)
    assert not any(forms.names(layer) for layer in model.modules())


def test_quantizing_twice_is_refused():
    model = network()
    quantize_weights(model, layers="3")
    with pytest.raises(AttarError, match="3 carries a Codebook already"):
        quantize_weights(model)


def test_a_broken_weight_is_named():
    model = network()
    with torch.no_grad():
        model[3].weight[1, 2] = float("inf")
    with pytest.raises(AttarError, match=r"3\.weight holds NaN or infinite"):
        quantize_weights(model)


def test_a_network_without_weights():
    with pytest.raises(AttarError, match="Sequential has no weight to quantize"):
        quantize_weights(nn.Sequential(nn.ReLU()))
