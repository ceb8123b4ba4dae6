"""YAML as people mean it: the core schema of YAML 1.2, no key twice, nothing that explodes.

PyYAML reads YAML 1.1, in which an unquoted `on` or `NO` is a boolean, `2000-01-01` a date, `12:30` the number
750 and `0042` the number 34; and of a key given twice it keeps the last without a word. What the keys mean is
the business of `specs.py` and of the rooms.
"""

import re
from typing import Any

import yaml

MAX_NODES = 1_000_000  # of a document with its aliases written out: a bomb has billions, a spec thousands
MAX_DEPTH = 100


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast


class Loader(_Base):
    """PyYAML's safe loader with YAML 1.2's scalars."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (PyYAML declares it so)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int | str:
        text = self.construct_scalar(node)
        try:
            return int(text)
        except ValueError:  # more digits than Python converts
            return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _no_key_twice(node)
        return super().construct_mapping(node, deep=deep)


_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    # No leading zeros: 0042 is an id, not a number.
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", r"<<", "<"),
)
for _tag, _pattern, _first in _SCALARS:
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
for _tag in ("binary", "timestamp", "omap", "pairs", "set"):
    Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", Loader.construct_undefined)


def parse_yaml(text: str) -> Any:
    """The document in `text`.

    Raises:
        yaml.YAMLError: it is not YAML, gives a key twice, refers to itself, is nested too deeply, or grows
            beyond all measure when its aliases are written out.
    """
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {}, 0)
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.constructor.ConstructorError(None, None, "it is nested too deeply") from None
    except ValueError as e:
        if isinstance(e, yaml.YAMLError):
            raise
        raise yaml.constructor.ConstructorError(None, None, "it holds a value that cannot be read") from None
    finally:
        loader.dispose()


def _no_key_twice(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be a word, not a list or a mapping", key.start_mark
            )
        if (key.tag, key.value) in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{key.value}' is given twice", key.start_mark
            )
        if key.tag != "tag:yaml.org,2002:merge":
            seen.add((key.tag, key.value))


def _measure(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """Nodes with aliases written out."""
    if depth > MAX_DEPTH:
        raise _problem(node, "it is nested too deeply")
    if isinstance(node, yaml.ScalarNode):
        return 1
    known = sizes.get(id(node))
    if known == 0:
        raise _problem(node, "an alias refers to what it is in")
    if known is not None:
        return known
    sizes[id(node)] = 0
    children = [n for pair in node.value for n in pair] if isinstance(node, yaml.MappingNode) else node.value
    size = 1 + sum(_measure(child, sizes, depth + 1) for child in children)
    if size > MAX_NODES:
        raise _problem(node, "its aliases multiply beyond all measure")
    sizes[id(node)] = size
    return size


def _problem(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
