"""The ledger holds: its own rules, its ties to the tests both ways, and the README that shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from claim_marks import PROOFS, evidence_errors, mark_errors, marked_tests

from reference.claims import (
    BEGIN,
    BRIEF,
    END,
    EVIDENCE,
    FULL,
    LEDGER,
    OUTSIDE,
    LedgerError,
    load,
    main,
    render_brief,
    render_full,
    render_text,
    summary,
    write,
)

ROOT = Path(__file__).resolve().parents[2]
IDS = {"G": 11, "Q": 3, "N": 3, "F": 3, "A": 8, "M": 7, "T": 10}  # T: our own


def test_the_ledger_has_every_claim_of_the_sources():
    assert [c.id for c in load()] == [f"{letter}{i + 1}" for letter, n in IDS.items() for i in range(n)]


def test_ledger_and_claim_marks_agree_both_ways():
    tests, errors = marked_tests(ROOT / "tests")
    assert not errors + mark_errors(load(), tests)


def test_each_claim_has_the_evidence_that_it_names_and_names_what_it_has():
    tests, _ = marked_tests(ROOT / "tests")
    assert not evidence_errors(load(), tests, (ROOT / "proofs" / "README.md").read_text(encoding="utf-8"))


def test_every_test_of_the_ledger_was_collected(request):
    """pytest's own list against the ledger's: nothing deselected, renamed at run time or skipped with its module."""
    config = request.config
    if config.option.keyword or any("::" in a for a in config.args):
        pytest.skip("part of the suite was asked for")
    collected = {item.nodeid.partition("[")[0] for item in request.session.items}
    files = {node.partition("::")[0] for node in collected}
    if any((config.invocation_params.dir / a).resolve() in (ROOT, ROOT / "tests") for a in config.args):
        files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "tests").rglob("test_*.py")}
    tests, _ = marked_tests(ROOT / "tests")
    left_out = {t.node for t in tests if t.marks & {"slow"}}
    named = {n for c in load() for n in c.tests if n.partition("::")[0] in files} - left_out
    assert not named - collected


def test_the_readme_and_claims_md_show_the_ledger():
    shown = (ROOT / BRIEF).read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert shown == "\n" + render_brief(load()), "run: python -m reference.claims --write"
    assert (ROOT / FULL).read_text(encoding="utf-8") == render_full(load()), "run: python -m reference.claims --write"


def test_claims_md_has_each_claim_at_its_anchor_with_its_scope_and_links_that_lead_somewhere():
    full, brief = (ROOT / FULL).read_text(encoding="utf-8"), (ROOT / BRIEF).read_text(encoding="utf-8")
    for claim in load():
        entry = full.partition(f'<a id="{claim.id}"></a>')[2].partition("<a id=")[0]
        plain = re.sub(r"\\(.)", r"\1", entry).replace("&lt;", "<")
        assert f"**{claim.id}**. " in entry and f"**{claim.verdict}**" in entry and claim.scope.rstrip(".") in plain
        assert f"[{claim.id}]({FULL}#{claim.id})" in brief
    links = re.findall(r"\]\(([^)#]+)\)", full)
    assert len(links) > 80 and not [link for link in links if not (ROOT / link).exists()]


ERRATA = (ROOT / "ERRATA.md").read_text(encoding="utf-8")


def errata_errors(text: str) -> list[str]:
    """Entries ("## F1 · ...") of no claim, and entries that no test holds: named, or all of the claim's."""
    tests, _ = marked_tests(ROOT / "tests")
    ids, errors = {c.id for c in load()}, []
    for entry in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        claim_id = entry.partition(" ")[0]
        own = {t.node.rpartition("::")[2] for t in tests if claim_id in t.claims}
        named = re.findall(r"`(test_\w+)`", entry)
        errors += [
            f"{claim_id}: {name} is not marked with this claim, or is no test" for name in named if name not in own
        ]
        errors += [f"{claim_id} is no claim"] * (claim_id not in ids)
        errors += [
            f"{x}, in the entry of {claim_id}, is no claim" for x in re.findall(r"\bT\d+\b", entry) if x not in ids
        ]
        if not own or (not named and f"Held by the tests of {claim_id}." not in entry):
            errors.append(f"{claim_id}: no test holds it")
    return errors


def test_the_errata_name_claims_and_the_tests_that_hold_them_now():
    assert not errata_errors(ERRATA) and "[ERRATA.md](ERRATA.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^## ", ERRATA, flags=re.MULTILINE)) >= 14
    proved, of_sources = (
        [c for c in load() if c.verdict == "proved" and c.id.startswith("T") is x] for x in (True, False)
    )
    assert "3 are `proved` as they were written" in ERRATA and len(of_sources) == 3
    assert "T1 to T10: ten, and none" in ERRATA and len(proved) == 10


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("## F1 ·", "## F9 ·", "F9 is no claim"),
        ("`test_the_root_itself_is_held_by_a_steady_turn`", "`test_the_root`", "A3: test_the_root is not marked"),
        ("Held by the tests of M5.", "", "M5: no test holds it"),
        ("cannot be weakened (T3)", "cannot be weakened (T33)", "T33, in the entry of A3"),
    ],
)
def test_a_wrong_erratum_is_found(old, new, message):
    flat = re.sub(r"\n(?!\n|#)", " ", ERRATA).replace(" \n", "\n")
    assert flat.count(old) == 1
    assert any(message in e for e in errata_errors(flat.replace(old, new)))


# What follows tests the checkers themselves, on ledgers and tests made for it.

ENTRY = {
    "id": '"G1"',
    "source": '"Grams, a paper"',
    "statement": '"|a| <= b*c_1 in `x|y`"',
    "verdict": '"proved"',
    "evidence": '["symbols"]',
    "scope": '"all a,\\n  b"',
    "tests": '["tests/test_a.py::test_one"]',
    "notebooks": '["notebooks/01_grams.ipynb"]',
}


def ledger(folder: Path, *entries: dict[str, str]) -> Path:
    path = folder / "claims.toml"
    path.write_text("".join("[[claim]]\n" + "".join(f"{k} = {v}\n" for k, v in e.items()) for e in entries))
    return path


def test_a_good_ledger_is_read(tmp_path):
    (claim,) = load(ledger(tmp_path, ENTRY))
    assert claim.id == "G1" and claim.tests == ("tests/test_a.py::test_one",) and claim.system == "Grams"
    assert claim.scope == "all a, b"


BROKEN = {
    "unknown key": ({"verdikt": '"proved"'}, "unknown key 'verdikt'"),
    "unknown verdict": ({"verdict": '"true"'}, "unknown verdict 'true'"),
    "verdict without test": ({"tests": "[]"}, "'proved' without a test"),
    "not run with test": ({"verdict": '"not run"'}, "'not run', yet it names tests"),
    "unknown evidence": ({"evidence": '["faith"]'}, "unknown evidence ['faith']"),
    "no evidence": ({"evidence": "[]"}, "'proved' without evidence"),
    "proved by runs": ({"evidence": '["symbols", "runs"]'}, "'proved' must not rest on runs"),
    "weakest first": ({"evidence": '["symbols", "solver"]'}, "the strongest first"),
    "evidence twice": ({"evidence": '["symbols", "symbols"]'}, "once each"),
    "evidence as text": ({"evidence": '"symbols"'}, "evidence must be a list"),
    "evidence for nothing": ({"verdict": '"not run"', "tests": "[]"}, "'not run', yet it names evidence"),
    "parametrised node id": ({"tests": '["tests/test_a.py::test_one[x]"]'}, "is not a node id"),
    "no function": ({"tests": '["tests/test_a.py"]'}, "is not a node id"),
    "test listed twice": ({"tests": '["tests/test_a.py::test_b", "tests/test_a.py::test_b"]'}, "listed twice"),
    "tests not a list": ({"tests": '"tests/test_a.py::test_one"'}, "tests must be a list"),
    "empty scope": ({"scope": '" "'}, "scope must be text, not empty"),
    "number for text": ({"statement": "3"}, "statement must be text"),
    "malformed id": ({"id": '"claim 1"'}, "the id must be a capital letter and a number"),
    "malformed notebook": ({"notebooks": '["01_grams"]'}, "a notebook must look like"),
    "notebooks not a list": ({"notebooks": '"notebooks/01_grams.ipynb"'}, "notebooks must be a list"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_ledger_is_refused(tmp_path, name):
    change, message = BROKEN[name]
    with pytest.raises(LedgerError, match=r"claims\.toml:\n") as caught:
        load(ledger(tmp_path, ENTRY | change))
    assert message in str(caught.value)


def test_missing_keys_duplicates_and_bad_toml_are_refused(tmp_path):
    with pytest.raises(LedgerError, match="G1: key 'scope' is missing"):
        load(ledger(tmp_path, {k: v for k, v in ENTRY.items() if k != "scope"}))
    with pytest.raises(LedgerError, match="G1: the id is used 2 times"):
        load(ledger(tmp_path, ENTRY, ENTRY))
    with pytest.raises(LedgerError, match="not valid TOML"):
        load(ledger(tmp_path, {"id": "G1"}))
    (tmp_path / "claims.toml").write_text("[claims]\n")
    with pytest.raises(LedgerError, match=r"must hold \[\[claim\]\] tables"):
        load(tmp_path / "claims.toml")


def errors_of(folder: Path, test_source: str, **change: str) -> list[str]:
    (folder / "tests").mkdir()
    (folder / "tests" / "test_a.py").write_text("import pytest\n\n" + test_source)
    tests, errors = marked_tests(folder / "tests")
    return errors + mark_errors(load(ledger(folder, ENTRY | change)), tests)


MARKED = '@pytest.mark.claim("G1")\n'
TIES = {
    "no such test": (
        "def test_other(): pass\n",
        "tests/test_a.py::test_one, which does not exist",
    ),
    "no mark": ("def test_one(): pass\n", "test_one lacks @pytest.mark.claim"),
    "mark of another claim": ('@pytest.mark.claim("G2")\ndef test_one(): pass\n', "G2, which the ledger does not know"),
    "not listed": (
        f"{MARKED}def test_one(): pass\n{MARKED}def test_two(): pass\n",
        "marked with G1, whose",
    ),
    "slow alone": (f"{MARKED}@pytest.mark.slow\ndef test_one(): pass\n", "an ordinary run leaves out"),
    "slow by its module": (f"pytestmark = pytest.mark.slow\n{MARKED}def test_one(): pass\n", "ordinary run leaves out"),
    "cuda alone": (f"{MARKED}@pytest.mark.cuda\ndef test_one(): pass\n", "an ordinary run leaves out"),
    "skipped": (f'{MARKED}@pytest.mark.skip(reason="x")\ndef test_one(): pass\n', "an ordinary run leaves out"),
    "mark on a helper": (f"{MARKED}def helper(): pass\n", "must be a decorator of a test"),
    "mark in a parameter": ('x = pytest.param(1, marks=pytest.mark.claim("G1"))\n', "must be a decorator of a test"),
    "mark by a name": ('G = "G1"\n@pytest.mark.claim(G)\ndef test_one(): pass\n', "with its ids as plain text"),
}


@pytest.mark.parametrize("name", TIES)
def test_a_broken_tie_between_ledger_and_tests_is_found(tmp_path, name):
    source, message = TIES[name]
    assert any(message in e for e in errors_of(tmp_path, source))


SYMPY = "import sympy as sp\nX = sp.Symbol('x')\n\n"
GIVEN = {
    "symbols": ("import sympy as sp\n\ndef test_one(): assert sp.Integer(1)\n", "tests/test_a.py"),
    "symbols by a constant": (SYMPY + "def helper(): return X\n\ndef test_one(): helper()\n", "tests/test_a.py"),
    "symbols by the theory": (
        "from reference.theory import pl_theorem as x\n\ndef test_one(): x.composition()\n",
        "tests/test_a.py",
    ),
    "enclosure by the theory": (
        "from reference.theory.pl_enclosure import outlasts\n\ndef test_one(): outlasts()\n",
        "tests/test_a.py",
    ),
    "solver": ("def test_one(): pass\n", "tests/theory/test_solver.py"),
    "enclosure": ("from flint import arb\n\ndef test_one(): arb(1)\n", "tests/test_a.py"),
    "exhaustive": ("from reference.theory import half_formats\n\ndef test_one(): half_formats\n", "tests/test_a.py"),
    "certificate": ("from reference.theory.pl_certificate import certify\n\ndef test_one(): certify()\n", "tests/a.py"),
    "checked": (f"def {PROOFS.partition('::')[2]}(): pass\n", "tests/theory/test_proofs.py"),
}
TABLE = "| file | claim |\n|---|---|\n| `Order.v` | G1, T9 | x |\n"


def found_evidence(folder: Path, source: str, path: str, evidence: list[str], theorems: str = "") -> list[str]:
    """The errors of a ledger with one claim whose only test is `source`."""
    file = folder / ("tests/test_a.py" if path == "tests/a.py" else path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    tests, _ = marked_tests(folder / "tests")
    (node,) = [t.node for t in tests]
    verdict = '"confirmed"' if evidence == ["runs"] else '"proved"'
    entry = ENTRY | {"tests": f'["{node}"]', "evidence": str(evidence), "verdict": verdict}
    return evidence_errors(load(ledger(folder, entry)), tests, theorems)


@pytest.mark.parametrize("name", GIVEN)
def test_evidence_must_be_given_by_a_test_of_its_kind(tmp_path, name):
    source, path = GIVEN[name]
    word, theorems = name.partition(" ")[0], TABLE if name == "checked" else ""
    assert not found_evidence(tmp_path, source, path, [word], theorems)
    lacking = found_evidence(tmp_path, source, path, ["runs"], theorems)
    assert any("which it does not name" in e for e in lacking) is (word != "symbols")
    for other in set(EVIDENCE) - {word, "runs"}:
        found = found_evidence(tmp_path, source, path, [other], theorems)
        assert f"G1: none of its tests gives the evidence {other!r}" in found


def test_evidence_is_not_given_by_a_name_that_the_test_does_not_use_or_a_test_that_is_left_out(tmp_path):
    unused = SYMPY + "def test_one(): pass\n"
    assert found_evidence(tmp_path, unused, "tests/test_a.py", ["symbols"])
    slow = "import pytest\nimport sympy as sp\n\n@pytest.mark.slow\ndef test_one(): sp.Symbol('x')\n"
    assert found_evidence(tmp_path, slow, "tests/test_a.py", ["symbols"])


@pytest.mark.parametrize("scope", ["all a", f"all a. {OUTSIDE}, in a run: b"])
def test_a_proved_claim_says_what_its_runs_are_no_part_of(tmp_path, scope):
    (tmp_path / "tests").mkdir()
    source = f"{SYMPY}import pytest\n\n{MARKED}def test_one(): X\n\n{MARKED}def test_two(): pass\n"
    (tmp_path / "tests" / "test_a.py").write_text(source)
    both = {"tests": '["tests/test_a.py::test_one", "tests/test_a.py::test_two"]', "scope": f'"{scope}"'}
    tests, _ = marked_tests(tmp_path / "tests")
    found = evidence_errors(load(ledger(tmp_path, ENTRY | both)), tests, "")
    assert [e.partition(" gives")[0] for e in found] == ["G1: tests/test_a.py::test_two"] * (OUTSIDE not in scope)


def test_what_rocq_has_checked_stands_in_the_table_of_proofs(tmp_path):
    source, path = GIVEN["checked"]
    (error,) = found_evidence(tmp_path, source, path, ["checked"], TABLE.replace("G1", "G2"))
    assert "do not agree on whether Rocq has checked it" in error


def test_good_ties_are_accepted(tmp_path):
    assert errors_of(tmp_path, f"{MARKED}def test_one(): pass\n") == []


def test_marks_of_classes_and_modules_count(tmp_path):
    source = f"pytestmark = [pytest.mark.cuda]\n{MARKED}class TestX:\n    def test_y(self): pass\n"
    found = errors_of(tmp_path, source, tests='["tests/test_a.py::TestX::test_y"]')
    assert found == ["G1: 'proved' rests on tests alone that an ordinary run leaves out"]


@pytest.mark.parametrize(
    ("body", "failed"),
    [
        ("@pytest.mark.claim('G1')\ndef test_x(): pytest.skip('no compiler')", True),
        ("@pytest.mark.claim('G1')\n@pytest.mark.skipif(True, reason='no compiler')\ndef test_x(): pass", True),
        ("@pytest.mark.claim('G1')\n@pytest.mark.xfail(reason='no compiler')\ndef test_x(): assert False", True),
        ("@pytest.mark.claim('G1')\n@pytest.mark.cuda\ndef test_x(): pytest.skip('no device')", False),
        ("def test_x(): pytest.skip('no compiler')", False),
    ],
)
def test_a_skipped_test_of_a_claim_fails(pytester, body, failed):
    hooks = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8").replace('pytest_plugins = ["pytester"]\n', "")
    pytester.makeconftest(hooks)
    pytester.makeini("[pytest]\nmarkers =\n    claim(id)\n    cuda\n")
    pytester.makepyfile("import pytest\n" + body)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    outcomes = result.parseoutcomes()  # a test skipped by a mark fails in its setup: pytest calls that an error
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) + outcomes.get("error", 0) == int(failed)
    assert outcomes.get("skipped", 0) == int(not failed)
    if failed:
        result.stdout.fnmatch_lines(["*establishes G1 and did not run (*no compiler*"])


def test_rendering(tmp_path):
    claims = load(ledger(tmp_path, ENTRY))
    assert summary(claims) == "1 claims of the sources: 1 proved, 0 confirmed, 0 conditional, 0 refuted, 0 not run."
    own = {"id": '"T1"', "source": '"AdamLab, proofs"'}
    parts = ENTRY | {"id": '"G2"', "verdict": '"conditional"', "evidence": '["symbols", "runs"]'}
    firm, loose = parts | {"id": '"G3"', "evidence": '["symbols"]'}, parts | {"id": '"G4"', "evidence": '["runs"]'}
    text = summary(load(ledger(tmp_path, parts, firm, loose, ENTRY | own)))
    assert text == (
        "3 claims of the sources: 0 proved, 0 confirmed, 3 conditional, 0 refuted, 0 not run. 1 of our own: 1 proved. "
        "Of the 3 conditional ones 1 rests on no run, 1 on runs only in part."
    )
    assert all(f"- `{word}`: " in render_full(claims) for word in EVIDENCE)
    assert (
        '<a id="G1"></a>\n\n**G1**. |a| &lt;= b\\*c\\_1 in `x|y`\n\n**proved** `symbols`. all a, b.\n\n'
        "Held by [test_a](tests/test_a.py), [01_grams](notebooks/01_grams.ipynb).\n"
    ) in render_full(claims).replace("\\|", "|")
    assert r"| [G1](CLAIMS.md#G1) | \|a\| &lt;= b\*c\_1 in `x\|y` | **proved** | `symbols` |" in render_brief(claims)
    text = render_text(claims, width=80)
    assert all(len(line) <= 80 for line in text.splitlines() if "->" not in line)
    assert "tests/test_a.py::test_one" in text and "PROVED" in text and "evidence: symbols" in text


def test_writing_replaces_what_stands_between_the_markers_and_the_whole_of_claims_md(tmp_path):
    claims, readme = load(LEDGER), tmp_path / BRIEF
    readme.write_text(f"head\n\n{BEGIN}\nold\n{END}\n\ntail\n")
    (tmp_path / FULL).write_text("old\n")
    for _ in range(2):
        write(tmp_path, claims)
        assert readme.read_text() == f"head\n\n{BEGIN}\n{render_brief(claims)}{END}\n\ntail\n"
        assert (tmp_path / FULL).read_text() == render_full(claims)
    readme.write_text("no markers\n")
    (tmp_path / FULL).write_text("old\n")
    with pytest.raises(LedgerError, match="once each"):
        write(tmp_path, claims)
    assert (tmp_path / FULL).read_text() == "old\n"


def test_the_command_prints_writes_and_fails(tmp_path, capsys):
    assert main([]) == 0
    assert capsys.readouterr().out == render_text(load())
    assert main(["--write", str(tmp_path / "absent")]) == 1
    assert "absent" in capsys.readouterr().err
