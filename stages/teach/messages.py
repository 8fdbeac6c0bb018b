"""Sentences of the check and the hints, in English, with format fields: the keys of their translations."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

PASSED = "{exercise}: passed; {calls} calls equal ours, {tests} tests pass, {seconds} s"
FAILED = "{exercise}: {kind}"
AT_STEP = "at step {step}"
INPUT = "input"
EXPECTED = "expected"
GOT = "got"
OUTPUT = "printed by your code"

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "unsolved": "not solved yet",
        "syntax": "does not parse",
        "missing": "missing",
        "signature": "another signature",
        "forbidden": "not allowed",
        "raises": "raises",
        "shape": "shape",
        "dtype": "dtype",
        "value": "value",
        "gradient": "gradient",
        "purity": "breaks purity",
        "slow": "too slow",
        "memory": "out of memory",
        "exit": "ends the process",
        "tests": "a test fails",
        "error": "the check itself failed",
    }
)
"""Kind of a result -> its words."""

UNSOLVED = "the body of {function} still raises Unsolved; write it in {path}, line {line}"
UNSOLVED_CALL = "a part of {function} still raises Unsolved"
SYNTAX = "{path}, line {line}: {error}"
NO_FILE = "{path} does not exist; `intro2llm exercises reset` writes it again"
MISSING = (
    "{path} has no function {function} at its top level; `intro2llm exercises reset` writes the file again"
)
SIGNATURE = "{path}, line {line}: the parameters of {function} differ from ours; write {expected}"
REFUSED = "{path}, line {line}: an answer may not use {name}"
REFUSED_IMPORT = "{path}, line {line}: an answer may not import {name}"
REFUSED_EVENT = "{function} tried to {action}, and an answer may not"
RAISES = "{function} raised {error}"
RAISES_AT = "{function} raised {error} in line {line}: {code}"
RAISES_AT_IMPORT = "{path} raised {error} in line {line}: {code}"
RAISES_NOT = "{function} should refuse this input, and returned a value"
RAISES_OTHER = "{function} should refuse this input with another error"
TYPE = "{place} should be of another type"
LENGTH = "{place} should have another length"
KEYS = "{place} should have other keys"
SHAPE = "{place} should have another shape"
DTYPE = "{place} should have another dtype"
DEVICE = "{place} should be on another device"
VALUE = "{place} is wrong"
VALUES = "{place} is wrong: {different} of {total} numbers, the first at {index}"
RESULT = "result"
GRADIENT = "the gradient of the result with respect to {place} is wrong"
GRADIENT_MISSING = "{place} should carry a gradient, and does not"
GRADIENT_EXTRA = "{place} should carry no gradient; detach it"
CHANGED_ARGUMENT = "{function} changed its argument {place}; write into a copy"
CHANGED_STATE = "{function} changed {name} of the whole process"
PRINTS = "the code printed more than {limit} KB"
DOCTEST = "the example of the docstring gives another result"
TEST = "{test} fails, though no call with plain tensors differs: {error}"
SLOW = "no result after {seconds} s ({stage}); a loop without end?"
SLOWER = "{function} took {seconds} s where ours took {reference} s"
MEMORY = "the code takes more than {limit} MB"
EXIT_CALL = "{function} called exit({code}); return a value"
EXIT_CODE = "the process ended (exit code {code}) before the check was complete"
EXIT = "the process ended ({reason}) before the check was complete"
ERROR = "{error}; this is a mistake of the check, not yours"
COUNT = "{passed} passed, {wrong} wrong, {unsolved} not solved yet"
WATCHING = "watching {folder}: save a file to check it again, Ctrl-C to end"
SHOW_LATER = "ours is shown beside yours once yours passes"
YOURS = "yours"
OURS = "ours"
SPEED = "a call of the example: yours {learner}, ours {ours}"

HINT = "{exercise}: hint {level} of 6, {subject}"
HINT_OF_STEP = "{exercise}: hint {level} of 6 on step {step} of {steps}, {subject}"
HINT_FORMULA = "the formula"
HINT_SENTENCE = "what it does"
HINT_SHAPES = "shapes and types after it in the docstring's example"
HINT_NUMBERS = "numbers after it in the docstring's example"
HINT_CODE = "its code"
HINT_BODY = "the whole body"
HINT_ARGUMENTS = "in the call with"
HINT_RETURNED = "returned"
HINT_VISITS = "the step runs {visits} times in this call; this is the first time that it changes something"
HINT_NOT_EXECUTED = "the example does not reach this step"
HINT_NOTHING_ASSIGNED = (
    "in the example this step assigns nothing: it only checks its input, or its branch is not taken"
)
HINT_NO_TRACE = "the example could not be run ({error})"
HINT_COUNT = "hints taken: {count}"
HINT_SYNTAX = "{path}, line {line}: {error}; the hints are on all steps, until the file parses"
HINT_DAMAGED = "{path} was damaged and is kept as {backup}; the hints start again"

START_PROCESS = "start a process"
FORK = "fork"
SIGNAL_PROCESS = "signal a process"
REMOVE_FILE = "remove a file"
RENAME_FILE = "rename a file"
REMOVE_FOLDER = "remove a folder"
MAKE_FOLDER = "make a folder"
LINK_FILE = "link a file"
WRITE_FILE = "write a file"
USE_NETWORK = "use the network"
LOAD_LIBRARY = "load a library"
READ_SOURCE = "read our source"

DEFAULT_DTYPE = "torch's default dtype"
GRAD_MODE = "torch's grad mode"
INFERENCE_MODE = "torch's inference mode"
THREADS = "the number of torch's threads"
DETERMINISTIC_MODE = "torch's deterministic mode"
MATMUL_PRECISION = "torch's matmul precision"
RANDOM_STATE = "the state of torch's random generator"

START = "start"
IMPORT = "import"
EXAMPLE = "example"
MEASUREMENT = "speed"
