"""The list of planted faults is about the sources as they are: ``make mutate`` plants them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from mutations import __main__ as mutations
from mutations.faults import FAULTS, Fault
from process import ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.file}: {fault.after[:30]}")
def test_a_fault_has_one_place_and_a_test(fault: Fault) -> None:
    assert fault.after != fault.before
    assert (ROOT / fault.file).read_text().count(fault.before) == 1
    path, _, name = fault.test.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_what_became_of_a_fault_is_known_while_the_sources_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutations, "OUTCOMES", tmp_path / "outcomes.json")
    outcomes = mutations.Outcomes("digest", again=False)
    outcomes.keep(FAULTS[0], "found")
    later = mutations.Outcomes("digest", again=False)
    assert [later.get(FAULTS[0]), later.get(FAULTS[1]), later.get(FAULTS[0], planted=False)] == ["found", None, None]
    outcomes.keep(FAULTS[0], "passed", planted=False)
    assert later.get(replace(FAULTS[0], test=FAULTS[1].test)) is None
    assert mutations.Outcomes("digest", again=False).get(FAULTS[0], planted=False) == "passed"
    assert mutations.Outcomes("of other sources", again=False).get(FAULTS[0]) is None
    assert mutations.Outcomes("digest", again=True).get(FAULTS[0]) is None
