#!/usr/bin/env bash
# Build llama-cpp-python, which contains llama.cpp, in a virtual environment of its own, for `benchmarks/gguf_export.py`.
# Needs python 3.10 or newer with venv, and a C++ compiler; cmake and ninja come with the build. 15 to 30 minutes on 2 cores.
# A second call does nothing.
#
#     bash benchmarks/llama_cpp.sh [FOLDER]        (default: ~/.cache/intro2llm/llama_cpp)
set -euo pipefail
version=0.3.36
folder="${1:-${LLAMA_CPP:-${XDG_CACHE_HOME:-$HOME/.cache}/intro2llm/llama_cpp}}"
has_version() { [ "$("$folder/bin/python" -c 'import llama_cpp; print(llama_cpp.__version__)' 2>/dev/null)" = "$version" ]; }

if has_version; then
  echo "$folder: llama-cpp-python $version is there already"
  exit 0
fi
echo "$folder: building llama-cpp-python $version; 15 to 30 minutes on 2 cores"
"${PYTHON:-python3}" -m venv "$folder"
export CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF"
export CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-2}"
"$folder/bin/pip" install --quiet "llama-cpp-python==$version"
has_version || { echo "$folder: the build ended, but llama_cpp $version cannot be imported" >&2; exit 1; }
echo "$folder: built in $((SECONDS / 60)) min $((SECONDS % 60)) s"
