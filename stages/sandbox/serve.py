"""Two jails that ask each other: one has the candidate's function, the other the tests. (Runs inside a jail.)

In one process a candidate can reach what judges it: walk the frames to the list of results, replace
`assert`'s error, print what the judge prints. Here it can only answer calls, with plain values; the verdict
is written by the other jail, to a pipe that the candidate's has not.

    tests:      ["call", arguments, keyword arguments]
    candidate:  ["ready"], then for each call ["value", x] or ["raised", type, text] or ["refused", why];
                instead of "ready": ["failed", type, text, line] or ["missing"]
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from stages.sandbox import wire

TEXT = 300  # characters of an error's text
ENDINGS = (StopIteration, StopAsyncIteration)
SHAPES: Mapping[str, int] = {"ready": 1, "missing": 1, "failed": 4, "value": 2, "raised": 3, "refused": 2}
"""How many items each message of the candidate's has; all but the value are texts."""
CANDIDATE = "candidate"
"""Name of a candidate's module: it is imported, so its `if __name__ == "__main__":` does not run."""


def candidate(setup: Mapping[str, Any]) -> NoReturn:
    """Executes a candidate, then answers calls of its function until nobody asks any more. Does not return.

    Args:
        setup: "candidate", its source; "entry_point", the function's name; "requests" and "answers", pipes.
    """
    answers, pending, loaded = setup["answers"], bytearray(), _load(setup)
    wire.send(answers, wire.encode(loaded))
    if loaded != ["ready"]:
        os._exit(1)
    function = sys.modules[CANDIDATE].__dict__[setup["entry_point"]]
    while (line := wire.receive(setup["requests"], pending)) is not None:
        _, arguments, named = wire.decode(line)
        wire.send(answers, _answer(function, arguments, named))
    os._exit(0)


def tests(setup: Mapping[str, Any]) -> NoReturn:
    """Executes tests, which call the function in the other jail, and writes the verdict. Does not return.

    Args:
        setup: "prelude", what the tests may need beside the function; "tests", which define
            `check(candidate)`; "entry_point"; "requests", "answers" and "verdict", pipes.
    """
    status, reason = _judge(setup)
    end(setup["verdict"], status, reason)


def end(pipe: int, status: str, reason: str) -> NoReturn:
    """Writes the verdict and ends the process, so that nothing comes after it."""
    wire.send(pipe, json.dumps([status, reason[: 4 * TEXT]]).encode() + b"\n")
    os._exit(0)


def fresh_main(name: str = "__main__") -> dict[str, Any]:
    """Makes a new, empty module, `__main__` or of another name; returns its names."""
    module = type(sys)(name)
    sys.modules[name] = module
    module.__dict__["__builtins__"] = builtins
    return module.__dict__


def _load(setup: Mapping[str, Any]) -> list:
    """Executes the candidate; what to tell of it."""
    space = fresh_main(CANDIDATE)
    try:
        exec(compile(setup["candidate"], "<candidate>", "exec", dont_inherit=True), space)
    except BaseException as error:
        return ["failed", *_told(error), _line(error, "<candidate>")]
    return ["ready"] if callable(space.get(setup["entry_point"])) else ["missing"]


def _answer(function: Callable, arguments: list, named: dict) -> bytes:
    """Calls the candidate's function; the message with what came of it."""
    try:
        value = function(*arguments, **named)
    except BaseException as error:
        return wire.encode(["raised", *_told(error)])
    try:
        return wire.encode(["value", value])
    except ValueError as error:
        return wire.encode(["refused", _told(error)[1]])
    except BaseException as error:
        return wire.encode(["refused", f"a value that cannot be sent ({type(error).__name__})"])


def _told(error: BaseException) -> list[str]:
    """Type and text of an error. Instead of a type that Python does not have, the one that it derives
    from."""
    try:
        text = str.__str__(error.msg if isinstance(error, SyntaxError) else str(error))[:TEXT]
    except BaseException:
        text = ""
    own = type(error).__name__
    kind = next(
        base.__name__ for base in type(error).__mro__ if getattr(builtins, base.__name__, None) is base
    )
    return [kind, text] if kind == own else [kind, f"{own}: {text}" if text else own]


def _judge(setup: Mapping[str, Any]) -> tuple[str, str]:
    """Executes the tests; status and reason."""
    space, entry_point = fresh_main(), setup["entry_point"]
    raised: list[BaseException] = []
    ask = _asking(setup)
    if (loaded := ask(None))[0] != "ready":
        return _failed(loaded, entry_point)
    try:
        exec(compile(setup["prelude"], "<prelude>", "exec", dont_inherit=True), space)
        code = compile(setup["tests"], "<tests>", "exec", dont_inherit=True)
    except BaseException as error:
        return "broken", f"the tests are broken: {': '.join(_told(error))}"
    space[entry_point] = _proxy(ask, raised, setup["verdict"], entry_point)
    try:
        exec(code, space)
        check = space.get("check")
        if not callable(check):
            return "broken", "the tests are broken: they define no function check"
        left = check(space[entry_point])
    except BaseException as error:
        return _blame(error, raised, setup["tests"])
    if type(left).__name__ in ("generator", "coroutine", "async_generator"):
        return "broken", "the tests are broken: check is a generator or a coroutine, and tested nothing"
    return "ok", "all tests passed"


def _asking(setup: Mapping[str, Any]) -> Callable[[bytes | None], list]:
    """A function that sends a message, if any, and returns the answer. If none comes the verdict is given at
    once, by ending the process, so that no `except` of the tests can take it for something that the candidate
    raised."""
    pending = bytearray()

    def ask(line: bytes | None) -> list:
        try:
            if line is not None:
                wire.send(setup["requests"], line)
            answer = wire.receive(setup["answers"], pending)
            told = None if answer is None else wire.decode(answer)
        except OSError:
            told = None
        except ValueError as error:
            end(setup["verdict"], "refused", f"the candidate's answer cannot be read: {error}")
        except MemoryError:
            end(setup["verdict"], "memory", "the candidate's answer does not fit into memory")
        if told is None:
            end(setup["verdict"], "lost", "the candidate ended before the verdict")
        if not _shaped(told):
            end(setup["verdict"], "refused", "the candidate's answer is none")
        return told

    return ask


def _shaped(told: Any) -> bool:
    """Tells whether it is one of the messages that a candidate may send."""
    if not isinstance(told, list) or not told or not isinstance(told[0], str):
        return False
    return len(told) == SHAPES.get(told[0]) and (
        told[0] == "value" or all(isinstance(word, str) for word in told)
    )


def _proxy(ask: Callable[[bytes], list], raised: list[BaseException], verdict: int, name: str) -> Callable:
    """Stands for the candidate's function; notes in `raised` what that raises."""

    def proxy(*arguments: Any, **named: Any) -> Any:
        try:
            line = wire.encode(["call", list(arguments), named])
        except ValueError as error:
            end(verdict, "refused", f"the tests call {name} with {error}")
        answer = ask(line)
        if answer[0] == "value":
            return answer[1]
        if answer[0] == "raised":
            raised.append(_error(answer[1], answer[2]))
            raise raised[-1]
        why = answer[1] if answer[0] == "refused" else "an answer that is none"
        end(verdict, "refused", f"returned {why}"[: 2 * TEXT])

    proxy.__name__ = name
    return proxy


def _error(kind: str, text: str) -> Exception:
    """An error of the same type if that is an Exception and takes a text, else a RuntimeError.

    What ends a loop must not come through: `all(x == y for x, y in zip(map(f, a), b))` would then be true of
    nothing.
    """
    known = getattr(builtins, kind, None)
    if isinstance(known, type) and issubclass(known, Exception) and known not in (Exception, *ENDINGS):
        try:
            return known(text)
        except TypeError:  # UnicodeDecodeError
            pass
    return RuntimeError(text if kind == "Exception" else ": ".join(filter(None, (kind, text))))


def _failed(told: list, entry_point: str) -> tuple[str, str]:
    """The verdict on a candidate that could not be loaded."""
    if told[0] != "failed":
        return "error", f"does not define a function {entry_point}"
    _, kind, text, line = told
    where = f" (line {line})" if line != "0" else ""
    if kind in ("SyntaxError", "IndentationError", "TabError"):
        return "syntax", f"does not compile: {kind}: {text}{where}"
    return "memory" if kind == "MemoryError" else "error", f"raised {kind}: {text}, when it was loaded{where}"


def _blame(error: BaseException, raised: list[BaseException], source: str) -> tuple[str, str]:
    """The verdict when the tests ended with an error: what the candidate raised, or what they say of its
    values."""
    kind, text = _told(error)
    if any(error is other for other in raised):
        return (
            "memory" if kind == "MemoryError" else "error",
            f"raised {kind}: {text}" if text else f"raised {kind}",
        )
    line = int(_line(error, "<tests>"))
    lines = source.splitlines()
    shown = f": line {line} of the tests: {lines[line - 1].strip()[:TEXT]}" if 0 < line <= len(lines) else ""
    said = text if isinstance(error, AssertionError) else f"{kind}: {text}"
    return "wrong", f"wrong answer{shown}" + (f" ({said})" if said else "")


def _line(error: BaseException, name: str) -> str:
    """The last line of a source that an error came through, or that does not compile; "0" if none."""
    line = (
        getattr(error, "lineno", None) if isinstance(error, SyntaxError) and error.filename == name else None
    )
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == name:
            line = trace.tb_lineno
        trace = trace.tb_next
    return str(line or 0)
