"""An unsupported Python gets one sentence, not a syntax error."""

import ast
import sys
from pathlib import Path

import pytest
from compact_parallel.workflows.python_check import NEWEST, OLDEST, check_python

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = ["workflows/demo.py", "tests/run.py", "workflows/python_check.py"]


@pytest.mark.parametrize("version", [(3, 8, 18), (3, 9, 99), (3, NEWEST[1] + 1, 0), (4, 0)])
def test_unsupported_python_is_refused_with_one_sentence(version):
    with pytest.raises(SystemExit, match=r"^This needs Python 3\.10 to 3\.\d+, but is running on \d\.\d+; [^.]+\.$"):
        check_python(version)


@pytest.mark.parametrize("version", [OLDEST, (*OLDEST, 0), (*NEWEST, 99), sys.version_info])
def test_supported_python_is_accepted(version):
    check_python(tuple(version))


@pytest.mark.parametrize("entry", ENTRIES)
def test_entries_reach_the_check_on_an_old_python(entry):
    """They parse as Python 3.6 and import only the standard library and the check before it runs."""
    tree = ast.parse((ROOT / entry).read_text(encoding="utf-8"), feature_version=(3, 6))
    imported = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert imported <= set(sys.stdlib_module_names) | {"python_check"}
    assert "__future__" not in imported


def test_a_newer_syntax_would_be_seen():
    """Negative control of the parse above."""
    with pytest.raises(SyntaxError):
        ast.parse("if (n := 1): pass", feature_version=(3, 6))
