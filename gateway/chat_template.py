"""Lays out a conversation by the checkpoint's chat template; control tokens can't be forged.

Knows jinja2 and the spelling of control tokens; knows nothing of ids or of how text is encoded.

The template is the authority over the layout, and decides with the messages' true contents. But
only control tokens that the *template* writes may become ids; those that a message spells are text.
So the template is compiled twice: as it is, and with each control token that it can write replaced
by one lone surrogate. No valid text has surrogates, so none can come from a message. The second
rendering tells where control tokens are; it must agree with the first everywhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

ROLES = ("system", "user", "assistant", "model")
"""What a message's role may be; "model" is another name of "assistant"."""

_FIRST_MARK = 0xD800
_MAX_CONTROL_TOKENS = 0x800
_MARKS = re.compile("([\ud800-\udfff])")
_SHOWN_CHARACTERS = 300
_PROBES = (("user",), ("system", "user"), ("user", "assistant", "user"))


class ChatTemplateError(ValueError):
    """A conversation that can't be laid out.

    Attributes:
        field: what is at fault, e.g. "messages" or "messages[2].role".
        problem: one sentence without the field.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation."""

    role: str
    """One of `ROLES`."""
    content: str


@dataclass(frozen=True, slots=True)
class ControlToken:
    """A control token that the template wrote, by its spelling."""

    spelling: str


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: the template.
        control_tokens: spellings of all control tokens.
        variables: what the template may use beside the messages, e.g. `bos_token`.

    Raises:
        ChatTemplateError: the template can't be parsed, or writes control tokens in a way that
            can't be told from text.
    """

    def __init__(
        self, source: str, control_tokens: Sequence[str], variables: Mapping[str, str]
    ) -> None:
        if len(control_tokens) > _MAX_CONTROL_TOKENS or _MARKS.search(source):
            raise ChatTemplateError(
                "chat_template",
                f"must have no lone surrogates and at most {_MAX_CONTROL_TOKENS:,} control tokens",
            )
        self._spelling_of_mark = {
            chr(_FIRST_MARK + index): spelling for index, spelling in enumerate(control_tokens)
        }
        self._marker = _Marker({s: mark for mark, s in self._spelling_of_mark.items()})
        self._variables = dict(variables)
        self._marked_variables = {k: self._marker.mark(v) for k, v in variables.items()}
        environment = _environment()
        try:
            self._plain = environment.from_string(source)
            self._marked = environment.from_string(self._marker.visit(environment.parse(source)))
        except jinja2.TemplateSyntaxError as error:
            raise ChatTemplateError("chat_template", f"line {error.lineno}: {error}") from None
        self._probe()

    def render(
        self, messages: Sequence[ChatMessage], *, enable_thinking: bool
    ) -> list[str | ControlToken]:
        """The conversation with the opening of the model's turn: texts and control tokens in order.

        Raises:
            ChatTemplateError: a role is unknown, or the template does not take the conversation.
        """
        for index, message in enumerate(messages):
            _check(f"messages[{index}]", message)
        now = datetime.now()

        def strftime_now(format: str) -> str:  # noqa: A002 (the name templates know)
            return now.strftime(format)

        common: dict[str, Any] = {
            "add_generation_prompt": True,
            "enable_thinking": enable_thinking,
            "raise_exception": _raise_exception,
            "strftime_now": strftime_now,
            "tools": None,
            "documents": None,
        }
        conversation = [
            {
                "role": "assistant" if message.role == "model" else message.role,
                "content": message.content,
            }
            for message in messages
        ]
        plain = self._run(self._plain, conversation, self._variables | common)
        marked = self._run(self._marked, conversation, self._marked_variables | common)
        if self._spelled(marked) != plain:
            raise ChatTemplateError(
                "messages",
                "the chat template mixes control tokens into what it reads from messages, so that "
                "they can't be told apart",
            )
        return [
            ControlToken(self._spelling_of_mark[part]) if part in self._spelling_of_mark else part
            for part in _MARKS.split(marked)
            if part
        ]

    def _run(
        self,
        template: jinja2.Template,
        conversation: list[dict[str, str]],
        variables: Mapping[str, Any],
    ) -> str:
        try:
            return template.render(messages=conversation, **variables)
        except Exception as error:  # a template is a program: it can fail in any way
            reason = self._spelled(str(error))[:_SHOWN_CHARACTERS]
            raise ChatTemplateError("messages", f"the chat template refused: {reason}") from None

    def _spelled(self, text: str) -> str:
        return _MARKS.sub(lambda found: self._spelling_of_mark.get(found[0], found[0]), text)

    def _probe(self) -> None:
        """Refuses a template whose own control tokens stay unmarked in harmless conversations."""
        for roles, enable_thinking in product(_PROBES, (False, True)):
            messages = [ChatMessage(role, "text") for role in roles]
            try:
                parts = self.render(messages, enable_thinking=enable_thinking)
            except ChatTemplateError:
                continue  # not every template takes every conversation
            for part in parts:
                if isinstance(part, str) and (found := self._marker.search(part)):
                    raise ChatTemplateError(
                        "chat_template",
                        f"writes the control token {found} in a way that can't be told from text",
                    )


class _Marker(NodeTransformer):
    """Replaces control tokens by their marks wherever a template writes them.

    What it only reads with stays: comparisons, tests, keys, and arguments of filters and methods.
    """

    def __init__(self, marks: Mapping[str, str]) -> None:
        self._marks = marks
        longest_first = sorted(marks, key=len, reverse=True)
        # Without any token: a pattern that never matches.
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def mark(self, text: str) -> str:
        """The text with each control token replaced by its mark."""
        return self._pattern.sub(lambda found: self._marks[found[0]], text)

    def search(self, text: str) -> str | None:
        """The first control token spelled in the text."""
        found = self._pattern.search(text)
        return None if found is None else found[0]

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:  # noqa: N802
        node.data = self.mark(node.data)
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:  # noqa: N802
        if isinstance(node.value, str):
            node.value = self.mark(node.value)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:  # noqa: N802
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        node.node = self.visit(node.node)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802
        node.value = self.visit(node.value)
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802
        if node.node is not None:
            node.node = self.visit(node.node)
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Node:  # noqa: N802
        return self.generic_visit(node) if isinstance(node.node, nodes.Name) else node


def _check(field: str, message: ChatMessage) -> None:
    if message.role not in ROLES:
        raise ChatTemplateError(
            f"{field}.role",
            f"must be one of {', '.join(ROLES)}, not {message.role[:_SHOWN_CHARACTERS]!r}",
        )
    if _MARKS.search(message.content):
        raise ChatTemplateError(f"{field}.content", "must be valid Unicode: no lone surrogates")


def _environment() -> jinja2.Environment:
    """The environment that chat templates are written for: that of transformers."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
