"""YAML as recipes use it: safe, with 1e-5 a number (YAML 1.2), dates left as text, and duplicate keys refused."""

import re
from typing import Any

import yaml

_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name and type
        first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    pass


for _class in (_Loader, _Dumper):  # the dumper must quote whatever the loader would not read back as text
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(f"^(?:{_FLOAT.pattern})$"), list("-+.0123456789")
    )


_LINE_BREAKS = "\x85\u2028\u2029"


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    seen = set()
    for key, _ in node.value:
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            problem = f"the key {loader.construct_object(key, deep=True)!r} is not text: quote it"
        elif key.value in seen:
            problem = f"the key {key.value} stands here twice"
        else:
            seen.add(key.value)
            continue
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
    loader.flatten_mapping(node)  # what << brings in comes first, so that a key of its own wins
    return {loader.construct_object(key): loader.construct_object(value, deep=True) for key, value in node.value}


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """Between double quotes where it holds a line break of Unicode: PyYAML writes it as it is elsewhere, and folds it."""
    style = '"' if any(character in text for character in _LINE_BREAKS) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def parse(text: str) -> Any:
    """Mappings with text keys, lists, text, numbers, booleans, null. Raises yaml.YAMLError."""
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, KeyError) as error:  # PyYAML's own, of a value that does not fit the type it is tagged with
        raise yaml.YAMLError(f"a value does not fit its type: {error}") from None


def render(value: Any) -> str:
    """The inverse; keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
