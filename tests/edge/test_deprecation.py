"""Headers that tell callers of an end: the fields' own formats, made once per version."""

from dataclasses import replace

from serving.core.models import ModelName, VersionName
from serving.core.traffic import Deprecation, Snapshot
from serving.edge.deprecation import lines_of, link_to
from serving.edge.exchange import WireVersions
from serving.edge.grpc.messages import MessageVersions
from serving.edge.problems import problem
from serving.errors import ModelRetired
from tests.plans import a_version

VERSION = a_version()
ENDING = Deprecation(
    ModelName("doubler"), VersionName("1"), 1_688_169_599, 1_719_791_999, "doubler@2"
)


def test_fields_are_those_of_their_rfcs() -> None:
    """A structured date, an HTTP date, and a link to the successor."""
    assert lines_of(ENDING) == (
        ("deprecation", "@1688169599"),
        ("sunset", "Sun, 30 Jun 2024 23:59:59 GMT"),
        ("link", '</v2/models/doubler/versions/2>; rel="successor-version"'),
    )


def test_what_is_not_known_is_not_said() -> None:
    """No date, no successor, no deprecation."""
    assert lines_of(replace(ENDING, sunset_s=0, successor="")) == (("deprecation", "@1688169599"),)
    assert lines_of(None) == ()


def test_link_names_nothing_that_is_no_segment() -> None:
    """A model alone is a link too; what is special in a URL is quoted."""
    assert link_to("doubler") == '</v2/models/doubler>; rel="successor-version"'
    assert "<" not in link_to("a/<b>@2")[1:-30]


def test_answers_change_with_the_snapshot() -> None:
    """Deprecated, reinstated, forgotten: what an answer carries follows, on both wires."""
    rest, grpc = WireVersions(), MessageVersions()
    before = rest.of(VERSION).headers, grpc.of(VERSION).trailers
    ending = Snapshot(2, (VERSION,), deprecations=(ENDING,))
    for wire in (rest, grpc):
        wire.apply(ending)
    during = rest.of(VERSION).headers, grpc.of(VERSION).trailers
    kept = rest.of(VERSION) is rest.of(VERSION)
    for wire in (rest, grpc):
        wire.apply(Snapshot(3, (VERSION,)))

    assert b"deprecation" not in before[0]
    assert during[0] == before[0] + "".join(f"{n}: {v}\r\n" for n, v in lines_of(ENDING)).encode()
    assert during[1] == before[1] + lines_of(ENDING)
    assert kept
    assert (rest.of(VERSION).headers, grpc.of(VERSION).trailers) == before


def test_version_that_is_made_later_is_deprecated_too() -> None:
    """The first answer after a snapshot carries what the snapshot says."""
    wire = WireVersions()
    wire.apply(Snapshot(2, (VERSION,), deprecations=(ENDING,)))

    assert b"sunset: " in wire.of(VERSION).headers


def test_retired_is_gone_with_a_link() -> None:
    """410, the one error body, and where to go."""
    answer = problem(ModelRetired("doubler@1 was retired", successor="doubler@2"))

    assert answer.startswith(b"HTTP/1.1 410 Gone\r\n")
    assert b'Link: </v2/models/doubler/versions/2>; rel="successor-version"\r\n' in answer
    assert b'"code":"model_retired"' in answer
