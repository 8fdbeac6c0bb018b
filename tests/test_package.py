"""Files for a package index and its visitors, citation, security and types, agree with each other and the code."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.rules.source import PACKAGES, ROOT
from tests.user_program import main


def read(name: str) -> str:
    """Read a file of the repository's root."""
    return (ROOT / name).read_text(encoding="utf8")


def find_version() -> str:
    """Find the version in pyproject.toml."""
    (version,) = re.findall(r'^version = "(.*)"$', read("pyproject.toml"), re.MULTILINE)
    return version


def test_the_newest_release_of_the_changelog_has_the_version_and_a_date() -> None:
    releases = re.findall(r"^## \[(\d.*?)\] - (\d{4}-\d\d-\d\d)$", read("CHANGELOG.md"), re.MULTILINE)
    assert releases[0][0] == find_version()
    assert sorted(releases, reverse=True) == releases


def test_the_citation_has_the_keys_of_its_format_and_the_version() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    needed = {"cff-version", "message", "title", "authors"}
    known = needed | {"abstract", "date-released", "keywords", "license", "type", "version"}
    assert needed <= citation.keys() <= known
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == find_version()
    assert f"## [{citation['version']}] - {citation['date-released']}" in read("CHANGELOG.md")
    assert citation["license"] == "MIT"
    assert all(author.keys() <= {"name", "family-names", "given-names"} for author in citation["authors"])


def test_every_package_has_types_and_brings_the_mark_into_the_wheel() -> None:
    data = read("pyproject.toml").partition("[tool.setuptools.package-data]")[2].partition("\n[")[0]
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").read_text() == ""
        assert re.search(rf'^{package} = \["py\.typed"\]$', data, re.MULTILINE), package


def test_the_page_of_security_says_what_the_code_says() -> None:
    page = read("SECURITY.md")
    from stages.cli.serve import ServeOptions
    from stages.sandbox.sandbox import FLAG

    assert f"`{FLAG}`" in page
    assert f"{ServeOptions.host}:{ServeOptions.port}" in page


def test_the_program_of_a_user_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """`.ci/package` runs it, and checks its types, with the wheel."""
    assert isinstance(main(2), str)
    assert "11 gradients" in capsys.readouterr().out
