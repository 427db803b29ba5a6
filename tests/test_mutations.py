"""The list of planted faults is about the sources as they are: ``make mutate`` plants them."""

from __future__ import annotations

import re

import pytest
from mutations.faults import FAULTS, Fault
from process import ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.file}: {fault.after[:30]}")
def test_a_fault_has_one_place_and_a_test(fault: Fault) -> None:
    assert fault.after != fault.before
    assert (ROOT / fault.file).read_text().count(fault.before) == 1
    path, _, name = fault.test.partition("::")
    assert re.search(rf"^def {name or 'test_'}", (ROOT / path).read_text(), re.MULTILINE)
