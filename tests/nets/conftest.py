import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Tiny networks: handing work to a second thread takes longer than doing it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
