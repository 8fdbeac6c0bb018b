"""Extract the program from a chat model's completion: code fences, prose around them, reasoning, a bare body.

A published score of a chat model depends on this extraction, so it is one function with documented rules.
"""

from __future__ import annotations

import ast
import itertools
import re
import textwrap
import warnings
from collections.abc import Iterator

_FENCE = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)
_PYTHON_TAGS = ("", "python", "py", "python3", "python2", "ipython", "pycon")
_CODE_START = re.compile(r"(?:import|from|def|class|async def)\s|@\w|[A-Za-z_]\w*\s*(?::[^=]*)?=[^=]")
_FUTURE = re.compile(r"^from __future__ import [^\n]*\n?", re.MULTILINE)


def extract_program(answer: str, *, entry_point: str, prompt: str = "") -> str:
    """Extracts the program to test from a chat model's completion.

    Args:
        answer: the whole completion.
        entry_point: name of the function to define.
        prompt: beginning of the program, such as a signature and its docstring (HumanEval); "" for none.

    Returns:
        Source that defines the function, if the completion does; else the prompt followed by the completion,
        which then fails the tests.

    Steps:
        1. Remove the reasoning: the text up to the last `</think>`, or from a `<think>` that is never closed.
        2. Find blocks of code: fences of Python or of no language; without a fence, the lines around the
           function that compile, from the first import, definition or assignment on.
        3. Take the last block that defines the function, preceded by all earlier blocks that contain only
           imports, definitions and assignments.
        4. Without such a block, the code is the function's body: append it to the prompt, indented if needed.

    Edge cases: an unclosed fence ends with the completion. `from __future__` lines are moved to the top.

    Example:
        >>> prompt = "def double(x):\\n    'Twice x.'\\n"
        >>> answer = "Sure:\\n```python\\nreturn 2 * x\\n```"
        >>> print(extract_program(answer, entry_point="double", prompt=prompt))
        def double(x):
            'Twice x.'
            return 2 * x
        >>> answer = "<think>...</think>def double(x):\\n    return x + x\\nDone."
        >>> print(extract_program(answer, entry_point="double"))
        def double(x):
            return x + x
    """
    # 1. Remove the reasoning.
    if "</think>" in answer:
        text = answer.rpartition("</think>")[2]
    else:
        text = answer.partition("<think>")[0]
    # 2. Find blocks of code.
    fenced = []
    for fence in _FENCE.finditer(text):
        if fence[2].lower() in _PYTHON_TAGS:
            fenced.append(textwrap.dedent(fence[3]) if _is_indented(fence[3]) else fence[3])
    blocks = fenced or list(_find_code(text, entry_point))
    # 3. Take the block that defines the function.
    defining = [i for i, block in enumerate(blocks) if _defines(block, entry_point)]
    if defining:
        last = defining[-1]
        earlier = [
            block for i, block in enumerate(blocks[:last]) if i not in defining and _only_defines(block)
        ]
        return _join_sources(_as_preamble(prompt), *earlier, blocks[last])
    # 4. Append the function's body.
    return _append_body(prompt, max(blocks, key=len) if fenced else text)


def complete_prompt(prompt: str) -> str:
    """Completes a prompt that ends before the function's body or after its docstring, so that it compiles.

    The tests may need the prompt's other definitions; its last function is redefined by the completion.

    Args:
        prompt: source of the beginning of a program.

    Returns:
        The source with `pass` as the body of its last function; the prompt itself if that does not compile.

    Example:
        >>> complete_prompt("def f(x):\\n") + complete_prompt('def f(x):\\n  "What it is."\\n')
        'def f(x):\\n    pass\\ndef f(x):\\n  "What it is."\\n  pass\\n'
    """
    last = next((line for line in reversed(prompt.splitlines()) if line.strip()), "")
    indent = last[: len(last) - len(last.lstrip())]
    candidates = [f"{prompt.rstrip()}\n{indent}{more}pass\n" for more in ("", "    ")]
    return next((text for text in candidates if _parse(text) is not None), prompt)


def _defines(source: str, name: str) -> bool:
    """True if the source compiles, and defines the name at its top level."""
    tree = _parse(source)
    for node in tree.body if tree is not None else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            return True
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return True
    return False


def _only_defines(source: str) -> bool:
    """True if the source compiles, and contains only imports, definitions and assignments."""
    kinds = (
        ast.Import,
        ast.ImportFrom,
        ast.FunctionDef,
        ast.AsyncFunctionDef,
        ast.ClassDef,
        ast.Assign,
        ast.AnnAssign,
    )
    tree = _parse(source)
    return tree is not None and all(isinstance(node, kinds) for node in tree.body)


def _find_code(text: str, name: str) -> Iterator[str]:
    """Yields the longest run of consecutive lines that compiles and defines the name, if there is one."""
    lines = text.splitlines(keepends=True)
    starts = [i for i, line in enumerate(lines) if _CODE_START.match(line)]
    ends = [i for i, line in enumerate(lines) if line[:1] not in (" ", "\t", "\n", "\r")] + [len(lines)]
    definition = next(
        (i for i, line in enumerate(lines) if re.match(rf"(async )?def {re.escape(name)}\b", line)), None
    )
    if definition is None:
        return
    # Find the end for the definition alone, then the start: each line is tried once, not each pair of lines.
    later_ends = (i for i in reversed(ends) if i > definition)
    end = next((i for i in later_ends if _defines("".join(lines[definition:i]), name)), None)
    if end is not None:
        sources = ("".join(lines[start:end]) for start in starts if start <= definition)
        yield from itertools.islice((source for source in sources if _defines(source, name)), 1)


def _append_body(prompt: str, body: str) -> str:
    """The prompt and the first form of the body that compiles: unchanged, indented, or without prose."""
    candidates = [body, textwrap.indent(textwrap.dedent(body), "    ")]
    lines = body.splitlines(keepends=True)
    code = [i for i, line in enumerate(lines) if line[:1] in (" ", "\t")]
    if code:
        candidates.append("".join(lines[code[0] : code[-1] + 1]))
    for text in candidates:
        if _parse(prompt + text) is not None and text.strip():
            return prompt + text
    return prompt + body


def _as_preamble(prompt: str) -> str:
    """The prompt as code before a complete function: unchanged, or completed; "" if neither compiles."""
    if not prompt.strip() or _parse(prompt) is not None:
        return prompt
    completed = complete_prompt(prompt)
    return completed if _parse(completed) is not None else ""


def _join_sources(*parts: str) -> str:
    """Joins sources, with `from __future__` lines first."""
    text = "\n".join(part.rstrip("\n") for part in parts if part.strip())
    futures = "".join(dict.fromkeys(line.strip() + "\n" for line in _FUTURE.findall(text)))
    return futures + _FUTURE.sub("", text)


def _is_indented(block: str) -> bool:
    """True if all lines of a block are indented, as those of a fence in a list item are."""
    return all(line[:1] in (" ", "\t") for line in block.splitlines() if line.strip())


def _parse(source: str) -> ast.Module | None:
    """The syntax tree of the source, or None if it does not compile; nothing is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about invalid escapes
        try:
            compile(source, "<answer>", "exec", dont_inherit=True)
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
