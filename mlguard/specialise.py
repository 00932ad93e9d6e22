"""From the text of `call.py` to the code of one function's wrapper.

Flags become constants, and what they decide is decided, `x if FLAG else y` included. `await produce(...)` is replaced
by the body of `produce` where there is no cache. For a plain function `async` and `await` go; in a generator,
`returned(x)` becomes its return. Names can be looked up under another name. The code keeps the line numbers of
`call.py`, so that tracebacks, debuggers and coverage show the real file. What the names in the text mean is decided in
`wiring.py`.
"""

from __future__ import annotations

import ast
import copy
import functools
from collections.abc import Mapping
from types import CodeType
from typing import Any

import mlguard.call
from mlguard.target import Kind
from mlguard.vocabulary import FLAGS

__all__ = ["readable", "specialise"]


def specialise(kind: Kind, flags: Mapping[str, bool], rename: Mapping[str, str] | None = None) -> dict[str, CodeType]:
    """The code of the wrapper, as ``"call"``, and where it has a cache that of ``"produce"``.

    Args:
        kind: The kind of function the wrapper must be.
        flags: Each of `vocabulary.FLAGS`, on or off; those left out are off.
        rename: Names in the text that are to be looked up under another name.
    """
    on = frozenset(name for name, value in flags.items() if value)
    return _compiled(kind, on, tuple(sorted((rename or {}).items())))


def readable(kind: Kind, flags: Mapping[str, bool], name: str) -> str:
    """The same wrapper as text, without the blocks that are off."""
    on = frozenset(flag for flag, value in flags.items() if value)
    functions = [_Fold().visit(tree) for tree in _trees(kind, on, ())]
    functions[0].name = name
    return "\n\n\n".join(ast.unparse(ast.fix_missing_locations(tree)) for tree in functions) + "\n"


@functools.cache
def _compiled(kind: Kind, on: frozenset[str], rename: tuple[tuple[str, str], ...]) -> dict[str, CodeType]:
    code: dict[str, CodeType] = {}
    for key, tree in zip(("call", "produce"), _trees(kind, on, rename), strict=False):
        module = ast.fix_missing_locations(ast.Module([tree], type_ignores=[]))
        compiled = compile(module, mlguard.call.__file__, "exec", dont_inherit=True, flags=_future_annotations())
        code[key] = next(const for const in compiled.co_consts if isinstance(const, CodeType))
    return code


def _trees(kind: Kind, on: frozenset[str], rename: tuple[tuple[str, str], ...]) -> list[Any]:
    names = ("stream",) if kind.stream else ("call", "produce") if "CACHE" in on else ("call",)
    functions = _functions()
    body = None if "CACHE" in on else functions["produce"].body[1:-1]
    return [_Specialise(kind, on, dict(rename), body).visit(copy.deepcopy(functions[name])) for name in names]


@functools.cache
def _functions() -> dict[str, ast.AsyncFunctionDef]:
    tree = ast.parse(_text_of_call())
    return {node.name: node for node in tree.body if isinstance(node, ast.AsyncFunctionDef)}


def _text_of_call() -> str:
    # The loader, unlike open(), also reads from a zip archive. Where only compiled files were shipped it finds nothing:
    # for that there is call.txt, the same file under a name that is shipped as data.
    loader: Any = mlguard.call.__loader__
    # The loader of pytest, which compiles what comes with a plugin itself, does not say what it read.
    get_source = getattr(loader, "get_source", None)
    source: str | None = get_source and get_source("mlguard.call")
    if source is not None:
        return source
    from importlib import resources

    try:
        return resources.files("mlguard").joinpath("call.txt").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ImportError(
            "mlguard can't find the text of mlguard/call.py, from which every wrapper is made. "
            "Fix: ship mlguard/call.py, or mlguard/call.txt from the wheel, beside the compiled files."
        ) from None


def _future_annotations() -> int:
    import __future__

    return __future__.annotations.compiler_flag


class _Specialise(ast.NodeTransformer):
    def __init__(self, kind: Kind, on: frozenset[str], rename: dict[str, str], produce: list[ast.stmt] | None) -> None:
        self._kind = kind
        self._on = on | ({"STREAM"} if kind.stream else set())
        self._rename = rename
        self._produce = produce

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in FLAGS:
            return ast.copy_location(ast.Constant(node.id in self._on), node)
        node.id = self._rename.get(node.id, node.id)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        """``x if FLAG else y`` is decided here: Python would, but leave a jump behind."""
        node = self.generic_visit(node)  # type: ignore[assignment]
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node

    def visit_Assign(self, node: ast.Assign) -> Any:
        """``x = await produce(...)`` becomes the body of `produce`, whose locals have the same names."""
        if self._produce is None or not _awaits_produce(node.value):
            return self.generic_visit(node)
        body = [self.visit(copy.deepcopy(statement)) for statement in self._produce]
        if ast.unparse(node.targets[0]) != "result":
            body.append(ast.copy_location(ast.Assign(node.targets, ast.Name("result", ast.Load())), node))
        return body

    def visit_Expr(self, node: ast.Expr) -> Any:
        """``returned(x)`` is the return of a plain generator; an async generator has none."""
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "returned":
            returned = ast.Return(None if self._kind.asynchronous else node.value.args[0])
            return ast.copy_location(returned, node)
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> Any:
        node = self.generic_visit(node)  # type: ignore[assignment]
        return node if self._kind.asynchronous else _plain(ast.FunctionDef, node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> Any:
        node = self.generic_visit(node)  # type: ignore[assignment]
        return node if self._kind.asynchronous else _plain(ast.With, node)

    def visit_Await(self, node: ast.Await) -> Any:
        node = self.generic_visit(node)  # type: ignore[assignment]
        return node if self._kind.asynchronous else node.value


def _awaits_produce(value: ast.expr) -> bool:
    call = value.value if isinstance(value, ast.Await) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "produce"


def _plain(cls: type[ast.stmt], node: ast.stmt) -> ast.stmt:
    return ast.copy_location(cls(**dict(ast.iter_fields(node))), node)


class _Fold(ast.NodeTransformer):
    """Cuts what constants decide, for readers; the compiler does the same to the code."""

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> Any:
        self.generic_visit(node)
        node.body = _reachable(node.body)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        decides = isinstance(node.op, ast.Or)
        values = []
        for value in node.values:
            if isinstance(value, ast.Constant):
                if bool(value.value) is decides:
                    return value
                continue
            values.append(value)
        if len(values) > 1:
            node.values = values
            return node
        return values[0] if values else ast.Constant(not decides)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and isinstance(node.operand, ast.Constant):
            return ast.Constant(not node.operand.value)
        return node

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node

    def visit_While(self, node: ast.While) -> Any:
        self.generic_visit(node)
        node.body = _reachable(node.body)
        return node

    def visit_Try(self, node: ast.Try) -> Any:
        self.generic_visit(node)
        node.body = _reachable(node.body)
        for handler in node.handlers:
            handler.body = _reachable(handler.body)
        if node.handlers and not node.orelse and all(_only_raises(handler) for handler in node.handlers):
            node.handlers = []
        return node if node.handlers or node.finalbody else node.body


def _reachable(body: list[ast.stmt]) -> list[ast.stmt]:
    for index, statement in enumerate(body):
        if isinstance(statement, ast.Raise | ast.Return | ast.Break):
            return body[: index + 1]
    return body


def _only_raises(handler: ast.ExceptHandler) -> bool:
    return len(handler.body) == 1 and isinstance(handler.body[0], ast.Raise) and handler.body[0].exc is None
