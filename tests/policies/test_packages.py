"""Policies from installed packages that the service's file lists."""

from __future__ import annotations

import pathlib
import sys

import pytest

from mlguard import PolicyError, policies


@pytest.fixture
def install(tmp_path_factory, monkeypatch):
    """Puts a policy package on the path, as pip would; importing it would fail."""

    def install(distribution="acme-policies", package="acme_policies", text=None, version="1.2", points=None):
        site = tmp_path_factory.mktemp("site")
        module = site.joinpath(*package.split("."))
        module.mkdir(parents=True)
        for folder in (module, *module.relative_to(site).parents[:-1]):
            (site / folder / "__init__.py").write_text("raise AssertionError('it was imported')")
        if text is not None:
            (module / "mlguard.toml").write_text(text)
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        points = points if points is not None else {package.partition(".")[0]: package}
        lines = "\n".join(f"{name} = {value}" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[mlguard.policies]\n{lines}\n")
        monkeypatch.syspath_prepend(str(site))

    return install


ACME = """\
[policies.remote]
abstract = true
retry = { max_retries = 2 }
[policies.realtime]
extends = ["remote", "mlguard:realtime"]
timeout = { total = "500ms" }
"""


def test_a_service_uses_the_policies_of_a_package(install, write):
    """They are read, never imported, and each value says package, version and line."""
    install(text=ACME)
    path = write('use = ["acme_policies"]\n[policies.mine]\nextends = "realtime"\n')
    assert policies.names() == ["mine", "realtime"]
    assert policies.get("mine").timeout.total == 0.5
    origins = policies.origins("mine")
    assert origins["timeout.total"] == "acme-policies 1.2, mlguard.toml:6"
    assert policies.get("realtime").breaker is not None
    assert "acme_policies" not in sys.modules
    assert "acme-policies 1.2, mlguard.toml:6" in policies.explain("realtime")
    del path


def test_what_is_not_listed_is_not_used(install, write):
    """An installed package changes nothing by being there."""
    install(text=ACME)
    write("[policies.mine]\n")
    assert policies.names() == ["mine"]


def test_code_file_and_environment_win_over_packages(install, write, monkeypatch):
    """Value by value: environment, file, code, package."""
    install(text="[policies.p]\nretry = { max_retries = 1, budget = 0.1, max_delay = 11, backoff_factor = 3 }\n")
    write('use = "acme_policies"\n[policies.p]\nretry = { max_retries = 3, budget = 0.3 }\n')
    policies.define("p", policies.Policy(retry={"max_retries": 2, "budget": 0.2, "max_delay": 12}))
    monkeypatch.setenv("MLGUARD__P__RETRY__MAX_RETRIES", "4")
    retry = policies.get("p").retry
    assert (retry.max_retries, retry.budget, retry.max_delay, retry.backoff_factor) == (4, 0.3, 12, 3)


def test_a_nested_package(install, write):
    """The file may lie in a package within a package, which is found without importing either."""
    install(package="acme.policies", text=ACME, points={"acme": "acme.policies"})
    write('use = ["acme"]\n')
    assert policies.names() == ["realtime"]
    assert "acme" not in sys.modules


def test_two_packages_with_one_name(install, write):
    """A policy that two packages define is an error that names both."""
    install(text=ACME)
    install("other-policies", "other_policies", text=ACME, version="3")
    write('use = ["acme_policies", "other_policies"]\n')
    with pytest.raises(
        PolicyError, match=r"'realtime' is defined by two packages, acme-policies 1.2 and other-policies 3"
    ):
        policies.names()


def test_two_packages_that_call_themselves_the_same(install, write):
    """An entry point that two packages have is an error that names both."""
    install(text=ACME)
    install("impostor", "impostor", text=ACME, points={"acme_policies": "impostor"})
    write('use = ["acme_policies"]\n')
    with pytest.raises(PolicyError, match=r"acme-policies 1.2 and impostor 1.2 both call themselves so"):
        policies.names()


@pytest.mark.parametrize(
    ("package", "use", "words"),
    [
        (
            {"text": ACME},
            '["acme_polices"]',
            r"mlguard.toml:1: use = .*Did you mean 'acme_policies'\? Installed: ac",
        ),
        ({"text": None}, '["acme_policies"]', r"acme-policies 1.2 has no .*mlguard.toml. Fix: ship mlguard.toml"),
        ({"text": ACME, "points": {"a": "nowhere"}}, '["a"]', r"names 'nowhere', which is no installed package"),
        ({"text": ACME, "points": {"a": "acme_policies:data"}}, '["a"]', r"names 'acme_policies:data', which is no"),
        ({"text": ACME}, "3", r"use = 3: must list policy packages, such as"),
        ({"text": ACME}, "[3]", r"use = \[3\]: must list policy packages"),
        (
            {"text": 'use = ["more"]'},
            '["acme_policies"]',
            r"1.2, mlguard.toml:1: use: a policy package can't use",
        ),
        ({"text": "[policies.p"}, '["acme_policies"]', r"acme-policies 1.2.*is not valid TOML|mlguard.toml.*not valid"),
        ({"text": "[policies.p]\nretry = 3"}, '["acme_policies"]', r"acme-policies 1.2, mlguard.toml:2: p.retry = 3"),
    ],
)
def test_what_is_wrong_with_a_package_is_told(install, write, package, use, words):
    """Each mistake names the package, the place and the fix."""
    install(**package)
    write(f"use = {use}\n")
    with pytest.raises(PolicyError, match=words):
        policies.names()


def test_a_package_that_is_updated_counts_at_reload(install, write):
    """reload() reads the packages' files again."""
    install(text="[policies.p]\nretry = { max_retries = 1 }\n")
    write('use = ["acme_policies"]\n')
    assert policies.get("p").retry.max_retries == 1
    from mlguard.policies.catalogue import of_this_process

    (file,) = (path for path in of_this_process.seen if path.parent.name == "acme_policies")
    file.write_text("[policies.p]\nretry = { max_retries = 2 }\n")
    policies.reload()
    assert policies.get("p").retry.max_retries == 2


def test_a_namespace_package_in_two_places(install, write, tmp_path_factory, monkeypatch):
    """Of a package without __init__.py the place counts that has the file."""
    sites = []
    for text in (None, ACME):
        site = tmp_path_factory.mktemp("site")
        folder = site / "acme" / "rules"
        folder.mkdir(parents=True)
        if text:
            (folder / "mlguard.toml").write_text(text)
        sites.append(site)
    install(package="other", text=ACME, points={"acme": "acme.rules"})
    for site in reversed(sites):
        monkeypatch.syspath_prepend(str(site))
    write('use = ["acme"]\n')
    assert policies.get("realtime").timeout.total == 0.5


def test_a_package_whose_metadata_is_broken(install, write, tmp_path_factory, monkeypatch):
    """One without name and version is called by what its entry point says."""
    install(text=ACME)
    site = next(path for path in map(pathlib.Path, sys.path) if (path / "acme_policies").is_dir())
    (site / "acme_policies-1.2.dist-info" / "METADATA").write_text("")
    write('use = ["acme_policies"]\n')
    assert policies.origins("realtime")["timeout.total"] == "acme_policies, mlguard.toml:6"
