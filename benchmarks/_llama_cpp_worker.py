"""Serve llama.cpp to another process: one JSON request a line on standard input, one answer a line on stdout.

Runs in the virtual environment of `benchmarks/llama_cpp.sh`, which has nothing of this project; the client is
`benchmarks/_llama_cpp.py`. Logits are written to a .npy file that the request names.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import llama_cpp
import numpy as np

CHECK: Mapping[str, Any] = {"logits_all": True, "type_k": 0, "type_v": 0}
"""Settings of the comparisons: logits of every token, a cache in float32 (ggml's type 0)."""


def load(models: dict, path: str, length: int, threads: int, check: bool) -> dict[str, Any]:
    """Load a file, and tell what llama.cpp read: fields, special ids, sizes, the ids that end a text."""
    settings = CHECK if check else {}
    model = llama_cpp.Llama(
        path, n_ctx=length, n_threads=threads, n_threads_batch=threads, verbose=False, **settings
    )
    models[path, check] = model
    vocabulary = llama_cpp.llama_model_get_vocab(model.model)
    ends = [i for i in range(model.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocabulary, i)]
    return {
        "fields": model.metadata,
        "rows": model.n_vocab(),
        "bos": model.token_bos(),
        "eos": model.token_eos(),
        "ends": ends,
        "parameters": llama_cpp.llama_model_n_params(model.model),
    }


def encode(models: dict, path: str, texts: list[str], special: bool, template: bool) -> list[list[int]]:
    """Encode texts."""
    model = models[path, True]
    return [model.tokenize(text.encode(), add_bos=template, special=special) for text in texts]


def pieces(models: dict, path: str, ids: list[int]) -> str:
    """Decode ids one by one, special ones too: the bytes in hexadecimal digits."""
    vocabulary = llama_cpp.llama_model_get_vocab(models[path, True].model)
    buffer = ctypes.create_string_buffer(1 << 12)
    parts = []
    for i in ids:
        size = llama_cpp.llama_token_to_piece(vocabulary, i, buffer, len(buffer), 0, True)
        parts.append(buffer.raw[:size])
    return b"".join(parts).hex()


def logits(models: dict, path: str, ids: list[int], to: str) -> None:
    """Write the logits after every token, [T, V] float32, to a .npy file."""
    model = models[path, True]
    model.reset()
    model.eval(ids)
    np.save(to, model.scores[: len(ids)])


def greedy(models: dict, path: str, ids: list[int], new: int, check: bool) -> list[Any]:
    """Continue ids by the most probable token, `new` times: [the tokens, seconds of all steps]."""
    model = models[path, check]
    vocabulary = model.n_vocab()
    start = time.perf_counter()
    model.reset()
    model.eval(ids)
    tokens = []
    for _ in range(new):
        row = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        tokens.append(int(np.ctypeslib.as_array(row, shape=(vocabulary,)).argmax()))
        if len(tokens) < new:
            model.eval(tokens[-1:])
    return [tokens, time.perf_counter() - start]


def close(models: dict, path: str) -> None:
    """Free the memory of a file."""
    for key in [key for key in models if key[0] == path]:
        models.pop(key).close()


def quantize(models: dict, path: str, to: str, kind: int) -> int:
    """Write a file of another type, by llama.cpp's own quantiser; 0 is success."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = kind, 1
    return llama_cpp.llama_model_quantize(path.encode(), to.encode(), settings)


def main() -> None:
    """Answer requests until the input ends; an error is an answer too."""
    answers = os.fdopen(os.dup(1), "w")  # llama.cpp may print to standard output, which becomes stderr
    os.dup2(2, 1)
    commands = {f.__name__: f for f in (load, encode, pieces, logits, greedy, close, quantize)}
    models: dict = {}
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"answer": commands[name](models, **arguments)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
