"""Losses and Embed take their bottoms in Caffe's order, whatever their axes and their memory layout are."""
import numpy as np
import pytest

from every_layer_rows import GAUSS, Row

MAPS, FLAT = (3, 4, 5, 2), (3, 40)
ROWS = [
    Row("EuclideanLoss", "", [MAPS, MAPS]),
    Row("ContrastiveLoss", "contrastive_loss_param { margin: 9 }", [MAPS, MAPS, (3,)], labels={2: 2}),
    Row("SigmoidCrossEntropyLoss", "loss_param { ignore_label: 2 normalization: VALID }", [MAPS, MAPS], labels={1: 3}),
    Row("SmoothL1Loss", "smooth_l1_loss_param { sigma: 0.7 } loss_weight: 2", [MAPS] * 4, labels={2: 3, 3: 4}),
    Row("HingeLoss", "", [MAPS, (3,)], labels={1: 40}),
    Row("HingeLoss", "hinge_loss_param { norm: L2 }", [MAPS, (3,)], labels={1: 40}),
    Row("MultinomialLogisticLoss", "", [MAPS, (3,)], positive=True, labels={1: 40}),
]


def run(row):
    """Loss and gradients, as matrices with a row an item."""
    net = row.net()
    net.forward()
    net.backward()
    blobs = [net.blobs[f"x{i}"] for i in range(len(row.shapes))]
    return net.blobs["y0"].data.item(), [np.array(blob.diff).reshape(3, -1) for blob in blobs]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_maps_are_rows(row):
    maps = [i for i, shape in enumerate(row.shapes) if shape == MAPS]
    loss, gradients = run(row)
    assert gradients[0].any()
    for flat in [{i} for i in maps[:2]] + [set(maps), set(maps[1:])]:
        shapes = [FLAT if i in flat else shape for i, shape in enumerate(row.shapes)]
        other, others = run(Row(row.type, row.params, shapes, labels=row.labels, positive=row.positive))
        np.testing.assert_allclose(other, loss, 1e-12)
        for mine, theirs in zip(gradients, others):
            np.testing.assert_allclose(theirs, mine, 1e-12, 1e-14)


def test_embed_of_three_axes_is_embed_of_one():
    row = Row("Embed", f"embed_param {{ input_dim: 7 num_output: 3 {GAUSS} }}", [(4, 5, 2)], labels={0: 7})
    many, one = row.net(), Row(row.type, row.params, [(40,)], labels=row.labels).net()
    for net in (many, one):
        net.blobs["x0"].data[...] = (np.arange(40) % 7).reshape(net.blobs["x0"].shape)
        net.forward()
    y = np.array(many.blobs["y0"].data)
    assert y.shape == (4, 5, 2, 3) and len(np.unique(y)) == 21
    np.testing.assert_array_equal(y.reshape(40, 3), one.blobs["y0"].data)
