"""Expressions on foreign text take time that grows with the text only: no ReDoS, whatever a caller or registry sends.

Measured by CPU as a ratio: ten times the text may take a few times ten times as long, not a hundred times.
"""

import importlib
import inspect
import pkgutil
import re
import time
from collections.abc import Iterator
from functools import cache

import pytest

import app
from app.redaction import HIDDEN, without_secrets
from app.registry.http.error_body import clean

LEFT_OUT = frozenset({"app.settings"})
"""The operator's own environment is not foreign."""
SMALL, LARGE = 10_000, 100_000
MOST = 40
"""How many times as long the tenfold text may take: 10 is linear, 100 the square; the rest is noise."""
SEEDS = (
    *("<a", "; r=1", ';rel="', ";rel=next ", "a", "1", "a.", " ", ",", '"', "a =", "{{ ", "basic ", "token=", "a://b"),
    *(
        "<title>",
        "<title>a",
        "<script>",
        "<style>a",
        "<message>",
        "<body ",
        "or ",
        "project ",
        "exceed the a ",
        "exceed",
    ),
    *("https://a", "repository ", "1.1 - ", "manifests/", '299 - "', "-", "\n"),
)
Expression = tuple[str, re.Pattern[str] | re.Pattern[bytes], str]


def expressions() -> Iterator[Expression]:
    """Yield every expression of a module of ours, with the method that it is applied by."""
    seen = set()
    for found in pkgutil.walk_packages(app.__path__, "app."):
        if found.name in LEFT_OUT or found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        source = inspect.getsource(module)
        for name, value in vars(module).items():
            for pattern in _patterns(value):
                if id(pattern) not in seen:
                    seen.add(id(pattern))
                    used = re.findall(rf"\b{name}\.(match|fullmatch|search|findall|finditer|sub|split)\(", source)
                    yield from ((f"{found.name}.{name}", pattern, method) for method in sorted(set(used)) or ["sub"])


def _patterns(value: object) -> Iterator[re.Pattern[str] | re.Pattern[bytes]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _patterns(part)


def cpu_seconds(pattern: re.Pattern[str] | re.Pattern[bytes], method: str, text: str) -> float:
    subject = text.encode() if isinstance(pattern.pattern, bytes) else text
    began = time.thread_time()
    match method:
        case "sub":
            pattern.sub(subject[:0], subject)  # type: ignore[arg-type]  # bytes to bytes, str to str
        case "finditer":
            list(pattern.finditer(subject))  # type: ignore[arg-type]  # bytes to bytes, str to str
        case _:
            getattr(pattern, method)(subject)
    return time.thread_time() - began


@cache
def _one_pass() -> float:
    """Return what one pass over the smaller text takes: below it, a ratio would be one of noise."""
    return min(cpu_seconds(re.compile(r"(?:.|\n)"), "findall", "a" * SMALL) for _ in range(5))


def _grows_too_fast(pattern: re.Pattern[str] | re.Pattern[bytes], method: str, seed: str) -> bool:
    small, large = (seed * (size // len(seed)) + "\x00" for size in (SMALL, LARGE))
    took = cpu_seconds(pattern, method, small)
    if took <= _one_pass():
        return False  # the square would be thousands of passes
    return took > MOST * _one_pass() or cpu_seconds(pattern, method, large) > MOST * took


@pytest.mark.parametrize("expression", list(expressions()), ids=lambda expression: f"{expression[0]}-{expression[2]}")
def test_an_expression_takes_time_in_proportion_to_the_text(expression: Expression) -> None:
    name, pattern, method = expression

    slow = next((seed for seed in SEEDS if _grows_too_fast(pattern, method, seed)), None)

    assert slow is None, name


def test_a_long_text_is_cut_before_it_is_searched() -> None:
    shown = without_secrets("x" * 1_000_000 + " https://user:pw@h/?token=abc")

    assert len(shown) < 20_000
    assert shown.endswith(f"https://{HIDDEN}@h/?{HIDDEN}".replace("https://", "://")[-20:])
    assert len(clean("https://a" * 100_000)) < 1_000
