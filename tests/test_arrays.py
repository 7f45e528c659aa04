"""Arrays of both libraries, and of devices that lack double precision."""

from types import SimpleNamespace

import numpy as np
import pytest

from rmtland._arrays import at_least_single, double, namespace, num_bytes, to_numpy, where_double_is, widest, zeros

torch = pytest.importorskip("torch")


class WithoutDouble(torch.Tensor):
    """A tensor that says it lies where there is no float64."""

    device = property(lambda self: SimpleNamespace(type="mps"))

    def cpu(self):
        return torch.Tensor.cpu(self).as_subclass(torch.Tensor)


def test_bytes_of_an_array():
    for array in (np.zeros((3, 5), np.float32), torch.zeros(3, 5)):
        assert num_bytes(array) == 60
    assert num_bytes(np.zeros((0, 5))) == num_bytes(torch.zeros(0)) == 0


@pytest.mark.parametrize("make", [lambda t: np.ones(3, t), lambda t: torch.ones(3, dtype=getattr(torch, t))])
def test_what_is_precise_enough_is_not_copied(make):
    for dtype in ("float32", "float64"):
        array = make(dtype)
        assert at_least_single(array) is array
        assert where_double_is(array) is array
        assert str(double(array).dtype).endswith("float64")
        assert (double(array) is array) == (dtype == "float64")
    assert str(at_least_single(make("float16")).dtype).endswith("float32")
    assert widest(make("float16")) == namespace(make("float64")).float64


def test_sums_are_in_single_precision_where_there_is_no_double():
    array = torch.ones(3).as_subclass(WithoutDouble)
    assert widest(array) == torch.float32
    assert double(array).dtype == torch.float32
    assert type(where_double_is(array)) is torch.Tensor
    assert widest(torch.ones(3)) == torch.float64


def test_numbers_that_numpy_does_not_know_come_as_single_precision():
    found = to_numpy(torch.tensor([1.5, -2.0], dtype=torch.bfloat16, requires_grad=True))
    assert found.dtype == np.float32
    assert found.tolist() == [1.5, -2.0]
    assert to_numpy(torch.tensor([1.5], dtype=torch.float16)).dtype == np.float16


def test_zeros_are_of_the_dtype_of_the_reference_unless_told():
    for reference, other in ((np.ones(2, np.float32), np.int64), (torch.ones(2), torch.int64)):
        assert zeros(reference, (3, 1)).dtype == reference.dtype
        assert zeros(reference, (3, 1), other).dtype == other
        assert tuple(zeros(reference, (3, 1)).shape) == (3, 1)
        assert not zeros(reference, (3, 1)).any()


@pytest.mark.parametrize("wrong", [None, 1, 2.0, 3j, [1.0]])
def test_what_is_no_array_is_named(wrong):
    for arrays in ((wrong,), (np.ones(2), wrong), (wrong, torch.ones(2))):
        with pytest.raises(TypeError, match="things must be NumPy arrays or torch tensors, all of one library; got "):
            namespace(*arrays, names="things")
    with pytest.raises(TypeError, match="got Tensor, ndarray"):
        namespace(np.ones(2), torch.ones(2))
