"""Texts to documents, each of which knows its lines and carries its own faults.

What a scalar means follows from the field it stands in: `name: 010` is a name, a MAC without quotes is no sexagesimal
number, and `portSecurity: no` is refused instead of guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from hitless.core.firewall.faults import Fault
from hitless.core.firewall.nodes import BrokenError, Fields, Items, Node, Scalar, roots
from hitless.core.firewall.schema import KINDS, NAME, VERSION, Part, Spec
from hitless.core.model.security import Place

TEXT_LIMIT = 16 << 20  # characters in one file; 50,000 ports take half of it
_SHOWN = 60  # characters of a value in a message
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,9})")


class Document(msgspec.Struct, frozen=True):
    """One document. `spec` is None if `faults` say why; `kind` and `name` are "" if they could not be read.

    `lines` has the line of each field that is there, under its path: `spec.rules[2].port`, counted from 0.
    """

    kind: str
    name: str
    spec: Spec | None
    place: Place
    lines: Mapping[str, int] = {}
    faults: tuple[Fault, ...] = ()

    def fault(self, field: str, code: str, message: str) -> Fault:
        """A fault at a field's line, or at that of what it is missing in."""
        return Fault(self.place.file, self.place.document, self.line(field), field, code, message)

    def line(self, field: str) -> int:
        """The line of a field, or of the nearest thing around it."""
        while field not in self.lines and (cut := max(field.rfind("."), field.rfind("["))) > 0:
            field = field[:cut]
        return self.lines.get(field, self.place.line)


def unreadable(file: str, code: str, message: str, document: int = 0, line: int = 0) -> Document:
    """What stands for a file, or for the rest of it, that cannot be read."""
    fault = Fault(file, document, line, "file", code, message)
    return Document("", "", None, Place(file, document, line), faults=(fault,))


def read(text: str, file: str) -> tuple[Document, ...]:
    """All documents of one text, faulty ones among them; never raises. `file` may be any place: `store:KEY`."""
    if len(text) > TEXT_LIMIT:
        return (unreadable(file, "intent-too-long", f"over {TEXT_LIMIT >> 20} Mi characters; split it into files"),)
    found: list[Document] = []
    number = 0
    try:
        for number, root in enumerate(roots(text), 1):
            if not (isinstance(root, Scalar) and root.empty):
                found.append(_document(root, Place(file, number, root.line)))
    except BrokenError as error:
        return (*found, unreadable(file, error.code, str(error), number + 1, error.line))
    if not found:
        message = "there is no document in it; was it cut short? Write one, or remove the file"
        return (unreadable(file, "intent-file-empty", message),)
    return tuple(found)


class _Form(msgspec.Struct, frozen=True):
    """What may stand in a field: one of `words`, a list of `items`, or a value of `type`."""

    name: str
    type: Any
    about: str
    required: bool
    alternatives: frozenset[Any]
    words: tuple[str, ...] = ()
    items: _Form | None = None
    is_name: bool = False


def _form(name: str, kind: Any, about: str, required: bool = False) -> _Form:
    bare, is_name = kind, False
    while get_origin(bare) in {Annotated, Union, UnionType}:
        if get_origin(bare) is Annotated:
            for meta in get_args(bare)[1:]:
                about, is_name = meta.description or about, is_name or meta.pattern is not None
            bare = get_args(bare)[0]
        elif len(several := [each for each in get_args(bare) if each is not NoneType]) == 1:
            bare = several[0]
        else:
            return _Form(name, kind, about, required, frozenset(several))
    if get_origin(bare) is Literal:
        return _Form(name, kind, about, required, frozenset({str}), words=get_args(bare))
    if get_origin(bare) is tuple:
        item = _form(name, get_args(bare)[0], about)
        return _Form(name, kind, about, required, frozenset({tuple}), items=item)
    return _Form(name, bare if issubclass(bare, Part) else kind, about, required, frozenset({bare}), is_name=is_name)


@lru_cache
def _forms(kind: type[Part]) -> Mapping[str, _Form]:
    return {each.encode_name: _form(each.name, each.type, "", each.required) for each in msgspec.structs.fields(kind)}


_NOTHING: Final = object()  # what stands for a value that has a fault


class _Reader:
    """Nodes to structs, as the structs' types say; collects faults and the line of every field."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.faults: list[Fault] = []
        self.lines: dict[str, int] = {}

    def fault(self, line: int, field: str, code: str, message: str) -> None:
        self.faults.append(Fault(self.place.file, self.place.document, line, field, code, message))

    def part(self, kind: type[Part], node: Node, path: str) -> Any:
        if not isinstance(node, Fields):
            self.fault(node.line, path or "document", "intent-value", f"a mapping is expected; {_known(_forms(kind))}")
            return _NOTHING
        forms, before, dot = _forms(kind), len(self.faults), f"{path}." if path else ""
        for key, line in node.twice:
            self.fault(line, dot + key, "intent-field-twice", "the field is there twice; keep one of them")
        found: dict[str, Any] = {}
        for key, (line, behind) in node.fields.items():
            if key in forms:
                self.lines[dot + key] = line
                found[forms[key].name] = self.value(forms[key], behind, dot + key)
            elif key != kind.__struct_config__.tag_field:
                hint = meant(key, forms) or _known(forms)
                self.fault(line, dot + key[:_SHOWN], "intent-field-unknown", f"there is no such field; {hint}")
        for key, form in forms.items():
            if form.required and key not in node.fields:
                about = f": {form.about}" if form.about else ""
                self.fault(node.line, dot + key, "intent-field-missing", f"the field is missing; add it{about}")
        return kind(**found) if len(self.faults) == before else _NOTHING

    def value(self, form: _Form, node: Node, path: str) -> Any:
        if isinstance(node, Scalar) and node.empty:
            return self.refuse(node, path, "nothing stands here; give a value, or leave the field out")
        if form.items is not None:
            if not isinstance(node, Items):
                return self.refuse(node, path, f"a list is expected: {form.about}")
            return tuple(self.item(form.items, each, f"{path}[{n}]") for n, each in enumerate(node.items))
        if isinstance(form.type, type) and issubclass(form.type, Part):
            return self.part(form.type, node, path)
        if not isinstance(node, Scalar):
            return self.refuse(node, path, f"a single value is expected: {form.about}")
        return self.scalar(form, node, path)

    def item(self, form: _Form, node: Node, path: str) -> Any:
        self.lines[path] = node.line
        return self.value(form, node, path)

    def scalar(self, form: _Form, node: Scalar, path: str) -> Any:
        value: Any = node.text
        if form.words and value not in form.words:
            return self.refuse(node, path, f"{shown(value)} is not one of {', '.join(form.words)}")
        if form.is_name and not NAME.fullmatch(value):
            return self.refuse(node, path, f"{shown(value)} is no name: 1 to 63 of A-Z a-z 0-9 . _ : -", "intent-name")
        if bool in form.alternatives:
            value = {"true": True, "false": False}.get(value) if node.plain else None
            if value is None:
                return self.refuse(node, path, f"{shown(node.text)} is neither true nor false; {form.about}")
        elif int in form.alternatives and node.plain and _NUMBER.fullmatch(value):
            value = int(value)
        try:
            return msgspec.convert(value, form.type)
        except msgspec.ValidationError:
            return self.refuse(node, path, f"{shown(node.text)} does not fit: {form.about}")

    def refuse(self, node: Node, path: str, message: str, code: str = "intent-value") -> Any:
        self.fault(node.line, path, code, message)
        return _NOTHING


def _document(root: Node, place: Place) -> Document:
    reader = _Reader(place)
    if not isinstance(root, Fields):
        reader.fault(root.line, "document", "intent-value", f"a mapping is expected; {_known(_ENVELOPE)}")
        return Document("", "", None, place, faults=tuple(reader.faults))
    version, kind, name = _word(root, "apiVersion"), _word(root, "kind"), _word(root, "metadata", "name")
    made: Any = _NOTHING
    if version not in {"", VERSION}:
        message = f"{shown(version)} is not known to this version of hitless; write {VERSION}"
        reader.fault(root.fields["apiVersion"][0], "apiVersion", "intent-version", message)
    elif kind in KINDS:
        made = reader.part(KINDS[kind], root, "")
    else:
        line = root.fields["kind"][0] if "kind" in root.fields else root.line
        hint = meant(kind, KINDS) or f"write one of {', '.join(KINDS)}"
        reader.fault(line, "kind", "intent-kind", f"{shown(kind)} is no kind of document; {hint}")
    spec = None if made is _NOTHING else made.spec
    return Document(kind if kind in KINDS else "", name, spec, place, reader.lines, tuple(reader.faults))


_ENVELOPE: Final = ("apiVersion", "kind", "metadata", "spec")


def _word(node: Node, *path: str) -> str:
    """The scalar at a path, "" if there is none."""
    for key in path:
        if not isinstance(node, Fields) or key not in node.fields:
            return ""
        node = node.fields[key][1]
    return node.text if isinstance(node, Scalar) else ""


def shown(text: str) -> str:
    """A value as it stands in a message: quoted, and not too long."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _known(names: Iterable[str]) -> str:
    return f"its fields are {', '.join(names)}"


def meant(text: str, names: Iterable[str]) -> str:
    """A question for somebody who has mistyped a name, "" if none is like it."""
    close = get_close_matches(text[:_SHOWN], names, n=1)
    return f"did you mean {close[0]}?" if close else ""
