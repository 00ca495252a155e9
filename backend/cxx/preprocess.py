"""The C preprocessor, as far as host and kernel sources need it: macros, conditions, and line numbers that stay true.

Includes are not followed: who evaluates a file says which files come before it and which macros are given.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from backend.cxx.errors import CxxError

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[A-Za-z_]\w*|\.?\d(?:[eEpP][+-]|[\w.\'])*|\s+|##|.', re.DOTALL)
_COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|//(?:\\\n|[^\n])*|/\*.*?\*/', re.DOTALL)
_LAUNCH_OPEN, _LAUNCH_CLOSE = re.compile(r"\s*<<<"), re.compile(r">>>\s*\(")
_VARIADIC = "__VA_ARGS__"
MOST_TOKENS = 4_000_000
"""That macros of one translation unit may come to; AITER's largest comes to a twentieth."""


@dataclass(frozen=True, slots=True)
class Macro:
    """A macro. parameters: None for one without a list; the last may be `__VA_ARGS__`. body: its tokens."""

    parameters: tuple[str, ...] | None
    body: tuple[str, ...]


def macro(definition: str) -> tuple[str, Macro]:
    """Name and macro of what follows `#define`, such as `TWICE(x) ((x) + (x))`."""
    found = re.match(r"\s*([A-Za-z_]\w*)(\(([^)]*)\))?", definition)
    if found is None:
        raise ValueError(definition)
    parameters = None
    if found.group(2) is not None:
        listed = [part.strip() for part in found.group(3).split(",")] if found.group(3).strip() else []
        parameters = tuple(_VARIADIC if part == "..." else part for part in listed)
    body = definition[found.end() :].strip()
    return found.group(1), Macro(parameters, tuple(_TOKEN.findall(body)))


def preprocess(files: Iterable[tuple[str, str]], given: Iterable[str] = ()) -> list[str]:
    """The files (name, text) of one translation unit without comments and directives, macros expanded, lines where they stood.

    A macro of one file holds in those after it. given: definitions that hold from the start, as after `#define`; a file's own
    definition of the same name is skipped. A kernel launch `k<<<grid, block, lds, stream>>>(a)` becomes
    `k(__launch(grid, block, lds, stream), a)`. Raises CxxError.
    """
    macros = dict(macro(each) for each in given)
    fixed = frozenset(macros)
    texts = []
    for file, text in files:
        reader = _Preprocessor(file, macros, fixed)
        try:
            texts.append(reader.run(text))
        except RecursionError as error:
            raise CxxError(file, reader.line, "what is nested so deeply") from error
        macros = reader.macros
    return texts


def without_comments(text: str) -> str:
    """`text` with each comment as a blank, its lines kept."""

    def blank(match: re.Match[str]) -> str:
        found = match.group(0)
        return found if found[0] in "\"'" else " " + "\n" * found.count("\n")

    return _COMMENT.sub(blank, text)


class _Preprocessor:
    def __init__(self, file: str, macros: Mapping[str, Macro], fixed: frozenset[str]) -> None:
        self._file = file
        self.macros = dict(macros)
        self._fixed = fixed
        self._line = 1
        self._conditions: list[tuple[bool, bool, bool]] = []  # taken now, taken before, around it taken
        self._tokens = 0

    @property
    def line(self) -> int:
        """Where it is, a line of its file."""
        return self._line

    def run(self, text: str) -> str:
        out: list[str] = []
        chunk: list[str] = []
        first = 1
        number = 1
        lines = without_comments(text).split("\n")
        while number <= len(lines):
            line, taken = lines[number - 1], 1
            while line.endswith("\\") and number + taken <= len(lines):
                line = line[:-1] + lines[number + taken - 1]
                taken += 1
            if line.lstrip().startswith("#"):
                out.append(self._expanded("".join(chunk), first))
                chunk, first = [], number + taken
                self._directive(line.lstrip()[1:].strip(), number)
                out.append("\n" * taken)
            else:
                chunk.append((line if self._active() else "") + "\n" * taken)
            number += taken
        out.append(self._expanded("".join(chunk), first))
        return _launches_as_calls("".join(out).removesuffix("\n"))

    def _active(self) -> bool:
        return all(now for now, _, _ in self._conditions)

    def _directive(self, text: str, line: int) -> None:
        self._line = line
        name = re.match(r"\w*", text).group(0)  # type: ignore[union-attr]
        rest = text[len(name) :].strip()
        if name in ("if", "ifdef", "ifndef"):
            around = self._active()
            now = around and self._condition(name, rest)
            self._conditions.append((now, now, around))
        elif name in ("elif", "else"):
            _, before, around = self._pop(line)
            now = around and not before and (name == "else" or self._condition("if", rest))
            self._conditions.append((now, before or now, around))
        elif name == "endif":
            self._pop(line)
        elif self._active() and name == "define":
            try:
                defined, made = macro(rest)
            except ValueError as error:
                raise CxxError(self._file, line, f"#define {rest[:80]}") from error
            if defined not in self._fixed:
                self.macros[defined] = made
        elif self._active() and name == "undef" and rest not in self._fixed:
            self.macros.pop(rest, None)
        elif self._active() and name == "error":
            raise CxxError(self._file, line, f"#error {rest[:200]}")

    def _pop(self, line: int) -> tuple[bool, bool, bool]:
        if not self._conditions:
            raise CxxError(self._file, line, "a directive without its #if")
        return self._conditions.pop()

    def _condition(self, name: str, text: str) -> bool:
        if name != "if":
            if not text:
                raise CxxError(self._file, self._line, f"#{name} of nothing")
            return (text.split()[0] in self.macros) == (name == "ifdef")
        text = re.sub(
            r"\bdefined\s*(?:\(\s*(\w+)\s*\)|(\w+))", lambda m: str(int((m.group(1) or m.group(2)) in self.macros)), text
        )
        bare = "".join(self._expand(_TOKEN.findall(text), frozenset()))
        bare = re.sub(r"\b[A-Za-z_]\w*", "0", re.sub(r"\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]*\b", r"\1", bare))
        bare = re.sub(r"!(?!=)", " not ", bare.replace("&&", " and ").replace("||", " or "))
        try:
            return bool(_integer(ast.parse(bare.strip(), mode="eval").body))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last: of a parser whose stack is full
            raise CxxError(self._file, self._line, f"the condition #if {text[:200]}") from error

    def _expanded(self, text: str, line: int) -> str:
        self._line = line
        return "".join(self._expand(_TOKEN.findall(text), frozenset(), counts=True))

    def _expand(self, tokens: list[str], hidden: frozenset[str], counts: bool = False) -> list[str]:
        out: list[str] = []
        at = 0
        self._tokens += len(tokens)
        if self._tokens > MOST_TOKENS:
            raise CxxError(self._file, self._line, f"what macros expand to, more than {MOST_TOKENS:,} tokens,")
        while at < len(tokens):
            token = tokens[at]
            at += 1
            found = self.macros.get(token) if token not in hidden else None
            if token == "__LINE__":
                out.append(str(self._line))
            elif token == "__FILE__":
                out.append(f'"{self._file}"')
            elif found is None:
                out.append(token)
                self._line += token.count("\n") if counts else 0
            elif found.parameters is None:
                out += self._expand(self._pasted(list(found.body)), hidden | {token})
            else:
                arguments, after = _arguments(tokens, at)
                if arguments is None:
                    out.append(token)
                    continue
                lines = sum(each.count("\n") for each in tokens[at:after])
                at = after
                out += self._expand(self._substituted(found, arguments, hidden), hidden | {token})
                if counts:
                    out.append("\n" * lines)
                    self._line += lines
        return out

    def _substituted(self, found: Macro, arguments: list[list[str]], hidden: frozenset[str]) -> list[str]:
        parameters = found.parameters or ()
        values: dict[str, list[str]] = {}
        for place, name in enumerate(parameters):
            rest = arguments[place:] if name == _VARIADIC else arguments[place : place + 1]
            joined: list[str] = []
            for number, each in enumerate(rest):
                joined += ([","] if number else []) + _flat(each)
            values[name] = joined
        out: list[str] = []
        body = self._optional(list(found.body), bool("".join(values.get(_VARIADIC, [])).strip()))
        for place, token in enumerate(body):
            if token in values:
                raw = "##" in (_neighbour(body, place, -1), _neighbour(body, place, 1))
                out += values[token] if raw else self._expand(values[token], hidden)
            elif token == "#" and _neighbour(body, place, 1) in values:
                out.append("#")
            else:
                out.append(token)
        return self._pasted(_stringized(out, body, values))

    def _optional(self, body: list[str], given: bool) -> list[str]:
        out: list[str] = []
        at = 0
        while at < len(body):
            if body[at] == "__VA_OPT__":
                arguments, at = _arguments(body, at + 1)
                content: list[str] = []
                for number, each in enumerate(arguments or []):
                    content += ([","] if number else []) + each
                out += content if given else []
            else:
                out.append(body[at])
                at += 1
        return out

    @staticmethod
    def _pasted(tokens: list[str]) -> list[str]:
        while "##" in tokens:
            at = tokens.index("##")
            left = "".join(tokens[:at]).rstrip()
            right = "".join(tokens[at + 1 :]).lstrip()
            tokens = _TOKEN.findall(left + right)
        return tokens


def _arguments(tokens: list[str], at: int) -> tuple[list[list[str]] | None, int]:
    """The arguments of an invocation whose name ends before `at`, and where it ends; None where none follow."""
    start = at
    while start < len(tokens) and tokens[start].isspace():
        start += 1
    if start >= len(tokens) or tokens[start] != "(":
        return None, at
    depth, arguments = 1, [[]]  # type: tuple[int, list[list[str]]]
    for place in range(start + 1, len(tokens)):
        token = tokens[place]
        depth += (token == "(") - (token == ")")
        if depth == 0:
            return arguments, place + 1
        if token == "," and depth == 1:
            arguments.append([])
        else:
            arguments[-1].append(token)
    return None, at


def _flat(tokens: list[str]) -> list[str]:
    """Tokens of an argument without blanks at its ends and without line ends."""
    flat = [" " if token.isspace() else token for token in tokens]
    while flat and flat[0] == " ":
        flat.pop(0)
    while flat and flat[-1] == " ":
        flat.pop()
    return flat


def _neighbour(tokens: list[str], place: int, step: int) -> str:
    place += step
    while 0 <= place < len(tokens) and tokens[place].isspace():
        place += step
    return tokens[place] if 0 <= place < len(tokens) else ""


def _stringized(out: list[str], body: list[str], values: Mapping[str, list[str]]) -> list[str]:
    """`#parameter` as a string literal; the parameter's expansion that follows the mark is dropped."""
    if "#" not in body:
        return out
    made: list[str] = []
    at = 0
    for place, token in enumerate(body):
        if token != "#" or _neighbour(body, place, 1) not in values:
            continue
        at = out.index("#", at)
        text = "".join(values[_neighbour(body, place, 1)])
        made = [*out[:at], '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"']
        length = len(values[_neighbour(body, place, 1)])
        out = made + out[at + 1 + length :]
    return out


def _integer(node: ast.expr) -> int:
    """The value of a preprocessor condition."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.UnaryOp):
        value = _integer(node.operand)
        return int(not value) if isinstance(node.op, ast.Not) else -value
    if isinstance(node, ast.BoolOp):
        values = [bool(_integer(each)) for each in node.values]
        return int(all(values) if isinstance(node.op, ast.And) else any(values))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARED:
        return int(_COMPARED[type(node.ops[0])](_integer(node.left), _integer(node.comparators[0])))
    if isinstance(node, ast.BinOp) and type(node.op) in _COMPUTED:
        return _COMPUTED[type(node.op)](_integer(node.left), _integer(node.right))
    raise ValueError(ast.dump(node))


_COMPARED: dict[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Lt: operator.lt,
    ast.Gt: operator.gt,
    ast.LtE: operator.le,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_COMPUTED: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def _launches_as_calls(text: str) -> str:
    """`k<<<...>>>(` as `k(__launch(...), `; line ends between name and `<<<` stay, behind the parenthesis."""
    while (opened := _LAUNCH_OPEN.search(text)) is not None:
        closed = _LAUNCH_CLOSE.search(text, opened.end())
        if closed is None:
            return text
        lines = "\n" * (opened.group(0).count("\n") + closed.group(0).count("\n"))
        inside = text[opened.end() : closed.start()]
        text = f"{text[: opened.start()]}(__launch({inside}), {lines}{text[closed.end() :]}"
    return text
