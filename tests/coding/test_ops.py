import pytest
import torch

from attar.coding import ops
from attar.errors import FormatError


@pytest.mark.parametrize("name", sorted({*ops.ATEN, *ops.OWN}))
def test_every_listed_op_exists_and_writes_to_nothing(name):
    assert not ops.resolve(name)._schema.is_mutable


def test_no_listed_op_gives_memory_that_nobody_wrote_or_draws_random_numbers():
    words = (
        "empty",
        "as_strided",
        "set_",
        "resize",
        "from_file",
        "rand",
        "bernoulli",
        "multinomial",
        "normal",
        "nonzero",
        "unique",
        "item",
        "_grouped_mm",
    )
    allowed = {"normalize"}
    assert not [name for name in ops.ATEN for word in words if name.startswith(word) and name not in allowed]


def test_enumerations_may_not_be_plain_numbers():
    ops.check_arguments("clone", (None,), {"memory_format": torch.channels_last})
    with pytest.raises(FormatError, match="memory_format"):
        ops.check_arguments("clone", (None,), {"memory_format": 5})
    with pytest.raises(FormatError, match="'dim'"):
        ops.check_arguments("select.int", (None, torch.float32, 0), {})


def test_an_unknown_op_is_named():
    with pytest.raises(FormatError, match="'frobnicate'"):
        ops.resolve("frobnicate")
