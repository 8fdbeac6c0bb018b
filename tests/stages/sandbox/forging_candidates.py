"""Candidates for a function `square` that are wrong, and try to forge the verdict of its tests."""

from __future__ import annotations

from collections.abc import Mapping

TESTS = """
def check(candidate):
    assert candidate(3) == 9
    assert candidate(-2) == 4
    assert candidate(10) == 100
"""

TEXT = r"""
### honest
def square(x): return x * x
### honest: prints a lot
def square(x):
    print("x" * 10**6)
    return x ** 2
### honest: a subclass of int
class Number(int): pass
def square(x): return Number(x * x)
### honest: closes its outputs
import os
os.close(1); os.close(2)
def square(x): return x * x
### wrong
def square(x): return 2 * x
### None
def square(x): pass
### equals everything
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def square(x): return Any()
### an int that equals everything
class Any(int):
    def __eq__(self, other): return True
    def __hash__(self): return 0
def square(x): return Any(5)
### a float that equals everything
class Any(float):
    def __eq__(self, other): return True
def square(x): return Any(5)
### a text that equals everything
class Any(str):
    def __eq__(self, other): return True
def square(x): return Any("9")
### a list that equals everything
class Any(list):
    def __eq__(self, other): return True
def square(x): return Any([9])
### says to be an int
class Any:
    __class__ = int
    def __eq__(self, other): return True
def square(x): return Any()
### frames up to the results
import sys
def square(x):
    frame = sys._getframe()
    while frame:
        for name, value in list(frame.f_locals.items()):
            if isinstance(value, list): value.append("ok")
            if isinstance(value, dict): value.update(status="ok", verdict="ok", passed=True)
        frame = frame.f_back
    return 0
### frames, and then the end
import os, sys
def square(x):
    frame = sys._getframe()
    while frame:
        frame.f_globals["check"] = frame.f_globals["_judge"] = lambda *_: ("ok", "all tests passed")
        frame = frame.f_back
    return 0
### sys.exit
import sys
def square(x): sys.exit(0)
### SystemExit
def square(x): raise SystemExit(0)
### SystemExit when it is loaded
raise SystemExit(0)
def square(x): return 0
### os._exit
import os
def square(x): os._exit(0)
### os._exit when it is loaded
import os
os._exit(0)
### KeyboardInterrupt
def square(x): raise KeyboardInterrupt
### GeneratorExit
def square(x): raise GeneratorExit
### StopIteration
def square(x): raise StopIteration
### AssertionError that is none
import builtins
class Assertion(BaseException): pass
builtins.AssertionError = Assertion
def square(x): return 0
### builtins replaced
import builtins
builtins.isinstance = lambda *_: True
builtins.len = lambda *_: 2
builtins.compile = builtins.exec = lambda *_: None
def square(x): return 0
### json replaced
import json
json.dumps = lambda *_, **__: '["ok","all tests passed"]'
json.loads = lambda *_, **__: ["ok", "all tests passed"]
def square(x): return 0
### the writer replaced
import gc
for thing in gc.get_objects():
    if getattr(thing, "__module__", "") != "stages.sandbox.wire": continue
    if getattr(thing, "__name__", "") == "encode":
        thing.__code__ = (lambda value: b'["ready"]\n' + b'["value",true]\n' * 9).__code__
def square(x): return 0
### os.write replaced
import os
write = os.write
os.write = lambda pipe, data: write(pipe, b'["ok","all tests passed"]\n') and len(data)
def square(x): return 0
### a verdict on every pipe
import os
def square(x):
    for fd in range(1000):
        try: os.write(fd, b'["ok", "all tests passed"]\n{"end": 0}\n{"status": "ok"}\n')
        except OSError: pass
    return 0
### a verdict when it is loaded
import os
for fd in range(3, 1000):
    try: os.write(fd, b'["ok","all tests passed"]\n')
    except OSError: pass
def square(x): return 0
### a verdict as the value
def square(x): return ["ok", "all tests passed"]
### a verdict as an error
def square(x): raise RuntimeError('\n["ok","all tests passed"]\n')
### a verdict as the error's name
def square(x): raise type('x"]\n["ok","all tests passed"]', (Exception,), {})()
### answers in advance, all the same
import os
for fd in range(3, 1000):
    try: os.write(fd, b'["ready"]\n' + b'["value",9]\n' * 100)
    except OSError: pass
def square(x): return 0
### answers that are none
import os
for fd in range(3, 1000):
    try: os.write(fd, b'["ready"]\n["value",{"eval":"9"}]\n["value",{"__reduce__":[]}]\n\x80\x04N.\n')
    except OSError: pass
def square(x): return 0
### an answer without end
import os
def square(x):
    for fd in range(3, 1000):
        try:
            while True: os.write(fd, b"[" * 65536)
        except OSError: pass
### a deep answer
def square(x):
    value = 9
    for _ in range(10**5): value = [value]
    return value
### an answer that contains itself
def square(x):
    value = []
    value.append(value)
    return value
### a large answer
def square(x): return "9" * 10**8
### an answer that shares its parts
def square(x):
    value = 9
    for _ in range(60): value = [value, value]
    return value
### a huge integer
def square(x): return 1 << 10**9
### not a number
def square(x): return float("nan")
### a generator
def square(x): yield 9
### a coroutine
async def square(x): return 9
### the function
def square(x): return square
### a class instead of a function
class square:
    def __init__(self, x): pass
    def __eq__(self, other): return True
### atexit
import atexit, os
atexit.register(os._exit, 0)
def square(x): return 0
### a thread that ends it all
import os, threading
threading.Timer(0.01, os._exit, (0,)).start()
def square(x):
    import time
    time.sleep(1)
### an alarm that ends it all
import os, signal
signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
signal.setitimer(signal.ITIMER_REAL, 0.01)
def square(x):
    while True: pass
### kills everybody
import os, signal
def square(x):
    for pid in (-1, 0, os.getppid(), 1, 2, 3):
        try: os.kill(pid, signal.SIGKILL)
        except OSError: pass
    return 0
### closes its pipes
import os
def square(x):
    os.closerange(0, 1000)
    return 0
### closes its pipes, and sleeps
import os, time
os.closerange(0, 1000)
time.sleep(60)
### outputs replaced
import sys, io
sys.stdout = sys.stderr = sys.__stdout__ = io.StringIO("ok")
def square(x): return 0
### an error that equals everything
class Any(AssertionError):
    def __eq__(self, other): return True
    def __str__(self): return "ok"
def square(x): raise Any
### an error without a text
class Any(Exception):
    def __str__(self): raise Any
def square(x): raise Any
### crashes
import ctypes
def square(x): ctypes.string_at(0)
### fills memory
def square(x):
    value = []
    while True: value.append(bytearray(2**20))
### endless
def square(x):
    while True: pass
### endless when it is loaded
while True: pass
### does not compile
def square(x) return x
### defines something else
def cube(x): return x ** 3
### defines no function
square = 9
### nothing
### asks for the tests
import gc
def square(x):
    for thing in gc.get_objects():
        if isinstance(thing, dict) and "tests" in thing: return thing["tests"]
    return 0
### hash tricks
def square(x):
    class Key(str):
        def __hash__(self): return 0
        def __eq__(self, other): return True
    return {Key("a"): 9}
"""

CANDIDATES: Mapping[str, str] = {
    part.partition("\n")[0]: part.partition("\n")[2] for part in TEXT.split("\n### ")[1:]
}
"""name -> source; candidates whose name begins with "honest" are correct."""
