"""How networks are trained. Level 2: imports level 0 only.

`train(model, task, settings=Settings(epochs=..., lr=...))` is the one loop; it knows of methods only that they are `Step`s.
`model_state` and `restore_model` turn a network, forms and all, into plain values and back; `save_state` and `load_state`
keep such values in one file that is never half written.
"""

from attar.training.checkpoint import Checkpoint, discard_state, load_state, save_state
from attar.training.engine import Engine, end_training, start
from attar.training.loop import History, train
from attar.training.progress import bar
from attar.training.settings import Settings, rate
from attar.training.state import model_state, restore_model

__all__ = [
    "Checkpoint",
    "Engine",
    "History",
    "Settings",
    "bar",
    "discard_state",
    "end_training",
    "load_state",
    "model_state",
    "rate",
    "restore_model",
    "save_state",
    "start",
    "train",
]
