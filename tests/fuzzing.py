"""What parsers of untrusted input are fed: bytes, JSON of any shape, spoilt copies of good documents.

`fuzz(check, strategy)` calls `check` with a number of values, always the same ones, and bounds what
one call may take. A check calls the parser and asserts what holds of its answer; any error that
it does not expect fails the test, with the value that hypothesis has made small.

    @LENGTHS
    def test_...(examples):
        fuzz(check, spoilt(document), examples=examples)
"""

import copy
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning

MAX_CPU_SECONDS = 5.0
"""Of one call of a parser, whatever it is fed; generous, for a slow machine."""

MAX_WORDS = 2**20

T = TypeVar("T")

LENGTHS = pytest.mark.parametrize(
    "examples",
    [pytest.param(40, id="short"), pytest.param(3000, id="long", marks=pytest.mark.matrix)],
)

NASTY = (
    None, True, False, 0, -1, 2**53, 2**63, 2**64, -(2**63) - 1, 10**400, 0.0, -0.0, 1e308, 1e-320,
    float("inf"), float("-inf"), float("nan"), "", " ", "0", "1e999", "null", "NaN", "\0", "\n", "\ud800",
    "\N{RIGHT-TO-LEFT OVERRIDE}", "../../etc/passwd", "$(CONCERTINA_POD)", "a" * 70_000, [], {}, [[]], [{}],
    [None], {"": None}, {"a": {}}, ["a"] * 3000,
)  # fmt: skip
"""Values at which parsers have stumbled."""
NASTY_KEYS = [value for value in NASTY if isinstance(value, str)]

nasty = st.sampled_from(NASTY).map(copy.deepcopy)  # whoever gets one may change it
scalars = nasty | st.integers() | st.floats() | st.text(max_size=20)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
"""Values of any shape."""

DEEP = (
    b"[" * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"spec":' * 50_000 + b"1" + b"}" * 50_000,
    b'{"a":[' * 20_000,
)
"""Documents that a parser without a bound falls into."""

STRANGE = (
    b"", b"\0", b"null", b"0", b'""', b"[]", b"{}", b"NaN", b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0",
    b'{"spec":{},"spec":{}}', b"9" * 100_000, b'{"spec":' + b"1" * 10_000 + b"}", b'"' + b"x" * 2**20 + b'"',
)  # fmt: skip
"""Documents of other kinds than what is wanted."""

_LAUGHS = b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (level, level, b",".join([b"*a%d" % (level - 1)] * 9))
    for level in range(1, 9)
)
STRANGE_YAML = (
    *STRANGE, b"[" * 300, b"{a: " * 300, b"- " * 300, b"? " * 300, b"&a [*a]", b"&a {a: *a}",
    b"spec: &a\n  pods: *a\n", b"--- 1\n--- 2\n", b"<<: 1", b"a: {<<: [1]}", b"a: =", b"a: 9999-99-99",
    b"a: 2001-01-01T99:99:99Z", b"a: 0b", b"a: 0x", b"a: 0o9", b"a: 1:99:99999999999", b"a: 0_",
    b"a: !!int x", b"a: !!float x", b"a: !!bool x", b"a: !!null x", b"a: !!binary '=='", b"a: !!omap 1",
    b"a: !!python/object/apply:os.mkdir ['here']", b"!!set {a: 1}", b"a: !!pairs 1", b"? [a]\n: 1",
    b"? {a: 1}\n: 2", b"a: !!timestamp x", b"!!str {a: 1}", b"!!int [1]", b"a: " + b"9" * 5000,
    b"%YAML 9.9\n---\na", b"@", b"\t", b"a: *b", b"a: &b", b"key: [unclosed", b"\xc3\x28",
    b'a: "\\UFFFFFFFF"', b'a: "\\ud800"', _LAUGHS,
)  # fmt: skip
"""Files that a YAML loader stumbles over."""


def fuzz(
    check: Callable[[Any], object], strategy: st.SearchStrategy[Any], *, examples: int
) -> None:
    """Call `check` with so many values; each call is bounded in time."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,  # the machine may be busy with other things: the time of this process counts
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(value: Any) -> None:
        bounded(check, value)

    with warnings.catch_warnings():
        # Of values that are long on purpose.
        warnings.simplefilter("ignore", HypothesisWarning)
        run()


def refused(
    parse: Callable[[], T], *, error: type[Exception] | tuple[type[Exception], ...]
) -> tuple[T | None, str]:
    """What a parser answers, and how it refuses; one of both. The words are bounded."""
    try:
        return parse(), ""
    except error as refusal:
        words = str(refusal) or repr(refusal)
    assert len(words) < MAX_WORDS
    return None, words


def bounded(check: Callable[[Any], T], value: Any) -> T:
    """What one call answers; it may not take long."""
    start = time.process_time()
    answer = check(value)
    assert time.process_time() - start < MAX_CPU_SECONDS
    return answer


@st.composite
def spoilt(draw: Any, documents: Sequence[Any]) -> Any:
    """A good document with one to three faults: a value replaced, removed, moved or doubled."""
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        if not places:
            return draw(anything)
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "replace", "remove", "move", "add"])):
            case "replace":
                holder[key] = draw(anything)
            case "remove":
                del holder[key]
            case "move":
                other, name = draw(st.sampled_from(places))
                holder[key] = copy.deepcopy(other[name])
            case "add" if isinstance(holder, dict):
                holder[draw(st.text(max_size=12) | st.sampled_from(NASTY_KEYS))] = draw(anything)
            case "add":
                holder.insert(key, draw(anything))
    return document


@st.composite
def spoilt_bytes(draw: Any, contents: Sequence[bytes]) -> bytes:
    """Good bytes with some of them changed, cut out, doubled or put in."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 64)))
        match draw(st.sampled_from(["change", "cut", "double", "truncate"])):
            case "change":
                content[start:stop] = draw(st.binary(max_size=8))
            case "cut":
                del content[start:stop]
            case "double":
                content[start:start] = content[start:stop]
            case "truncate":
                del content[start:]
    return bytes(content)


def json_bytes(documents: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """What may stand in a file or a message that should hold one of these documents."""
    good = [encoded(document) for document in documents]
    return st.one_of(
        st.binary(max_size=64),
        anything.map(encoded),
        spoilt(documents).map(encoded),
        spoilt_bytes(good),
        st.builds(doubled_key, st.sampled_from(good), anything),
    )


def encoded(document: Any) -> bytes:
    """As JSON, with NaN and lone surrogates as Python lets them through."""
    return json.dumps(document).encode()


def doubled_key(document: bytes, value: Any) -> bytes:
    """An object whose every outer key appears again, with another value."""
    again = dict.fromkeys(json.loads(document), value)
    return document.rstrip()[:-1] + b"," + encoded(again)[1:]


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Each value within the document, by what holds it and its key."""
    if isinstance(document, dict):
        keys: Sequence[Any] = list(document)
    elif isinstance(document, list):
        keys = range(len(document))
    else:
        return
    for key in keys:
        yield document, key
        yield from _places(document[key])
