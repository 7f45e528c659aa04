import subprocess
import sys

PROBE = """
import sys
sys.modules["torch"] = None  # as where it is not installed
import rmtland as rl
law = rl.MarchenkoPastur(0.5).mean()  # the rest works without
try:
    rl.nets.NetworkLogitGradients
except ModuleNotFoundError as error:
    print(error)
"""


def test_a_missing_torch_is_told_with_the_way_out():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert 'rmtland.nets needs torch, which is not installed: pip install "rmtland[nets]"' in done.stdout
