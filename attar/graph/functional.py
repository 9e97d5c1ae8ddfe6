"""In-place ops of an exported graph made functional, where it can be proven that nobody sees the difference."""

from typing import Any

import torch
from torch import fx

__all__ = ["make_functional"]

# a view of the argument or a copy, as it falls: treat as a view
_MAYBE_VIEW = {"reshape", "contiguous", "to", "flatten", "dropout", "type_as", "expand_as", "view_as", "reshape_as"}


def make_functional(graph: fx.Graph) -> list[str]:
    """Replace every in-place op by its functional twin; return the ops that could not be, as text.

    An op is replaced where the storage it writes has no other name, made before, that is read later, and does not
    belong to an input or a held tensor. Later uses of the written tensor then read the result instead.
    """
    root: dict[fx.Node, fx.Node] = {}
    members: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        viewed = _aliases(node)
        root[node] = root[viewed[0]] if viewed else node
        members.setdefault(root[node], []).append(node)
    order = {node: i for i, node in enumerate(graph.nodes)}
    left = []
    for node in list(graph.nodes):
        if not _is_aten(node) or not node.target._schema.is_mutable:
            continue
        written = node.args[0]
        names = [m for m in members[root[node]] if m is not node and m is not written and order[m] < order[node]]
        seen = any(order[user] > order[node] for name in names for user in name.users)
        twin = _functional_twin(node.target)
        if twin is None or seen or root[node].op in ("placeholder", "get_attr"):
            left.append(node.format_node() or node.name)
            continue
        node.target = twin
        for user in [u for u in written.users if order[u] > order[node]]:
            user.replace_input_with(written, node)
    graph.lint()
    return left


def _is_aten(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)


def _aliases(node: fx.Node) -> list[fx.Node]:
    """The argument nodes whose storage the result shares: views, and in-place results."""
    if node.op != "call_function":
        return []
    if not _is_aten(node):
        return [node.args[0]] if getattr(node.target, "__name__", "") == "getitem" and isinstance(node.args[0], fx.Node) else []
    schema = node.target._schema  # type: ignore[union-attr]
    returned = {s for r in schema.returns if r.alias_info for s in r.alias_info.before_set}
    found = []
    for position, argument in enumerate(schema.arguments):
        value: Any = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
        info = argument.alias_info
        if info and (info.is_write or returned & set(info.before_set)) and isinstance(value, fx.Node):
            found.append(value)
    if not found and schema.name.split("::")[1] in _MAYBE_VIEW and isinstance(node.args[0], fx.Node):
        found.append(node.args[0])
    return found


def _functional_twin(target: Any) -> Any:
    """`aten.relu.default` for `aten.relu_.default`, or None; `copy_` has none, because it ignores what it overwrites."""
    name = target._schema.name.split("::")[1]
    if not name.endswith("_") or name == "copy_":
        return None
    packet = getattr(torch.ops.aten, name.rstrip("_"), None)
    return getattr(packet, target._overloadname, None) if packet is not None else None
