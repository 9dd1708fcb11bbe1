"""The Python blocks of the documents run, one after another, and print what the documents show."""

import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


DOCUMENTS = [
    "README.md",
    "docs/layers.md",
    "docs/checking.md",
    "docs/testing.md",
    "docs/interchange.md",
    "docs/training.md",
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_blocks_run_and_print_what_is_shown(name, capsys, monkeypatch, tmp_path):
    if name == "docs/interchange.md":
        pytest.importorskip("onnx")
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) >= 5
    document = types.ModuleType("document")  # classes of a module can be pickled
    monkeypatch.setitem(sys.modules, "document", document)
    for block in blocks:
        code, shown = block.groups()
        before = text.count("\n", 0, block.start()) + 1
        exec(compile("\n" * before + code, name, "exec"), vars(document))  # errors have the line of the document
        printed = capsys.readouterr().out.splitlines()
        for line in (shown or "").splitlines():
            assert line in printed, f"{name}: {line!r} is not among {printed}"
