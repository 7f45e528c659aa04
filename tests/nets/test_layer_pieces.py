import itertools

import pytest
import torch

from rmtland.nets import layer_pieces, layer_rows, pass_rows
from rmtland.nets.layer_pieces import EmbeddingPiece, FormedPiece, MatrixPiece, joined

N, ENTRIES, WIDTH = 5, 4, 3


def some(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape))).double()


def matrix(positions, groups=1, a=WIDTH, b=ENTRIES, shared=True):
    return MatrixPiece(some(N, groups, a, positions), some(N, groups, b, positions), shared=shared)


def table(positions):
    indices = torch.randint(0, ENTRIES, (N, positions), generator=torch.Generator().manual_seed(positions))
    indices[0] = 1  # the same entry again and again
    return EmbeddingPiece(indices, some(N, WIDTH, positions), ENTRIES)


def gradients(piece):
    """(n, d), one position after another."""
    if isinstance(piece, FormedPiece):
        return piece.gradients
    rows = torch.zeros(N, ENTRIES, WIDTH).double()
    if isinstance(piece, EmbeddingPiece):
        for example, place in itertools.product(range(N), range(piece.indices.shape[1])):
            rows[example, piece.indices[example, place]] += piece.signals[example, :, place]
        return rows.flatten(1)
    return sum(
        torch.einsum("ngb,nga->ngba", piece.signals[..., p], piece.inputs[..., p]).flatten(1)
        for p in range(piece.inputs.shape[3])
    )


PIECES = {
    "formed": FormedPiece(some(N, ENTRIES * WIDTH)),
    **{f"matrix at {p}, {g} groups": matrix(p, g, WIDTH, ENTRIES // g) for p in (1, 2, 9) for g in (1, 2)},
    **{f"table at {p}": table(p) for p in (1, 3)},
}


@pytest.mark.parametrize("name", PIECES)
def test_every_form_of_a_gradient_gives_what_written_out_gradients_give(name, monkeypatch):
    piece, rows = PIECES[name], gradients(PIECES[name])
    few, weights, vectors = torch.tensor([3, 0]), some(N, 3), some(2, ENTRIES * WIDTH)
    weights[:4, 0] = weights[:, 1] = 0
    for most in (0, 8):
        monkeypatch.setattr(layer_pieces, "FORMED_POSITIONS", most)
        fresh = piece.chosen(torch.arange(N))
        for one, right in ((fresh, rows), (fresh.chosen(few), rows[few])):
            torch.testing.assert_close(one.squares(), right.square().sum(dim=1))
            torch.testing.assert_close(one.sums(weights[: len(right)]), weights[: len(right)].T @ right)
            torch.testing.assert_close(one.products(vectors), right @ vectors.T)
            torch.testing.assert_close(one.formed(), right)
            torch.testing.assert_close(one.squares(), right.square().sum(dim=1))
    if name.startswith("table"):
        turned = piece.as_matrix()
        torch.testing.assert_close(turned.formed(), rows)
        assert not turned.shared  # its inputs are the signals


@pytest.mark.parametrize(
    ("pieces", "kind", "positions"),
    [
        ([matrix(2)], MatrixPiece, 2),
        ([matrix(2), matrix(1)], MatrixPiece, 3),
        ([matrix(2), matrix(1, shared=False)], MatrixPiece, 3),
        ([table(1), table(3)], EmbeddingPiece, 4),
        ([table(3), matrix(1), table(1)], MatrixPiece, 5),
        ([matrix(1), matrix(1, 2, WIDTH, ENTRIES // 2)], FormedPiece, None),
        ([matrix(1), matrix(1, 1, WIDTH, 2 * ENTRIES)], None, None),
        ([matrix(2), FormedPiece(some(N, ENTRIES * WIDTH))], FormedPiece, None),
        ([FormedPiece(some(N, ENTRIES * WIDTH)), FormedPiece(some(N, ENTRIES * WIDTH))], FormedPiece, None),
    ],
)
def test_uses_of_one_tensor_are_joined_as_further_positions_where_they_are_of_one_shape(pieces, kind, positions):
    if kind is None:  # of two tensors
        with pytest.raises(RuntimeError):
            joined(pieces)
        return
    one = joined(pieces)
    assert type(one) is kind
    torch.testing.assert_close(one.formed(), sum(gradients(piece) for piece in pieces))
    if kind is MatrixPiece:
        assert one.num_positions == positions
        assert one.shared == all(isinstance(piece, MatrixPiece) and piece.shared for piece in pieces)
    if kind is EmbeddingPiece:
        assert (one.indices.shape, one.num_entries) == ((N, positions), ENTRIES)
    assert len(pieces) > 1 or one is pieces[0]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("positions", [1, 2, 8, 9, 40])
def test_numbers_kept_of_a_weight_are_those_of_its_shorter_form(positions, shared):
    for groups, a, b in itertools.product((1, 2), (1, 2, 4), (1, 3)):
        piece = matrix(positions, groups, a, b, shared).chosen(torch.tensor([1]))
        written = piece.formed()[0].numel()
        inputs, signals = (x[0].numel() for x in (piece.inputs, piece.signals))
        kept = (inputs, signals) if shared else (0, inputs + signals)
        assert layer_pieces.stored_numbers(piece) == ((0, written) if written <= signals else kept)
        many = positions > layer_rows.FORMED_POSITIONS
        assert layer_rows._numbers(piece) == (inputs, signals + (written if many else 0))


def test_numbers_kept_of_other_tensors():
    for numbers in (layer_pieces.stored_numbers, layer_rows._numbers):
        assert numbers(table(3).chosen(torch.tensor([1]))) == (3, 3 * WIDTH)
        assert numbers(FormedPiece(some(1, 7))) == (0, 7)


@pytest.mark.parametrize("name", PIECES)
def test_rows_found_some_at_a_time_are_put_in_their_order(name):
    piece = PIECES[name]
    for parts in ([[2, 0, 1, 4, 3]], [[1, 4], [3], [2, 0]]):
        places = [torch.tensor(part) for part in parts]
        whole = pass_rows._assembled([(place, piece.chosen(place)) for place in places])
        assert type(whole) is type(piece)
        for value, right in zip(vars(whole).values(), vars(piece).values(), strict=False):
            assert torch.equal(value, right) if isinstance(value, torch.Tensor) else value == right


def test_rows_of_any_tensors_next_to_each_other_are_those_columns():
    pieces = {"a": matrix(2), "b": FormedPiece(some(N, 2)), "c": table(3), "outside": FormedPiece(some(N, 3))}
    sizes = {"a": ENTRIES * WIDTH, "b": 2, "unused": 5, "c": ENTRIES * WIDTH}
    exact, groups, first = torch.zeros(N, sum(sizes.values())).double(), {}, 0
    for name, size in sizes.items():
        groups[name] = slice(first, first := first + size)
        if name in pieces:
            exact[:, groups[name]] = gradients(pieces[name])
    made = []
    rows = layer_rows.LayerRows(groups, lambda: made.append(1) or pieces, some(N, 2))
    few, weights, vectors = torch.tensor([3, 0]), some(N, 3), some(2, exact.shape[1])

    def check(one, columns, which=slice(None)):
        right, w, v = exact[which, columns], weights[which], vectors[:, columns]
        torch.testing.assert_close(one.lengths(), right.norm(dim=1))
        torch.testing.assert_close(one.sums(w), w.T @ right)
        torch.testing.assert_close(one.products(v), right @ v.T)
        torch.testing.assert_close(one.formed(), right)
        assert one.size == right.shape[1]

    check(rows, slice(None))
    for first, last in itertools.combinations_with_replacement(groups.values(), 2):
        columns = slice(first.start, last.stop)
        some_rows = rows.restricted(columns)
        check(some_rows, columns)
        check(some_rows.chosen(few), columns, few)
        within = slice(last.start - first.start, last.stop - first.start)
        check(some_rows.restricted(within), slice(last.start, last.stop))
    check(rows.restricted(slice(1, groups["unused"].stop)), slice(groups["b"].start, groups["unused"].stop))
    assert made == [1]


def test_rest_is_differentiated_in_runs_of_neighbours():
    """Each run at once, whatever lies between them."""
    sizes = {"a": 2, "b": 3, "c": 1, "d": 4, "e": 2, "f": 3}
    groups, first = {}, 0
    for name, size in sizes.items():
        groups[name] = slice(first, first := first + size)
    every, asked, cotangents = some(N, 3, first), [], some(N, 3)
    network = type("Network", (), {"groups": groups})()
    for rest, runs in (("abf", [(0, 5), (12, 15)]), ("bde", [(2, 5), (6, 12)]), ("abcdef", [(0, 15)]), ("", [])):
        asked.clear()
        known = {name: [FormedPiece(some(N, sizes[name]))] * 2 for name in sizes if name not in rest}
        layers = type("Layers", (), {"rest": tuple(rest), "network": network})()
        part = layer_rows.LayeredPart(layers, None, lambda s: asked.append((s.start, s.stop)) or every[:, :, s])
        if known:  # else there is nothing to be recorded for
            part.recording = type("Recording", (), {"pieces": lambda self, u, known=known: known})()
        found = part.rows(cotangents).formed()
        assert asked == runs
        for name, group in groups.items():
            expected = torch.einsum("nc,ncd->nd", cotangents, every[:, :, group])
            torch.testing.assert_close(found[:, group], expected if name in rest else 2 * some(N, sizes[name]))
