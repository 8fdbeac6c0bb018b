"""Call a candidate's function in one jail from its tests in another. (Runs inside a jail.)

In a shared process a candidate can reach its tests: walk the frames to the list of results, replace
AssertionError, print what the tests print. Here the candidate can only answer calls, with plain values; the
verdict is written by the other jail, to a pipe that the candidate's jail does not have.

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

MAX_TEXT = 300  # characters of an error's text
ENDINGS = (StopIteration, StopAsyncIteration)
"""Errors that end a loop silently; see `_rebuild_error`."""
LENGTHS: Mapping[str, int] = {"ready": 1, "missing": 1, "failed": 4, "value": 2, "raised": 3, "refused": 2}
"""Length of each message of the candidate; all items but the value are texts."""
CANDIDATE = "candidate"
"""Name of a candidate's module: not `__main__`, so that its main program does not run."""


def serve_candidate(setup: Mapping[str, Any]) -> NoReturn:
    """Execute a candidate, then answer calls of its function until the pipe closes. Does not return.

    Args:
        setup: "candidate", its source; "entry_point", the function's name; "requests" and "answers", pipes.
    """
    answers, pending, loaded = setup["answers"], bytearray(), _load_candidate(setup)
    wire.send(answers, wire.encode(loaded))
    if loaded != ["ready"]:
        os._exit(1)
    function = sys.modules[CANDIDATE].__dict__[setup["entry_point"]]
    while (line := wire.receive(setup["requests"], pending)) is not None:
        _, arguments, keywords = wire.decode(line)
        wire.send(answers, _call_candidate(function, arguments, keywords))
    os._exit(0)


def run_tests(setup: Mapping[str, Any]) -> NoReturn:
    """Execute tests, which call the function in the other jail, and write the verdict. Does not return.

    Args:
        setup: "prelude", source that the tests may also need; "tests", which define
            `check(candidate)`; "entry_point"; "requests", "answers" and "verdict", pipes.
    """
    status, reason = _reach_verdict(setup)
    send_verdict(setup["verdict"], status, reason)


def send_verdict(pipe: int, status: str, reason: str) -> NoReturn:
    """Write the verdict and end the process, so that nothing follows it."""
    wire.send(pipe, json.dumps([status, reason[: 4 * MAX_TEXT]]).encode() + b"\n")
    os._exit(0)


def new_module(name: str = "__main__") -> dict[str, Any]:
    """Make a new, empty module and return its namespace."""
    module = type(sys)(name)
    sys.modules[name] = module
    module.__dict__["__builtins__"] = builtins
    return module.__dict__


def _load_candidate(setup: Mapping[str, Any]) -> list:
    """Execute the candidate's source; return the first message."""
    namespace = new_module(CANDIDATE)
    try:
        exec(compile(setup["candidate"], "<candidate>", "exec", dont_inherit=True), namespace)
    except BaseException as error:
        return ["failed", *_describe_error(error), _last_line(error, "<candidate>")]
    return ["ready"] if callable(namespace.get(setup["entry_point"])) else ["missing"]


def _call_candidate(function: Callable[..., Any], arguments: list, keywords: dict) -> bytes:
    """Call the candidate's function; return the message with its value or error."""
    try:
        value = function(*arguments, **keywords)
    except BaseException as error:
        return wire.encode(["raised", *_describe_error(error)])
    try:
        return wire.encode(["value", value])
    except ValueError as error:
        return wire.encode(["refused", _describe_error(error)[1]])
    except BaseException as error:
        return wire.encode(["refused", f"a value that cannot be sent ({type(error).__name__})"])


def _describe_error(error: BaseException) -> list[str]:
    """Type and text of an error; a type that the candidate defines is replaced by its first built-in base."""
    try:
        text = str.__str__(error.msg if isinstance(error, SyntaxError) else str(error))[:MAX_TEXT]
    except BaseException:
        text = ""
    own = type(error).__name__
    bases = (base for base in type(error).__mro__ if getattr(builtins, base.__name__, None) is base)
    kind = next(bases).__name__
    if kind == own:
        return [kind, text]
    return [kind, f"{own}: {text}" if text else own]


def _reach_verdict(setup: Mapping[str, Any]) -> tuple[str, str]:
    """Execute the tests; return status and reason."""
    namespace, entry_point = new_module(), setup["entry_point"]
    raised: list[BaseException] = []
    request = _request_fn(setup)
    if (loaded := request(None))[0] != "ready":
        return _load_verdict(loaded, entry_point)
    try:
        exec(compile(setup["prelude"], "<prelude>", "exec", dont_inherit=True), namespace)
        code = compile(setup["tests"], "<tests>", "exec", dont_inherit=True)
    except BaseException as error:
        return "broken", f"the tests are broken: {': '.join(_describe_error(error))}"
    namespace[entry_point] = _make_proxy(request, raised, setup["verdict"], entry_point)
    try:
        exec(code, namespace)
        check = namespace.get("check")
        if not callable(check):
            return "broken", "the tests are broken: they define no function check"
        returned = check(namespace[entry_point])
    except BaseException as error:
        return _error_verdict(error, raised, setup["tests"])
    if type(returned).__name__ in ("generator", "coroutine", "async_generator"):
        return "broken", "the tests are broken: check is a generator or a coroutine, and tested nothing"
    return "ok", "all tests passed"


def _request_fn(setup: Mapping[str, Any]) -> Callable[[bytes | None], list]:
    """Return a function that sends a message, if any, and returns the candidate's answer.

    Without a valid answer it writes the verdict and ends the process, so that no `except` of the tests can
    mistake that for an error of the candidate.
    """
    pending = bytearray()

    def request(line: bytes | None) -> list:
        try:
            if line is not None:
                wire.send(setup["requests"], line)
            answer = wire.receive(setup["answers"], pending)
            message = None if answer is None else wire.decode(answer)
        except OSError:
            message = None
        except ValueError as error:
            send_verdict(setup["verdict"], "refused", f"the candidate's answer cannot be read: {error}")
        except MemoryError:
            send_verdict(setup["verdict"], "memory", "the candidate's answer does not fit into memory")
        if message is None:
            send_verdict(setup["verdict"], "lost", "the candidate ended before the verdict")
        if not _is_message(message):
            send_verdict(
                setup["verdict"], "refused", "the candidate's answer is not a message of the protocol"
            )
        return message

    return request


def _is_message(value: Any) -> bool:
    """Test whether a value is one of the messages that a candidate may send."""
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        return False
    if len(value) != LENGTHS.get(value[0]):
        return False
    return value[0] == "value" or all(isinstance(item, str) for item in value)


def _make_proxy(
    request: Callable[[bytes], list], raised: list[BaseException], verdict: int, name: str
) -> Callable[..., Any]:
    """Return a proxy of the candidate's function; it appends to `raised` each error that it raises."""

    def proxy(*arguments: Any, **keywords: Any) -> Any:
        try:
            line = wire.encode(["call", list(arguments), keywords])
        except ValueError as error:
            send_verdict(verdict, "refused", f"the tests call {name} with {error}")
        answer = request(line)
        if answer[0] == "value":
            return answer[1]
        if answer[0] == "raised":
            raised.append(_rebuild_error(answer[1], answer[2]))
            raise raised[-1]
        refusal = answer[1] if answer[0] == "refused" else "an answer that is not a message of the protocol"
        send_verdict(verdict, "refused", f"returned {refusal}"[: 2 * MAX_TEXT])

    proxy.__name__ = name
    return proxy


def _rebuild_error(kind: str, text: str) -> Exception:
    """Return an error of the same type if that is an Exception and takes a text, else a RuntimeError.

    StopIteration is replaced: it would end the loop in `all(x == y for x, y in zip(map(f, a), b))`, which is
    true of an empty sequence.
    """
    builtin = getattr(builtins, kind, None)
    if isinstance(builtin, type) and issubclass(builtin, Exception) and builtin not in (Exception, *ENDINGS):
        try:
            return builtin(text)
        except TypeError:  # UnicodeDecodeError
            pass
    return RuntimeError(text if kind == "Exception" else ": ".join(filter(None, (kind, text))))


def _load_verdict(message: list, entry_point: str) -> tuple[str, str]:
    """Verdict on a candidate that could not be loaded."""
    if message[0] != "failed":
        return "error", f"does not define a function {entry_point}"
    _, kind, text, line = message
    where = f" (line {line})" if line != "0" else ""
    if kind in ("SyntaxError", "IndentationError", "TabError"):
        return "syntax", f"does not compile: {kind}: {text}{where}"
    status = "memory" if kind == "MemoryError" else "error"
    return status, f"raised {kind}: {text}, when it was loaded{where}"


def _error_verdict(error: BaseException, raised: list[BaseException], source: str) -> tuple[str, str]:
    """Verdict on tests that ended with an error, which the candidate or the tests raised."""
    kind, text = _describe_error(error)
    if any(error is other for other in raised):
        status = "memory" if kind == "MemoryError" else "error"
        return status, f"raised {kind}: {text}" if text else f"raised {kind}"
    line, lines = int(_last_line(error, "<tests>")), source.splitlines()
    reason = "wrong answer"
    if 0 < line <= len(lines):
        reason += f": line {line} of the tests: {lines[line - 1].strip()[:MAX_TEXT]}"
    if not isinstance(error, AssertionError):
        text = f"{kind}: {text}"
    return "wrong", f"{reason} ({text})" if text else reason


def _last_line(error: BaseException, name: str) -> str:
    """Last line number of the source in an error's traceback, or that of a SyntaxError; "0" if none."""
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == name else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == name:
            line = trace.tb_lineno
        trace = trace.tb_next
    return str(line or 0)
