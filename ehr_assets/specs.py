"""Loading YAML specs (cohorts, tasks, corpora, recipes, reports); errors name file, key and reason."""

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ehr_assets.credentials import refuse_secrets
from ehr_assets.errors import SpecError
from ehr_assets.yamls import parse_yaml


class Spec(BaseModel):
    """Base of every spec: unknown keys are errors, values cannot be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def config_hash(self, *parts: str) -> str:
        """Hash of the named fields (all of them by default); equal specs give equal hashes."""
        data = self.model_dump(mode="json", include=set(parts) or None)
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


SpecT = TypeVar("SpecT", bound=Spec)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping at the top of a YAML file."""
    try:
        data = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SpecError("The spec file does not exist.", where=str(path), do="Check the path.") from None
    except OSError as e:
        raise SpecError(
            f"The spec file cannot be read ({e.strerror}).", where=str(path), do="Check the path."
        ) from None
    except UnicodeDecodeError as e:
        raise SpecError(
            "The spec is not UTF-8.", where=f"{path}, byte {e.start}", do="Save it as UTF-8."
        ) from e
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(e, "problem", None) or getattr(e, "reason", None) or "it cannot be parsed"
        raise SpecError(f"The spec is not valid YAML: {reason}.", where=f"{path}{line}", do="Mend it.") from e
    if not isinstance(data, dict):
        raise SpecError("A spec must be a mapping of keys to values.", where=str(path), do="Mend the file.")
    refuse_secrets(data, str(path))
    return data


Layer = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


def read_extended(file: Path, folders: Iterable[Path], *, what: str, layer: Layer) -> dict[str, Any]:
    """The mapping at the top of a YAML file, laid over that of the file which its `extends` names, if any.

    Args:
        folders: where that name is looked up, after the file's own folder.
        what: such a file describes, for errors.
        layer: what a file makes of the one it extends: ``layer(base, own)``.

    Raises:
        SpecError: no such file, or files that extend one another in a circle.
    """
    return _extended(file, list(folders), what, layer, ())


def _extended(
    file: Path, folders: list[Path], what: str, layer: Layer, seen: tuple[Path, ...]
) -> dict[str, Any]:
    if file in seen:
        chain = " extends ".join(p.stem for p in (*seen, file))
        raise SpecError(
            f"{what.capitalize()}s extend one another in a circle: {chain}.", where=str(file), do="Break it."
        )
    own = read_yaml(file)
    parent = own.pop("extends", None)
    if parent is None:
        return own
    if not isinstance(parent, str):
        raise SpecError(f"extends: must be the name of one {what}.", where=str(file), do="Give a name.")
    base = find_spec(parent, [file.parent, *folders], what=what, asked_by=file)
    return layer(_extended(base, folders, what, layer, (*seen, file)), own)


def find_spec(name: str, folders: Iterable[Path], *, what: str, asked_by: Path | None = None) -> Path:
    """The file of the spec `name` in the first folder that has it. Raises SpecError where none has."""
    folders = list(folders)
    for folder in folders:
        if Path(name).name == name and (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    raise SpecError(
        f"{'extends: t' if asked_by else 'T'}here is no {what} '{name}'.{closest(name, known)}",
        where=str(asked_by) if asked_by else None,
        do=f"Choose one of: {', '.join(known) or '(none found)'}.",
    )


def layered(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` wins; mappings merge key by key, unless their `kind` differs; lists and scalars replace."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        mergeable = isinstance(old, dict) and isinstance(value, dict)
        if mergeable and value.get("kind", old.get("kind")) == old.get("kind"):  # type: ignore[union-attr]
            out[key] = layered(old, value)  # type: ignore[arg-type]
        else:
            out[key] = value
    return out


def parse_spec(
    model: type[SpecT], data: Mapping[str, Any], where: str, overrides: Mapping[str, Any] | None = None
) -> SpecT:
    """Validates `data`, with `overrides` laid over it, as `model`.

    Args:
        where: what the data was read from.
        overrides: by dotted keys, e.g. ``{"source.subjects": 60}``.

    Raises:
        SpecError: listing every offending key with its reason.
    """
    if overrides:
        where = f"{where}, with overrides of {', '.join(overrides)}"
        data = _overridden(data, overrides, where)
    try:
        return model.model_validate(data)
    except ValidationError as e:
        problems = [_problem(model, err) for err in e.errors() if not _follows(err, e.errors())]
        raise SpecError(
            f"{len(problems)} problem(s) in this spec:\n    " + "\n    ".join(problems),
            where=where,
            do="Mend the keys named above.",
        ) from None


def _follows(error: Any, errors: Sequence[Any]) -> bool:
    """Whether a list is too short only because an item in it has an error of its own."""
    at = error["loc"]
    return error["type"] == "too_short" and any(
        len(e["loc"]) > len(at) and e["loc"][: len(at)] == at for e in errors
    )


def _overridden(data: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> dict[str, Any]:
    out = json.loads(json.dumps(data, default=str))
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        node: Any = out
        for key in parents:
            if isinstance(node, dict):
                node = node.setdefault(key, {})
            else:
                node = node[_place(node, key, dotted, where)]
        if isinstance(node, dict):
            node[last] = value
        else:
            node[_place(node, last, dotted, where)] = value
    return out


def _place(node: Any, key: str, dotted: str, where: str) -> int:
    """Where the part `key` of a dotted override stands in a list."""
    if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
        return int(key)
    into = f"a list of {len(node)}" if isinstance(node, list) else "a value that has no parts"
    raise SpecError(
        f"The override '{dotted}' steps into {into}: there is no '{key}'.", where=where, do="Mend its key."
    )


def closest(name: str, known: Iterable[str]) -> str:
    """A ' Did you mean ...?' hint, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{found[0]}'?" if found else ""


def _problem(model: type[BaseModel], err: Any) -> str:
    loc = [str(part) for part in err["loc"]]
    key = ".".join(loc)
    if err["type"] == "extra_forbidden":
        return f"{key}: unknown key.{closest(loc[-1], _field_names(model, err['loc'][:-1]))}"
    reason = err["msg"].removeprefix("Value error, ")
    return f"{key}: {reason}" if key else reason


def _field_names(model: type[BaseModel], path: Iterable[Any]) -> set[str]:
    """Field names of the model found by walking `path`, looking through lists, unions and dicts."""
    models = {model}
    for part in path:
        nested: set[type[BaseModel]] = set()
        for m in models:
            if isinstance(part, str) and part in m.model_fields:
                nested |= models_in(m.model_fields[part].annotation)
        models = nested or models
    return {name for m in models for name in m.model_fields}


def models_in(annotation: Any) -> set[type[BaseModel]]:
    """The models that a type annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {m for arg in getattr(annotation, "__args__", ()) for m in models_in(arg)}
