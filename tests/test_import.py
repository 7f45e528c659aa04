import json
import subprocess
import sys

import rmtland

PROBE = """
import json, sys
import rmtland
print(json.dumps(sorted(sys.modules)))
"""


def test_import_is_lazy():
    out = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    loaded = set(json.loads(out.stdout))
    assert not loaded & {"torch", "matplotlib", "xarray", "dask", "numba", "scipy"}


def test_every_public_name_resolves():
    for name in rmtland.__all__:
        assert getattr(rmtland, name) is not None
    assert set(rmtland.__all__) <= set(dir(rmtland)) | {"__version__"}
