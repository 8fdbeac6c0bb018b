"""Find the program in what a chat model answers: code fences, prose around them, thoughts before, a body
alone.

A published score of a chat model depends on how its programs are found; so this is one function, with its
rules.
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
_PYTHON = ("", "python", "py", "python3", "python2", "ipython", "pycon")
_BEGINS = re.compile(r"(?:import|from|def|class|async def)\s|@\w|[A-Za-z_]\w*\s*(?::[^=]*)?=[^=]")
_FUTURE = re.compile(r"^from __future__ import [^\n]*\n?", re.MULTILINE)


def extract_program(answer: str, *, entry_point: str, prompt: str = "") -> str:
    """Makes the program to be tested of a chat model's answer.

    Args:
        answer: everything that the model wrote.
        entry_point: name of the function that is wanted.
        prompt: what the program begins with, where the task gives a signature (HumanEval); "" where not.

    Returns:
        Source that defines the function, if the answer has it; else the prompt with the answer as it is,
        which then fails as what it is.

    Steps:
        1. Thoughts are left out: all up to the last `</think>`; of thoughts that never end nothing is left.
        2. Blocks of code: those in fences, Python's or of no language; without a fence, the lines of the
           answer that are code, from the first import or definition on.
        3. The last block that defines the function, after all earlier ones that only import and define.
        4. A block without it is the function's body: it follows the prompt, indented if it is not.

    Edge cases: a fence that is not closed ends with the answer. `from __future__` lines go first.

    Example:
        >>> prompt = "def double(x):\\n    'Twice x.'\\n"
        >>> print(extract_program("Sure:\\n```python\\nreturn 2 * x\\n```", entry_point="double", prompt=prompt))
        def double(x):
            'Twice x.'
            return 2 * x
        >>> print(extract_program("<think>...</think>def double(x):\\n    return x + x\\nDone.", entry_point="double"))
        def double(x):
            return x + x
    """
    # 1. Thoughts.
    said = answer.rpartition("</think>")[2] if "</think>" in answer else answer.partition("<think>")[0]
    # 2. Blocks.
    fenced = [
        textwrap.dedent(found[3]) if _is_indented(found[3]) else found[3]
        for found in _FENCE.finditer(said)
        if found[2].lower() in _PYTHON
    ]
    bare = not fenced
    blocks = fenced or list(_find_code(said, entry_point))
    # 3. The function.
    defining = [i for i, block in enumerate(blocks) if _defines(block, entry_point)]
    if defining:
        last = defining[-1]
        earlier = [
            block for i, block in enumerate(blocks[:last]) if i not in defining and _only_defines(block)
        ]
        return _join_sources(_as_preamble(prompt), *earlier, blocks[last])
    # 4. The body.
    body = said if bare else max(blocks, key=len)
    return _append_body(prompt, body)


def complete_prompt(prompt: str) -> str:
    """Makes a prompt, which ends where the function's body is to begin or after its docstring, a program of
    its own.

    The tests may need what it defines besides; the function itself is replaced.

    Args:
        prompt: source.

    Returns:
        The source with a body for its last function; the prompt as it is, if that does not compile.

    Example:
        >>> complete_prompt("def f(x):\\n") + complete_prompt('def f(x):\\n  "What it is."\\n')
        'def f(x):\\n    pass\\ndef f(x):\\n  "What it is."\\n  pass\\n'
    """
    last = next((line for line in reversed(prompt.splitlines()) if line.strip()), "")
    indent = last[: len(last) - len(last.lstrip())]
    tries = [f"{prompt.rstrip()}\n{indent}{more}pass\n" for more in ("", "    ")]
    return next((text for text in tries if _parse(text) is not None), prompt)


def _defines(source: str, name: str) -> bool:
    """Whether it compiles, and defines the name at its top level."""
    tree = _parse(source)
    return tree is not None and any(
        (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name)
        or (
            isinstance(node, ast.Assign)
            and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
        )
        for node in tree.body
    )


def _only_defines(source: str) -> bool:
    """Whether it runs nothing but imports, definitions and assignments."""
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
    """The longest run of lines that compiles and defines the name."""
    lines = text.splitlines(keepends=True)
    starts = [i for i, line in enumerate(lines) if _BEGINS.match(line)]
    ends = [i for i, line in enumerate(lines) if line[:1] not in (" ", "\t", "\n", "\r")] + [len(lines)]
    wanted = next(
        (i for i, line in enumerate(lines) if re.match(rf"(async )?def {re.escape(name)}\b", line)), None
    )
    if wanted is None:
        return
    # The end is found with the definition alone, the start after it: each line is tried once, not each pair.
    after = (i for i in reversed(ends) if i > wanted)
    end = next((i for i in after if _defines("".join(lines[wanted:i]), name)), None)
    if end is not None:
        sources = ("".join(lines[start:end]) for start in starts if start <= wanted)
        yield from itertools.islice((source for source in sources if _defines(source, name)), 1)


def _append_body(prompt: str, body: str) -> str:
    """The prompt with a body, as far as that compiles: as it is, indented, or without lines of prose around
    it."""
    tries = [body, textwrap.indent(textwrap.dedent(body), "    ")]
    lines = body.splitlines(keepends=True)
    code = [i for i, line in enumerate(lines) if line[:1] in (" ", "\t")]
    if code:
        tries.append("".join(lines[code[0] : code[-1] + 1]))
    for text in tries:
        if _parse(joined := prompt + text) is not None and text.strip():
            return joined
    return prompt + body


def _as_preamble(prompt: str) -> str:
    """The prompt as what stands before a whole function: as it is, or closed; nothing if neither compiles."""
    if not prompt.strip() or _parse(prompt) is not None:
        return prompt
    made = complete_prompt(prompt)
    return made if _parse(made) is not None else ""


def _join_sources(*parts: str) -> str:
    """One source; what must stand first does."""
    text = "\n".join(part.rstrip("\n") for part in parts if part.strip())
    futures = "".join(dict.fromkeys(line.strip() + "\n" for line in _FUTURE.findall(text)))
    return futures + _FUTURE.sub("", text)


def _is_indented(block: str) -> bool:
    """Whether all of a block is indented, as in a list."""
    return all(line[:1] in (" ", "\t") for line in block.splitlines() if line.strip())


def _parse(source: str) -> ast.Module | None:
    """Its tree, if it compiles; nothing is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python does not know
        try:
            compile(source, "<answer>", "exec", dont_inherit=True)
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
