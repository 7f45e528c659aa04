"""Every notebook runs from top to bottom, and is committed with what it showed."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

SHORTER = {
    "01_network_beside_model": {"[:100]": "[:30]", "epochs=15": "epochs=3"},
    "02_limit_laws": {},
    "03_bbp_transition": {
        "num_draws=200": "num_draws=20", "num_draws=24": "num_draws=4", "(1, 4, 25)": "(1, 4, 5)",
        "2000), (10**6, 1000), (10**9, 100)": "20), (10**6, 20), (10**9, 20)", "size=1200": "size=50",
    },
    "04_landscape_model": {
        "fort_ganguli()": "fort_ganguli(num_examples=100)", "logits(300,": "logits(100,", "range(20)": "range(3)",
        "num_draws=8": "num_draws=2", "1e2, 13)": "1e2, 4)", "100, 8), ": "100, 3), ", "10, 8))": "10, 3))",
    },
    "05_sweeps": {
        "trials=50": "trials=5", "(0.1, 30, 8)": "(0.1, 30, 4)", "(0.25, 4, 5)": "(0.25, 4, 3)", "done >= 30": "done >= 6",
        "30 <= (stopped": "6 <= (stopped",
    },
    "06_spectra": {},
    "07_your_own_network": {"[:100]": "[:30]", "num_steps=80": "num_steps=20"},
    "08_hierarchy": {"slice(0, 400)": "slice(0, 100)", "slice(1200, 1600)": "slice(1200, 1300)", "range(1024)": "range(64)"},
    "09_what_the_model_lacks": {"range(8)": "range(2)"},
}  # fmt: skip
"""What each is run with here: its own sizes are for those who read it, and ran when it was committed."""


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def path(request):
    return request.param


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.fixture(scope="module")
def kernel():
    """One for all of them, where nothing is left of the one before but imports, which take as long as a short notebook."""
    manager = KernelManager(kernel_name="python3")
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
# The kernel is another process; these are warnings of its launcher here, about the machine and not about the notebook.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*Proactor:RuntimeWarning")
def test_notebook_runs(path, tmp_path, kernel):
    # In a copy, so that what it writes stays out of the repository.
    notebook = nbformat.read(shutil.copy(path, tmp_path), as_version=4)
    for written, shorter in SHORTER[path.stem].items():
        assert any(written in cell.source for cell in code_cells(notebook)), written
        for cell in code_cells(notebook):
            cell.source = cell.source.replace(written, shorter)
    fresh = f"%reset -f\n%cd -q {tmp_path}\n__import__('matplotlib.pyplot').rcdefaults()"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(fresh))
    client = NotebookClient(notebook, km=kernel, timeout=240, resources={"metadata": {"path": tmp_path}})
    client.execute()
    client.kc.stop_channels()
    for cell in code_cells(notebook):
        kinds = {output.output_type for output in cell.outputs}
        assert "error" not in kinds
        warned = [o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stderr"]
        assert not any("Warning" in text for text in warned), warned


def test_notebook_is_valid_and_committed_with_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), "run from top to bottom in one go before it is committed"
    outputs = [output for cell in cells for output in cell.outputs]
    assert any(o.output_type in ("display_data", "execute_result") and "image/png" in o.data for o in outputs), (
        "no figure"
    )
    assert not any(output.output_type == "error" for output in outputs)


def test_notebook_names_no_machine(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            # Images are data, in which anything may occur.
            for mime in list(output.get("data", {})):
                if mime.startswith("image/"):
                    del output.data[mime]
    text = json.dumps(notebook)
    for trace in (str(FOLDER.parent), str(Path.home()), "site-packages", "/tmp/"):
        assert trace not in text, trace
    assert notebook.metadata.kernelspec.name == "python3"
