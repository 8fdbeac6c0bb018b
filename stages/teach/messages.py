"""Sentences of the check and the hints, in English, with format fields: the keys of their translations."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Sentence(NamedTuple):
    """A sentence with its fields; as the only argument of an error it can be translated (`translate.say`).

    Fields:
        text: English, with format fields.
        fields: what to fill in there; a value may be a Sentence.

    Example:
        >>> str(ValueError(Sentence("{path} is missing", {"path": "a.py"})))
        'a.py is missing'
    """

    text: str
    fields: Mapping[str, object]

    def __str__(self) -> str:
        """Returns the sentence in English."""
        return self.text.format(**self.fields)


PASSED = "{exercise}: passed; {calls}, {tests}, {seconds} s"
CALL = "1 call equals ours"
CALLS = "{count} calls equal ours"
TEST_PASSED = "1 test passes"
TESTS_PASSED = "{count} tests pass"
FAILED = "{exercise}: {kind}"
FAILED_AT_STEP = "{exercise}: {kind}, at step {step}"
INPUT = "input:"
EXPECTED = "expected:"
GOT = "got:"
OUTPUT = "printed by your code:"

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
NO_FILE = "{path} is missing; `intro2llm exercises start {folder}` writes it again"
NOT_TEXT = "{path} cannot be read: not UTF-8, byte {position}; save it as UTF-8"
UNREADABLE = "{path} cannot be read: {reason}"
IS_FOLDER = "it is a folder"
NO_PERMISSION = "you have no permission to read it"
MISSING = (
    "{path} has no function {function} at its top level; "
    "`intro2llm exercises reset {folder} {exercise}` adds it"
)
SIGNATURE = "{path}, line {line}: the parameters of {function} differ from ours; write {expected}"
REFUSED = "{path}, line {line}: an answer may not use {name}"
REFUSED_IMPORT = "{path}, line {line}: an answer may not import {name}"
IMPORTS_ALL = "{path}, line {line}: write the names that you import instead of *"
REFUSED_EVENT = "{function} tried to {action}, and an answer may not"
RAISES = "{function} raised {error}"
RAISES_AT = "{function} raised {error} in line {line}: {code}"
RAISES_AT_IMPORT = "{path} raised {error} in line {line}: {code}"
RAISES_NOT = "{function} should refuse this input, and returned a value"
RAISES_OTHER = "{function} should refuse this input with another error"
NOTHING = "{place} is None; a `return` may be missing"
TYPE = "{place} should be of another type"
LENGTH = "{place} has the length {length}, and should have {wanted}"
KEYS = "{place} should have other keys"
SHAPE = "{place} should have another shape"
DTYPE = "{place} should have another dtype"
DEVICE = "{place} should be on another device"
VALUE = "{place} is wrong"
VALUES = "{place} is wrong: {different} of {total} numbers, such as that at {index}"
RESULT = "result"
GRADIENT = "the gradient of the result with respect to {place} is wrong"
GRADIENT_MISSING = "{place} should carry a gradient, and does not"
GRADIENT_EXTRA = "{place} should carry no gradient; detach it"
CHANGED_ARGUMENT = "{function} changed its argument {place}; write into a copy"
CHANGED_STATE = "{function} changed {name} of the whole process"
CHANGED_AT_IMPORT = "the top of {path} changed {name} of the whole process; leave it as it is"
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
LEFT_OUT = "{student}: left out, as it is no folder of exercises: it has none of the course's packages"
NOT_KEPT = "the result is not kept: {reason}"
WATCHING = "watching {folder}: save a file to check it again, Ctrl-C to end"
SHOW_LATER = "ours is shown beside yours once yours passes"
YOURS = "yours"
OURS = "ours"
SPEED = "a call of the example: yours {learner}, ours {ours}"

HINT = "{exercise}: hint {level} of 6, {subject}:"
HINT_OF_STEP = "{exercise}: hint {level} of 6 on step {step} of {steps}, {subject}:"
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
DAMAGED_HINTS = "{path} is damaged: {reason}; the next hint keeps it as a backup, and the hints start again"
NO_HINTS = "expected a list of level, step and time for each exercise"
HINT_DAMAGED = "{path} was damaged and is kept as {backup}; the hints start again"

NO_EDITION = (
    "{folder} is not a student edition ({record} is missing); `intro2llm exercises start {folder}` makes "
    "one in an empty or new folder"
)
DAMAGED_RECORD = (
    "{path} is damaged: {reason}; restore it, or start an edition in a new folder and copy your files there"
)
NO_RECORD = "not the record of an edition"
NOT_EMPTY = "{folder} is neither empty nor a student edition (it holds {name}); choose a new folder"
NOT_FOLDER = "{folder} is a file; give a folder, which may be new"
UNKNOWN_EXERCISE = (
    "unknown exercise {name!r}; `intro2llm exercises list FOLDER CHAPTER` shows those of a chapter"
)
UNKNOWN_CHAPTER = "there is no chapter {number}; the chapters are 1 to {last}"
UNKNOWN_EXERCISE_NEAR = "unknown exercise {name!r}; did you mean {near!r}?"

NO_CLASS = "{folder}: expected a folder with one folder for each student, and there is none"
NO_STUDENT = (
    "{folder}: expected a folder with one folder for each student, made by `intro2llm exercises start`; "
    "none of its folders is one"
)
ONE_FILE = "--junit and --csv name one file, {path}; give each its own"

FILE_LEFT_OUT = "{problem}; ours is used for this file"
FUNCTION_LEFT_OUT = "{problem}; ours is used for this function"
SIGNATURE_SERVED = (
    "{path}, line {line}: the parameters of {function} differ from ours; expected {expected}, got {got}"
)

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
EXECUTE_TEXT = "execute text as code"
READ_FRAME = "read the code or the variables of another function"

DEFAULT_DTYPE = "torch's default dtype"
GRAD_MODE = "torch's grad mode"
INFERENCE_MODE = "torch's inference mode"
THREADS = "the number of torch's threads"
DETERMINISTIC_MODE = "torch's deterministic mode"
MATMUL_PRECISION = "torch's matmul precision"
MKLDNN_MODE = "torch's mkldnn settings"
DENORMAL_MODE = "torch's flushing of denormal numbers"
AUTOCAST_MODE = "torch's autocast"
ATTENTION_KERNELS = "torch's choice of attention kernels"
DEFAULT_DEVICE = "torch's default device"
ANOMALY_MODE = "torch's anomaly detection"
RANDOM_STATE = "the state of torch's random generator"
PYTHON_RANDOM_STATE = "the state of Python's random generator"
NUMPY_RANDOM_STATE = "the state of NumPy's random generator"
RECURSION_LIMIT = "Python's recursion limit"

START = "start"
IMPORT = "import"
EXAMPLE = "example"
MEASUREMENT = "speed"
